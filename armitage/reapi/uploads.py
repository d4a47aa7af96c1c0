"""Blobs on their way in by ByteStream.Write, kept between streams so that a broken one can go on.

One upload belongs to one stream at a time: the newest. A client whose connection died tries again
while the server still waits on the dead stream, so the older one loses and is told when it next
speaks. Each upload's lock keeps the two from using its writer together.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from armitage.errors import Aborted, InvalidRequest
from armitage.reapi.digests import Candidates
from armitage.reapi.resource_names import UploadName
from cas.compression import Codec, Decompressor
from cas.digest import Buffer, Digest
from cas.errors import CasError
from cas.store import BlobStore, BlobWriter, ZstdStore

FLUSH_BYTES = 256 << 10
"""Smaller pieces are gathered before the store gets them: each costs it a hop to a thread."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much of broken uploads is kept, and for how long."""

    idle_s: float = 300.0
    max_count: int = 1024
    max_bytes: int = 8 << 30


@dataclass(eq=False, slots=True)
class Upload:
    """One blob on its way in. Methods take the stream that calls, and raise Aborted if it is not
    the newest.
    """

    name: UploadName
    candidates: Candidates
    store: BlobStore
    zstd: ZstdStore | None
    """The store, where what is sent is a zstd stream that it takes as it is."""
    decompressor: Decompressor | None
    """Where what is sent is another compressed stream."""
    stream: object | None
    """The newest stream; None while there is none."""
    received: int = 0
    """Bytes taken from the wire: compressed ones where the name says so."""
    is_dropped: bool = False
    idle_since: float = 0.0
    _writer: BlobWriter | None = None
    _written: int = 0
    _pending: list[Buffer] = field(default_factory=list)
    _pending_bytes: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def stored_bytes(self) -> int:
        """What it takes up in the store's scratch space and in memory."""
        return self._written + self._pending_bytes

    async def take_over(self, stream: object, offset: int) -> None:
        """Makes the stream the newest, going on from the offset. Raises InvalidRequest for another
        offset than what was received.
        """
        async with self._lock:
            if self.is_dropped or offset != self.received:
                here = 0 if self.is_dropped else self.received
                raise InvalidRequest(
                    f"write_offset {offset} is wrong: {here} bytes are here; go on from there, or"
                    " start again at 0"
                )
            self.stream = stream

    async def append(self, stream: object, data: Buffer) -> bool:
        """Takes bytes in; answers whether some were handed to the store.

        Raises InvalidRequest for more than the blob's size, and BadCompressedData.
        """
        async with self._lock:
            self._check(stream)
            self.received += len(data)
            written = self._written
            if self.zstd is not None:
                await self._gather(data)
            elif self.decompressor is None:
                if self.received > self.candidates[0].size_bytes:
                    raise InvalidRequest(
                        f"more than the {self.candidates[0].size_bytes} bytes of blob"
                        f" {self.candidates[0].hash} were sent"
                    )
                await self._gather(data)
            else:
                for piece in self.decompressor.feed(data):
                    await self._gather(piece)
            return self._written > written

    async def commit(self, stream: object) -> Digest:
        """Verifies and stores the blob. Raises DigestMismatch, BadCompressedData."""
        async with self._lock:
            self._check(stream)
            if self.decompressor is not None:
                self.decompressor.finish()
            if self._writer is None and self.zstd is None:
                return await self.store.put(self.candidates, self._take_pending())
            writer = await self._flush()
            return await writer.commit()

    async def park(self, stream: object, now: float) -> None:
        """Leaves the upload without a stream, with nothing but its writer's state in memory."""
        async with self._lock:
            if self.stream is stream and not self.is_dropped:
                if self._pending:
                    await self._flush()
                self.stream = None
                self.idle_since = now

    async def drop(self) -> None:
        """Frees what it takes up. Idempotent."""
        self.is_dropped = True
        async with self._lock:
            self._take_pending()
            if self._writer is not None:
                writer, self._writer = self._writer, None
                await writer.abort()

    def _check(self, stream: object) -> None:
        if self.is_dropped or self.stream is not stream:
            raise Aborted(f"upload {self.name.uuid} goes on in a newer stream")

    async def _gather(self, data: Buffer) -> None:
        if data:
            self._pending.append(data)
            self._pending_bytes += len(data)
        if self._pending_bytes >= FLUSH_BYTES:
            await self._flush()

    async def _flush(self) -> BlobWriter:
        """Hands what is pending to the store, and answers where more goes."""
        if self._writer is None:
            if self.zstd is not None:
                self._writer = await self.zstd.open_zstd_writer(self.candidates)
            else:
                self._writer = await self.store.open_writer(self.candidates)
        if self._pending:
            data = self._take_pending()
            self._written += len(data)
            await self._writer.write(data)
        return self._writer

    def _take_pending(self) -> Buffer:
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        return data


