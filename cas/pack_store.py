"""A BlobStore on disk: small blobs as records of a log (cas.log), large ones as files.

Theory of operation. Which blobs there are is known by cas.index; where a small one is, by
cas.locations; a large one's file is named after it (cas.large_files). All of that is in memory,
changed on the event loop only, and only by what the log has acknowledged: a blob is in the index if
and only if it is durable.

A small blob's record is checked whenever it is read, by the blob's own digest: that costs less than
to remember what was checked, and no damage is ever served. A large file is hashed before the first
byte is served, and again when it has changed since (see cas.large_files). What does not check is
put aside, reported and dropped, and reads as missing.

Reads whose bytes are in the page cache are made on the event loop, since a hop to a thread costs
ten times as much. All else blocks in the store's threads.

When a blob goes, a GONE record with its location follows, so that the next start does not find it
again. It need not be durable: a blob that comes back is still the blob. Touches are recorded (see
cas.index) in TOUCHED records, written before anybody is told of the blob, but not synced: not even
a kill shortens a lease, while a power failure may.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from cas import large_files
from cas.candidates import Candidates, Lately, Unnamed, match
from cas.compression import Codec
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import (
    BadCompressedData,
    BlobNotFound,
    BlobTooLarge,
    CasError,
    OffsetOutOfRange,
    StoreFull,
    StoreUnavailable,
)
from cas.holds import Holds
from cas.index import WINDOWS_PER_LEASE, Index
from cas.keys import digest_of, key_of, names, size_of
from cas.large_files import SMALL_BYTES, DamagedFile, LargeFiles, is_packed
from cas.locations import Locations
from cas.log import Draft, Job, Log, is_encoded, store_error
from cas.pack_files import Exporter, Importer, Source
from cas.pack_writer import PackWriter, UnnamedPackWriter, ZstdPackWriter, freeze
from cas.records import (
    Damaged,
    Encoding,
    Kind,
    Record,
    encode_gone,
    encode_touched,
    record_bytes,
)
from cas.runs import Place, read_runs
from cas.store import BatchPut, BlobWriter, FileExport, Lease, StoreStats, UnnamedWriter
from cas.store_time import StoreTime
from cas.volume import File, FileId, Volume

_log = logging.getLogger(__name__)

P = ParamSpec("P")
S = TypeVar("S", int, int | None)
T = TypeVar("T")

_CHUNK = 1024 * 1024
_GATHERED_BYTES = 4 * _CHUNK
_EVICTED_SHARE = 1024
"""Who must evict gives up this part of the limit beside what it needs."""
_EMPTY_KEYS = frozenset(key_of(function.empty) for function in DigestFunction)


class Durability(StrEnum):
    """What an acknowledged write survives."""

    FULL = "full"
    """Power failures, too."""
    NONE = "none"
    """The end of the process, however sudden. What a power failure damages is noticed and dropped,
    as ever; anything may be lost.
    """


@dataclass(frozen=True, slots=True)
class PackOptions:
    """Limits and habits of a PackStore."""

    max_bytes: int = 100 * 1024**3
    """All blobs together; never exceeded. Writes that cannot make room fail with StoreFull."""
    max_blob_bytes: int | None = None
    """One blob; None leaves it to max_bytes."""
    min_lease_s: float = 12 * 3600.0
    """How long a blob stays after its last touch, whatever room is wanted."""
    min_free_bytes: int = 0
    """What is left free on the disk for others: old blobs go, and then writes fail."""
    durability: Durability = Durability.FULL
    """Of action results, too."""
    threads: int = 4
    """For hashing and disk access."""


class Parts(NamedTuple):
    """What a PackStore and a PackActionCache stand on."""

    volume: Volume
    log: Log
    large: LargeFiles
    pool: ThreadPoolExecutor
    time: StoreTime
    close: Callable[[], Awaitable[None]]
    """Closes all of it."""


class _Verified(NamedTuple):
    """One blob of a put_many that has its digest."""

    number: int
    digest: Digest
    key: bytes
    data: Buffer
    zstd: Buffer | None = None
    """A shorter stream of it."""


_Waiting = list[asyncio.Future[None]]
"""Whoever waits for blobs that are on their way to the disk together."""


class _Gathered:
    """Small blobs that will go to the log together."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.size_bytes = 0
        self.waiting: _Waiting = []


