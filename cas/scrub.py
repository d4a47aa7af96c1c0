"""Scrubbing: reading everything that a storage has, to find damage before somebody asks for it.

Theory of operation. Records are read segment by segment, in the order in which they lie on the
disk, then large files one by one. Only what is current is looked at, and no lease is renewed. What
is damaged is dropped in the way of any read that finds it so, with a copy put aside, and then asked
of the repairer, if there is one. What comes or moves while a scrub runs was verified as it came, so
nothing has to be locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from cas.digest import Digest
from cas.errors import BlobNotFound, CasError
from cas.keys import digest_of, size_of
from cas.large_files import SMALL_BYTES
from cas.log import locate, segment_of
from cas.pack_storage import PackStorage
from cas.records import Damaged, Kind, Table, record_bytes
from cas.store import BlobStore

_BATCH_BYTES = 1 << 20
_KEYS_AT_ONCE = 4096
_RECORDS_AT_ONCE = 256
_RESULT_BYTES = 4096
"""What is reckoned for a result of which the size is not known."""

Pause = Callable[[int], Awaitable[None]]
"""Called before so many bytes are read; returns when that may be."""
Repair = Callable[[Digest], Awaitable[bool]]
"""Stores a damaged blob anew, if it can; answers whether it did."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """How far a scrub is, and what it has found."""

    done_bytes: int = 0
    total_bytes: int = 0
    """As it was at the start."""
    blobs: int = 0
    results: int = 0
    damaged: tuple[Digest, ...] = ()
    """Blobs; they read as missing, those apart that were repaired."""
    repaired: tuple[Digest, ...] = ()
    damaged_results: int = 0


def repair_from(source: BlobStore, store: BlobStore) -> Repair:
    """Answers a repairer that gets blobs from another store."""

    async def repair(digest: Digest) -> bool:
        try:
            async with aclosing(_as_generator(source, digest)) as chunks:
                writer = await store.open_writer([digest])
                try:
                    async for chunk in chunks:
                        await writer.write(chunk)
                    await writer.commit()
                finally:
                    await writer.abort()
        except CasError:
            return False
        return True

    return repair


async def _as_generator(source: BlobStore, digest: Digest) -> AsyncGenerator[bytes, None]:
    async for chunk in source.read(digest):
        yield bytes(chunk)


class Scrubber:
    """Scrubs one storage once. Owned by its event loop."""

    def __init__(self, storage: PackStorage, pause: Pause, repair: Repair | None = None) -> None:
        self._storage = storage
        self._store, self._cache, self._log = storage.store, storage.cache, storage.log
        self._pause = pause
        self._repair = repair
        self._now = Scrubbed()

    async def run(self) -> AsyncIterator[Scrubbed]:
        """Scrubs, and answers how far it is after each mebibyte or so, and at the end.

        Raises StoreUnavailable, OSError.
        """
        segments = self._log.segments()
        large = [key for key in self._store.index if size_of(key) > SMALL_BYTES]
        total_bytes = sum(one.size_bytes for one in segments) + sum(map(size_of, large))
        self._now = Scrubbed(total_bytes=total_bytes)
        for segment in segments:
            if self._log.has(segment.number):  # Not compacted meanwhile.
                before = self._now.done_bytes
                read = self._active if segment.is_active else self._segment
                async for now in read(segment.number):
                    yield now
                # What is not current was passed over.
                done_bytes = max(self._now.done_bytes, before + segment.size_bytes)
                self._now = replace(self._now, done_bytes=done_bytes)
        for key in large:
            if key in self._store.index:
                digest = digest_of(key)
                await self._pause(digest.size_bytes)
                await self._file(digest)
            self._did(size_of(key))
            yield self._now
        self._now = replace(self._now, done_bytes=self._now.total_bytes)
        yield self._now

    def _did(self, size_bytes: int) -> None:
        done_bytes = min(self._now.total_bytes, self._now.done_bytes + size_bytes)
        self._now = replace(self._now, done_bytes=done_bytes)

    async def _segment(self, number: int) -> AsyncIterator[Scrubbed]:
        try:
            table = await asyncio.to_thread(self._log.table, number)
        except FileNotFoundError:
            return
        for places in _batches(number, table):
            current = [place for place in places if self._is_current(*place)]
            await self._check(current, sum(size for _, _, _, size in places))
            yield self._now

    async def _active(self, number: int) -> AsyncIterator[Scrubbed]:
        """The segment that is being written has no table, and damage would hide its records: those
        that the index knows of are what is to be there.
        """
        places: list[_Place] = []
        for at, key in enumerate(list(self._store.index)):
            if size_of(key) <= SMALL_BYTES and key in self._store.index:
                location = self._store.locate(key)
                if location is None or segment_of(location) == number:
                    places.append((Kind.BLOB, key, location or 0, size_of(key)))
            if at % _KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for key in self._cache.stored():
            location = self._cache.location_of(key)
            if location is not None and segment_of(location) == number:
                places.append((Kind.RESULT, key, location, _RESULT_BYTES))
        for start in range(0, len(places), _RECORDS_AT_ONCE):
            some = places[start : start + _RECORDS_AT_ONCE]
            current = [place for place in some if self._is_current(*place)]
            await self._check(current, sum(size for _, _, _, size in some))
            yield self._now

    async def _check(self, current: Sequence[_Place], size_bytes: int) -> None:
        """Reads current records, and goes on from there."""
        if current:
            await self._pause(size_bytes)
            for place, damage in await asyncio.to_thread(self._read, current):
                await self._drop(place, damage)
        blobs = sum(1 for kind, _, _, _ in current if kind == Kind.BLOB)
        results = sum(1 for kind, _, _, _ in current if kind == Kind.RESULT)
        self._now = replace(
            self._now, blobs=self._now.blobs + blobs, results=self._now.results + results
        )
        self._did(size_bytes)

    def _is_current(self, kind: int, key: bytes, location: int, _size_bytes: int) -> bool:
        if kind == Kind.BLOB:
            return key in self._store.index and location in self._store.locations.find(key)
        return kind == Kind.RESULT and self._cache.location_of(key) == location

    def _read(self, places: Sequence[_Place]) -> list[tuple[_Place, Damaged]]:
        """Reads and checks records, and answers the damaged ones. Runs in a thread."""
        damaged = []
        for place in places:
            _, key, location, _ = place
            try:
                record = self._log.read(location, None)
                if record.key != key:
                    damaged.append((place, Damaged("there is another record in its place")))
            except Damaged as damage:
                damaged.append((place, damage))
            except FileNotFoundError:
                break  # Compacted meanwhile: what was current was read there, and checked.
        return damaged

    async def _drop(self, place: _Place, damage: Damaged) -> None:
        kind, key, location, _ = place
        if not self._is_current(*place):
            return
        if kind == Kind.RESULT:
            self._cache.condemn(key, location, damage)
            self._now = replace(self._now, damaged_results=self._now.damaged_results + 1)
            return
        self._store.condemn(key, location, damage)
        await self._found(digest_of(key))

    async def _file(self, digest: Digest) -> None:
        self._now = replace(self._now, blobs=self._now.blobs + 1)
        try:
            await self._store.check_file(digest)
        except BlobNotFound:
            await self._found(digest)

    async def _found(self, digest: Digest) -> None:
        self._now = replace(self._now, damaged=(*self._now.damaged, digest))
        if self._repair is not None and await self._repair(digest):
            self._now = replace(self._now, repaired=(*self._now.repaired, digest))


_Place = tuple[int, bytes, int, int]
"""A record's kind, key, location and size, or about that."""


def _batches(number: int, table: Table) -> list[list[_Place]]:
    """A segment's records, a mebibyte or so at a time."""
    base = locate(number, 0, is_encoded=False)
    batches: list[list[_Place]] = [[]]
    total_bytes = 0
    for key, kind, encoding, units, body_bytes, _ in table.rows():
        size_bytes = record_bytes(len(key), body_bytes)
        batches[-1].append((kind, key, base | units << 1 | bool(encoding), size_bytes))
        total_bytes += size_bytes
        if total_bytes >= _BATCH_BYTES:
            batches.append([])
            total_bytes = 0
    return batches
