"""A BlobStore on disk with a file for each blob.

Theory of operation. A blob's name is the path of its file (FUNCTION/H/HASH-SIZE under `blobs/`,
see cas.shelf for how it gets there); the index in memory is rebuilt from those names at the start.
A file is trusted only while its identity (inode, size, mtime, ctime) is one that this process has
verified: by writing it, or by hashing it whole before the first byte is served. What does not
verify is moved aside and reads as missing.

A file's mtime is the blob's last recorded touch (see cas.eviction), in store time: seconds that run
on while the daemon does, by the monotonic clock, and over a restart by the wall clock when that
went forward. So no step of the wall clock back shortens a lease, and none during a run matters.

Small reads of verified files whose bytes are in the page cache are made on the event loop, since a
hop to a thread costs ten times as much as the read; RWF_NOWAIT makes sure. All else blocks in the
shelf's threads.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import wait as wait_for_threads
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from cas import files
from cas.candidates import Candidates, match
from cas.digest import Buffer, Digest, DigestFunction, Hasher
from cas.errors import (
    BlobNotFound,
    BlobTooLarge,
    CasError,
    InvalidDigest,
    OffsetOutOfRange,
    StoreFull,
    StoreUnavailable,
)
from cas.eviction import Index
from cas.shelf import Draft, FileId, Shelf, store_error
from cas.store import BatchPut, BlobWriter, FileExport, StoreStats

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024
_SMALL = 64 * 1024
"""What is hashed or copied on the event loop, sooner than hop to a thread for it."""
_INLINE_TOUCHES = 4
_EXPORT_FILES = 256
_IMPORT_BYTES = 4 * _CHUNK
_TICK_S = 60.0
_NAME = re.compile(r"blobs/([a-z0-9]+)/[0-9a-f]/([0-9a-f]+)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """Limits and habits of a DiskStore."""

    max_bytes: int = 100 * 1024**3
    """All blobs together; never exceeded. Writes that cannot make room fail with StoreFull."""
    max_blob_bytes: int | None = None
    """One blob; None leaves it to max_bytes."""
    min_lease_s: float = 12 * 3600.0
    """How long a blob stays after its last touch, whatever room is wanted."""
    min_free_bytes: int = 0
    """What is left free on the disk for others: old blobs go, and then writes fail."""
    sync: bool = True
    """Whether a blob survives a power failure once it is acknowledged. It survives the end of the
    process in any case, and what a power failure damages is noticed in any case.
    """
    threads: int = 4
    """For hashing and disk access."""


class _Damage(Exception):
    """A file does not hold its blob; not seen outside this module."""

    def __init__(self, digest: Digest, inode: int, what: str) -> None:
        super().__init__(what)
        self.digest = digest
        self.inode = inode


class _Source(NamedTuple):
    """A stored blob as a thread sees it: where it is and the identity that needs no hashing."""

    digest: Digest
    path: str
    verified: FileId | None


class DiskStore:
    """A BlobStore, with Retention, BlobExporter and BlobImporter, in one directory."""

    def __init__(
        self,
        shelf: Shelf,
        options: DiskOptions,
        found: _Scanned,
        time: _StoreTime,
    ) -> None:
        """Use open."""
        self._shelf = shelf
        self._min_free_bytes = options.min_free_bytes
        self._blob_limit = options.max_bytes
        if options.max_blob_bytes is not None:
            self._blob_limit = min(options.max_blob_bytes, options.max_bytes)
        self._time = time
        self._index = Index(options.max_bytes, options.min_lease_s)
        self._verified: dict[Digest, FileId] = {}
        self._arriving: dict[Digest, asyncio.Future[FileId | None]] = {}
        self._verifying: dict[Digest, asyncio.Future[FileId]] = {}
        self._freeing_bytes = 0
        self._nowait = True
        self._evicted_blobs = 0
        self._evicted_bytes = 0
        self._damaged_blobs = found.damaged
        self._closed = False
        for digest, touched in sorted(found.blobs, key=lambda blob: blob[1]):
            self._index.add(digest, min(touched, time.now()))
        self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    @classmethod
    async def open(
        cls,
        directory: Path,
        options: DiskOptions,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> DiskStore:
        """Takes the directory over, making it where it is not there, and finds what it holds.

        The clocks are armitage.clock.Clock's. Raises StoreUnavailable when the directory cannot be
        used, or another process uses it.
        """
        shelf = await asyncio.to_thread(
            Shelf, directory, "blobs", sync=options.sync, threads=options.threads
        )
        try:
            found = await shelf.run(_scan, shelf)
            time = _StoreTime(shelf.path("clock"), monotonic, wall)
            return cls(shelf, options, found, time)
        except BaseException:
            await shelf.close()
            raise

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """See BlobStore."""
        self._check_open()
        missing, recorded = self._index.find(digests, self._time.now())
        if recorded:
            await self._save_touches(recorded)
        return missing

    async def _touch(self, digest: Digest) -> None:
        if await self.find_missing((digest,)):
            raise BlobNotFound(digest)

    async def _save_touches(self, digests: Collection[Digest]) -> None:
        """Before anybody is told of a blob, so that not even a kill shortens the lease."""
        now = self._time.now()
        sources = [self._source(digest) for digest in digests]
        if len(sources) <= _INLINE_TOUCHES:
            saved = _set_mtimes(sources, now)
        else:
            saved = await self._shelf.run(_set_mtimes, sources, now)
        for source, file_id in saved:
            # Unless the blob was evicted, replaced or verified anew in the meantime.
            if self._verified.get(source.digest) is source.verified:
                self._verified[source.digest] = file_id

    def _source(self, digest: Digest) -> _Source:
        return _Source(digest, self._shelf.path(_name(digest)), self._verified.get(digest))

    async def get(self, digest: Digest) -> bytes:
        """See BlobStore."""
        await self._touch(digest)
        if digest.is_empty:
            return b""
        fd = await self._open_verified(digest)
        try:
            return await self._read_at(fd, digest, 0, digest.size_bytes)
        finally:
            os.close(fd)

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """See BlobStore. The open file keeps the bytes when the blob is evicted in mid-read."""
        await self._touch(digest)
        size = digest.size_bytes
        if not 0 <= offset <= size:
            raise OffsetOutOfRange(digest, offset)
        end = size if limit is None else min(size, offset + limit)
        if offset == end:
            return
        fd = await self._open_verified(digest)
        try:
            for start in range(offset, end, _CHUNK):
                yield await self._read_at(fd, digest, start, min(_CHUNK, end - start))
        finally:
            os.close(fd)

    async def _open_verified(self, digest: Digest) -> int:
        for _ in range(3):
            fd = self._open_if_verified(digest)
            if fd is not None:
                return fd
            await self._verify(digest)
        raise StoreUnavailable(f"the file of blob {digest} keeps changing")

    def _open_if_verified(self, digest: Digest) -> int | None:
        known = self._verified.get(digest)
        if known is None:
            return None
        try:
            fd = os.open(self._shelf.path(_name(digest)), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error) from error
        if FileId.of(os.fstat(fd)) == known:
            return fd
        os.close(fd)
        return None

    async def _verify(self, digest: Digest) -> None:
        """Hashes the file, once for all who wait. Raises BlobNotFound."""
        verifying = self._verifying.get(digest)
        if verifying is None:
            verifying = asyncio.wrap_future(self._shelf.submit(_hash_file, self._source(digest)))
            verifying.add_done_callback(lambda done: self._end_verify(digest, done))
            self._verifying[digest] = verifying
        try:
            await asyncio.shield(verifying)
        except _Damage as damage:
            raise BlobNotFound(digest) from damage
        except OSError as error:
            raise store_error(error) from error

    def _end_verify(self, digest: Digest, verified: asyncio.Future[FileId]) -> None:
        del self._verifying[digest]
        error = verified.exception()
        if error is None:
            self._trust(digest, verified.result())
        elif isinstance(error, _Damage):
            self._condemn(error)

    def _trust(self, digest: Digest, file_id: FileId) -> None:
        if digest in self._index:
            self._verified[digest] = file_id

    def _condemn(self, damage: _Damage) -> None:
        """Drops a blob whose file was found wanting, unless its file is another one by now."""
        digest = damage.digest
        if digest not in self._index or not self._shelf.quarantine(_name(digest), damage.inode):
            return
        _log.warning("dropped blob %s: %s", digest, damage)
        self._damaged_blobs += 1
        self._index.remove(digest)
        self._verified.pop(digest, None)

    async def _read_at(self, fd: int, digest: Digest, offset: int, size_bytes: int) -> bytes:
        try:
            data = self._read_cached(fd, offset, size_bytes) if size_bytes <= _CHUNK else None
            if data is None:
                data = await self._shelf.run(files.read_all, fd, offset, size_bytes)
        except (OSError, StoreUnavailable) as error:
            self._verified.pop(digest, None)  # So that the next read finds out what is wrong.
            raise StoreUnavailable(f"cannot read the file of blob {digest}: {error}") from error
        if len(data) != size_bytes:
            self._verified.pop(digest, None)
            raise StoreUnavailable(f"the file of blob {digest} was cut short while it was read")
        return data

    def _read_cached(self, fd: int, offset: int, size_bytes: int) -> bytes | None:
        """Reads what the page cache has without waiting for the disk, else answers None."""
        if not self._nowait:
            return None
        try:
            if size_bytes <= _SMALL:
                small = bytearray(size_bytes)
                whole = os.preadv(fd, [small], offset, os.RWF_NOWAIT) == size_bytes
                return bytes(small) if whole else None
            # A copy of a large piece costs more than two looks at its ends.
            os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
            os.preadv(fd, [bytearray(1)], offset + size_bytes - 1, os.RWF_NOWAIT)
            return os.pread(fd, size_bytes, offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._nowait = False  # A file system that cannot tell.
            return None

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """See BlobStore. When cancelled, the blob may be stored, whole."""
        self._check_open()
        frozen = _freeze(data)
        if len(frozen) <= _SMALL:
            digest = match(candidates, frozen, self._blob_limit)
        else:
            digest = await self._shelf.run(match, candidates, frozen, self._blob_limit)
        await self._store(digest, frozen)
        return digest

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """See BatchStore."""
        async with asyncio.TaskGroup() as group:
            puts = [group.create_task(self._put_or_say(blob)) for blob in blobs]
        return [put.result() for put in puts]

    async def _put_or_say(self, blob: BatchPut) -> Digest | CasError:
        try:
            return await self.put(blob.candidates, blob.data)
        except CasError as error:
            return error

    async def _store(
        self, digest: Digest, content: Buffer | Draft, reserved_bytes: int = 0
    ) -> None:
        """Takes over a verified blob with its draft and reservation, whatever comes of it."""
        try:
            missing = await self.find_missing((digest,))
        except BaseException:
            self.drop(content, reserved_bytes)
            raise
        if missing:
            await asyncio.shield(self._admit(digest, content, reserved_bytes))
        else:
            self.drop(content, reserved_bytes)

    def _admit(
        self, digest: Digest, content: Buffer | Draft, reserved_bytes: int = 0
    ) -> asyncio.Future[FileId | None]:
        """Stores a blob that is missing; joins whoever is storing it already."""
        arriving = self._arriving.get(digest)
        if arriving is not None:
            self.drop(content, reserved_bytes)
            return arriving
        if not reserved_bytes:
            self._reserve(digest.size_bytes)
        arriving = self._shelf.put(_name(digest), content, self._time.now())
        arriving.add_done_callback(lambda done: self._end_arrival(digest, done))
        self._arriving[digest] = arriving
        return arriving

    def drop(self, content: Buffer | Draft, reserved_bytes: int) -> None:
        """Frees what a blob that will not be stored has taken up."""
        self._index.unreserve(reserved_bytes)
        if isinstance(content, Draft):
            self._shelf.drop_soon(content)

    def _end_arrival(self, digest: Digest, arrived: asyncio.Future[FileId | None]) -> None:
        del self._arriving[digest]
        self._index.unreserve(digest.size_bytes)
        if arrived.exception() is None:
            self._index.add(digest, self._time.now())
            file_id = arrived.result()
            if file_id is not None:
                self._verified[digest] = file_id

    def _reserve(self, size_bytes: int) -> None:
        now = self._time.now()
        if self._min_free_bytes:
            self._make_free(size_bytes, now)
        self._remove(self._index.reserve(size_bytes, now))

    def _make_free(self, size_bytes: int, now: float) -> None:
        """Keeps the minimum free on the disk once everything reserved is written."""
        free_bytes = _as_store_error(self._shelf.free_bytes) + self._freeing_bytes
        wanted_bytes = self._min_free_bytes + self._index.reserved_bytes + size_bytes
        try:
            self._remove(self._index.evict(wanted_bytes - free_bytes, now))
        except StoreFull as error:
            raise StoreFull(
                f"no room for {size_bytes} more bytes: {self._min_free_bytes} bytes of the disk"
                " are to stay free, and nothing may be evicted; free some or lower the minimum"
            ) from error

    def _remove(self, victims: Collection[Digest]) -> None:
        if not victims:
            return
        for victim in victims:
            self._verified.pop(victim, None)
        size_bytes = sum(victim.size_bytes for victim in victims)
        self._evicted_blobs += len(victims)
        self._evicted_bytes += size_bytes
        self._freeing_bytes += size_bytes
        discarding = self._shelf.discard([_name(victim) for victim in victims])
        discarding.add_done_callback(lambda _: self._removed(size_bytes))

    def _removed(self, size_bytes: int) -> None:
        self._freeing_bytes -= size_bytes

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See BlobStore."""
        self._check_open()
        incoming = Candidates(candidates, self._blob_limit)
        self._reserve(incoming.size_bytes)
        return _DiskWriter(self, self._shelf, incoming)

    async def take(self, digest: Digest, content: Buffer | Draft) -> None:
        """Stores what a writer has verified, in the room that open_writer reserved."""
        await self._store(digest, content, digest.size_bytes)

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """See Retention."""
        self._index.hold(holder, digests)

    def release(self, holder: str) -> None:
        """See Retention."""
        self._index.release(holder)

    async def export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        """See BlobExporter. Makes no more files once it has raised or was cancelled."""
        missing = dict.fromkeys(await self.find_missing([file.digest for file in files]))
        wanted = [(self._source(file.digest), file) for file in files if file.digest not in missing]
        stop = threading.Event()
        exporting = [
            self._shelf.submit(_export, wanted[start : start + _EXPORT_FILES], stop)
            for start in range(0, len(wanted), _EXPORT_FILES)
        ]
        try:
            for part in exporting:
                exported = await asyncio.wrap_future(part)
                for digest, file_id in exported.verified:
                    self._trust(digest, file_id)
                for damage in exported.damaged:
                    self._condemn(damage)
                    missing[damage.digest] = None
        finally:
            stop.set()
            for part in exporting:
                part.cancel()
            await _wait_for(exporting)
        return list(missing)

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """See BlobImporter. Small files are read many at a time, large ones streamed."""
        self._check_open()
        digests: list[Digest] = []
        while len(digests) < len(paths):
            group = await asyncio.wrap_future(
                self._shelf.submit(_read_group, function, paths[len(digests) :])
            )
            if group:
                await self._put_all(group)
                digests += [digest for digest, _ in group]
            else:
                digests.append(await self._import_large(function, paths[len(digests)]))
        return digests

    async def _put_all(self, blobs: Collection[tuple[Digest, bytes]]) -> None:
        missing = set(await self.find_missing([digest for digest, _ in blobs]))
        arriving = []
        for digest, data in blobs:
            if digest in missing:
                self._check_size(digest)
                arriving.append(self._admit(digest, data))
        if arriving:
            await asyncio.wait(arriving)
        for arrived in arriving:
            arrived.result()

    async def _import_large(self, function: DigestFunction, path: str) -> Digest:
        fd = files.open_regular(path)
        size_bytes = os.fstat(fd).st_size
        try:
            if size_bytes > self._blob_limit:
                hasher = await self._shelf.run(_hash, function, fd)
                self._check_size(Digest(function, hasher.hexdigest(), size_bytes))
            self._reserve(size_bytes)
        except BaseException:
            os.close(fd)
            raise
        try:
            copying = self._shelf.submit(_copy_in, self._shelf, function, fd, size_bytes)
        except BaseException:
            self._index.unreserve(size_bytes)
            os.close(fd)
            raise
        try:
            digest, draft = await asyncio.wrap_future(copying)
        except BaseException:
            self._index.unreserve(size_bytes)
            copying.add_done_callback(lambda done: _abandon(self._shelf, done, fd))
            raise
        self._index.unreserve(size_bytes - digest.size_bytes)
        await self._store(digest, draft, digest.size_bytes)
        return digest

    def _check_size(self, digest: Digest) -> None:
        if digest.size_bytes > self._blob_limit:
            raise BlobTooLarge(digest, self._blob_limit)

    def stats(self) -> StoreStats:
        """See Measured."""
        return StoreStats(
            blobs=len(self._index),
            bytes=self._index.bytes,
            max_bytes=self._index.max_bytes,
            reserved_bytes=self._index.reserved_bytes,
            holders=self._index.holders,
            held=self._index.held,
            evicted_blobs=self._evicted_blobs,
            evicted_bytes=self._evicted_bytes,
            damaged_blobs=self._damaged_blobs,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _tick(self) -> None:
        self._time.save()
        self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def close(self) -> None:
        """Waits for running work and lets the directory go; later calls raise StoreUnavailable.

        Idempotent.
        """
        if self._closed:
            return
        self._closed = True
        self._ticking.cancel()
        self._time.save()
        await self._shelf.close()


def _freeze(data: Buffer) -> Buffer:
    """Answers bytes that stay as they are when the caller uses its buffer again: a thread may be at
    work on them long after the caller was cancelled.
    """
    if isinstance(data, memoryview):
        return data if isinstance(data.obj, bytes) else bytes(data)
    return bytes(data)


class _DiskWriter:
    """Bytes gather in memory up to a slice; a blob that fits in one never gets a draft. Slices are
    hashed and written in a thread, one at a time, while the next one gathers.
    """

    def __init__(self, store: DiskStore, shelf: Shelf, candidates: Candidates) -> None:
        self._store = store
        self._shelf = shelf
        self._candidates = candidates
        self._received_bytes = 0
        self._gathered: list[Buffer] = []
        self._gathered_bytes = 0
        self._draft: Draft | None = None
        self._working: ThreadFuture[None] | None = None
        self._ended = False

    async def write(self, data: Buffer) -> None:
        assert not self._ended
        self._candidates.check_size(self._received_bytes + len(data))
        self._received_bytes += len(data)
        self._gathered.append(_freeze(data))
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= _CHUNK and self._candidates.size_bytes > _CHUNK:
            await self._start(self._append, self._gathered)
            self._gathered, self._gathered_bytes = [], 0

    async def _start(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        await self._finish()
        self._working = self._shelf.submit(work, *args, **kwargs)

    async def _finish(self) -> None:
        if self._working is not None:
            try:
                await asyncio.wrap_future(self._working)
            except OSError as error:
                raise store_error(error) from error

    def _append(self, buffers: Sequence[Buffer]) -> None:
        if self._draft is None:
            self._draft = self._shelf.make_draft()
        files.write_all(self._draft.fd, buffers)
        for buffer in buffers:
            self._candidates.update(buffer)

    async def commit(self) -> Digest:
        assert not self._ended
        self._candidates.check_size(self._received_bytes, final=True)
        if self._candidates.size_bytes > _CHUNK:
            await self._start(self._complete, self._gathered)
            await self._finish()
        elif self._received_bytes <= _SMALL:
            self._hash_gathered()
        else:
            await self._start(self._hash_gathered)
            await self._finish()
        digest = self._candidates.match()
        content = self._draft or b"".join(self._gathered)
        self._ended = True
        self._gathered = []
        await self._store.take(digest, content)
        return digest

    def _complete(self, rest: Sequence[Buffer]) -> None:
        self._append(rest)
        assert self._draft is not None
        self._candidates.match()  # Before the sync, which is not for the wrong bytes.
        self._shelf.sync_draft(self._draft)

    def _hash_gathered(self) -> None:
        for buffer in self._gathered:
            self._candidates.update(buffer)

    async def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._gathered = []
        self._store.drop(b"", self._candidates.size_bytes)
        if self._working is None:
            return
        try:
            discarding = self._shelf.submit(self._discard)
        except StoreUnavailable:  # Closed, so no thread is at work any more.
            self._discard()
        else:
            await asyncio.shield(asyncio.wrap_future(discarding))

    def _discard(self) -> None:
        if self._working is not None:
            self._working.cancel()
            wait_for_threads([self._working])
        if self._draft is not None:
            self._shelf.drop_draft(self._draft)
            self._draft = None


class _StoreTime:
    """Store time (see the top of this file), kept over restarts in a small file."""

    def __init__(
        self, path: str, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._base = self._resume() - monotonic()
        self.save()

    def now(self) -> float:
        """Never goes backwards, not even over restarts."""
        return self._base + self._monotonic()

    def _resume(self) -> float:
        wall_now = self._wall()
        try:
            store, wall = map(float, Path(self._path).read_text("ascii").split())
        except (OSError, ValueError):  # The first start, or lost in a power failure.
            return wall_now
        resumed = store + max(0.0, wall_now - wall)
        return resumed if math.isfinite(resumed) else wall_now

    def save(self) -> None:
        """Notes the time down for the next start. Quick; a failure is logged."""
        try:
            Path(f"{self._path}.new").write_text(f"{self.now()!r} {self._wall()!r}\n", "ascii")
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            _log.warning("cannot save the time for the next start: %s", error)


def _name(digest: Digest) -> str:
    return f"blobs/{digest.function}/{digest.hash[0]}/{digest.hash}-{digest.size_bytes}"


class _Scanned(NamedTuple):
    """The blobs that were there at the start, with their last recorded touches."""

    blobs: list[tuple[Digest, float]]
    damaged: int


def _scan(shelf: Shelf) -> _Scanned:
    """Finds all blobs by name and size; what is in them shows when they are read."""
    blobs = []
    damaged = 0
    for found in shelf.scan():
        try:
            digest = _parse_name(found.name)
        except InvalidDigest:
            _log.warning("file %s is none of the store's", shelf.path(found.name))
            continue
        if digest.size_bytes == found.size_bytes:
            blobs.append((digest, found.mtime))
        else:
            _log.warning("dropped blob %s: its file has %d bytes", digest, found.size_bytes)
            shelf.quarantine(found.name, found.inode)
            damaged += 1
    return _Scanned(blobs, damaged)


def _parse_name(name: str) -> Digest:
    parts = _NAME.fullmatch(name)
    if not parts or parts[1] not in set(DigestFunction):
        raise InvalidDigest(name)
    digest = Digest(DigestFunction(parts[1]), parts[2], int(parts[3]))
    if _name(digest) != name:
        raise InvalidDigest(name)
    return digest


def _set_mtimes(sources: Collection[_Source], now: float) -> list[tuple[_Source, FileId]]:
    """Sets the mtimes, and answers the new identities of files that had their verified ones."""
    renewed = []
    for source in sources:
        try:
            before = os.stat(source.path, follow_symlinks=False)
            os.utime(source.path, (now, now), follow_symlinks=False)
            if source.verified == FileId.of(before):
                after = FileId.of(os.stat(source.path, follow_symlinks=False))
                renewed.append((source, after))
        except OSError as error:
            # Reading goes on where writing does not; a file that is gone shows when it is read.
            _log.warning("cannot save the last use of blob %s: %s", source.digest, error)
    return renewed


def _hash(function: DigestFunction, fd: int) -> Hasher:
    hasher = function.hasher()
    offset = 0
    while data := os.pread(fd, _CHUNK, offset):
        hasher.update(data)
        offset += len(data)
    return hasher


def _hash_file(source: _Source) -> FileId:
    """Answers the identity of a file that holds its blob. Raises _Damage."""
    fd = _open_source(source)
    try:
        return _check(fd, source.digest)
    finally:
        os.close(fd)


def _check(fd: int, digest: Digest) -> FileId:
    file_id = FileId.of(os.fstat(fd))
    if file_id.size_bytes != digest.size_bytes:
        raise _Damage(digest, file_id.inode, f"its file has {file_id.size_bytes} bytes")
    try:
        hasher = _hash(digest.function, fd)
    except OSError as error:
        if error.errno == errno.EIO:
            raise _Damage(digest, file_id.inode, str(error)) from error
        raise
    if hasher.hexdigest() != digest.hash:
        raise _Damage(digest, file_id.inode, "its file holds something else")
    return file_id


def _open_source(source: _Source) -> int:
    try:
        return os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise _Damage(source.digest, 0, "its file is gone") from None


class _Exported(NamedTuple):
    verified: list[tuple[Digest, FileId]]
    damaged: list[_Damage]


def _export(wanted: Sequence[tuple[_Source, FileExport]], stop: threading.Event) -> _Exported:
    exported = _Exported([], [])
    for source, file in wanted:
        if stop.is_set():
            break
        try:
            file_id = _export_one(source, file, stop)
        except _Damage as damage:
            exported.damaged.append(damage)
        else:
            if file_id is not None and file_id != source.verified:
                exported.verified.append((source.digest, file_id))
    return exported


def _export_one(source: _Source, file: FileExport, stop: threading.Event) -> FileId | None:
    if source.digest.is_empty:
        files.write_new_file(file.path, file.mode, b"")
        return None
    fd = _as_store_error(_open_source, source)
    try:
        file_id = FileId.of(os.fstat(fd))
        if file_id != source.verified:
            file_id = _check(fd, source.digest)
        files.copy_to_new(fd, source.digest.size_bytes, file.path, file.mode, stop)
        return file_id
    finally:
        os.close(fd)


async def _wait_for(parts: Sequence[ThreadFuture[_Exported]]) -> None:
    running = [asyncio.wrap_future(part) for part in parts if not part.done()]
    if running:
        await asyncio.wait(running)
    for part in running:
        if not part.cancelled():
            part.exception()  # Taken note of: the first failure is what the caller hears of.


def _read_group(function: DigestFunction, paths: Sequence[str]) -> list[tuple[Digest, bytes]]:
    """Reads the first few files, up to the first large one."""
    group = []
    total_bytes = 0
    for path in paths:
        fd = files.open_regular(path)
        try:
            size_bytes = os.fstat(fd).st_size
            if size_bytes > _CHUNK:
                break
            data = files.read_all(fd, 0, size_bytes)
        finally:
            os.close(fd)
        group.append((function.digest(data), data))
        total_bytes += len(data)
        if total_bytes >= _IMPORT_BYTES:
            break
    return group


def _copy_in(
    shelf: Shelf, function: DigestFunction, fd: int, limit_bytes: int
) -> tuple[Digest, Draft]:
    """Makes a synced draft of a file's first bytes; closes the file."""
    hasher = function.hasher()
    copied_bytes = 0
    draft = None
    try:
        draft = _as_store_error(shelf.make_draft)
        while data := os.pread(fd, min(_CHUNK, limit_bytes - copied_bytes), copied_bytes):
            hasher.update(data)
            _as_store_error(files.write_all, draft.fd, [data])
            copied_bytes += len(data)
        _as_store_error(shelf.sync_draft, draft)
        return Digest(function, hasher.hexdigest(), copied_bytes), draft
    except BaseException:
        if draft is not None:
            shelf.drop_draft(draft)
        raise
    finally:
        os.close(fd)


def _as_store_error(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return function(*args, **kwargs)
    except OSError as error:
        raise store_error(error) from error


def _abandon(shelf: Shelf, copied: ThreadFuture[tuple[Digest, Draft]], fd: int) -> None:
    """Cleans up after a copy that nobody waits for any more; runs where the copy ended."""
    if copied.cancelled():
        os.close(fd)
    elif copied.exception() is None:
        shelf.drop_draft(copied.result()[1])