class Uploads:
    """All uploads by name: those with a stream, and within the limits those without one. For the
    event loop only.
    """

    def __init__(
        self, store: BlobStore, monotonic: Callable[[], float], limits: UploadLimits | None = None
    ) -> None:
        self._store = store
        self._zstd = store if isinstance(store, ZstdStore) else None
        self._monotonic = monotonic
        self._limits = limits or UploadLimits()
        self._uploads: OrderedDict[UploadName, Upload] = OrderedDict()  # Longest parked first.

    def __len__(self) -> int:
        """The number of uploads, under way and parked."""
        return len(self._uploads)

    def committed_size(self, name: UploadName) -> int:
        """Answers how many bytes of an unfinished upload are here; 0 for an unknown one."""
        upload = self._uploads.get(name)
        return upload.received if upload is not None else 0

    async def start(
        self, name: UploadName, candidates: Candidates, stream: object, offset: int
    ) -> Upload:
        """Starts or resumes an upload for a stream, which thereby is its newest.

        Offset 0 starts again. Raises InvalidRequest for an offset other than what is here.
        """
        old = self._uploads.get(name)
        if offset and old is None:
            raise InvalidRequest(
                f"write_offset {offset} is wrong: nothing of upload {name.uuid} is here; start at 0"
            )
        if offset and old is not None:
            await old.take_over(stream, offset)
            return old
        codec = name.blob.codec
        zstd = self._zstd if codec is Codec.ZSTD else None
        upload = Upload(
            name,
            candidates,
            self._store,
            zstd,
            codec.decompressor(name.blob.size_bytes) if codec and not zstd else None,
            stream,
        )
        self._uploads[name] = upload
        if old is not None:
            await old.drop()
        return upload

    async def finish(self, upload: Upload) -> None:
        """Forgets an upload that was committed or has failed, and frees what it takes up."""
        if self._uploads.get(upload.name) is upload:
            del self._uploads[upload.name]
        await upload.drop()

    async def park(self, upload: Upload, stream: object) -> None:
        """Keeps an upload whose stream has ended early, if the limits let it."""
        if upload.received == 0:
            if upload.stream is stream:
                await self.finish(upload)
            return
        try:
            await upload.park(stream, self._monotonic())
        except CasError:
            await self.finish(upload)
            return
        if self._uploads.get(upload.name) is upload:
            self._uploads.move_to_end(upload.name)
        await self.expire()

    async def expire(self) -> None:
        """Drops what has been parked for too long, and the longest parked while over the limits."""
        parked = [upload for upload in self._uploads.values() if upload.stream is None]
        count, size = len(parked), sum(upload.stored_bytes for upload in parked)
        since = self._monotonic() - self._limits.idle_s
        for upload in parked:
            if upload.stream is not None:
                continue  # Resumed while another was being dropped.
            is_over = count > self._limits.max_count or size > self._limits.max_bytes
            if not is_over and upload.idle_since > since:
                break
            count -= 1
            size -= upload.stored_bytes
            await self.finish(upload)
