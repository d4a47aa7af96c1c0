"""ContentAddressableStorage: large blobs as chunks that similar blobs share (REAPI `SplitBlob` and
`SpliceBlob` of v2.12, `GetChunkMapping` and `RegisterChunkMapping` of v2.13).

Where a blob is cut follows from its bytes and the advertised parameters alone, never from what a
client said: a client that cuts alike finds its own chunks again, and one that does not can spoil
nothing. Chunks are blobs like others, stored beside the blob that they are cut from, and both live
and die by their own leases; what is answered was looked up at that moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple
from weakref import WeakValueDictionary

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import Exhausted, InvalidRequest, NotFound
from armitage.reapi import rpcs
from armitage.reapi.content import ContentStore
from armitage.reapi.digests import Candidates, stored_candidate, wire_digest
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.transport.port import Call, ClientStream, Method, ServerStream, Unary
from cas.chunking import ChunkSizes, Cutter
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobTooLarge, CasError
from cas.store import BatchPut, BlobWriter

_FAST_CDC = reapi.ChunkingFunction.FAST_CDC_2020
_STORE_BYTES = 8 << 20
"""Chunks are stored by so much at once: they share their disk syncs."""
_FLUSH_BYTES = 256 << 10
_SPLITS_AT_ONCE = 2
"""Each has some 30 MiB in memory and keeps a core busy."""
_DIGESTS_A_MESSAGE = 10_000
_DIGEST_BYTES = 150
"""More than any digest takes up in a message."""
_MAX_CHUNKS = 1 << 18
"""Of one blob to be spliced: 128 GiB by chunks of the recommended size."""
_MAX_REMEMBERED = 1 << 16
"""Chunks of blobs that were split already: some 15 MiB of digests."""


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """How large blobs are cut for clients that ask for chunks."""

    average_bytes: int = 512 << 10
    """A power of two from 1 KiB to 4 MiB. Chunks are of a quarter to four times that size; smaller
    blobs are not cut. Whoever changes it loses what the old and the new chunks would have shared.
    """

    def __post_init__(self) -> None:
        self.sizes()

    def sizes(self) -> ChunkSizes:
        """The sizes that follow. Raises ValueError."""
        return ChunkSizes.of_average(self.average_bytes)


class _Splice(NamedTuple):
    """The blob that is to be made, and of what."""

    instance: Instance
    blob: Candidates
    chunks: Sequence[Candidates]


class ChunkingService:
    """Splits blobs into chunks and splices chunks into blobs."""

    def __init__(
        self,
        store: ContentStore,
        instances: Instances,
        invocations: Invocations,
        *,
        limits: Limits | None = None,
        options: ChunkingOptions | None = None,
    ) -> None:
        self._store = store
        self._instances = instances
        self._invocations = invocations
        self._limits = limits or Limits()
        self._splitter = _Splitter(store, (options or ChunkingOptions()).sizes())

    def methods(self) -> list[Method]:
        """Answers the methods for a transport: each in the form of either version."""
        return [
            Unary(rpcs.SPLIT_BLOB.path, self.split_blob),
            Unary(rpcs.SPLICE_BLOB.path, self.splice_blob),
            ServerStream(rpcs.GET_CHUNK_MAPPING.path, self.get_chunk_mapping),
            ClientStream(rpcs.REGISTER_CHUNK_MAPPING.path, self.register_chunk_mapping),
        ]

    async def split_blob(self, request: bytes, call: Call) -> bytes:
        """Answers a blob's chunks, all of them stored."""
        message = reapi.SplitBlobRequest.FromString(request)
        chunks = await self._split(message, call)
        if len(chunks) * _DIGEST_BYTES > self._limits.max_response_bytes:
            raise Exhausted(
                f"the {len(chunks)} chunks do not fit in one message; use GetChunkMapping"
            )
        return reapi.SplitBlobResponse(
            chunk_digests=map(wire_digest, chunks), chunking_function=_FAST_CDC
        ).SerializeToString()

    async def get_chunk_mapping(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams a blob's chunks, all of them stored."""
        message = reapi.GetChunkMappingRequest.FromString(request)
        chunks = await self._split(message, call)
        for start in range(0, len(chunks), _DIGESTS_A_MESSAGE):
            yield reapi.GetChunkMappingResponse(
                chunk_digests=map(wire_digest, chunks[start : start + _DIGESTS_A_MESSAGE]),
                chunking_function=reapi.ChunkingFunction.UNKNOWN if start else _FAST_CDC,
            ).SerializeToString()

    async def splice_blob(self, request: bytes, call: Call) -> bytes:
        """Stores a blob of which the chunks are stored."""
        message = reapi.SpliceBlobRequest.FromString(request)
        spliced = await self._splice(self._parse_splice(message, message.chunk_digests), call)
        return reapi.SpliceBlobResponse(blob_digest=wire_digest(spliced)).SerializeToString()

    async def register_chunk_mapping(self, requests: AsyncIterator[bytes], call: Call) -> bytes:
        """Stores a blob of which the chunks are stored; what the first message says counts."""
        first = None
        wanted: list[reapi.Digest] = []
        async for request in requests:
            message = reapi.RegisterChunkMappingRequest.FromString(request)
            first = first or message
            wanted += message.chunk_digests
            _check_count(wanted)
        if first is None:
            raise InvalidRequest("the stream holds no message; the first names the blob")
        spliced = await self._splice(self._parse_splice(first, wanted), call)
        return reapi.RegisterChunkMappingResponse(
            blob_digest=wire_digest(spliced)
        ).SerializeToString()

    async def _split(
        self, message: reapi.SplitBlobRequest | reapi.GetChunkMappingRequest, call: Call
    ) -> Sequence[Digest]:
        instance = self._instances.get(message.instance_name)
        candidates = instance.digests.notation(message.digest_function).parse(message.blob_digest)
        digest = await stored_candidate(self._store, candidates)
        if digest is None:
            raise NotFound(f"blob {candidates[0]} is not stored")
        chunks = await self._splitter.split(digest)
        self._invocations.hold(call, {digest, *chunks})
        return chunks

    def _parse_splice(
        self,
        message: reapi.SpliceBlobRequest | reapi.RegisterChunkMappingRequest,
        wanted: Sequence[reapi.Digest],
    ) -> _Splice:
        _check_count(wanted)
        instance = self._instances.get(message.instance_name)
        notation = instance.digests.notation(message.digest_function)
        splice = _Splice(instance, notation.parse(message.blob_digest), notation.parse_all(wanted))
        digest = splice.blob[0]
        if 0 < instance.max_blob_size_bytes < digest.size_bytes:
            raise BlobTooLarge(digest, instance.max_blob_size_bytes)
        return splice

    async def _splice(self, splice: _Splice, call: Call) -> Digest:
        spliced = await stored_candidate(self._store, splice.blob)
        if spliced is None:
            chunks = await self._stored(splice.chunks)
            _check_sizes(splice.blob[0], chunks)
            self._invocations.hold(call, chunks)
            with self._instances.reserve(splice.instance, splice.blob[0].size_bytes):
                spliced = await self._store_spliced(splice, chunks)
            self._instances.charge(splice.instance.name, (spliced,))
        self._invocations.hold(call, (spliced,))
        return spliced

    async def _store_spliced(self, splice: _Splice, chunks: Iterable[Digest]) -> Digest:
        writer = await self._store.open_writer(splice.blob)
        try:
            await self._join(chunks, writer)
            return await writer.commit()
        finally:
            await writer.abort()

    async def _stored(self, wanted: Sequence[Candidates]) -> list[Digest]:
        missing = set(await self._store.find_missing(chain.from_iterable(wanted)))
        stored = []
        for candidates in wanted:
            digest = next((digest for digest in candidates if digest not in missing), None)
            if digest is None:
                raise NotFound(f"chunk {candidates[0]} is not stored")
            stored.append(digest)
        return stored

    async def _join(self, chunks: Iterable[Digest], writer: BlobWriter) -> None:
        """Small pieces are gathered: each write costs the store a hop to a thread."""
        pieces: list[Buffer] = []
        pieces_bytes = 0
        for chunk in chunks:
            async for piece in self._store.read(chunk):
                pieces.append(piece)
                pieces_bytes += len(piece)
                if pieces_bytes >= _FLUSH_BYTES:
                    await writer.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                    pieces, pieces_bytes = [], 0
        if pieces:
            await writer.write(b"".join(pieces))


class _Splitter:
    """Cuts stored blobs, each once for all who ask, and remembers where."""

    def __init__(self, store: ContentStore, sizes: ChunkSizes) -> None:
        self._store = store
        self._sizes = sizes
        self._remembered: OrderedDict[Digest, Sequence[Digest]] = OrderedDict()
        self._remembered_chunks = 0
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()
        self._slots = asyncio.Semaphore(_SPLITS_AT_ONCE)

    async def split(self, digest: Digest) -> Sequence[Digest]:
        """Answers the chunks of a stored blob, all of them stored and with renewed leases.

        Raises BlobNotFound, StoreFull, StoreUnavailable.
        """
        if digest.size_bytes < self._sizes.largest:
            return () if digest.is_empty else (digest,)
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            chunks = self._remembered.get(digest)
            if chunks is not None and not await self._store.find_missing(chunks):
                self._remembered.move_to_end(digest)
                return chunks
            async with self._slots:
                chunks = await self._cut(digest)
            if await self._store.find_missing(chunks):
                raise Exhausted(f"there is no room for the chunks of blob {digest}")
            self._remember(digest, chunks)
            return chunks

    async def _cut(self, digest: Digest) -> Sequence[Digest]:
        cutter = Cutter(self._sizes)
        chunks: list[Digest] = []
        waiting: list[BatchPut] = []
        waiting_bytes = 0
        async for piece in self._store.read(digest):
            waiting += await asyncio.to_thread(_name_all, digest.function, cutter, piece)
            waiting_bytes += len(piece)
            if waiting_bytes >= _STORE_BYTES:
                chunks += await self._put(waiting)
                waiting, waiting_bytes = [], 0
        waiting += await asyncio.to_thread(_name_all, digest.function, cutter, None)
        return (*chunks, *await self._put(waiting))

    async def _put(self, chunks: Sequence[BatchPut]) -> list[Digest]:
        digests = [chunk.candidates[0] for chunk in chunks]
        missing = set(await self._store.find_missing(digests))
        new = {chunk.candidates: chunk for chunk in chunks if chunk.candidates[0] in missing}
        for outcome in await self._store.put_many([*new.values()]):
            if isinstance(outcome, CasError):
                raise outcome
        return digests

    def _remember(self, digest: Digest, chunks: Sequence[Digest]) -> None:
        self._remembered_chunks += len(chunks) - len(self._remembered.pop(digest, ()))
        self._remembered[digest] = chunks
        while self._remembered_chunks > _MAX_REMEMBERED:
            self._remembered_chunks -= len(self._remembered.popitem(last=False)[1])


def _name_all(function: DigestFunction, cutter: Cutter, piece: Buffer | None) -> list[BatchPut]:
    """Runs in a thread."""
    cut = cutter.finish() if piece is None else cutter.feed(piece)
    return [BatchPut((function.digest(chunk),), chunk) for chunk in cut]


def _check_sizes(digest: Digest, chunks: Iterable[Digest]) -> None:
    total_bytes = sum(chunk.size_bytes for chunk in chunks)
    if total_bytes != digest.size_bytes:
        raise InvalidRequest(f"blob {digest} cannot be of chunks of {total_bytes} bytes together")


def _check_count(wanted: Sequence[reapi.Digest]) -> None:
    if len(wanted) > _MAX_CHUNKS:
        raise InvalidRequest(f"a blob of more than {_MAX_CHUNKS} chunks; use larger ones")
