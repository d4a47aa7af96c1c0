"""armitage.log.tiles and .receipt."""

from __future__ import annotations

from collections import Counter

import pytest

from armitage.log.checkpoint import Checkpoint
from armitage.log.errors import InvalidProof, InvalidSignature, LogError, MalformedNote
from armitage.log.merkle import Frontier, inclusion_proof, leaf_hash, root_hash
from armitage.log.note import KeyType, Signer, sign_note
from armitage.log.receipt import Receipt, parse_receipt
from armitage.log.tiles import (
    Tile,
    cut_bundle,
    decode_entries,
    encode_entry,
    new_tiles,
    parse_path,
    subtrees_of,
    tiles,
)

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(8, 1_234_067, 3), "tile/8/x001/x234/067.p/3"),
        (Tile(None, 999), "tile/entries/999"),
        (Tile(None, 1000, 255), "tile/entries/x001/000.p/255"),
    ],
)
def test_tiles_have_the_standard_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/300",
        "tile/0/001/000",
        "tile/0/../000",
    ],
)
def test_what_is_no_tile_has_no_path(path: str) -> None:
    assert parse_path(path) is None


def widths(size: int) -> list[tuple[int | None, int, int]]:
    """Level, full tiles, width of the partial one."""
    full: Counter[int | None] = Counter()
    partial: dict[int | None, int] = {}
    for tile in tiles(size):
        full[tile.level] += tile.width == 256
        if tile.width != 256:
            partial[tile.level] = tile.width
    return [(level, full[level], partial.get(level, 0)) for level in full]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, [(None, 0, 1), (0, 0, 1)]),
        (256, [(None, 1, 0), (0, 1, 0), (1, 0, 1)]),
        (70_000, [(None, 273, 112), (0, 273, 112), (1, 1, 17), (2, 0, 1)]),
    ],
)
def test_a_log_has_the_standard_tiles(
    size: int, expected: list[tuple[int | None, int, int]]
) -> None:
    assert widths(size) == expected


@pytest.mark.parametrize("old", [0, 1, 255, 256, 257, 65_535, 65_536])
@pytest.mark.parametrize("grown", [0, 1, 255, 256, 70_000])
def test_growth_publishes_just_what_is_new(old: int, grown: int) -> None:
    new = old + grown

    assert set(new_tiles(old, new)) == set(tiles(new)) - set(tiles(old))


def stored(size: int) -> dict[Tile, bytes]:
    tree, hashes = Frontier(0, []), {}
    for number in range(size):
        for level, index, hashed in tree.append(leaf_hash(b"%d" % number)):
            hashes[level, index] = hashed
    return {
        tile: b"".join(hashes[tile.level * 8, tile.number * 256 + at] for at in range(tile.width))
        for tile in tiles(size)
        if tile.level is not None
    }


@pytest.mark.parametrize("size", [1, 3, 255, 256, 257, 777, 66_000])
def test_every_subtree_follows_from_the_tiles(size: int) -> None:
    known = stored(size)
    subtrees = subtrees_of(size, known.__getitem__)
    tree = Frontier(0, [])
    for number in range(size):
        for level, index, hashed in tree.append(leaf_hash(b"%d" % number)):
            if number % 97 == 0 or number > size - 20:
                assert subtrees(level, index) == hashed

    assert root_hash(size, subtrees) == tree.root()


def test_a_short_tile_is_refused() -> None:
    with pytest.raises(LogError, match=r"tile/0/000\.p/3: has 64 bytes, not 96"):
        subtrees_of(3, lambda tile: bytes(64))(0, 0)


def test_entries_come_back_as_they_were_bundled() -> None:
    entries = [b"", b"a", b"b" * 65_535]

    assert decode_entries(b"".join(map(encode_entry, entries))) == entries


def test_a_bundle_is_cut_between_entries() -> None:
    entries = [b"", b"a", bytes(256), b"last"]
    bundle = b"".join(map(encode_entry, entries))

    for count in range(5):
        assert decode_entries(cut_bundle(bundle, count)) == entries[:count]
    for short in (bundle, bundle[:-1], bundle[:-6]):
        with pytest.raises(LogError, match="fewer than"):
            cut_bundle(short, 5 if short is bundle else 4)


@pytest.mark.parametrize("bundle", [b"\0", b"\0\1", b"\0\1a\0"])
def test_a_torn_bundle_is_refused(bundle: bytes) -> None:
    with pytest.raises(LogError, match="middle of an entry"):
        decode_entries(bundle)


def test_an_entry_too_long_for_a_bundle_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        encode_entry(bytes(65_536))


@pytest.fixture
def receipt() -> Receipt:
    known = stored(300)
    subtrees = subtrees_of(300, known.__getitem__)
    text = Checkpoint(LOG.public.name, 300, root_hash(300, subtrees)).text()
    signed = sign_note(text, [LOG.sign(text)]).encode()
    return Receipt(256, tuple(inclusion_proof(256, 300, subtrees)), signed)


def test_a_receipt_proves_its_entry(receipt: Receipt) -> None:
    again = parse_receipt(receipt.encode())

    assert again == receipt
    assert again.verify(leaf_hash(b"256"), LOG.public).checkpoint.size == 300


def test_a_receipt_proves_no_other_entry(receipt: Receipt) -> None:
    with pytest.raises(InvalidProof):
        receipt.verify(leaf_hash(b"255"), LOG.public)


def test_a_receipt_counts_only_with_the_logs_signature(receipt: Receipt) -> None:
    forger = Signer(LOG.public.name, KeyType.ED25519, bytes(32))

    with pytest.raises(InvalidSignature):
        receipt.verify(leaf_hash(b"256"), forger.public)


def test_what_others_add_to_a_receipt_is_passed_over(receipt: Receipt) -> None:
    more = receipt.encode().replace(b"@v1\n", b"@v1\nextra AAAA\n", 1)

    assert parse_receipt(more) == receipt


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"c2sp.org/tlog-proof@v1\nindex 1\n",
        b"c2sp.org/tlog-proof@v2\nindex 1\n\nx",
        b"c2sp.org/tlog-proof@v1\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 01\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n!\n\nx",
        b"\xff\n\nx",
    ],
)
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_receipt(data)
