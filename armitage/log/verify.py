"""What an auditor does with a whole log: hash every entry again, and compare with every tile and
with the signed root. Trusts nothing but the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from armitage.log.checkpoint import Checkpoint
from armitage.log.errors import InvalidProof, LogError
from armitage.log.merkle import Frontier, leaf_hash
from armitage.log.tiles import HEIGHT, WIDTH, Tile, decode_entries


def verified_entries(
    checkpoint: Checkpoint, read: Callable[[Tile], bytes]
) -> Iterator[tuple[int, list[bytes]]]:
    """Answers the entries from the first on, a bundle at a time, with the index of the bundle's
    first; only when the iterator has ended are they the ones that the checkpoint signs.

    `read` answers a tile as it is published. Raises InvalidProof, naming the tile that differs.
    """
    tree, rows = Frontier(0, []), _Rows(checkpoint.size, read)
    while tree.size < checkpoint.size:
        first = tree.size
        width = min(WIDTH, checkpoint.size - first)
        tile = Tile(None, first // WIDTH, width)
        try:
            entries = decode_entries(read(tile))
        except LogError as error:
            raise InvalidProof(f"{tile.path}: {error}") from None
        if len(entries) != width:
            raise InvalidProof(f"{tile.path}: holds {len(entries)} entries, not {width}")
        for entry in entries:
            for height, _, hashed in tree.append(leaf_hash(entry)):
                if height % HEIGHT == 0:
                    rows.add(height // HEIGHT, hashed)
        yield first, entries
    rows.finish()
    if tree.root() != checkpoint.root:
        raise InvalidProof(f"the entries lead to another root than {checkpoint.origin} signs")


class _Rows:
    """The hashes of each level as they come, compared with a tile as soon as it is full."""

    def __init__(self, size: int, read: Callable[[Tile], bytes]) -> None:
        self._size = size
        self._read = read
        self._open: dict[int, list[bytes]] = {}
        self._done: dict[int, int] = {}

    def add(self, level: int, hashed: bytes) -> None:
        row = self._open.setdefault(level, [])
        row.append(hashed)
        if len(row) == WIDTH:
            self._compare(level)

    def finish(self) -> None:
        for level, row in self._open.items():
            if row:
                self._compare(level)

    def _compare(self, level: int) -> None:
        row = self._open[level]
        number = self._done.get(level, 0)
        tile = Tile(level, number, len(row))
        if self._read(tile) != b"".join(row):
            raise InvalidProof(f"{tile.path}: is not the hash of what lies below it")
        row.clear()
        self._done[level] = number + 1