class PackStore:
    """A BlobStore with Retention, BlobExporter and BlobImporter; cas.pack_storage opens one."""

    def __init__(self, parts: Parts, options: PackOptions) -> None:
        self._volume, self._log, self._large, self._pool, self._time, self._close = parts
        self._min_free_bytes = options.min_free_bytes
        self._max_bytes = options.max_bytes
        self._min_lease_s = options.min_lease_s
        self.sync = options.durability is Durability.FULL
        self._blob_limit = options.max_bytes
        if options.max_blob_bytes is not None:
            self._blob_limit = min(options.max_blob_bytes, options.max_bytes)
        self.index = Index(options.min_lease_s, self._time.now())
        self.locations = Locations()
        self.holds = Holds()
        self.bytes = 0
        self._reserved_bytes = 0
        self._freeing_bytes = 0
        self._verified: dict[bytes, FileId] = {}
        self._arriving: dict[bytes, _Waiting] = {}
        self._gathered = _Gathered()
        self._lately = Lately()
        self._verifying: dict[bytes, asyncio.Future[FileId]] = {}
        self._evicted_blobs = 0
        self._evicted_bytes = 0
        self._refused_evictions = 0
        self.damaged_blobs = 0
        self._closed = False
        self.on_gone: Callable[[Collection[bytes]], None] | None = None
        """Hears of the blobs that are stored no more."""

    # Looking

    def all_fresh(self, keys: Collection[bytes]) -> bool:
        """See Glimpse."""
        if self._closed:
            return False
        self.index.turn(self._time.now())
        return self.index.fresh.issuperset(keys)

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """See BlobStore."""
        self.check_open()
        asked = list(digests)
        keys = [key_of(digest) for digest in asked]
        missing = await self._find(keys)
        if not missing:
            return []
        return [digest for digest, key in zip(asked, keys, strict=True) if key in missing]

    async def _find(self, keys: Iterable[bytes]) -> set[bytes]:
        """Touches the blobs that are stored and answers the others."""
        missing, recorded = self.index.touch(set(keys), self._time.now())
        if recorded and self._min_lease_s:
            await self._save_touches(recorded)
        if missing:
            missing -= _EMPTY_KEYS
        return missing

    async def _save_touches(self, keys: Collection[bytes]) -> None:
        saved = asyncio.get_running_loop().create_future()
        record = Record(Kind.TOUCHED, b"", encode_touched(keys), self._stamp())
        self._log.submit(Job(partial(_settle, saved), (record,), is_durable=False))
        try:
            await saved
        except CasError as error:
            # Reading goes on where writing does not.
            _log.warning("cannot save the last use of %d blobs: %s", len(keys), error)

    def _stamp(self) -> int:
        """The time for a record: rounded up, so that no lease gets shorter."""
        return math.ceil(self._time.now())

    async def _touch(self, digest: Digest, key: bytes) -> None:
        self.check_open()
        if await self._find((key,)):
            raise BlobNotFound(digest)

    # Reading

    async def get(self, digest: Digest) -> bytes:
        """See BlobStore."""
        key = key_of(digest)
        await self._touch(digest, key)
        if not digest.size_bytes:
            return b""
        if digest.size_bytes <= SMALL_BYTES:
            return bytes(await self.read_small(digest, key))
        file = await self._open_verified(digest, key)
        if is_packed(file.id(), digest):
            return b"".join([piece async for piece in self._unpack(file, digest)])
        return await self._read_at(file, digest, 0, digest.size_bytes)

    async def get_zstd(self, digest: Digest) -> bytes | None:
        """See ZstdStore."""
        stream = await self.read_zstd(digest)
        return None if stream is None else b"".join([piece async for piece in stream])

    async def read_zstd(self, digest: Digest) -> AsyncIterator[Buffer] | None:
        """See ZstdStore."""
        key = key_of(digest)
        await self._touch(digest, key)
        if not digest.size_bytes:
            return None
        if digest.size_bytes <= SMALL_BYTES:
            location = self.locate(key)
            if location is not None and not is_encoded(location):
                return None
            return await self._read_small_as(_stream, digest, key)
        file = await self._open_verified(digest, key)
        file_id = file.id()
        return self._slices(file, digest, file_id) if is_packed(file_id, digest) else None

    async def _slices(self, file: File, digest: Digest, file_id: FileId) -> AsyncIterator[Buffer]:
        for start in range(0, file_id.size_bytes, _CHUNK):
            yield await self._read_at(file, digest, start, min(_CHUNK, file_id.size_bytes - start))

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """See BlobStore. The open file keeps the bytes when the blob is evicted in mid-read."""
        key = key_of(digest)
        await self._touch(digest, key)
        size = digest.size_bytes
        if not 0 <= offset <= size:
            raise OffsetOutOfRange(digest, offset)
        end = size if limit is None else min(size, offset + limit)
        if offset == end:
            return
        if size <= SMALL_BYTES:
            yield (await self.read_small(digest, key))[offset:end]
            return
        file = await self._open_verified(digest, key)
        if not is_packed(file.id(), digest):
            for start in range(offset, end, _CHUNK):
                yield await self._read_at(file, digest, start, min(_CHUNK, end - start))
            return
        at = 0
        async for piece in self._unpack(file, digest):
            wanted = memoryview(piece)[max(0, offset - at) : max(0, end - at)]
            at += len(piece)
            if wanted:
                yield wanted
            if at >= end:
                return

    async def _unpack(self, file: File, digest: Digest) -> AsyncIterator[bytes]:
        """Reads a large blob of which the file is a zstd stream."""
        unpacking = large_files.pieces(file, file.id(), digest)
        try:
            while (piece := await self.run(next, unpacking, b"")) != b"":
                yield piece
        except (OSError, Damaged, StoreUnavailable) as error:
            self._verified.pop(key_of(digest), None)
            raise StoreUnavailable(f"cannot read the file of blob {digest}: {error}") from error

    async def read_small(self, digest: Digest, key: bytes) -> memoryview:
        """Reads a small blob, wherever it is by now. Raises BlobNotFound."""
        return await self._read_small_as(_content, digest, key)

    async def read_together(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """Reads small blobs, for whoever reads many that were written one after the other; None for
        each that is not there. Nothing is touched.
        """
        self.check_open()
        keys = [key_of(digest) for digest in digests]
        places = [
            None if location is None else Place(key, digest.size_bytes, location)
            for digest, key in zip(digests, keys, strict=True)
            for location in [self.locate(key) if key in self.index else None]
        ]
        found = await self.run(read_runs, self._log, places)
        for number, blob in enumerate(found):
            if blob is None:
                with suppress(BlobNotFound):
                    found[number] = bytes(await self.read_small(digests[number], keys[number]))
        return found

    async def _read_small_as(self, form: Callable[[Record], T], digest: Digest, key: bytes) -> T:
        location = self.locate(key)
        while key in self.index:
            try:
                return form(await self._read_record(key, location))
            except Damaged as damage:
                before, location = location, self.locate(key)
                if location == before:
                    raise self.condemn(key, location, damage) from damage
                # It was moved meanwhile.
        raise BlobNotFound(digest)

    async def _read_record(self, key: bytes, location: int | None) -> Record:
        """Reads a small blob's record. Raises Damaged."""
        if location is None:
            raise Damaged("its record is nowhere")
        size_bytes = self._record_bytes(key, location)
        record = None
        if size_bytes is not None:
            record = _read_or_say(self._log.read_cached, location, size_bytes)
        if record is None:
            record = await self.run(_read_or_say, self._log.read, location, size_bytes)
        return _checked(record, key)

    def locate(self, key: bytes) -> int | None:
        """Answers where a small blob is that is in the index."""
        found = self.locations.find(key)
        if len(found) == 1:
            return found[0]
        # One key in some hundreds shares its place in memory with another; the log knows them
        # apart.
        for location in found:
            try:
                if self._log.key_at(location, len(key)) == key:
                    return location
            except OSError as error:
                _log.warning("cannot read where a blob may be: %s", error)
        return None

    @staticmethod
    def _record_bytes(key: bytes, location: int) -> int | None:
        """The size of a record, where it can be known without reading it."""
        return None if is_encoded(location) else record_bytes(len(key), size_of(key))

    def condemn(self, key: bytes, location: int | None, damage: Damaged) -> BlobNotFound:
        """Drops a small blob that was found wanting, and answers what to raise."""
        digest = digest_of(key)
        if key in self.index:
            _log.warning("dropped blob %s: %s", digest, damage)
            self.damaged_blobs += 1
            if location is not None:
                self._log.suspect(location)
                size_bytes = self._record_bytes(key, location) or SMALL_BYTES
                self._pool.submit(self._put_aside, digest, location, size_bytes)
            self._forget([key])
        return BlobNotFound(digest)

    def _put_aside(self, digest: Digest, location: int, size_bytes: int) -> None:
        try:
            data = self._log.raw(location, size_bytes)
        except OSError as error:
            _log.warning("cannot read damaged blob %s to put it aside: %s", digest, error)
        else:
            self._large.keep_damaged(digest, data)

    async def _open_verified(self, digest: Digest, key: bytes) -> File:
        for _ in range(3):
            file = self._open_if_verified(digest, key)
            if file is not None:
                return file
            await self._verify(digest, key)
            if key not in self.index:  # It has gone meanwhile.
                raise BlobNotFound(digest)
        raise StoreUnavailable(f"the file of blob {digest} keeps changing")

    def _open_if_verified(self, digest: Digest, key: bytes) -> File | None:
        known = self._verified.get(key)
        if known is None:
            return None
        try:
            file = self._large.open(digest)
            return file if file.id() == known else None
        except Damaged:
            return None
        except OSError as error:
            raise store_error(error) from error

    async def _verify(self, digest: Digest, key: bytes) -> None:
        """Hashes the file, once for all who wait. Raises BlobNotFound."""
        verifying = self._verifying.get(key)
        if verifying is None:
            work = self.submit(self._verify_file, digest)
            verifying = asyncio.wrap_future(work)
            verifying.add_done_callback(lambda done: self._end_verify(key, done))
            self._verifying[key] = verifying
        elif verifying.done():
            # What came of it is noted in this turn of the loop: awaiting it would not let that be.
            await asyncio.sleep(0)
        try:
            await asyncio.shield(verifying)
        except Damaged as damage:
            raise BlobNotFound(digest) from damage
        except OSError as error:
            raise store_error(error) from error

    def _verify_file(self, digest: Digest) -> FileId:
        _, file_id = self._large.verify(digest, None)
        return file_id

    def _end_verify(self, key: bytes, verified: asyncio.Future[FileId]) -> None:
        del self._verifying[key]
        error = verified.exception()
        if error is None:
            self.trust(key, verified.result())
        elif isinstance(error, DamagedFile):
            self.condemn_file(key, error)

    def trust(self, key: bytes, file_id: FileId) -> None:
        """Takes note that a large blob's file holds it."""
        if key in self.index:
            self._verified[key] = file_id

    def condemn_file(self, key: bytes, damage: DamagedFile) -> None:
        """Drops a large blob whose file was found wanting, unless its file is another by now."""
        digest = digest_of(key)
        if key not in self.index or not self._large.quarantine(digest, damage.file_id):
            return
        _log.warning("dropped blob %s: %s", digest, damage)
        self.damaged_blobs += 1
        if self.on_gone is not None:
            self.on_gone([key])
        self.index.remove(key)
        self.bytes -= digest.size_bytes
        self._verified.pop(key, None)

    async def _read_at(self, file: File, digest: Digest, offset: int, size_bytes: int) -> bytes:
        try:
            data = file.read_cached(size_bytes, offset) if size_bytes <= _CHUNK else None
            if data is None:
                data = await self.run(file.read, size_bytes, offset)
        except (OSError, StoreUnavailable) as error:
            # So that the next read finds out what is wrong.
            self._verified.pop(key_of(digest), None)
            raise StoreUnavailable(f"cannot read the file of blob {digest}: {error}") from error
        if len(data) != size_bytes:
            self._verified.pop(key_of(digest), None)
            raise StoreUnavailable(f"the file of blob {digest} was cut short while it was read")
        return data

    # Writing

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """See BlobStore. When cancelled, the blob may be stored, whole."""
        self.check_open()
        frozen = freeze(data)
        if len(frozen) <= SMALL_BYTES:
            digest = match(candidates, frozen, self._blob_limit)
        else:
            digest = await self.run(match, candidates, frozen, self._blob_limit)
        key = key_of(digest)
        if key in self.index.fresh:
            return digest
        # What is new, as most is, has no lease to be renewed.
        if (key not in self.index and digest.size_bytes) or await self._find((key,)):
            await self._wait_for(self._admit(digest, key, frozen))
        return digest

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """See BatchStore."""
        self.check_open()
        results: list[Digest | CasError] = []
        verified: list[_Verified] = []
        for candidates, data, zstd in blobs:
            frozen = freeze(data)
            try:
                if len(frozen) <= SMALL_BYTES:
                    digest = match(candidates, frozen, self._blob_limit)
                else:
                    digest = await self.run(match, candidates, frozen, self._blob_limit)
            except CasError as error:
                results.append(error)
            else:
                packed = zstd is not None and len(zstd) < len(data)
                stream = freeze(zstd) if zstd is not None and packed else None
                verified.append(_Verified(len(results), digest, key_of(digest), frozen, stream))
                results.append(digest)
        await self._store_all(verified, results)
        return results

    async def _store_all(
        self, blobs: Sequence[_Verified], results: list[Digest | CasError]
    ) -> None:
        """Stores verified blobs; those that fail have their error put in place of their result."""
        missing = await self._find([blob.key for blob in blobs])
        self.check_open()
        arriving: list[tuple[int, asyncio.Future[None]]] = []
        futures: dict[int, asyncio.Future[None]] = {}
        for number, digest, key, data, zstd in blobs:
            if key not in missing:
                continue
            try:
                waiting = self._admit(digest, key, data, zstd)
            except CasError as error:
                results[number] = error
            else:
                future = futures.get(id(waiting))
                if future is None:
                    future = futures[id(waiting)] = self._wait_for(waiting)
                arriving.append((number, future))
        if futures:
            await asyncio.wait(futures.values())
        for number, future in arriving:
            reason = future.exception()
            if isinstance(reason, CasError):
                results[number] = reason
            elif reason is not None:
                raise reason

    def _admit(
        self, digest: Digest, key: bytes, data: Buffer, zstd: Buffer | None = None
    ) -> _Waiting:
        """Stores a verified blob that is missing, as the shorter zstd stream if there is one, or
        joins whoever is storing it already.
        """
        self.check_open()
        waiting = self._arriving.get(key)
        if waiting is not None:
            return waiting
        size_bytes = digest.size_bytes
        self.reserve(size_bytes)
        if size_bytes <= SMALL_BYTES:
            if zstd is None:
                record = Record(Kind.BLOB, key, data, self._stamp())
            else:
                record = Record(Kind.BLOB, key, zstd, self._stamp(), Encoding.ZSTD)
            return self._gather(key, record, size_bytes)
        waiting = self._arriving[key] = []
        drafting = asyncio.wrap_future(
            self._pool.submit(
                self._write_draft, digest, data if zstd is None else zstd, self._time.now()
            )
        )
        drafting.add_done_callback(partial(self._drafted, key))
        return waiting

    def _gather(self, key: bytes, record: Record, size_bytes: int) -> _Waiting:
        """Puts a blob's record to those that go to the log together: all or none of them, when the
        event loop has done what is to be done now.
        """
        gathered = self._gathered
        if not gathered.records:
            asyncio.get_running_loop().call_soon(self._submit, gathered)
        gathered.records[key] = record
        gathered.size_bytes += size_bytes
        self._arriving[key] = gathered.waiting
        if gathered.size_bytes >= _GATHERED_BYTES:
            self._gathered = _Gathered()
        return gathered.waiting

    def _submit(self, gathered: _Gathered) -> None:
        if gathered is self._gathered:
            self._gathered = _Gathered()
        arrived = partial(self._arrived, tuple(gathered.records), gathered.size_bytes)
        self._log.submit(Job(arrived, tuple(gathered.records.values())))

    @staticmethod
    def _wait_for(waiting: _Waiting) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        waiting.append(future)
        return future

    def _write_draft(self, digest: Digest, data: Buffer, now: float) -> Draft:
        file, name = self._large.create()
        try:
            file.write([data], 0)
            if self.sync:
                file.sync()
            return self._large.finish(file, name, digest, now)
        except BaseException:
            self._large.drop(file, name)
            raise

    def _drafted(self, key: bytes, drafting: asyncio.Future[Draft]) -> None:
        error = drafting.exception()
        if error is None:
            self._publish(key, drafting.result())
        else:
            self._arrived((key,), size_of(key), Job(_ignore, error=error))

    def _publish(self, key: bytes, draft: Draft) -> None:
        self._log.submit(Job(partial(self._arrived, (key,), size_of(key)), publish=draft))

    def _arrived(self, keys: Sequence[bytes], size_bytes: int, job: Job) -> None:
        """Enters blobs that are durable now, and tells all who wait for them."""
        waiting: _Waiting = []
        for key in keys:
            waiting = self._arriving.pop(key)  # One list for all of them.
        self._reserved_bytes -= size_bytes
        error = job.error
        if isinstance(error, OSError):
            error = store_error(error)
        if job.publish is not None:
            if error is None:
                job.publish.file.close()
            else:
                self._pool.submit(self._large.drop, job.publish.file, job.publish.draft)
        if error is None:
            if job.locations:
                self.locations.add_many(keys, job.locations)
            if job.file_id is not None:
                self._verified[keys[0]] = job.file_id
            self.index.add(keys, self._time.now())
            self.bytes += size_bytes
        for future in waiting:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See BlobStore."""
        self.check_open()
        incoming = Candidates(candidates, self._blob_limit, self._lately)
        self.reserve(incoming.size_bytes)
        return PackWriter(self, self._large, incoming)

    async def open_zstd_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See ZstdStore."""
        self.check_open()
        incoming = Candidates(candidates, self._blob_limit, self._lately)
        self.reserve(incoming.size_bytes)
        return ZstdPackWriter(self, self._large, incoming)

    async def open_unnamed_writer(self, function: DigestFunction) -> UnnamedWriter:
        """See UnnamedStore."""
        self.check_open()
        incoming = Unnamed(function, self._blob_limit)
        return UnnamedPackWriter(self, self._large, incoming, self.reserve)

    async def take(
        self, digest: Digest, content: Buffer | tuple[File, str], zstd: Buffer | None = None
    ) -> None:
        """Stores what a writer has verified (a draft: synced too; a small blob: with the shorter
        stream of it that came), whatever comes of it, in the room that open_writer reserved.
        """
        key = key_of(digest)
        draft = content if isinstance(content, tuple) else None
        try:
            missing = await self._find((key,))
        except BaseException:
            self.drop(draft, digest.size_bytes)
            raise
        waiting = self._arriving.get(key)
        if not missing or waiting is not None or draft is None:
            self.drop(draft, digest.size_bytes)
        if not missing:
            return
        if waiting is not None:
            await self._wait_for(waiting)
        elif not isinstance(content, tuple):
            await self._wait_for(self._admit(digest, key, content, zstd))
        else:
            waiting = self._arriving[key] = []
            file, name = content
            finishing = asyncio.wrap_future(
                self._pool.submit(self._finish, file, name, digest, self._time.now())
            )
            finishing.add_done_callback(partial(self._drafted, key))
            await self._wait_for(waiting)

    def _finish(self, file: File, name: str, digest: Digest, now: float) -> Draft:
        try:
            return self._large.finish(file, name, digest, now)
        except BaseException:
            self._large.drop(file, name)
            raise

    def drop(self, draft: tuple[File, str] | None, reserved_bytes: int) -> None:
        """Frees what a blob that will not be stored has taken up."""
        self._reserved_bytes -= reserved_bytes
        if draft is not None:
            self.submit(self._large.drop, *draft)

    # Making room

    def reserve(self, size_bytes: int) -> None:
        """Sets room aside for a write. Raises StoreFull, and then nothing was evicted."""
        if self._min_free_bytes:
            self._make_free(size_bytes)
        over = self.bytes + self._reserved_bytes + size_bytes - self._max_bytes
        if over > 0:
            self._evict(over)
        self._reserved_bytes += size_bytes

    def _make_free(self, size_bytes: int) -> None:
        """Keeps the minimum free on the disk once everything reserved is written."""
        wanted_bytes = self._min_free_bytes + self._reserved_bytes + size_bytes
        try:
            self._evict(wanted_bytes - self._free_bytes())
        except StoreFull as error:
            raise StoreFull(
                f"no room for {size_bytes} more bytes: {self._min_free_bytes} bytes of the disk"
                " are to stay free, and nothing may be evicted; free some or lower the minimum"
            ) from error

    def _free_bytes(self) -> int:
        """What the disk has free, or will have once what has gone is removed and compacted."""
        try:
            free_bytes = self._volume.free_bytes()
        except OSError as error:
            raise store_error(error) from error
        return free_bytes + self._freeing_bytes + max(0, self._log.garbage_bytes())

    def capacity_bytes(self) -> int:
        """See Measured."""
        return min(self._max_bytes, self.bytes + self._free_bytes() - self._min_free_bytes)

    def is_short(self, spare_bytes: int) -> bool:
        """Whether the disk has less free now than is to stay free and that beside."""
        try:
            return self._volume.free_bytes() < self._min_free_bytes + spare_bytes
        except OSError as error:
            raise store_error(error) from error

    def shrink(self, most_bytes: int) -> int:
        """Gives up least recently used blobs until no more than that is stored, as far as leases
        and holders let it; answers how many bytes went.
        """
        return self._give_up(self._victims(self.bytes - most_bytes)[0])

    def shrink_among(self, keys: Collection[bytes], wanted_bytes: int) -> int:
        """Gives up least recently used blobs of these, of that many bytes at least, as far as
        leases and holders let it; answers how many bytes went.
        """
        return self._give_up(self._victims(wanted_bytes, keys)[0])

    def _evict(self, wanted_bytes: int) -> None:
        """Gives up least recently used blobs of at least that many bytes together.

        Raises StoreFull, and then nothing was given up.
        """
        if wanted_bytes <= 0:
            return
        # A little more than that, since the search for the first costs most.
        victims, found_bytes = self._victims(wanted_bytes + self._max_bytes // _EVICTED_SHARE)
        if found_bytes < wanted_bytes:
            self._refused_evictions += 1
            raise StoreFull(
                f"no room for {wanted_bytes} more bytes: of the {self._max_bytes} bytes allowed"
                f" {self.bytes} are stored and {self._reserved_bytes} being written, and leases or"
                " running builds protect them; raise the size limit or shorten the lease"
            )
        self._give_up(victims)

    def _victims(
        self, wanted_bytes: int, among: Collection[bytes] | None = None
    ) -> tuple[list[bytes], int]:
        """Answers what to give up first, of that size or all there is, and its size."""
        victims: list[bytes] = []
        kept: list[bytes] = []
        found_bytes = 0
        if wanted_bytes > 0:
            now = self._time.now()
            for key in self.index.expired(now):
                if among is not None and key not in among:
                    continue
                if key in self.holds.held:
                    kept.append(key)
                    continue
                victims.append(key)
                found_bytes += size_of(key)
                if found_bytes >= wanted_bytes:
                    break
            # What is held is in use, so it is young; else each write would step over it.
            self.index.touch(kept, now)
        return victims, found_bytes

    def _give_up(self, victims: Collection[bytes]) -> int:
        self._evicted_blobs += len(victims)
        size_bytes = self._forget(victims)
        self._evicted_bytes += size_bytes
        return size_bytes

    def give_up_unprotected(self, keys: Iterable[bytes]) -> None:
        """Gives up those of some stored blobs that neither a lease nor a holder protects."""
        now = self._time.now()
        self._give_up(
            [
                key
                for key in keys
                if key not in self.holds.held and not self.index.lease_left_s(key, now)
            ]
        )

    def _forget(self, keys: Collection[bytes]) -> int:
        """Strikes out blobs that are in the index, has them removed, and answers how many bytes
        they had.
        """
        gone: list[tuple[int, bytes]] = []
        names: list[str] = []
        total_bytes = large_bytes = 0
        if self.on_gone is not None:
            self.on_gone(keys)
        for key in keys:
            self.index.remove(key)
            size_bytes = size_of(key)
            total_bytes += size_bytes
            if size_bytes > SMALL_BYTES:
                large_bytes += size_bytes
                self._verified.pop(key, None)
                names.append(self._large.name(digest_of(key)))
                continue
            location = self.locate(key)
            if location is not None:
                self.locations.remove(key, location)
                self.release_record(key, location)
                gone.append((location, key))
        self.bytes -= total_bytes
        if gone or names:
            records = (Record(Kind.GONE, b"", encode_gone(gone), self._stamp()),) if gone else ()
            self._freeing_bytes += large_bytes
            job = Job(partial(self._removed, large_bytes), records, is_durable=False, remove=names)
            self._log.submit(job)
        return total_bytes

    def move(self, key: bytes, old: int, new: int) -> bool:
        """Turns to the copy of a small blob's record, if the blob is still where it was."""
        is_current = old in self.locations.find(key)
        self.release_record(key, old if is_current else new)
        if is_current:
            self.locations.replace(key, old, new)
        return is_current

    def is_leased_since(self, touched: float) -> bool:
        """Whether the lease of a blob that was last touched then may still run."""
        lease_s = self._min_lease_s * (1 + 1 / WINDOWS_PER_LEASE)
        return bool(self._min_lease_s) and self._time.now() < touched + lease_s

    def is_touched_last(self, key: bytes, touched: float) -> bool:
        """Whether a blob is stored that may have been touched then, and not since."""
        now = self._time.now()
        left_s = self.index.lease_left_s(key, now)
        if left_s is None:
            return False
        window_s = self._min_lease_s / WINDOWS_PER_LEASE
        return touched + window_s + 1 >= now + left_s - self._min_lease_s

    def release_record(self, key: bytes, location: int) -> None:
        """Says that a blob's record is not current any more."""
        size_bytes = self._record_bytes(key, location)
        if size_bytes is None:
            try:
                size_bytes = self._log.record_bytes(location)
            except (OSError, Damaged):
                size_bytes = 0
        self._log.release(location, size_bytes)

    def _removed(self, size_bytes: int, job: Job) -> None:
        self._freeing_bytes -= size_bytes
        if job.error is not None:
            _log.warning("cannot note that blobs are gone: %s", job.error)

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """See Retention."""
        self.holds.hold(holder, [key_of(digest) for digest in digests])

    def hold_keys(self, holder: str, keys: Collection[bytes]) -> None:
        """See Glimpse."""
        self.holds.hold(holder, keys)

    def release(self, holder: str) -> None:
        """See Retention."""
        self.holds.release(holder)

    # Files

    async def export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        """See BlobExporter."""
        return await Exporter(self, self._large).export(files)

    def source_of(self, digest: Digest) -> Source:
        """Answers where a stored blob is."""
        key = key_of(digest)
        location = self.locate(key) if 0 < digest.size_bytes <= SMALL_BYTES else None
        return Source(digest, key, location, self._verified.get(key))

    def content_at(self, key: bytes, location: int | None) -> memoryview:
        """Reads a small blob from there. Blocks. Raises Damaged, CasError."""
        if location is None:
            raise Damaged("its record is nowhere")
        size_bytes = self._record_bytes(key, location)
        return _content(_checked(_read_or_say(self._log.read, location, size_bytes), key))

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """See BlobImporter."""
        self.check_open()
        return await Importer(self, self._large).import_(function, paths)

    async def put_verified(self, blobs: Sequence[tuple[Digest, Buffer]]) -> None:
        """Stores blobs whose digests were made from them. Raises what put does."""
        for digest, _ in blobs:
            self.check_size(digest)
        results: list[Digest | CasError] = [digest for digest, _ in blobs]
        await self._store_all(
            [
                _Verified(number, digest, key_of(digest), data)
                for number, (digest, data) in enumerate(blobs)
            ],
            results,
        )
        for outcome in results:
            if not isinstance(outcome, Digest):
                raise outcome

    def is_too_large(self, size_bytes: int) -> bool:
        """Whether no blob may be that large."""
        return size_bytes > self._blob_limit

    def check_size(self, digest: Digest) -> None:
        """Raises BlobTooLarge."""
        if self.is_too_large(digest.size_bytes):
            raise BlobTooLarge(digest, self._blob_limit)

    # The rest

    def stats(self) -> StoreStats:
        """See Measured."""
        return StoreStats(
            blobs=len(self.index),
            bytes=self.bytes,
            max_bytes=self._max_bytes,
            reserved_bytes=self._reserved_bytes,
            holders=self.holds.holders,
            held=len(self.holds.held),
            evicted_blobs=self._evicted_blobs,
            evicted_bytes=self._evicted_bytes,
            damaged_blobs=self.damaged_blobs,
            refused_evictions=self._refused_evictions,
            garbage_bytes=max(0, self._log.garbage_bytes()),
        )

    def lease_of(self, digest: Digest) -> Lease | None:
        """See Leases."""
        key = key_of(digest)
        left_s = self.index.lease_left_s(key, self._time.now())
        return None if left_s is None else Lease(left_s, self.holds.holders_of(key))

    async def check_file(self, digest: Digest) -> None:
        """Hashes a large blob that is stored, without renewing its lease.

        Raises BlobNotFound when it was found damaged, and dropped, and StoreUnavailable.
        """
        await self._verify(digest, key_of(digest))

    def check_open(self) -> None:
        """Raises StoreUnavailable when the store is closed."""
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def submit(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> ThreadFuture[T]:
        """Runs a blocking function in one of the store's threads, in the order submitted."""
        self.check_open()
        return self._pool.submit(function, *args, **kwargs)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for a blocking function in a thread, which goes on when this is cancelled."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    async def close(self) -> None:
        """Waits for running work and lets the directory go, with all else that is in it; later
        calls raise StoreUnavailable. Idempotent.
        """
        await self._close()

    def refuse(self) -> None:
        """Refuses all calls from now on. What runs goes on."""
        self._closed = True

    async def drain(self) -> None:
        """Waits for all blobs that are on their way to be stored."""
        while self._arriving:
            await asyncio.wait([self._wait_for(next(iter(self._arriving.values())))])


def _read_or_say(read: Callable[[int, S], T], location: int, size_bytes: S) -> T:
    """Reads a record. Raises Damaged where the disk says that it cannot be had, CasError."""
    try:
        return read(location, size_bytes)
    except FileNotFoundError:
        raise Damaged("its segment is gone") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise Damaged(str(error)) from error
        raise store_error(error) from error


def _checked(record: Record, key: bytes) -> Record:
    """Answers the record if it is the blob's. Raises Damaged.

    A plain blob was checked by its digest when it was read, a packed one by the record's checksum.
    """
    if record.key != key or record.kind is not Kind.BLOB:
        raise Damaged("there is another record in its place")
    return record


def _content(record: Record) -> memoryview:
    """Answers the blob in a record. Raises Damaged."""
    if record.encoding is Encoding.IDENTITY:
        return memoryview(record.body)
    try:
        data = Codec.ZSTD.decompress(record.body, size_of(record.key))
    except BadCompressedData as error:
        raise Damaged(str(error)) from error
    if not names(record.key, data):
        raise Damaged("it holds something else")
    return memoryview(data)


def _stream(record: Record) -> AsyncIterator[Buffer] | None:
    """Answers the zstd stream in a record, if there is one."""
    return _once(record.body) if record.encoding is Encoding.ZSTD else None


async def _once(piece: Buffer) -> AsyncIterator[Buffer]:
    yield piece


def _settle(future: asyncio.Future[None], job: Job) -> None:
    """Ends a future as its job ended."""
    if future.done():
        return
    if job.error is None:
        future.set_result(None)
    else:
        future.set_exception(job.error)


def _ignore(_: Job) -> None:
    """For jobs that nobody waits for."""
