"""A BlobStore in a bucket.

Theory of operation. A blob is one object under its digest (see cas.objects). Nothing is given out
that was not hashed whole first: small blobs are held in memory for it, larger ones in an unlinked
temporary file, unless the reader verifies them himself (`read_unverified`, for tiers that write
into a verifying store anyway). A blob that fails twice, fetched anew, is damaged in the bucket: it
is remembered as such and reads as missing until it is written again; nothing is ever deleted here.

Writers keep their bytes in a temporary file until they have verified them, so that nothing wrong
goes up and what goes up can be sent again when a connection breaks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cas.candidates import Candidates, match
from cas.digest import Buffer, Digest
from cas.errors import (
    BlobNotFound,
    DigestMismatch,
    OffsetOutOfRange,
    StoreFull,
    StoreUnavailable,
)
from cas.objects import Layout
from cas.s3 import MIB, SMALL_BYTES, S3Bucket
from cas.store import BlobWriter

_log = logging.getLogger(__name__)

_FETCHES = 2
"""Wrong bytes may have been spoilt on the way: once more, and then they are the bucket's."""


@dataclass(frozen=True, slots=True)
class S3StoreOptions:
    """Habits of an S3Store."""

    prefix: str = ""
    """Keys begin with this and a slash; empty: with nothing."""
    max_age_s: float | None = None
    """A blob that was written longer ago counts as missing, so that it is written anew before a
    lifecycle rule of the bucket removes it; off: there is no such rule for blobs.
    """
    find_at_once: int = 32
    """Questions of one find_missing in flight."""

    def __post_init__(self) -> None:
        if self.find_at_once < 1:
            raise ValueError("find_at_once must be at least 1")
        Layout(self.prefix)


