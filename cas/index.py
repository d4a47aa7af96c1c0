"""Which blobs a store has, in the order of their last touch: exact sets of keys, one a generation.

Theory of operation. Every stored blob's key (cas.keys) is in exactly one set. Touches move keys to
the youngest, the *fresh* one, which closes when its window (a twelfth of the minimum lease) is
over. All blobs of a generation share the time at which it closed as their last touch, so a lease is
never shorter than the minimum and at most a window longer. Giving up starts in the oldest
generation.

Sets and nothing else, because the look-up of hundreds of digests for each call is what a store does
most: `fresh.issuperset(keys)` is one pass in C that misses the CPU's caches twice a digest (a dict:
four times), and no blob has a record of its own to keep (a key of SHA-256 takes 112 bytes, its
place in a set 34).

With no minimum lease there are no windows: a generation closes when it has a sixteenth of all
blobs, so the order is exact for a few blobs. Time comes in as seconds from a clock that does not
jump forward; should it step back, leases get longer, never shorter. Not for concurrent use; owned
by the store's event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

WINDOWS_PER_LEASE = 12
_SHARE = 16
_MOST = 32
"""Generations at once; older ones are merged."""


class Generation(NamedTuple):
    """Blobs that share a last touch."""

    keys: set[bytes]
    closed: float
    """No blob of it was touched later."""


class Touched(NamedTuple):
    """What a touch came to.

    `recorded` are the stored keys whose touch was newly recorded; a store that outlives its process
    saves these before it answers.
    """

    missing: set[bytes]
    recorded: set[bytes]


class Index:
    """The keys of the blobs of one store by last touch."""

    fresh: set[bytes]
    """Stored, and touched in the current window: that all keys of a call are in here is answer
    enough to it. Ask in one go (`issuperset`), after `turn`; another set takes its place when the
    window ends.
    """

    def __init__(self, min_lease_s: float, now: float) -> None:
        self._lease_s = min_lease_s
        self._window_s = min_lease_s / WINDOWS_PER_LEASE
        self._older: list[Generation] = []
        self._ends = now + self._window_s
        self.fresh = set()

    def __len__(self) -> int:
        return len(self.fresh) + sum(len(one.keys) for one in self._older)

    def __contains__(self, key: bytes) -> bool:
        """Whether the blob is stored; no touch."""
        return key in self.fresh or any(key in one.keys for one in self._older)

    def __iter__(self) -> Iterator[bytes]:
        """Oldest touch first."""
        for one in self._older:
            yield from one.keys
        yield from self.fresh

    def add(self, keys: Iterable[bytes], now: float) -> None:
        """Enters blobs that are not in the index, touched now."""
        self.turn(now)
        self.fresh.update(keys)

    def remove(self, key: bytes) -> bool:
        """Strikes a blob out; answers whether it was there."""
        for keys in (self.fresh, *(one.keys for one in self._older)):
            if key in keys:
                keys.remove(key)
                return True
        return False

    def touch(self, keys: Collection[bytes], now: float) -> Touched:
        """Renews the lease of those that are stored."""
        self.turn(now)
        rest = set(keys)
        if self.fresh.issuperset(rest):
            return Touched(set(), set())
        rest -= self.fresh
        recorded: set[bytes] = set()
        for one in reversed(self._older):
            if found := one.keys & rest:
                one.keys.difference_update(found)
                recorded |= found
                rest -= found
                if not rest:
                    break
        self.fresh |= recorded
        return Touched(rest, recorded)

    def turn(self, now: float) -> None:
        """Closes the current window when it has had its time."""
        if self._lease_s:
            if now >= self._ends:
                self._close(self._ends, now)
        elif len(self.fresh) * _SHARE >= len(self):
            self._close(now, now)

    def _close(self, closed: float, now: float) -> None:
        if self.fresh:
            self._older.append(Generation(self.fresh, closed))
            self.fresh = set()
        self._older = [one for one in self._older if one.keys]
        self._ends = now + self._window_s
        if len(self._older) > _MOST:
            self._merge()

    def _merge(self) -> None:
        """Merges the two neighbours that together are smallest."""
        sizes = [len(one.keys) for one in self._older]
        at = min(range(len(sizes) - 1), key=lambda at: sizes[at] + sizes[at + 1])
        older, younger = self._older[at : at + 2]
        large, small = sorted((older.keys, younger.keys), key=len, reverse=True)
        large |= small
        self._older[at : at + 2] = [Generation(large, younger.closed)]

    def generations(self) -> list[Generation]:
        """All but the current one, oldest first."""
        return self._older

    def restore(self, generations: Iterable[Generation]) -> None:
        """Takes over what was there before, oldest first, into an index that is empty."""
        self._older = list(generations)
        while len(self._older) > _MOST:
            self._merge()

    def expired(self, now: float) -> Iterator[bytes]:
        """Answers the blobs that no lease protects, least recently used first. Nothing may be
        added, removed or touched until whoever iterates is done with it.
        """
        self.turn(now)
        for one in self._older:
            if self._lease_s and now < one.closed + self._lease_s:
                return
            yield from one.keys
        if not self._lease_s:
            yield from self.fresh

    def lease_left_s(self, key: bytes, now: float) -> float | None:
        """How long the lease still runs at least, were the blob not touched again; None when it is
        not stored.
        """
        if key in self.fresh:
            return self._lease_s
        for one in self._older:
            if key in one.keys:
                return max(0.0, one.closed + self._lease_s - now)
        return None
