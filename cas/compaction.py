"""Compaction: what is current of a segment is written anew, and the segment deleted.

Theory of operation. A record is current if the index (the cache) says that it is where it is.
Current ones are read, checked and appended like any other record; once a copy is durable the index
is turned to it, unless the blob has gone meanwhile, and then the copy is said to be gone. Notes are
carried on where they still matter: that a record is gone, while the segment of that record is kept;
that a blob was in use, for as long as that makes a lease. The segment is deleted when all of that
is durable, and not at all when anything fails; then all is as before, with some bytes more that are
not current.

The caller chooses segments, and how fast it goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from cas.log import Job, locate, segment_of
from cas.pack_action_cache import PackActionCache
from cas.pack_store import PackStore, Parts
from cas.records import (
    Damaged,
    Kind,
    Record,
    Table,
    decode_gone,
    decode_touched,
    encode_gone,
    encode_touched,
    record_bytes,
)

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_BATCH_BYTES = 1 << 20

Pause = Callable[[int], Awaitable[None]]
"""Called before so many bytes are copied; returns when that may be."""


class _Row(NamedTuple):
    """A record to look at."""

    kind: int
    key: bytes
    location: int
    size_bytes: int
    time: int


class Compactor:
    """Compacts the segments of one storage. Owned by its event loop."""

    def __init__(self, parts: Parts, store: PackStore, cache: PackActionCache) -> None:
        self._log = parts.log
        self._pool = parts.pool
        self._store = store
        self._cache = cache

    async def compact(self, number: int, pause: Pause) -> int:
        """Compacts a segment that is not active, and answers how many bytes the disk has got back
        (less, what was copied).

        When cancelled, the segment stays, and all that is in it. Raises StoreFull,
        StoreUnavailable, OSError.
        """
        table = await self._run(self._log.table, number)
        copied_bytes = 0
        batch: list[_Row] = []
        batch_bytes = 0
        for row in _rows(number, table):
            if not self._matters(row):
                continue
            batch.append(row)
            batch_bytes += row.size_bytes
            if batch_bytes >= _BATCH_BYTES:
                await pause(batch_bytes)
                await self._copy(number, batch)
                copied_bytes += batch_bytes
                batch, batch_bytes = [], 0
        if batch:
            await pause(batch_bytes)
            await self._copy(number, batch)
        size_bytes = next(s.size_bytes for s in self._log.segments() if s.number == number)
        await self._run(self._log.drop, number)
        self._log.dropped(number)
        return size_bytes - copied_bytes - batch_bytes

    async def vacate(self, number: int) -> None:
        """Gives up what a segment that is not active has of results, and of blobs that nothing
        protects, whenever they were used last: for when there is no room to copy any of it.

        Raises StoreUnavailable, OSError.
        """
        table = await self._run(self._log.table, number)
        current = [row for row in _rows(number, table) if self._matters(row)]
        self._store.give_up_unprotected([row.key for row in current if row.kind == Kind.BLOB])
        self._cache.give_up([row.key for row in current if row.kind == Kind.RESULT])

    def _matters(self, row: _Row) -> bool:
        if row.kind == Kind.BLOB:
            return row.location in self._store.locations.find(row.key)
        if row.kind == Kind.RESULT:
            return self._cache.location_of(row.key) == row.location
        if row.kind == Kind.TOUCHED:
            return self._store.is_leased_since(row.time)
        return row.kind == Kind.GONE

    async def _copy(self, number: int, rows: Iterable[_Row]) -> None:
        read = await self._run(self._read, list(rows))
        blobs: list[tuple[int, Record]] = []
        notes: list[Record] = []
        for row, record in read:
            if record is None:
                self._condemn(row)
            elif record.kind is Kind.RESULT:
                await self._cache.move(record, row.location)
            elif record.kind is Kind.GONE:
                places = [
                    (location, key)
                    for location, key in decode_gone(record.body)
                    if segment_of(location) != number and self._log.has(segment_of(location))
                ]
                if places:
                    notes.append(record._replace(body=encode_gone(places)))
            elif record.kind is Kind.TOUCHED:
                keys = [
                    key
                    for key in decode_touched(record.body)
                    if self._store.is_touched_last(key, record.time)
                ]
                if keys:
                    notes.append(record._replace(body=encode_touched(keys)))
            elif self._matters(row):
                blobs.append((row.location, record))
        if notes:
            await self._append([(0, note) for note in notes])
        if blobs:
            await self._append(blobs)

    def _read(self, rows: Iterable[_Row]) -> list[tuple[_Row, Record | None]]:
        """Reads and checks records; None is a damaged one. Runs in a thread."""
        read: list[tuple[_Row, Record | None]] = []
        for row in rows:
            try:
                record = self._log.read(row.location, row.size_bytes)
            except Damaged as damage:
                _log.warning("a record of segment %d: %s", segment_of(row.location), damage)
                read.append((row, None))
            else:
                read.append((row, record if record.key == row.key else None))
        return read

    def _condemn(self, row: _Row) -> None:
        """Has a damaged record dropped in the way of whoever reads it."""
        if row.kind == Kind.BLOB:
            self._store.condemn(row.key, row.location, Damaged("found by compaction"))
        elif row.kind == Kind.RESULT:
            self._cache.condemn(row.key, row.location, Damaged("found by compaction"))

    async def _append(self, moved: list[tuple[int, Record]]) -> None:
        """Appends records, durably, and turns the index to them."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        records = [record for _, record in moved]
        self._log.submit(Job(partial(self._appended, moved, done), records))
        await asyncio.shield(done)

    def _appended(
        self, moved: list[tuple[int, Record]], done: asyncio.Future[None], job: Job
    ) -> None:
        if job.error is not None:
            done.set_exception(job.error)
            done.exception()  # Whoever asked may have been cancelled.
            return
        gone = [
            (new, record.key)
            for (old, record), new in zip(moved, job.locations, strict=True)
            if record.kind is Kind.BLOB and not self._store.move(record.key, old, new)
        ]
        if gone:
            note = Record(Kind.GONE, b"", encode_gone(gone))
            self._log.submit(Job(_ignore, (note,), is_durable=False))
        done.set_result(None)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))


def _ignore(_: Job) -> None:
    """For jobs that nobody waits for."""


def _rows(number: int, table: Table) -> Iterable[_Row]:
    base = locate(number, 0, is_encoded=False)
    for key, kind, encoding, units, body_bytes, time in table.rows():
        location = base | units << 1 | bool(encoding)
        yield _Row(kind, key, location, record_bytes(len(key), body_bytes), time)
