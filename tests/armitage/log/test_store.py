"""armitage.log.store: what is on disk, what opening refuses, and what a reader gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import LogDamaged, LogError, NotLogged
from armitage.log.merkle import EMPTY_ROOT, Frontier, leaf_hash, verify_consistency
from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore, read_tile
from armitage.log.tiles import Tile, decode_entries, tiles
from cas.volume import DiskVolume

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))
SIZES = [1, 2, 255, 256, 257, 511, 512, 700]


def entries(start: int, end: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, end)]


def expected_root(size: int) -> bytes:
    tree = Frontier(0, [])
    for entry in entries(0, size):
        tree.append(leaf_hash(entry))
    return tree.root()


class Opened:
    """Opens the same log again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stores: list[LogStore] = []

    def __call__(self, signer: Signer = LOG) -> LogStore:
        self.close()
        volume = DiskVolume(self.directory, NAMES)
        try:
            store = LogStore(volume, signer)
        except BaseException:
            volume.close()
            raise
        self._stores.append(store)
        return store

    def close(self) -> None:
        while self._stores:
            self._stores.pop().close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made = Opened(tmp_path / "log")
    yield made
    made.close()


def test_a_new_log_is_empty_and_says_so_signed(opened: Opened) -> None:
    store = opened()

    checkpoint = open_checkpoint(store.signed_checkpoint, LOG.public).checkpoint
    assert (checkpoint.size, checkpoint.root) == (0, EMPTY_ROOT)
    assert store.append([]) == 0


@pytest.mark.parametrize(("step", "size"), [(1, 20), (100, 700), (256, 700), (700, 700)])
def test_what_was_appended_is_there_after_opening_again(
    opened: Opened, step: int, size: int
) -> None:
    store = opened()
    for start in range(0, size, step):
        assert store.append(entries(start, min(size, start + step))) == start

    for each in (store, opened()):
        assert each.checkpoint.size == size
        assert each.checkpoint.root == expected_root(size)
        assert [each.entry(number) for number in range(size)] == entries(0, size)


@pytest.mark.parametrize("size", SIZES)
def test_every_tile_is_served_as_wide_as_asked_for(opened: Opened, size: int) -> None:
    opened().append(entries(0, 700))
    store = opened()

    for tile in tiles(size):
        content = store.read(tile)
        if tile.level is None:
            first = tile.number * 256
            assert decode_entries(content) == entries(first, first + tile.width)
        else:
            assert len(content) == tile.width * 32


def test_files_are_read_at_an_earlier_size_however_far_the_log_has_grown(opened: Opened) -> None:
    store = opened()
    store.append(entries(0, 200))
    before = {tile: store.read(tile) for tile in tiles(200)}

    for size in (200, 201, 256, 600):
        store.append(entries(store.checkpoint.size, size))
        assert {tile: read_tile(opened.directory, 200, tile) for tile in before} == before


@pytest.mark.parametrize("index", [0, 255, 256, 699])
def test_a_receipt_proves_each_entry(opened: Opened, index: int) -> None:
    store = opened()
    store.append(entries(0, 700))

    receipt = store.receipt(index)

    receipt.verify(leaf_hash(b"entry %d" % index), LOG.public)


