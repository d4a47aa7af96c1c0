"""Writers of a pack store: one blob on its way in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import wait as wait_for_threads
from contextlib import suppress
from typing import ParamSpec, Protocol, TypeVar

from cas.candidates import Candidates, Unnamed, match
from cas.compression import Codec
from cas.digest import Buffer, Digest
from cas.errors import BadCompressedData, StoreUnavailable
from cas.lanes import Lane
from cas.large_files import SMALL_BYTES, LargeFiles
from cas.log import store_error
from cas.volume import File

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024
_MOST_WORKING = 6
"""Slices of one blob, each counted twice, that are being hashed and written at once."""
_SYNC_BYTES = 16 * _CHUNK
"""How much of a large file is written before it is synced: while the disk is busy with that, the
next bytes are hashed and written.
"""
_ZSTD_SLACK_BYTES = 64 * 1024


class Taker(Protocol):
    """What a writer needs of its store."""

    @property
    def sync(self) -> bool:
        """Whether bytes are to be durable before a blob is taken."""

    def submit(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> ThreadFuture[T]:
        """Runs a blocking function in one of the store's threads, in the order submitted."""

    async def take(
        self, digest: Digest, content: Buffer | tuple[File, str], zstd: Buffer | None = None
    ) -> None:
        """Stores what a writer has verified, in the room that was reserved for it."""

    def drop(self, draft: tuple[File, str] | None, reserved_bytes: int) -> None:
        """Frees what a blob that will not be stored has taken up."""


def freeze(data: Buffer) -> Buffer:
    """Answers bytes that stay as they are when the caller uses its buffer again: a thread may be at
    work on them long after the caller was cancelled.
    """
    if isinstance(data, memoryview):
        return data if isinstance(data.obj, bytes) else bytes(data)
    return bytes(data)


