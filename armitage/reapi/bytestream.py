"""ByteStream: large blobs, plain and compressed, and log streams (google.bytestream; REAPI
`ContentAddressableStorage`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.errors import (
    ArmitageError,
    InvalidRequest,
    NotFound,
    OutOfRange,
    Unavailable,
)
from armitage.reapi import resource_names, rpcs
from armitage.reapi.digests import Candidates, stored_candidate
from armitage.reapi.instances import Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.logstream import LogStreams
from armitage.reapi.resource_names import BlobName, LogName, UploadName
from armitage.reapi.uploads import Upload, UploadLimits, Uploads
from armitage.reapi.wire import decode_varint, encode_varint
from armitage.transport.port import Call, ClientStream, Method, Response, ServerStream, Unary
from cas.compression import Codec
from cas.digest import Buffer, Digest
from cas.errors import BlobTooLarge, CasError
from cas.store import BlobStore, ZstdStore

_COMPRESS_IN_THREAD_BYTES = 256 << 10
_DATA_TAG = b"\x52"  # Field 10, length-delimited, in ReadResponse and WriteRequest alike.


class CommittedSize(StrEnum):
    """What a finished compressed write answers (REAPI leaves it open, clients differ)."""

    COMPRESSED = "compressed"
    """The bytes taken from the wire: what Bazel and Buck2 accept."""
    UNCOMPRESSED = "uncompressed"
    """The blob's size: what Siso accepts."""
    UNKNOWN = "unknown"
    """-1."""


@dataclass(frozen=True, slots=True)
class ByteStreamOptions:
    """How streams are served."""

    message_idle_s: float = 120.0
    """A writer that is silent for longer loses its stream (an empty message breaks the silence)."""
    half_close_s: float = 1.0
    """After `finish_write`, how long to wait for the stream's end, lest a message follow it."""
    compressed_committed_size: CommittedSize = CommittedSize.COMPRESSED
    uploads: UploadLimits = field(default_factory=UploadLimits)