@pytest.mark.parametrize("remembered", [2, 4_096])
def test_receipts_prove_every_entry_while_the_log_grows(
    opened: Opened, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armitage.log.store._REMEMBERED_HASHES", remembered)
    store = opened()

    for size in range(1, 20):
        store.append(entries(size - 1, size))
        for index in range(size):
            store.receipt(index).verify(leaf_hash(b"entry %d" % index), LOG.public)


def test_growth_is_provable_from_every_earlier_size(opened: Opened) -> None:
    store = opened()
    roots = {0: store.checkpoint.root}
    for size in SIZES:
        store.append(entries(store.checkpoint.size, size))
        roots[size] = store.checkpoint.root

    for old, root in roots.items():
        verify_consistency(old, 700, store.consistency(old), root, store.checkpoint.root)


@pytest.mark.parametrize(
    "tile", [Tile(None, 0), Tile(0, 0, 4), Tile(0, 1, 1), Tile(1, 0, 1), Tile(9, 0, 1)]
)
def test_what_has_not_grown_yet_is_not_served(opened: Opened, tile: Tile) -> None:
    store = opened()
    store.append(entries(0, 3))

    with pytest.raises(NotLogged):
        store.read(tile)


@pytest.mark.parametrize(
    ("first", "end"), [(0, 0), (0, 600), (0, 256), (255, 257), (256, 512), (300, 301), (511, 600)]
)
def test_entries_are_answered_from_any_index_to_any_other(
    opened: Opened, first: int, end: int
) -> None:
    store = opened()
    store.append(entries(0, 600))

    assert store.entries(first, end) == entries(first, end)


def test_entries_beyond_the_log_are_not_answered(opened: Opened) -> None:
    store = opened()
    store.append(entries(0, 3))

    with pytest.raises(NotLogged):
        store.entries(0, 4)


def test_an_entry_or_size_outside_the_log_is_not_answered(opened: Opened) -> None:
    store = opened()
    store.append(entries(0, 3))

    for ask in (store.entry, store.receipt):
        for index in (-1, 3):
            with pytest.raises(NotLogged, match="none at"):
                ask(index)
    with pytest.raises(NotLogged, match="3 entries, not 4"):
        store.consistency(4)


def test_an_entry_too_long_is_refused_and_nothing_changes(opened: Opened) -> None:
    store = opened()
    store.append(entries(0, 3))

    with pytest.raises(ValueError, match="at most 65535"):
        store.append([b"fine", bytes(65_536)])

    assert store.checkpoint.size == 3
    assert store.append(entries(3, 4)) == 3
    assert opened().checkpoint.root == expected_root(4)


def test_what_was_written_and_never_signed_is_written_over(opened: Opened) -> None:
    """A crash between tiles and checkpoint: the same checkpoint, and other entries after it."""
    store = opened()
    store.append(entries(0, 200))
    before = (opened.directory / "checkpoint").read_bytes()
    store.append([b"lost"] * 100)
    (opened.directory / "checkpoint").write_bytes(before)
    # The edge of the checkpoint's size goes only after the next one is published.
    for level, unit in (("entries", b"\0\4lost"), ("0", leaf_hash(b"lost"))):
        tile = (opened.directory / "tile" / level / "000").read_bytes()
        (opened.directory / "partial" / f"{level}-0").write_bytes(tile[: tile.index(unit)])

    store = opened()

    assert store.checkpoint.size == 200
    store.append(entries(200, 300))
    assert store.checkpoint.root == expected_root(300)
    assert opened().checkpoint.root == expected_root(300)
    assert store.read(Tile(0, 0))[-32:] == leaf_hash(b"entry 255")


def test_another_key_does_not_go_on_with_the_log(opened: Opened) -> None:
    opened().append(entries(0, 3))

    with pytest.raises(LogDamaged, match="nothing will be signed here"):
        opened(Signer("log.example/other", KeyType.ED25519, bytes(32)))
    with pytest.raises(LogDamaged, match="nothing will be signed here"):
        opened(Signer(LOG.public.name, KeyType.ED25519, bytes(32)))


def test_a_witness_key_signs_no_log(opened: Opened) -> None:
    with pytest.raises(ValueError, match="key of its own type"):
        opened(Signer("w", KeyType.COSIGNATURE, bytes(32)))


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("name", ["checkpoint", "entries-1", "0-1", "1-0"])
def test_nothing_is_signed_on_top_of_a_loss(opened: Opened, name: str) -> None:
    opened().append(entries(0, 300))
    opened.close()
    next(path for path in files(opened.directory) if path.name == name).unlink()

    with pytest.raises(LogDamaged):
        opened()


@pytest.mark.parametrize("name", ["checkpoint", "entries-1", "0-1", "1-0"])
def test_nothing_is_signed_on_top_of_a_changed_byte(opened: Opened, name: str) -> None:
    opened().append(entries(0, 300))
    opened.close()
    path = next(path for path in files(opened.directory) if path.name == name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(LogDamaged):
        opened()


def test_a_lost_tile_is_told_when_it_is_read(opened: Opened) -> None:
    store = opened()
    store.append(entries(0, 300))
    (opened.directory / "tile" / "entries" / "000").unlink()

    with pytest.raises(LogDamaged, match="tile/entries/000 is gone"):
        store.entry(3)


def test_no_more_files_are_kept_than_the_tree_needs(opened: Opened) -> None:
    store = opened()
    for size in range(0, 600, 50):
        store.append(entries(size, size + 50))

    kept = {str(path.relative_to(opened.directory)) for path in files(opened.directory)}
    assert kept == {
        *("checkpoint", "tile/entries/000", "tile/entries/001", "tile/0/000", "tile/0/001"),
        *("partial/entries-2", "partial/0-2", "partial/1-0"),
    }


def test_after_a_failed_publication_the_log_must_be_opened_anew(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    sync = DiskVolume.sync_folder

    def fail(volume: DiskVolume, name: str) -> None:
        if not name:
            raise OSError(5, "Input/output error")
        sync(volume, name)

    with monkeypatch.context() as patched:
        patched.setattr(DiskVolume, "sync_folder", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.append(entries(0, 3))

    assert store.checkpoint.size == 0
    with pytest.raises(LogError, match="restart"):
        store.append(entries(0, 3))
    assert opened().checkpoint.size in {0, 3}
