"""A store and a cache that forget everything when the process ends."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cas.action_cache import CacheStats
from cas.candidates import Candidates, Unnamed, match
from cas.compression import Codec
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobNotFound, CasError, OffsetOutOfRange, StoreFull, StoreUnavailable
from cas.eviction import Index
from cas.files import are_little, open_regular, write_new_file
from cas.store import BatchPut, BlobWriter, FileExport, Lease, StoreStats, UnnamedWriter

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """Limits of a MemoryStore."""

    max_bytes: int = 1024**3
    """All blobs together."""
    max_blob_bytes: int | None = None
    """One blob; None leaves it to max_bytes."""
    min_lease_s: float = 12 * 3600.0
    """How long a blob stays after its last touch, whatever room is wanted."""


class _Kept(NamedTuple):
    data: bytes
    is_zstd: bool


_EMPTY = _Kept(b"", is_zstd=False)


async def _slices(data: memoryview) -> AsyncIterator[Buffer]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


class MemoryStore:
    """A BlobStore, with Retention, whose blobs are bytes objects."""

    def __init__(
        self, options: MemoryOptions | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes a clock of seconds that never goes backwards, for leases."""
        options = options or MemoryOptions()
        self._clock = clock
        self._blob_limit = options.max_bytes
        if options.max_blob_bytes is not None:
            self._blob_limit = min(options.max_blob_bytes, options.max_bytes)
        self._index = Index(options.max_bytes, options.min_lease_s)
        self._blobs: dict[Digest, _Kept] = {}
        self._evicted_blobs = 0
        self._evicted_bytes = 0
        self._closed = False

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """See BlobStore."""
        return self._find(digests)

    def _find(self, digests: Iterable[Digest]) -> list[Digest]:
        self._check_open()
        return self._index.find(digests, self._clock()).missing

    async def get(self, digest: Digest) -> bytes:
        """See BlobStore."""
        if self._find((digest,)):
            raise BlobNotFound(digest)
        return self._plain(digest)

    def _plain(self, digest: Digest) -> bytes:
        kept = self._blobs.get(digest, _EMPTY)
        return Codec.ZSTD.decompress(kept.data, digest.size_bytes) if kept.is_zstd else kept.data

    async def get_zstd(self, digest: Digest) -> bytes | None:
        """See ZstdStore."""
        if self._find((digest,)):
            raise BlobNotFound(digest)
        kept = self._blobs.get(digest, _EMPTY)
        return kept.data if kept.is_zstd else None

    async def read_zstd(self, digest: Digest) -> AsyncIterator[Buffer] | None:
        """See ZstdStore."""
        stream = await self.get_zstd(digest)
        return None if stream is None else _slices(memoryview(stream))

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """See BlobStore."""
        data = memoryview(await self.get(digest))
        if not 0 <= offset <= len(data):
            raise OffsetOutOfRange(digest, offset)
        async for piece in _slices(data[offset : None if limit is None else offset + limit]):
            yield piece

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """See BlobStore."""
        self._check_open()
        digest = match(candidates, data, self._blob_limit)
        self._store(digest, data, None)
        return digest

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """See BatchStore."""
        self._check_open()
        outcomes: list[Digest | CasError] = []
        for candidates, data, zstd in blobs:
            try:
                digest = match(candidates, data, self._blob_limit)
                self._store(digest, data, zstd)
            except CasError as error:
                outcomes.append(error)
            else:
                outcomes.append(digest)
        return outcomes

    def _store(self, digest: Digest, data: Buffer, zstd: Buffer | None) -> None:
        if not self._find((digest,)):
            return
        self.reserve(digest.size_bytes)
        self.unreserve(digest.size_bytes)
        if zstd is not None and len(zstd) < len(data):
            self._blobs[digest] = _Kept(bytes(zstd), is_zstd=True)
        else:
            self._blobs[digest] = _Kept(bytes(data), is_zstd=False)
        self._index.add(digest, self._clock())

    def reserve(self, size_bytes: int) -> None:
        """Makes room for a blob. Raises StoreFull."""
        victims = self._index.reserve(size_bytes, self._clock())
        for victim in victims:
            del self._blobs[victim]
        self._evicted_blobs += len(victims)
        self._evicted_bytes += sum(victim.size_bytes for victim in victims)

    def unreserve(self, size_bytes: int) -> None:
        """Gives back what reserve set aside."""
        self._index.unreserve(size_bytes)

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See BlobStore."""
        self._check_open()
        return _MemoryWriter(self, Candidates(candidates, self._blob_limit))

    async def open_zstd_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See ZstdStore."""
        self._check_open()
        return _ZstdMemoryWriter(self, Candidates(candidates, self._blob_limit))

    async def open_unnamed_writer(self, function: DigestFunction) -> UnnamedWriter:
        """See UnnamedStore."""
        self._check_open()
        return _UnnamedMemoryWriter(self, Unnamed(function, self._blob_limit))

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """See Retention."""
        self._index.hold(holder, digests)

    def release(self, holder: str) -> None:
        """See Retention."""
        self._index.release(holder)

    async def export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        """See BlobExporter."""
        missing = self._find([file.digest for file in files])
        gone = set(missing)
        stored = [(file, self._plain(file.digest)) for file in files if file.digest not in gone]
        if are_little([file.digest.size_bytes for file, _ in stored]):
            _write_files(stored)
        else:
            await asyncio.to_thread(_write_files, stored)
        return list(dict.fromkeys(missing))

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """See BlobImporter."""
        self._check_open()
        contents = await asyncio.to_thread(_read_files, function, paths)
        return [await self.put([digest], data) for digest, data in contents]

    def lease_of(self, digest: Digest) -> Lease | None:
        """See Leases."""
        return self._index.lease_of(digest, self._clock())

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
            damaged_blobs=0,
        )

    def capacity_bytes(self) -> int:
        """See Measured."""
        return self._index.max_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def close(self) -> None:
        """Forgets everything. Idempotent; later calls raise StoreUnavailable."""
        self._closed = True
        self._blobs.clear()


