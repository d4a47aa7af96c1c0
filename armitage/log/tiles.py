"""Tiles (C2SP tlog-tiles): how a tree and its entries are cut into files that never change.

A tile of level L holds up to 256 hashes of complete subtrees of 256**L entries each; an entry
bundle holds up to 256 entries. A tile that is not yet full is published under its width too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from armitage.log.errors import LogError
from armitage.log.merkle import HASH_BYTES, Subtrees, parents

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_ENTRY_BYTES = 0xFFFF
_ENTRIES = "entries"
_LENGTH_BYTES = 2
_PATH = re.compile(
    r"tile/(?P<level>0|[1-9][0-9]?|entries)"
    r"/(?P<number>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_MAX_LEVEL = 63


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Which tile. `level` is None for a bundle of entries. `width` is 256 for a full one."""

    level: int | None
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Below the log's prefix, such as `tile/0/x001/x234/067.p/3`."""
        level = _ENTRIES if self.level is None else str(self.level)
        digits = f"{self.number:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{number}{partial}"


def parse_path(path: str) -> Tile | None:
    """The inverse of `Tile.path`; None for what no tile is called."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level = None if match["level"] == _ENTRIES else int(match["level"])
    number = int(match["number"].replace("x", "").replace("/", ""))
    width = int(match["width"] or WIDTH)
    if width > WIDTH or (level or 0) > _MAX_LEVEL:
        return None
    tile = Tile(level, number, width)
    return tile if tile.path == path else None


def tiles(size: int) -> Iterator[Tile]:
    """Every tile that a log of `size` entries publishes, entry bundles first, each level from the
    left.
    """
    yield from _row(None, size)
    level = 0
    while size >> (HEIGHT * level):
        yield from _row(level, size >> (HEIGHT * level))
        level += 1


def new_tiles(old: int, new: int) -> Iterator[Tile]:
    """What a log publishes when it grows from `old` to `new` entries."""
    yield from _row(None, new, old // WIDTH if new > old else None)
    level = 0
    while new >> (HEIGHT * level):
        was, now = old >> (HEIGHT * level), new >> (HEIGHT * level)
        yield from _row(level, now, was // WIDTH if now > was else None)
        level += 1


def _row(level: int | None, count: int, first: int | None = 0) -> Iterator[Tile]:
    if first is None:
        return
    for number in range(first, count // WIDTH):
        yield Tile(level, number)
    if count % WIDTH:
        yield Tile(level, count // WIDTH, count % WIDTH)


def tile_of(level: int, index: int, size: int) -> tuple[Tile, int, int]:
    """The tile from which the complete subtree `(level, index)` follows in a tree of `size`
    entries, and which of its hashes, [first, last), make it up.
    """
    row, inner = divmod(level, HEIGHT)
    first = index << inner
    count = size >> (HEIGHT * row)
    number = first // WIDTH
    tile = Tile(row, number, min(WIDTH, count - number * WIDTH))
    return tile, first % WIDTH, first % WIDTH + (1 << inner)


def subtrees_of(size: int, read: Callable[[Tile], bytes]) -> Subtrees:
    """Answers subtree hashes out of tiles. Raises LogError when a tile has not the bytes that its
    width says, and what `read` raises.
    """

    def subtree(level: int, index: int) -> bytes:
        tile, first, last = tile_of(level, index, size)
        data = read(tile)
        if len(data) != tile.width * HASH_BYTES:
            raise LogError(f"{tile.path}: has {len(data)} bytes, not {tile.width * HASH_BYTES}")
        row = data[first * HASH_BYTES : last * HASH_BYTES]
        while len(row) > HASH_BYTES:
            row = parents(row)
        return row

    return subtree


def encode_entry(entry: bytes) -> bytes:
    """An entry as it stands in its bundle. Raises ValueError when it is too long for one."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise ValueError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, this one {len(entry)}")
    return len(entry).to_bytes(_LENGTH_BYTES, "big") + entry


def decode_entries(bundle: bytes) -> list[bytes]:
    """Splits a bundle. Raises LogError when it ends in mid-entry."""
    entries, at = [], 0
    while at < len(bundle):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(bundle[at:start], "big")
        entries.append(bundle[start:at])
    if at != len(bundle):
        raise LogError("the bundle ends in the middle of an entry")
    return entries


def cut_bundle(bundle: bytes, count: int) -> bytes:
    """The first entries of a bundle, as they stand there. Raises LogError when there are fewer."""
    at = 0
    for _ in range(count):
        at += _LENGTH_BYTES + int.from_bytes(bundle[at : at + _LENGTH_BYTES], "big")
    if at > len(bundle):
        raise LogError(f"the bundle has fewer than {count} entries")
    return bundle[:at]


def read_entries(read: Callable[[Tile], bytes], first: int, end: int) -> list[bytes]:
    """Answers the entries from one index up to another, reading each bundle once. Raises LogError
    when a bundle ends in mid-entry, and what `read` raises.
    """
    found = []
    for number in range(first // WIDTH, -(-end // WIDTH)):
        bundle = decode_entries(read(Tile(None, number, min(WIDTH, end - number * WIDTH))))
        found += bundle[max(0, first - number * WIDTH) :]
    return found
