"""The logs of a record as one sequence: those that have ended, the oldest first, and then the one
that goes on. A log that has ended never changes, so the number of an entry in that sequence stays.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import NamedTuple

from armitage.log.errors import NotLogged
from armitage.log.merkle import EMPTY_ROOT, root_hash, verify_consistency
from armitage.log.store import LogStore
from armitage.log.tiles import subtrees_of
from armitage.witness.archive import Archive
from armitage.witness.past import proven_entries


class Begins(NamedTuple):
    """Where in the sequence a log begins."""

    first: int
    key: str
    """Its public key (vkey)."""
    origin: str


class Logs:
    """All that are at hand of one record. Its methods block; for any thread."""

    def __init__(self, archive: Archive, without: Collection[str] = ()) -> None:
        """`without` are the public keys (vkeys) of logs that are left out."""
        self._current = archive.log.store
        self._stores = [store for store in archive.logs if str(store.key) not in without]
        sizes = [store.checkpoint.size for store in self._stores]
        self.firsts = list(accumulate(sizes, initial=0))[:-1]
        """Of each log."""

    @property
    def begins(self) -> list[Begins]:
        """Where each log begins, in order."""
        return [
            Begins(first, str(store.key), store.key.name)
            for first, store in zip(self.firsts, self._stores, strict=True)
        ]

    @property
    def size(self) -> int:
        """Entries of all."""
        return sum(store.checkpoint.size for store in self._stores)

    def at(self, number: int) -> tuple[LogStore, int]:
        """The log that has an entry, and its index there. Raises NotLogged."""
        for first, store in zip(reversed(self.firsts), reversed(self._stores), strict=True):
            if first <= number < first + store.checkpoint.size:
                return store, number - first
        raise NotLogged(f"the record has {self.size} entries, none at {number}")

    def entries(self, first: int, end: int) -> list[bytes]:
        """Answers entries of one log, from one on up to another or to the end of that log. Raises
        NotLogged.
        """
        store, index = self.at(first)
        return store.entries(index, min(store.checkpoint.size, index + end - first))

    def proven(self, first: int, end: int) -> list[bytes]:
        """The same, proving what is of a log that has ended: nobody signs it any more. Raises
        LogError and OSError.
        """
        store, index = self.at(first)
        end = min(store.checkpoint.size, index + end - first)
        if store is self._current:
            return store.entries(index, end)
        return proven_entries(store, index, end)

    def root_at(self, size: int) -> bytes:
        """The root of the log that has the last of so many entries, as it ended there. Raises
        NotLogged.
        """
        if not size:
            return EMPTY_ROOT
        store, last = self.at(size - 1)
        if last + 1 == store.checkpoint.size:
            return store.checkpoint.root
        return root_hash(last + 1, subtrees_of(last + 1, store.read))

    def check_grown_from(self, size: int, root: bytes) -> None:
        """Checks that there once were so many entries, with that root. Raises NotLogged and
        InvalidProof.
        """
        store, last = self.at(size - 1) if size else (self._stores[0], -1)
        now = store.checkpoint
        proof = store.consistency(last + 1)
        verify_consistency(last + 1, now.size, proof, root or EMPTY_ROOT, now.root)