class PackWriter:
    """Bytes gather in memory up to a slice; a small blob never gets a draft. Each slice is hashed
    in one thread and written in another, while the next one gathers.
    """

    def __init__(self, store: Taker, large: LargeFiles, candidates: Candidates) -> None:
        self._store = store
        self._large = large
        self._candidates = candidates
        self._is_large = candidates.size_bytes > SMALL_BYTES
        self._received_bytes = 0
        self._gathered: list[Buffer] = []
        self._gathered_bytes = 0
        self._draft: tuple[File, str] | None = None
        self._written_bytes = 0
        self._unsynced_bytes = 0
        self._hashing = Lane(store.submit, self._hash)
        self._writing = Lane(store.submit, self._append)
        self._working: deque[ThreadFuture[None]] = deque()
        self._syncing: ThreadFuture[None] | None = None
        self._matching: ThreadFuture[Digest] | None = None
        self._ended = False

    async def write(self, data: Buffer) -> None:
        """See BlobWriter."""
        assert not self._ended
        self._received_bytes += len(data)
        self._check_received()
        self._gathered.append(freeze(data))
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= _CHUNK and self._is_large:
            await self._start_slice()

    def _check_received(self, *, final: bool = False) -> None:
        self._candidates.check_size(self._received_bytes, final=final)

    async def _start_slice(self) -> None:
        slice_, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._working.append(self._hashing.put(slice_))
        self._working.append(self._writing.put(slice_))
        await self._finish_slices(_MOST_WORKING)

    async def _finish_slices(self, most_left: int = 0) -> None:
        while len(self._working) > most_left:
            try:
                await asyncio.wrap_future(self._working[0])
            except OSError as error:
                raise store_error(error) from error
            self._working.popleft()

    def _hash(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._candidates.update(buffer)

    def _append(self, buffers: Sequence[Buffer]) -> None:
        if self._draft is None:
            self._draft = self._large.create()
        file = self._draft[0]
        size_bytes = sum(map(len, buffers))
        file.write(buffers, self._written_bytes)
        self._written_bytes += size_bytes
        self._unsynced_bytes += size_bytes
        if self._unsynced_bytes >= _SYNC_BYTES and self._store.sync:
            self._end_syncing()
            self._unsynced_bytes = 0
            self._syncing = self._store.submit(file.sync)

    def _end_syncing(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None and not syncing.cancel():
            syncing.result()

    def _sync(self) -> None:
        self._end_syncing()
        if self._store.sync and self._draft is not None:
            self._draft[0].sync()

    async def commit(self) -> Digest:
        """See BlobWriter."""
        assert not self._ended
        self._check_received(final=True)
        if self._is_large:
            digest = await self._commit_large()
        else:
            digest = await self._commit_small(b"".join(self._gathered))
        self._gathered = []
        return digest

    async def _commit_small(self, data: bytes) -> Digest:
        digest = match(self._candidates.digests, data, None)
        self._ended = True
        await self._store.take(digest, data)
        return digest

    async def _commit_large(self) -> Digest:
        await self._start_slice()
        await self._finish_slices()
        digest = await self._match()  # Before the sync, which is not for the wrong bytes.
        self._working.append(self._store.submit(self._complete, digest))
        await self._finish_slices()
        assert self._draft is not None
        self._ended = True
        await self._store.take(digest, self._draft)
        return digest

    async def _match(self) -> Digest:
        """Reads the blob back only if it is not what it most likely is."""
        digest = self._candidates.likely_match()
        if digest is None:
            self._matching = self._store.submit(self._candidates.match, self._read_back)
            try:
                digest = await asyncio.wrap_future(self._matching)
            except OSError as error:
                raise store_error(error) from error
        return digest

    def _read_back(self) -> Iterator[Buffer]:
        assert self._draft is not None
        return _pieces(self._draft[0], self._written_bytes)

    def _complete(self, _: Digest) -> None:
        self._sync()

    async def abort(self) -> None:
        """See BlobWriter."""
        if self._ended:
            return
        self._ended = True
        self._gathered = []
        self._store.drop(None, self._candidates.size_bytes)
        if self._draft is None and not self._working:
            return
        try:
            discarding = self._store.submit(self._discard)
        except StoreUnavailable:  # Closed, so no thread is at work any more.
            self._discard()
        else:
            await asyncio.shield(asyncio.wrap_future(discarding))

    def _discard(self) -> None:
        self._hashing.stop()
        self._writing.stop()
        if self._matching is not None and not self._matching.cancel():
            wait_for_threads([self._matching])
        with suppress(OSError):
            self._end_syncing()
        if self._draft is not None:
            self._large.drop(*self._draft)
            self._draft = None


class UnnamedPackWriter(PackWriter):
    """Of a blob whose digest is known only at the end; always by a draft, until it turns out to be
    small.
    """

    def __init__(
        self, store: Taker, large: LargeFiles, candidates: Unnamed, reserve: Callable[[int], None]
    ) -> None:
        """`reserve` sets room aside in the store. Raises StoreFull."""
        super().__init__(store, large, candidates)
        self._is_large = True
        self._reserve = reserve

    async def digest(self) -> Digest:
        """See UnnamedWriter."""
        await self._start_slice()
        await self._finish_slices()
        return await self._match()

    async def commit(self) -> Digest:
        """See BlobWriter."""
        assert not self._ended
        digest = await self.digest()
        if digest.size_bytes <= SMALL_BYTES:
            return await self._commit_read_back(digest)
        self._working.append(self._store.submit(self._complete, digest))
        await self._finish_slices()
        assert self._draft is not None
        self._reserve(digest.size_bytes)
        self._ended = True
        await self._store.take(digest, self._draft)
        return digest

    async def _commit_read_back(self, digest: Digest) -> Digest:
        assert self._draft is not None
        file = self._draft[0]
        data = await asyncio.wrap_future(
            self._store.submit(lambda: bytes(file.read(digest.size_bytes, 0)))
        )
        self._reserve(digest.size_bytes)
        self._ended = True
        self._store.submit(self._discard)
        await self._store.take(digest, data)
        return digest


class ZstdPackWriter(PackWriter):
    """Of a blob that comes as a zstd stream: hashes what that gives and writes it as it is."""

    def __init__(self, store: Taker, large: LargeFiles, candidates: Candidates) -> None:
        super().__init__(store, large, candidates)
        self._unpacking = Codec.ZSTD.decompressor(candidates.size_bytes)
        self._most_bytes = 2 * candidates.size_bytes + _ZSTD_SLACK_BYTES

    def _check_received(self, *, final: bool = False) -> None:  # noqa: ARG002 (decompressing says)
        # Only to hurt would anybody send more.
        if self._received_bytes > self._most_bytes:
            raise BadCompressedData("the zstd data is far longer than what it decompresses to")

    async def _commit_small(self, data: bytes) -> Digest:
        blob = Codec.ZSTD.decompress(data, self._candidates.size_bytes)
        digest = match(self._candidates.digests, blob, None)
        self._ended = True
        await self._store.take(digest, blob, data if len(data) < len(blob) else None)
        return digest

    def _hash(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            for piece in self._unpacking.feed(buffer):
                self._candidates.update(piece)

    async def _start_slice(self) -> None:
        # One at a time: a stream that is none is found out before more of it is written.
        await super()._start_slice()
        await self._finish_slices()

    async def _commit_large(self) -> Digest:
        await self._start_slice()
        self._unpacking.finish()
        return await super()._commit_large()

    def _read_back(self) -> Iterator[Buffer]:
        assert self._draft is not None
        return self._unpack(self._draft[0], self._written_bytes)

    def _unpack(self, stream: File, size_bytes: int) -> Iterator[Buffer]:
        unpacking = Codec.ZSTD.decompressor(self._candidates.size_bytes)
        for data in _pieces(stream, size_bytes):
            yield from unpacking.feed(data)

    def _complete(self, digest: Digest) -> None:
        if self._written_bytes >= digest.size_bytes:
            self._replace_by_blob()
        self._sync()

    def _replace_by_blob(self) -> None:
        """Keeps the blob itself, since the stream of it is no shorter."""
        assert self._draft is not None
        self._end_syncing()
        stream, name = self._draft
        self._draft = None
        try:
            blob, self._written_bytes = self._unpack(stream, self._written_bytes), 0
            for piece in blob:
                self._append([piece])
        finally:
            self._large.drop(stream, name)


def _pieces(file: File, size_bytes: int) -> Iterator[bytes]:
    for start in range(0, size_bytes, _CHUNK):
        yield file.read(min(_CHUNK, size_bytes - start), start)
