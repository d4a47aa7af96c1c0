"""The REAPI services over a memory store, called in this process by their wire messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from google.protobuf.message import Message

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs
from armitage.reapi.action_cache import ActionCacheService
from armitage.reapi.asset import AssetService
from armitage.reapi.asset_origin import AssetOrigin
from armitage.reapi.bytestream import ByteStreamOptions, ByteStreamService
from armitage.reapi.capabilities import CapabilitiesService
from armitage.reapi.chunking import ChunkingOptions, ChunkingService
from armitage.reapi.completeness import Completeness
from armitage.reapi.content import ContentService
from armitage.reapi.gate import status_of
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.reapi.logstream import LogLimits, LogStreams
from armitage.reapi.rpcs import Rpc
from armitage.reapi.trusting import TrustGate
from armitage.transport.port import (
    Call,
    ClientStream,
    Code,
    Method,
    ServerStream,
    Status,
    Unary,
    join,
)
from armitage.trust.opening import open_trust
from armitage.trust.options import TrustOptions
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryActionCache, MemoryStore

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
Metadata = Mapping[str, str | bytes]

SHA256 = DigestFunction.SHA256
BLAKE3 = DigestFunction.BLAKE3


class Failed(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code.name}: {status.message}")
        self.code = status.code
        self.message = status.message
        self.status = status


class PlainStore(MemoryStore):
    """One that keeps nothing as zstd."""

    open_zstd_writer = get_zstd = read_zstd = None  # type: ignore[assignment]


class FakeTime:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    wall = monotonic = __call__


def _at_once(method: Unary, request: bytes, call: Call) -> bytes | Status | None:
    """What the immediate handler answers, if it does; the other must answer the same."""
    if method.immediate is None:
        return None
    try:
        return method.immediate(request, call)
    except Exception as error:  # noqa: BLE001 (whatever it is, it becomes a status)
        return status_of(error)


@dataclass
class Services:
    """All of them, wired as the daemon does."""

    instances: list[Instance] = field(default_factory=lambda: [Instance()])
    limits: Limits = field(default_factory=Limits)
    options: ByteStreamOptions = field(
        default_factory=lambda: replace(ByteStreamOptions(), half_close_s=0.05)
    )
    log_limits: LogLimits = field(default_factory=LogLimits)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    require_action: bool = False
    store: MemoryStore = field(default_factory=MemoryStore)
    cache: MemoryActionCache = field(default_factory=MemoryActionCache)
    origin: AssetOrigin | None = None
    policy: str = "any"
    explains: bool = False
    """Whether what that policy refuses is told in the trailing metadata."""

    def __post_init__(self) -> None:
        self.time = FakeTime()
        named = Instances(self.instances)
        self.invocations = Invocations(self.store, self.time)
        self.completeness = Completeness(self.store, limits=self.limits)
        self.logs = LogStreams(named, self.time, limits=self.log_limits)
        self.content = ContentService(self.store, named, self.invocations, limits=self.limits)
        self.bytestream = ByteStreamService(
            self.store, named, self.invocations, self.logs, self.time, options=self.options
        )
        self.action_cache = ActionCacheService(
            self.cache,
            self.store,
            named,
            self.invocations,
            self.completeness,
            limits=self.limits,
            require_action=self.require_action,
        )
        self.chunks = ChunkingService(
            self.store, named, self.invocations, limits=self.limits, options=self.chunking
        )
        self.capabilities = CapabilitiesService(named, limits=self.limits, chunking=self.chunking)
        self.asset = AssetService(
            self.cache,
            self.store,
            self.store,
            named,
            self.invocations,
            clock=self.time,
            limits=self.limits,
            origin=self.origin,
            gate=self._gate(),
        )
        methods: list[Method] = [
            *self.asset.methods(),
            *self.content.methods(),
            *self.chunks.methods(),
            *self.bytestream.methods(),
            *self.action_cache.methods(),
            *self.capabilities.methods(),
            *self.logs.methods(),
        ]
        self.methods = {method.path: method for method in methods}

    def _gate(self) -> TrustGate | None:
        """Believes what the policy says, and knows no attestation."""
        if self.policy == "any":
            return None
        options = TrustOptions(policy=self.policy, explain_refusals=self.explains)
        judges = open_trust(options, (), None, {}, "")
        return TrustGate(judges.trust, [], self.store, self.time)

    async def call(
        self, rpc: Rpc[Req, Resp], request: Req, metadata: Metadata | None = None
    ) -> Resp:
        method = self.methods[rpc.path]
        assert isinstance(method, Unary)
        encoded, call = request.SerializeToString(), Call(rpc.path, metadata or {})
        at_once = _at_once(method, encoded, call)
        try:
            answer = await method.handler(encoded, call)
        except Exception as error:
            failed = Failed(status_of(error))
            if at_once not in (None, failed.status):
                raise AssertionError(at_once) from error
            raise failed from error
        assert at_once in (None, answer)
        return rpc.response.FromString(answer)

    async def stream(
        self, rpc: Rpc[Req, Resp], request: Req, metadata: Metadata | None = None
    ) -> AsyncIterator[Resp]:
        method = self.methods[rpc.path]
        assert isinstance(method, ServerStream)
        try:
            async for answer in method.handler(
                request.SerializeToString(), Call(rpc.path, metadata or {})
            ):
                yield rpc.response.FromString(join(answer))
        except Exception as error:
            raise Failed(status_of(error)) from error

    async def send(
        self,
        rpc: Rpc[Req, Resp],
        requests: AsyncIterator[Req] | Iterable[Req],
        metadata: Metadata | None = None,
    ) -> Resp:
        method = self.methods[rpc.path]
        assert isinstance(method, ClientStream)
        try:
            answer = await method.handler(_encoded(requests), Call(rpc.path, metadata or {}))
        except Exception as error:
            raise Failed(status_of(error)) from error
        return rpc.response.FromString(answer)

    async def read(self, name: str, offset: int = 0, limit: int = 0) -> bytes:
        request = bytestream.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        return b"".join([answer.data async for answer in self.stream(rpcs.READ, request)])

    async def write(
        self, name: str, data: bytes, *, piece: int = 1 << 20, offset: int = 0, finish: bool = True
    ) -> int:
        messages = write_messages(name, data, piece=piece, offset=offset, finish=finish)
        return (await self.send(rpcs.WRITE, messages)).committed_size

    async def write_status(self, name: str) -> tuple[int, bool]:
        status = await self.call(
            rpcs.QUERY_WRITE_STATUS, bytestream.QueryWriteStatusRequest(resource_name=name)
        )
        return status.committed_size, status.complete

    async def missing(self, *digests: Digest) -> list[reapi.Digest]:
        request = reapi.FindMissingBlobsRequest(blob_digests=[wire(digest) for digest in digests])
        return list((await self.call(rpcs.FIND_MISSING_BLOBS, request)).missing_blob_digests)

    async def put(self, data: bytes, function: DigestFunction = SHA256) -> Digest:
        return await self.store.put([function.digest(data)], data)


def write_messages(
    name: str, data: bytes, *, piece: int = 1 << 20, offset: int = 0, finish: bool = True
) -> list[bytestream.WriteRequest]:
    """The messages of a Write, the name only on the first."""
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] or [b""]
    messages = []
    for index, part in enumerate(pieces):
        messages.append(
            bytestream.WriteRequest(
                resource_name="" if index else name,
                write_offset=offset,
                data=part,
                finish_write=finish and index == len(pieces) - 1,
            )
        )
        offset += len(part)
    return messages


def wire(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def upload_name(digest: Digest, uuid: str = "u1", *, instance: str = "", codec: str = "") -> str:
    prefix = f"{instance}/" if instance else ""
    kind = f"compressed-blobs/{codec}" if codec else "blobs"
    return f"{prefix}uploads/{uuid}/{kind}/{digest.hash}/{digest.size_bytes}"


async def _encoded(requests: AsyncIterator[Req] | Iterable[Req]) -> AsyncIterator[bytes]:
    if isinstance(requests, AsyncIterator):
        async for request in requests:
            yield request.SerializeToString()
    else:
        for request in requests:
            yield request.SerializeToString()


async def code_of(awaitable: object) -> Code:
    """The code that a call ends with."""
    try:
        if isinstance(awaitable, AsyncIterator):
            async for _ in awaitable:
                pass
        else:
            await awaitable  # type: ignore[misc]
    except Failed as failed:
        return failed.code
    return Code.OK