def _write_files(files: Sequence[tuple[FileExport, bytes]]) -> None:
    for file, data in files:
        write_new_file(file.path, file.mode, data)


def _read_files(function: DigestFunction, paths: Sequence[str]) -> list[tuple[Digest, bytes]]:
    contents = []
    for path in paths:
        with open(open_regular(path), "rb") as file:
            data = file.read()
        contents.append((function.digest(data), data))
    return contents


class _MemoryWriter:
    def __init__(self, store: MemoryStore, candidates: Candidates) -> None:
        self._store = store
        self._candidates = candidates
        self._data = bytearray()
        self._ended = False
        self._reserved = candidates.size_bytes
        store.reserve(self._reserved)

    async def write(self, data: Buffer) -> None:
        assert not self._ended
        self._candidates.check_size(len(self._data) + len(data))
        self._data += data

    async def commit(self) -> Digest:
        assert not self._ended
        data = bytes(self._data)
        self._candidates.update(data)
        digest = self._candidates.match(lambda: [data])
        await self.abort()
        return await self._store.put([digest], data)

    async def abort(self) -> None:
        self._store.unreserve(self._reserved)
        self._reserved = 0
        self._data = bytearray()
        self._ended = True


class _UnnamedMemoryWriter(_MemoryWriter):
    async def digest(self) -> Digest:
        return self._candidates.digests[0].function.digest(self._data)


class _ZstdMemoryWriter(_MemoryWriter):
    """Keeps the stream beside the blob that it gives, until it is clear which of them to store."""

    def __init__(self, store: MemoryStore, candidates: Candidates) -> None:
        super().__init__(store, candidates)
        self._decompressor = Codec.ZSTD.decompressor(candidates.size_bytes)
        self._stream = bytearray()

    async def write(self, data: Buffer) -> None:
        self._stream += data
        for piece in self._decompressor.feed(data):
            await super().write(piece)

    async def commit(self) -> Digest:
        self._decompressor.finish()
        plain, stream = bytes(self._data), bytes(self._stream)
        await self.abort()
        (outcome,) = await self._store.put_many([BatchPut(self._candidates.digests, plain, stream)])
        if isinstance(outcome, CasError):
            raise outcome
        return outcome


@dataclass(frozen=True, slots=True)
class MemoryCacheOptions:
    """Limits of a MemoryActionCache; the least recently used results go first."""

    max_bytes: int = 256 * 1024**2
    max_results: int = 1_000_000


class MemoryActionCache:
    """An ActionCache in a dict."""

    def __init__(self, options: MemoryCacheOptions | None = None) -> None:
        self._options = options or MemoryCacheOptions()
        self._results: OrderedDict[tuple[str, Digest], bytes] = OrderedDict()
        self._bytes = 0
        self._evicted = 0

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """See ActionCache."""
        result = self._results.get((instance, action))
        if result is not None:
            self._results.move_to_end((instance, action))
        return result

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """See ActionCache."""
        if len(result) > self._options.max_bytes:
            raise StoreFull(
                f"a result of {len(result)} bytes does not fit in a cache of"
                f" {self._options.max_bytes} bytes"
            )
        await self.remove(instance, action)
        self._results[instance, action] = result
        self._bytes += len(result)
        while (
            self._bytes > self._options.max_bytes or len(self._results) > self._options.max_results
        ):
            self._bytes -= len(self._results.popitem(last=False)[1])
            self._evicted += 1

    async def remove(self, instance: str, action: Digest) -> None:
        """See ActionCache."""
        self._bytes -= len(self._results.pop((instance, action), b""))

    def stats(self) -> CacheStats:
        """Answers the figures of this moment."""
        return CacheStats(
            results=len(self._results),
            bytes=self._bytes,
            max_bytes=self._options.max_bytes,
            evicted_results=self._evicted,
            damaged_results=0,
        )

    async def close(self) -> None:
        """Forgets everything. Idempotent."""
        self._results.clear()
        self._bytes = 0