class S3Store:
    """A BlobStore and Replica (cas.replica) in a bucket. It evicts nothing; lifecycle rules may.

    Every method also raises StoreUnavailable and StoreDenied (see S3Bucket).
    """

    def __init__(
        self,
        bucket: S3Bucket,
        options: S3StoreOptions,
        *,
        spool: Path,
        wall: Callable[[], float],
    ) -> None:
        """Takes a directory for temporary files and armitage.clock.Clock's time."""
        self._bucket = bucket
        self._layout = Layout(options.prefix)
        self._options = options
        self._spool = spool
        self._wall = wall
        self._damaged: set[Digest] = set()

    async def check(self) -> None:
        """Makes sure that the bucket answers. Raises StoreDenied, StoreUnavailable."""
        await self._bucket.check(self._layout.below("probe/absent"))

    @property
    def damaged(self) -> int:
        """Blobs that were found damaged in the bucket and not written again since."""
        return len(self._damaged)

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """See BlobStore. One question for each distinct digest, several at a time."""
        wanted = list(digests)
        asked = {digest for digest in wanted if not digest.is_empty}
        left, missing = iter(asked), set[Digest]()

        async def ask() -> None:
            for digest in left:
                if not await self._has(digest):
                    missing.add(digest)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(asked), self._options.find_at_once)):
                    group.create_task(ask())
        except* StoreUnavailable as failures:
            raise _first(failures) from None
        return [digest for digest in wanted if digest in missing]

    async def _has(self, digest: Digest) -> bool:
        if digest in self._damaged:
            return False
        found = await self._bucket.head(self._layout.blob(digest))
        if found is None or found.size_bytes != digest.size_bytes:
            return False
        oldest = self._options.max_age_s
        return oldest is None or self._wall() - found.modified_s < oldest

    async def get(self, digest: Digest) -> bytes:
        """See BlobStore."""
        if digest.size_bytes <= SMALL_BYTES:
            return await self._get_small(digest)
        return b"".join([bytes(chunk) async for chunk in self.read(digest)])

    async def _get_small(self, digest: Digest) -> bytes:
        if digest.is_empty:
            return b""
        if digest.size_bytes and digest not in self._damaged:
            for _ in range(_FETCHES):
                data = await self._bucket.get(self._layout.blob(digest), digest.size_bytes)
                if data is None:
                    raise BlobNotFound(digest)
                if digest.function.digest(data) == digest:
                    return data
            self.condemn(digest)
        raise BlobNotFound(digest)

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """See BlobStore. The whole blob is fetched, however little of it is wanted."""
        size = digest.size_bytes
        if not 0 <= offset <= size:
            if await self.find_missing([digest]):
                raise BlobNotFound(digest)
            raise OffsetOutOfRange(digest, offset)
        end = size if limit is None else min(size, offset + limit)
        if size <= SMALL_BYTES:
            data = memoryview(await self._get_small(digest))
            if offset < end:
                yield data[offset:end]
            return
        spooled = await self._fetch_large(digest)
        try:
            for start in range(offset, end, MIB):
                length = min(MIB, end - start)
                yield await asyncio.to_thread(os.pread, spooled.fileno(), length, start)
        finally:
            spooled.close()

    async def _fetch_large(self, digest: Digest) -> IO[bytes]:
        """Fetches a blob into a temporary file, verified. The caller closes it."""
        for _ in range(_FETCHES):
            spooled, hasher = self._make_spool(), Candidates([digest], None)
            try:
                async with aclosing(self.read_unverified(digest)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(_append, spooled, hasher, piece)
                hasher.match(again=tuple)  # Never asked, as there is one candidate.
            except DigestMismatch:
                spooled.close()
            except BaseException:
                spooled.close()
                raise
            else:
                return spooled
        self.condemn(digest)
        raise BlobNotFound(digest)

    def _make_spool(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._spool, buffering=0)
        except OSError as error:
            raise StoreUnavailable(f"cannot make a temporary file: {error}") from error

    async def read_unverified(self, digest: Digest) -> AsyncGenerator[Buffer, None]:
        """See cas.replica.Replica."""
        if digest.is_empty:
            return
        if not digest.size_bytes or digest in self._damaged:
            raise BlobNotFound(digest)
        key = self._layout.blob(digest)
        try:
            async with aclosing(self._bucket.stream(key, digest.size_bytes)) as pieces:
                async for piece in pieces:
                    yield piece
        except FileNotFoundError:
            raise BlobNotFound(digest) from None

    def condemn(self, digest: Digest) -> None:
        """See cas.replica.Replica."""
        _log.error("blob %s is damaged in the bucket; it counts as missing", digest)
        self._bucket.stats.damaged += 1
        self._damaged.add(digest)

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """See BlobStore. Writes over what is there, which for blobs is the same or damaged."""
        digest = match(candidates, data, None)
        if digest.is_empty:
            return digest
        if len(data) <= SMALL_BYTES:
            await self._bucket.put(self._layout.blob(digest), data)
            self._damaged.discard(digest)
        else:
            frozen = bytes(data)

            async def read() -> AsyncIterator[Buffer]:
                for start in range(0, len(frozen), MIB):
                    yield memoryview(frozen)[start : start + MIB]

            await self.upload(digest, read)
        return digest

    async def upload(self, digest: Digest, read: Callable[[], AsyncIterator[Buffer]]) -> None:
        """See cas.replica.Replica. Nothing is sent when the bucket has the blob."""
        if digest.is_empty or await self._has(digest):
            return
        await self._bucket.put_large(self._layout.blob(digest), digest.size_bytes, read)
        self._damaged.discard(digest)

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See BlobStore."""
        return _SpoolingWriter(self, self._make_spool(), Candidates(candidates, None))


class _SpoolingWriter:
    """Keeps a blob in a temporary file until it has proven right."""

    def __init__(self, store: S3Store, spooled: IO[bytes], candidates: Candidates) -> None:
        self._store = store
        self._spooled = spooled
        self._candidates = candidates
        self._written_bytes = 0

    async def write(self, data: Buffer) -> None:
        self._candidates.check_size(self._written_bytes + len(data))
        await asyncio.to_thread(_append, self._spooled, self._candidates, bytes(data))
        self._written_bytes += len(data)

    async def commit(self) -> Digest:
        digest = self._candidates.likely_match()
        if digest is None:
            digest = await asyncio.to_thread(self._candidates.match, self._read_back)
        try:
            await self._store.upload(digest, self._read)
        finally:
            await self.abort()
        return digest

    def _read_back(self) -> Iterator[Buffer]:
        for start in range(0, self._written_bytes, MIB):
            yield os.pread(self._spooled.fileno(), MIB, start)

    async def _read(self) -> AsyncIterator[Buffer]:
        for start in range(0, self._written_bytes, MIB):
            yield await asyncio.to_thread(os.pread, self._spooled.fileno(), MIB, start)

    async def abort(self) -> None:
        self._spooled.close()


def _append(file: IO[bytes], candidates: Candidates, data: Buffer) -> None:
    candidates.update(data)
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise StoreFull(f"cannot write a temporary file: {error}") from error


def _first(failures: BaseExceptionGroup[StoreUnavailable]) -> StoreUnavailable:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StoreUnavailable)
    return error