class ByteStreamService:
    """Reads and writes blobs and logs by resource name."""

    def __init__(
        self,
        store: BlobStore,
        instances: Instances,
        invocations: Invocations,
        logs: LogStreams,
        monotonic: Callable[[], float],
        *,
        options: ByteStreamOptions | None = None,
    ) -> None:
        self._store = store
        self._zstd = store if isinstance(store, ZstdStore) else None
        self._instances = instances
        self._invocations = invocations
        self._logs = logs
        self._options = options or ByteStreamOptions()
        self._uploads = Uploads(store, monotonic, self._options.uploads)

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            ServerStream(rpcs.READ.path, self.read),
            ClientStream(rpcs.WRITE.path, self.write),
            Unary(rpcs.QUERY_WRITE_STATUS.path, self.query_write_status),
        ]

    async def expire(self) -> None:
        """Frees uploads that have been idle for too long; to be called now and then."""
        await self._uploads.expire()

    async def read(self, request: bytes, call: Call) -> AsyncIterator[Response]:
        """Streams a blob from an offset, in messages of at most about 1 MiB."""
        message = bytestream.ReadRequest.FromString(request)
        _check_header(call, message.resource_name)
        name = resource_names.parse_read_name(message.resource_name)
        if message.read_limit < 0:
            raise InvalidRequest(f"read_limit {message.read_limit} is negative")
        if isinstance(name, LogName):
            async for data in self._logs.read(name, message.read_offset, message.read_limit):
                yield _read_response(data)
            return
        candidates = self._candidates(name)
        if name.codec is not None and message.read_limit:
            raise InvalidRequest("read_limit must be 0 for compressed-blobs")
        digest = await self._existing(candidates)
        if not 0 <= message.read_offset <= digest.size_bytes:
            raise OutOfRange(f"read_offset {message.read_offset} is outside blob {digest}")
        chunks = self._chunks(name, digest, message.read_offset, message.read_limit or None)
        is_held = False
        async for chunk in chunks:
            if not is_held:
                is_held = True
                self._invocations.hold(call, (digest,))
            yield _read_response(chunk)

    async def write(self, requests: AsyncIterator[bytes], call: Call) -> bytes:
        """Takes a blob or a piece of log in; answers how many bytes are committed.

        A blob that is stored already is answered at once. A stream that ends without `finish_write`
        leaves its upload to be resumed.
        """
        message = await self._next(requests)
        if message is None:
            raise InvalidRequest("the write stream holds no message; the first names the resource")
        _check_header(call, message.name)
        name = resource_names.parse_write_name(message.name)
        if isinstance(name, LogName):
            return _write_response(await self._write_log(name, message, requests))
        candidates = self._candidates(name.blob)
        stored = await stored_candidate(self._store, candidates)
        if stored is None:
            instance = self._instances.get(name.blob.instance)
            with self._instances.reserve(instance, name.blob.size_bytes):
                return await self._write_blob(name, candidates, message, requests, call)
        self._invocations.hold(call, (stored,))
        return _early_response(name)

    async def query_write_status(self, request: bytes, _call: Call) -> bytes:
        """Answers how much of an upload is here: all, some or nothing of it.

        An upload that nobody began is one of which nothing is here, not an error: some clients give
        up over NOT_FOUND.
        """
        message = bytestream.QueryWriteStatusRequest.FromString(request)
        try:
            name = resource_names.parse_write_name(message.resource_name)
        except InvalidRequest as error:
            raise NotFound(f"nothing can be written there: {error}") from error
        if isinstance(name, LogName):
            size, is_complete = self._logs.write_status(name)
        elif await stored_candidate(self._store, self._candidates(name.blob)) is not None:
            size, is_complete = name.blob.size_bytes, True
        else:
            size, is_complete = self._uploads.committed_size(name), False
        return bytestream.QueryWriteStatusResponse(
            committed_size=size, complete=is_complete
        ).SerializeToString()

    async def _write_blob(
        self,
        name: UploadName,
        candidates: Candidates,
        first: _WriteMessage,
        requests: AsyncIterator[bytes],
        call: Call,
    ) -> bytes:
        stream = object()
        upload = await self._uploads.start(name, candidates, stream, first.offset)
        try:
            outcome = await self._receive(upload, stream, first, requests)
        except (ArmitageError, CasError) as error:
            # A silent or superseded stream does no harm to what it brought so far.
            if isinstance(error, Unavailable) or upload.stream is not stream:
                await self._uploads.park(upload, stream)
            else:
                await self._uploads.finish(upload)
            raise
        except BaseException:
            await self._uploads.park(upload, stream)
            raise
        if outcome is None:
            await self._uploads.park(upload, stream)
            return _write_response(upload.received)
        await self._uploads.finish(upload)
        self._instances.charge(name.blob.instance, (outcome.digest,))
        self._invocations.hold(call, (outcome.digest,))
        if outcome.is_early:
            return _early_response(name)
        return _write_response(self._committed_size(upload))

    async def _receive(
        self,
        upload: Upload,
        stream: object,
        first: _WriteMessage,
        requests: AsyncIterator[bytes],
    ) -> _Outcome | None:
        """Takes messages in until the blob is stored; None if the stream ends before that."""
        message: _WriteMessage | None = first
        expected = first.offset
        while message is not None:
            if message.name and message.name != first.name:
                raise InvalidRequest(
                    f"resource_name changed in mid-stream, to {message.name[:200]!r}"
                )
            if message.offset != expected:
                raise InvalidRequest(
                    f"write_offset {message.offset} is wrong: {expected} comes next"
                )
            expected += len(message.data)
            has_flushed = await upload.append(stream, message.data)
            if message.finish:
                await self._expect_end(requests)
                return _Outcome(await upload.commit(stream), is_early=False)
            if has_flushed:
                overtaken = await stored_candidate(self._store, upload.candidates)
                if overtaken is not None:
                    return _Outcome(overtaken, is_early=True)
            message = await self._next(requests)
        return None

    async def _write_log(
        self, name: LogName, first: _WriteMessage, requests: AsyncIterator[bytes]
    ) -> int:
        message: _WriteMessage | None = first
        committed = 0
        while message is not None:
            if message.name and message.name != first.name:
                raise InvalidRequest("resource_name changed in mid-stream")
            committed = self._logs.append(name, message.offset, message.data)
            if message.finish:
                await self._expect_end(requests)
                self._logs.finish(name)
                break
            message = await self._next(requests)
        return committed

    async def _next(self, requests: AsyncIterator[bytes]) -> _WriteMessage | None:
        try:
            async with asyncio.timeout(self._options.message_idle_s):
                return _parse_write(await anext(requests))
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            raise Unavailable(
                f"the writer was silent for {self._options.message_idle_s:g} s; ask"
                " QueryWriteStatus and go on from there"
            ) from error

    async def _expect_end(self, requests: AsyncIterator[bytes]) -> None:
        try:
            async with asyncio.timeout(self._options.half_close_s):
                await anext(requests)
        except (StopAsyncIteration, TimeoutError):
            return
        raise InvalidRequest("a message follows the one with finish_write")

    def _candidates(self, name: BlobName) -> Candidates:
        instance = self._instances.get(name.instance)
        notation = instance.digests.notation(name.digest_function)
        candidates = notation.candidates(name.hash, name.size_bytes)
        if 0 < instance.max_blob_size_bytes < name.size_bytes:
            raise BlobTooLarge(candidates[0], instance.max_blob_size_bytes)
        return candidates

    async def _existing(self, candidates: Candidates) -> Digest:
        """Answers the one to read; where there is no choice, leaves it to the read to look."""
        if len(candidates) == 1:
            return candidates[0]
        digest = await stored_candidate(self._store, candidates)
        return candidates[0] if digest is None else digest

    async def _chunks(
        self, name: BlobName, digest: Digest, offset: int, limit: int | None
    ) -> AsyncIterator[Buffer]:
        if name.codec is Codec.ZSTD and self._zstd is not None and not offset:
            stream = await self._zstd.read_zstd(digest)
            if stream is not None:
                async for chunk in stream:
                    yield chunk
                return
        chunks = self._store.read(digest, offset, limit)
        if name.codec is None:
            async for chunk in chunks:
                yield chunk
            return
        compressor = name.codec.compressor()
        ready = b""
        async for chunk in chunks:
            if ready:
                yield ready
            if len(chunk) >= _COMPRESS_IN_THREAD_BYTES:
                ready = await asyncio.to_thread(compressor.compress, chunk)
            else:
                ready = compressor.compress(chunk)
        yield ready + compressor.finish()

    def _committed_size(self, upload: Upload) -> int:
        if upload.name.blob.codec is None:
            return upload.received
        match self._options.compressed_committed_size:
            case CommittedSize.COMPRESSED:
                return upload.received
            case CommittedSize.UNCOMPRESSED:
                return upload.name.blob.size_bytes
            case CommittedSize.UNKNOWN:
                return -1


