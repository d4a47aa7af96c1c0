"""armitage.log.verify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from armitage.log.checkpoint import Checkpoint
from armitage.log.errors import InvalidProof
from armitage.log.merkle import Frontier, leaf_hash
from armitage.log.tiles import Tile, encode_entry, tiles
from armitage.log.verify import verified_entries

SIZES = [0, 1, 256, 700]


def entry(number: int) -> bytes:
    return b"entry %d" % number


def published(size: int) -> tuple[Checkpoint, dict[Tile, bytes]]:
    tree, hashes = Frontier(0, []), {}
    for number in range(size):
        for level, index, hashed in tree.append(leaf_hash(entry(number))):
            hashes[level, index] = hashed
    found = {}
    for tile in tiles(size):
        places = range(tile.number * 256, tile.number * 256 + tile.width)
        found[tile] = b"".join(
            encode_entry(entry(at)) if tile.level is None else hashes[tile.level * 8, at]
            for at in places
        )
    return Checkpoint("log", size, tree.root()), found


def verify(checkpoint: Checkpoint, read: Callable[[Tile], bytes]) -> list[bytes]:
    found: list[bytes] = []
    for first, entries in verified_entries(checkpoint, read):
        assert first == len(found)
        found += entries
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_log_is_read_from_its_checkpoint(size: int) -> None:
    checkpoint, found = published(size)

    assert verify(checkpoint, found.__getitem__) == [entry(number) for number in range(size)]


@pytest.mark.parametrize("size", SIZES[1:])
def test_no_changed_tile_goes_unnoticed(size: int) -> None:
    checkpoint, found = published(size)
    for tile, content in found.items():
        for at in {0, len(content) // 2, len(content) - 1}:
            changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            with pytest.raises(InvalidProof):
                verify(checkpoint, {**found, tile: changed}.__getitem__)


def test_another_root_is_refused() -> None:
    checkpoint, found = published(3)

    with pytest.raises(InvalidProof, match="another root than log signs"):
        verify(replace(checkpoint, root=bytes(32)), found.__getitem__)


def test_a_bundle_with_too_much_is_refused() -> None:
    checkpoint, found = published(3)
    bundle = Tile(None, 0, 3)

    with pytest.raises(InvalidProof, match="holds 4 entries, not 3"):
        verify(checkpoint, {**found, bundle: found[bundle] + b"\0\0"}.__getitem__)
