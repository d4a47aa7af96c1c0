"""Upkeep of a storage: eviction ahead of need, and compaction, in the background.

Theory of operation. Writes make room for themselves when they must (cas.pack_store); upkeep sees to
it that they seldom must. Above the high watermark of what may be stored it gives up least recently
used blobs down to the low one. What may be stored is `max_bytes`, or less where the disk has less,
so the same two watermarks hold for size and for free space.

A blob that has gone leaves garbage in its segment. Segments that are nothing but garbage are
dropped at once; others are compacted, the one with the greatest share of garbage first, while that
share is over a limit or the disk is short. Copying keeps to a rate, so that service hardly notices,
save while the disk is short: then the rate is what the disk gives. When the disk is so full that
nothing can be copied at all, what a lease does not protect of the chosen segment goes, however
recently it was used: that needs no room, and makes some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import overload

from cas.digest import Digest
from cas.errors import StoreFull, StoreUnavailable
from cas.keys import digest_of
from cas.log import SEGMENT_BYTES, Segment
from cas.pack_storage import PackStorage
from cas.scrub import Repair, Scrubbed, Scrubber

_log = logging.getLogger(__name__)

_SHORT_BYTES = 512 << 20
"""Free beside `min_free_bytes`: with less, the disk is short."""
_SHORT_SHARE = 0.05
"""While it is, a segment with so much garbage is compacted."""
_SEGMENTS = 64
"""How many segments a full store is to have at least, so that compaction has a choice."""
_FEWEST_SEGMENT_BYTES = 4 << 20
_ROUNDS_OFF = 30
"""For how many rounds nothing is compacted after a compaction that has freed next to nothing: notes
that still matter are copied with blobs, and in vain where a segment has hardly anything else.
"""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class UpkeepOptions:
    """When upkeep works, and how hard."""

    high_watermark: float = 0.95
    """Part of what may be stored; above it, old blobs go in the background..."""
    low_watermark: float = 0.9
    """...until there is no more than this part."""
    garbage_share: float = 0.3
    """A segment is compacted when so much of it is of blobs that have gone."""
    rate_bytes: int = 64 << 20
    """How much compaction and online scrubs may read and copy in a second."""

    def __post_init__(self) -> None:
        if not 0 < self.low_watermark <= self.high_watermark <= 1:
            raise ValueError(
                "low_watermark and high_watermark must be above 0, at most 1, in order"
            )
        if not 0 < self.garbage_share <= 1:
            raise ValueError("garbage_share must be above 0 and at most 1")
        if self.rate_bytes < 1:
            raise ValueError("rate_bytes must be at least 1")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round of upkeep came to."""

    evicted_bytes: int
    compacted_segments: int
    freed_bytes: int
    """That the disk got back from segments."""


class Upkeep:
    """Keeps one storage in shape. Owned by its event loop; one round at a time."""

    def __init__(
        self, storage: PackStorage, options: UpkeepOptions, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._storage = storage
        self._store = storage.store
        self._options = options
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._rounds_off = 0

    async def run(self) -> None:
        """Does what there is to do. What fails is logged, and tried again the next time."""
        try:
            await self.collect()
        except (StoreUnavailable, OSError) as error:
            _log.warning("cannot keep the store in shape: %s", error)

    async def collect(
        self, most_bytes: int | None = None, garbage_share: float | None = None
    ) -> Collected:
        """Makes one round: gives up blobs until at most so many bytes are stored (None: down to the
        low watermark, when over the high one), then compacts what has more garbage than that share.

        Raises StoreUnavailable, OSError.
        """
        async with self._turn:
            evicted_bytes = self._shrink(most_bytes)
            share = self._options.garbage_share if garbage_share is None else garbage_share
            if garbage_share is not None:
                self._rounds_off = 0
            compacted, freed_bytes = await self._compact_all(share)
        return Collected(evicted_bytes, compacted, freed_bytes)

    def digests(self) -> Sequence[Digest]:
        """Answers what is stored at this moment, least recently used first."""
        return _Digests(list(self._store.index))

    def scrub(self, repair: Repair | None) -> AsyncIterator[Scrubbed]:
        """Reads and verifies all that is stored, at the rate (see cas.scrub)."""
        return Scrubber(self._storage, self._pause, repair).run()

    def _shrink(self, most_bytes: int | None) -> int:
        if most_bytes is None:
            capacity_bytes = self._store.capacity_bytes()
            if self._store.bytes <= self._options.high_watermark * capacity_bytes:
                return 0
            most_bytes = int(self._options.low_watermark * capacity_bytes)
        return self._store.shrink(most_bytes)

    async def _compact_all(self, share: float) -> tuple[int, int]:
        if self._rounds_off:
            self._rounds_off -= 1
            return 0, 0
        compacted = freed_bytes = 0
        failed: set[int] = set()
        vacated: set[int] = set()
        while True:
            log = self._storage.log
            segments = [one for one in log.segments() if one.number not in failed]
            if self._store.is_short(_SHORT_BYTES):
                # Garbage may be spread thin, and is then all that there is to be had.
                share = min(share, _SHORT_SHARE)
            chosen = choose(segments, share)
            if chosen is None:
                return compacted, freed_bytes
            try:
                freed = await self._storage.compactor.compact(chosen.number, self._pause)
            except StoreFull as error:
                # No room for the copies: those with less to copy have had their turn.
                _log.warning("cannot compact segment %d: %s", chosen.number, error)
                if chosen.number not in vacated:
                    await self._storage.compactor.vacate(chosen.number)
                    vacated.add(chosen.number)
                else:
                    failed.add(chosen.number)
                continue
            compacted += 1
            freed_bytes += freed
            if freed < share * chosen.size_bytes / 2:
                self._rounds_off = _ROUNDS_OFF
                return compacted, freed_bytes

    async def _pause(self, size_bytes: int) -> None:
        if not self._store.is_short(_SHORT_BYTES):
            await self._sleep(size_bytes / self._options.rate_bytes)


class _Digests(Sequence[Digest]):
    """Digests that are made when they are looked at, since there may be millions."""

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> Digest: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Digest]: ...
    def __getitem__(self, at: int | slice) -> Digest | Sequence[Digest]:
        if isinstance(at, slice):
            return list(map(digest_of, self._keys[at]))
        return digest_of(self._keys[at])


def segment_bytes_for(max_bytes: int) -> int:
    """Answers how large the segments of a store of that size should be."""
    return min(SEGMENT_BYTES, max(_FEWEST_SEGMENT_BYTES, max_bytes // _SEGMENTS))


def choose(segments: Sequence[Segment], share: float) -> Segment | None:
    """Answers the segment that is to be compacted next, None if none is worth it: the one with the
    greatest share of garbage, so those that cost nothing first.
    """
    best, best_share = None, 0.0
    for one in segments:
        if one.is_active or not one.size_bytes:
            continue
        garbage_share = 1 - one.live_bytes / one.size_bytes
        if garbage_share >= share and garbage_share > best_share:
            best, best_share = one, garbage_share
    return best