class _Outcome(NamedTuple):
    digest: Digest
    is_early: bool


class _WriteMessage(NamedTuple):
    name: str
    offset: int
    finish: bool
    data: Buffer


def _parse_write(message: bytes) -> _WriteMessage:
    """Parses a WriteRequest without copying its data; leaves the unusual to protobuf."""
    name, offset, finish = "", 0, False
    data: Buffer = b""
    position, end = 0, len(message)
    while position < end:
        tag = message[position]
        value, position = decode_varint(message, position + 1)
        if tag == 0x52:
            data = memoryview(message)[position : position + value]
            position += value
        elif tag == 0x0A:
            try:
                name = message[position : position + value].decode()
            except UnicodeDecodeError:
                break
            position += value
        elif tag == 0x10:
            offset = value - (1 << 64) if value >> 63 else value
        elif tag == 0x18:
            finish = value != 0
        else:
            break
    if position == end:
        return _WriteMessage(name, offset, finish, data)
    parsed = bytestream.WriteRequest.FromString(message)
    return _WriteMessage(
        parsed.resource_name, parsed.write_offset, parsed.finish_write, parsed.data
    )


def _read_response(data: Buffer) -> Response:
    """In pieces, so that large data is not copied to be wrapped."""
    return b"".join((_DATA_TAG, encode_varint(len(data)))), data


def _write_response(committed_size: int) -> bytes:
    return bytestream.WriteResponse(committed_size=committed_size).SerializeToString()


def _early_response(name: UploadName) -> bytes:
    return _write_response(name.blob.size_bytes if name.blob.codec is None else -1)


def _check_header(call: Call, name: str) -> None:
    header = call.metadata.get(resource_names.HEADER)
    if header is not None and header != name:
        raise InvalidRequest(
            f"header {resource_names.HEADER} says {str(header)[:200]!r}, the message"
            f" {name[:200]!r}; they must be equal"
        )
