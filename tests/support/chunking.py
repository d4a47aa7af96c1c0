"""A small chunking service in front of a CAS, in both forms that the API has had."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import Channel
from armitage.conformance import NoControl, fastcdc, wire
from armitage.errors import InvalidRequest, NotFound
from armitage.reapi import rpcs
from armitage.transport.port import Call, ClientStream, Method, ServerStream, Unary

AVERAGE = 512 * 1024
_BATCH = 1_000_000


class Chunker(NoControl):
    """Splits by FastCDC, splices with verification. `lost` chunks are unreadable until the blob is
    split again; a `careless` one does not notice.
    """

    def __init__(self, channel: Channel, minor: int, *, careless: bool = False) -> None:
        self._channel = channel
        self._minor = minor
        self._careless = careless
        self._lost: set[str] = set()

    def advertise(self, capabilities: Any) -> None:
        """Changes the capabilities' answer."""
        cache = capabilities.cache_capabilities
        cache.split_blob_support = cache.splice_blob_support = True
        cache.fast_cdc_2020_params.avg_chunk_size_bytes = AVERAGE
        capabilities.high_api_version.minor = self._minor
        capabilities.execution_capabilities.exec_enabled = False

    async def evict(self, digest: reapi.Digest) -> None:
        self._lost.add(digest.hash)

    def methods(self) -> list[Method]:
        return [
            ServerStream(rpcs.READ.path, self.read),
            Unary(rpcs.SPLIT_BLOB.path, self.split),
            ServerStream(rpcs.GET_CHUNK_MAPPING.path, self.stream_split),
            Unary(rpcs.SPLICE_BLOB.path, self.splice),
            ClientStream(rpcs.REGISTER_CHUNK_MAPPING.path, self.stream_splice),
        ]

    async def read(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        message = bytestream.ReadRequest.FromString(request)
        if any(lost in message.resource_name for lost in self._lost):
            raise NotFound("the chunk is lost")
        async for response in self._channel.stream(rpcs.READ, message):
            yield response.SerializeToString()

    async def split(self, request: bytes, call: Call) -> bytes:
        chunks = await self._split(reapi.SplitBlobRequest.FromString(request).blob_digest)
        fast = reapi.ChunkingFunction.FAST_CDC_2020
        answer = reapi.SplitBlobResponse(chunk_digests=chunks, chunking_function=fast)
        return answer.SerializeToString()

    async def stream_split(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        chunks = await self._split(reapi.GetChunkMappingRequest.FromString(request).blob_digest)
        fast = reapi.ChunkingFunction.FAST_CDC_2020
        for at in range(0, len(chunks), 3):
            part = reapi.GetChunkMappingResponse(chunk_digests=chunks[at : at + 3])
            part.chunking_function = fast
            yield part.SerializeToString()

    async def splice(self, request: bytes, call: Call) -> bytes:
        message = reapi.SpliceBlobRequest.FromString(request)
        answer = await self._splice(message.blob_digest, message.chunk_digests)
        return reapi.SpliceBlobResponse(blob_digest=answer).SerializeToString()

    async def stream_splice(self, requests: AsyncIterator[bytes], call: Call) -> bytes:
        messages = [
            reapi.RegisterChunkMappingRequest.FromString(request) async for request in requests
        ]
        chunks = [chunk for message in messages for chunk in message.chunk_digests]
        answer = await self._splice(messages[0].blob_digest, chunks)
        return reapi.RegisterChunkMappingResponse(blob_digest=answer).SerializeToString()

    async def _split(self, digest: reapi.Digest) -> list[reapi.Digest]:
        data = await self._get(digest)
        chunks, at = [], 0
        for size in fastcdc.chunk_sizes(data, AVERAGE):
            chunks.append(data[at : at + size])
            at += size
        if not self._careless:
            self._lost.clear()
        return [await self._put(chunk) for chunk in chunks]

    async def _splice(self, digest: reapi.Digest, chunks: Iterable[reapi.Digest]) -> reapi.Digest:
        data = b"".join([await self._get(chunk) for chunk in chunks])
        if not self._careless and wire.digest(data) != digest:
            raise InvalidRequest("the chunks are not the blob")
        return await self._put(data)

    async def _get(self, digest: reapi.Digest) -> bytes:
        request = bytestream.ReadRequest(resource_name=wire.read_name("", digest))
        return b"".join([part.data async for part in self._channel.stream(rpcs.READ, request)])

    async def _put(self, data: bytes) -> reapi.Digest:
        digest = wire.digest(data)
        name = wire.write_name("", "a-b-c", digest)

        async def requests() -> AsyncIterator[bytestream.WriteRequest]:
            for at in range(0, len(data), _BATCH):
                yield bytestream.WriteRequest(
                    resource_name=name,
                    write_offset=at,
                    data=data[at : at + _BATCH],
                    finish_write=at + _BATCH >= len(data),
                )

        await self._channel.send(rpcs.WRITE, requests())
        return digest
