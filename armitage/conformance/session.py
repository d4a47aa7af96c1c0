"""What a case works with: one server, calls to it, and a place to write down findings."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed, Channel
from armitage.clock import Clock
from armitage.conformance import wire
from armitage.conformance.control import ServerControl, Variant
from armitage.conformance.model import Failed, Finding, Level
from armitage.reapi import rpcs
from armitage.transport.port import Code

_CLIENT_MESSAGE_LIMIT = 4 * 1024 * 1024
"""What a gRPC client receives at most unless told otherwise."""
_BATCH_OVERHEAD = 160
_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of the suite chose."""

    instance: str = ""
    platform: tuple[tuple[str, str], ...] = ()
    """Platform properties for every action, as the server's workers need them."""
    full: bool = False
    """Runs the long cases in full length instead of scaled down."""
    log_parent: str = ""
    """A parent that CreateLogStream accepts; empty tries the common ones."""
    call_timeout_s: float = 60.0
    """The deadline of each single call."""
    patience_s: float = 3.0
    """How long to wait for something that should happen at once before calling it absent."""


Connect = Callable[[str, float | None], Channel]
"""Makes a channel to a target; the number is the period of HTTP/2 pings in seconds, None is off."""


@dataclass
class Memory:
    """What the cases of one run found out about one server and need not find out again."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shell: str | None = None
    """Why /bin/sh does not run, empty when it does, None while nobody has tried."""


@dataclass
class Session:
    """One server as one case sees it."""

    target: str
    channel: Channel
    options: Options
    control: ServerControl
    clock: Clock
    connect: Connect
    capabilities: reapi.ServerCapabilities
    function: int
    """The digest function in use: SHA256 where offered."""
    findings: list[Finding] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    @property
    def instance(self) -> str:
        """The instance name of every request."""
        return self.options.instance

    @property
    def cache(self) -> reapi.CacheCapabilities:
        """What the cache part advertises."""
        return self.capabilities.cache_capabilities

    @property
    def batch_limit(self) -> int:
        """The advertised sum of blob sizes in a batch call; 0 is unlimited."""
        return self.cache.max_batch_total_size_bytes

    @property
    def compressors(self) -> list[str]:
        """The advertised ByteStream compressors by name."""
        return wire.compressor_names(self.cache.supported_compressors)

    # Verdicts

    def fail(self, seen: str, level: Level = Level.MUST) -> None:
        """Writes down a finding and goes on."""
        self.findings.append(Finding(level, seen))

    def check(self, condition: object, seen: str, level: Level = Level.MUST) -> bool:
        """Writes down a finding unless the condition holds; answers whether it does."""
        if not condition:
            self.fail(seen, level)
        return bool(condition)

    async def rejected(
        self,
        call: Awaitable[object],
        codes: Iterable[Code],
        what: str,
        *,
        level: Level = Level.MUST,
        code_level: Level | None = None,
    ) -> CallFailed | None:
        """Expects the call to fail with one of the codes.

        Success is a finding at `level`, another code one at `code_level` (the same by default).
        """
        wanted = tuple(codes)
        names = " or ".join(code.name for code in wanted)
        try:
            await call
        except CallFailed as error:
            if error.code not in wanted:
                seen = f"{what}: expected {names}, saw {describe(error)}"
                self.fail(seen, level if code_level is None else code_level)
            return error
        self.fail(f"{what}: expected {names}, saw OK", level)
        return None

    # Other servers and connections

    @asynccontextmanager
    async def elsewhere(self, variant: Variant) -> AsyncIterator[Session]:
        """Enters a server of its own that is set up as the variant says; findings come here."""
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self.control.variant(variant))
            channel = await stack.enter_async_context(self.connect(server.target, None))
            options = replace(self.options, instance=server.instance)
            session = await open_session(
                server.target,
                channel,
                options,
                control=server.control,
                clock=self.clock,
                connect=self.connect,
            )
            session.findings = self.findings
            yield session

    @asynccontextmanager
    async def another_connection(self, ping_s: float | None = None) -> AsyncIterator[Channel]:
        """Enters one more connection to the same server."""
        async with self.connect(self.target, ping_s) as channel:
            yield channel

    # Blobs

    def digest(self, data: bytes | Message) -> reapi.Digest:
        """Names a blob under the function in use."""
        return wire.digest(data, self.function)

    def absent(self, size_bytes: int = 64) -> reapi.Digest:
        """Names a blob that nobody has."""
        return wire.digest(random_bytes(size_bytes), self.function)

    async def find_missing(self, digests: Sequence[reapi.Digest]) -> list[reapi.Digest]:
        """Calls FindMissingBlobs."""
        response = await self.channel.call(
            rpcs.FIND_MISSING_BLOBS,
            reapi.FindMissingBlobsRequest(
                instance_name=self.instance,
                blob_digests=digests,
                digest_function=self.function,  # type: ignore[arg-type]
            ),
            timeout=self.options.call_timeout_s,
        )
        return list(response.missing_blob_digests)

    async def is_missing(self, digest: reapi.Digest) -> bool:
        """Answers whether the server says that it lacks this blob."""
        return bool(await self.find_missing([digest]))

    async def batch_update(
        self, blobs: Iterable[tuple[reapi.Digest, bytes]], compressor: int = 0
    ) -> list[reapi.BatchUpdateBlobsResponse.Response]:
        """Calls BatchUpdateBlobs."""
        request = reapi.BatchUpdateBlobsRequest(
            instance_name=self.instance,
            digest_function=self.function,  # type: ignore[arg-type]
        )
        for digest, data in blobs:
            request.requests.add(digest=digest, data=data, compressor=compressor)
        response = await self.channel.call(
            rpcs.BATCH_UPDATE_BLOBS, request, timeout=self.options.call_timeout_s
        )
        return list(response.responses)

    async def batch_read(
        self, digests: Iterable[reapi.Digest], acceptable: Iterable[int] = ()
    ) -> list[reapi.BatchReadBlobsResponse.Response]:
        """Calls BatchReadBlobs."""
        response = await self.channel.call(
            rpcs.BATCH_READ_BLOBS,
            reapi.BatchReadBlobsRequest(
                instance_name=self.instance,
                digests=digests,
                acceptable_compressors=acceptable,  # type: ignore[arg-type]
                digest_function=self.function,  # type: ignore[arg-type]
            ),
            timeout=self.options.call_timeout_s,
        )
        return list(response.responses)

    async def put(self, *blobs: bytes | Message) -> list[reapi.Digest]:
        """Stores blobs as a means to an end: batched where they are small, streamed else.

        Raises Failed when the server does not take them.
        """
        raws = [
            blob if isinstance(blob, bytes) else blob.SerializeToString(deterministic=True)
            for blob in blobs
        ]
        pairs = [(wire.digest(raw, self.function), raw) for raw in raws]
        limit = min(self.batch_limit or _CLIENT_MESSAGE_LIMIT, 2 * 1024 * 1024)
        batch: dict[tuple[str, int], tuple[reapi.Digest, bytes]] = {}
        weight = 0
        for digest, raw in pairs:
            if len(raw) > limit // 2:
                await self.write(digest, raw)
                continue
            if batch and weight + len(raw) + _BATCH_OVERHEAD > limit:
                await self._put_batch(batch.values())
                batch, weight = {}, 0
            batch[wire.key(digest)] = (digest, raw)
            weight += len(raw) + _BATCH_OVERHEAD
        if batch:
            await self._put_batch(batch.values())
        return [digest for digest, _ in pairs]

    async def _put_batch(self, batch: Iterable[tuple[reapi.Digest, bytes]]) -> None:
        for response in await self.batch_update(batch):
            if response.status.code != Code.OK:
                raise Failed(f"BatchUpdateBlobs of a sound blob: {describe(response.status)}")

    async def get(self, digest: reapi.Digest) -> bytes:
        """Reads a whole blob and verifies it. Raises CallFailed, Failed when the bytes differ."""
        data = await self.read(digest)
        if wire.key(self.digest(data)) != wire.key(digest):
            raise Failed(f"Read of {digest.hash}/{digest.size_bytes} gave {len(data)} other bytes")
        return data

    # ByteStream

    def read_name(self, digest: reapi.Digest, compressor: str = "") -> str:
        """Makes the resource name to read by."""
        return wire.read_name(self.instance, digest, self.function, compressor)

    def write_name(
        self,
        digest: reapi.Digest,
        *,
        upload: str | None = None,
        compressor: str = "",
        suffix: str = "",
    ) -> str:
        """Makes the resource name to write by, under a fresh upload id unless one is given."""
        return wire.write_name(
            self.instance,
            upload or new_upload(),
            digest,
            function=self.function,
            compressor=compressor,
            suffix=suffix,
        )

    async def read(
        self, digest: reapi.Digest, *, compressor: str = "", offset: int = 0, limit: int = 0
    ) -> bytes:
        """Calls ByteStream.Read and answers all data, still compressed when so asked for."""
        return await self.read_named(self.read_name(digest, compressor), offset=offset, limit=limit)

    async def read_named(self, name: str, *, offset: int = 0, limit: int = 0) -> bytes:
        """Calls ByteStream.Read with a name of any shape."""
        request = bytestream.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        stream = self.channel.stream(rpcs.READ, request, timeout=self.options.call_timeout_s)
        return b"".join([response.data async for response in stream])

    async def send_writes(
        self, requests: Iterable[bytestream.WriteRequest] | AsyncIterable[bytestream.WriteRequest]
    ) -> int:
        """Calls ByteStream.Write with these very messages; answers the committed size."""
        stream = requests if isinstance(requests, AsyncIterable) else _each(requests)
        response = await self.channel.send(rpcs.WRITE, stream, timeout=self.options.call_timeout_s)
        return response.committed_size

    async def write(
        self,
        digest: reapi.Digest,
        data: bytes | Sequence[bytes],
        *,
        compressor: str = "",
        upload: str | None = None,
    ) -> int:
        """Writes a blob the plain way (name on the first message only) and finishes it."""
        name = self.write_name(digest, upload=upload, compressor=compressor)
        return await self.send_writes(write_requests(name, data))

    async def write_status(self, name: str) -> bytestream.QueryWriteStatusResponse:
        """Calls QueryWriteStatus."""
        return await self.channel.call(
            rpcs.QUERY_WRITE_STATUS,
            bytestream.QueryWriteStatusRequest(resource_name=name),
            timeout=self.options.call_timeout_s,
        )

    async def kept(self, name: str) -> int:
        """Answers how much of an upload the server kept; what it does not know counts as 0."""
        try:
            return (await self.write_status(name)).committed_size
        except CallFailed as error:
            if error.code in {Code.NOT_FOUND, Code.UNIMPLEMENTED}:
                return 0
            raise

    @asynccontextmanager
    async def open_write(self) -> AsyncIterator[OpenWrite]:
        """Enters a Write stream that the case feeds step by step; leaving it cancels the call."""
        stream = OpenWrite()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stream.run(self.send_writes(stream.requests())))
            try:
                yield stream
            finally:
                stream.half_close()
                task.cancel()

    # Action cache

    async def update_action_result(
        self, action: reapi.Digest, result: reapi.ActionResult
    ) -> reapi.ActionResult:
        """Calls UpdateActionResult."""
        return await self.channel.call(
            rpcs.UPDATE_ACTION_RESULT,
            reapi.UpdateActionResultRequest(
                instance_name=self.instance,
                action_digest=action,
                action_result=result,
                digest_function=self.function,  # type: ignore[arg-type]
            ),
            timeout=self.options.call_timeout_s,
        )

    async def get_action_result(
        self, action: reapi.Digest, *, stdout: bool = False, files: Sequence[str] = ()
    ) -> reapi.ActionResult:
        """Calls GetActionResult."""
        return await self.channel.call(
            rpcs.GET_ACTION_RESULT,
            reapi.GetActionResultRequest(
                instance_name=self.instance,
                action_digest=action,
                inline_stdout=stdout,
                inline_output_files=files,
                digest_function=self.function,  # type: ignore[arg-type]
            ),
            timeout=self.options.call_timeout_s,
        )

    # Trees

    async def get_tree(
        self, root: reapi.Digest, *, page_size: int = 0, token: str = ""
    ) -> list[reapi.GetTreeResponse]:
        """Calls GetTree once and answers all messages of its stream."""
        request = reapi.GetTreeRequest(
            instance_name=self.instance,
            root_digest=root,
            page_size=page_size,
            page_token=token,
            digest_function=self.function,  # type: ignore[arg-type]
        )
        stream = self.channel.stream(rpcs.GET_TREE, request, timeout=self.options.call_timeout_s)
        return [response async for response in stream]


class OpenWrite:
    """A Write stream under way."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytestream.WriteRequest | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._committed: int | None = None
        self._error: CallFailed | None = None

    async def requests(self) -> AsyncIterator[bytestream.WriteRequest]:
        """Yields what was sent until half-closed."""
        while (request := await self._queue.get()) is not None:
            yield request

    async def run(self, call: Awaitable[int]) -> None:
        """Waits for the call's end."""
        try:
            self._committed = await call
        except CallFailed as error:
            self._error = error
        finally:
            self._ended.set()

    def send(self, name: str, offset: int, data: bytes, *, finish: bool = False) -> None:
        """Queues one message."""
        self._queue.put_nowait(
            bytestream.WriteRequest(
                resource_name=name, write_offset=offset, data=data, finish_write=finish
            )
        )

    def half_close(self) -> None:
        """Says that no more will come."""
        self._queue.put_nowait(None)

    async def answer(self, timeout_s: float) -> int:
        """Waits for the committed size. Raises TimeoutError, CallFailed."""
        async with asyncio.timeout(timeout_s):
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._committed is not None
        return self._committed


async def open_session(
    target: str,
    channel: Channel,
    options: Options,
    *,
    control: ServerControl,
    clock: Clock,
    connect: Connect,
) -> Session:
    """Asks for the server's capabilities and makes a session.

    Raises CallFailed when the server does not answer.
    """
    request = reapi.GetCapabilitiesRequest(instance_name=options.instance)
    try:
        capabilities = await channel.call(
            rpcs.GET_CAPABILITIES, request, timeout=options.call_timeout_s
        )
    except CallFailed as error:
        if error.code != Code.UNIMPLEMENTED:
            raise
        capabilities = reapi.ServerCapabilities()
    offered = wire.known_functions(capabilities.cache_capabilities.digest_functions)
    sha256 = wire.Function.SHA256
    function = sha256 if sha256 in offered or not offered else offered[0]
    return Session(target, channel, options, control, clock, connect, capabilities, function)


def write_requests(
    name: str, data: bytes | Sequence[bytes], *, offset: int = 0, finish: bool = True
) -> list[bytestream.WriteRequest]:
    """Cuts data into messages with the name on the first only; always makes at least one."""
    pieces = (
        [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        if isinstance(data, bytes)
        else list(data)
    )
    requests = []
    for piece in pieces or [b""]:
        requests.append(bytestream.WriteRequest(write_offset=offset, data=piece))
        offset += len(piece)
    requests[0].resource_name = name
    requests[-1].finish_write = finish
    return requests


def random_bytes(size_bytes: int) -> bytes:
    """Makes data that no other user of the server has."""
    return secrets.token_bytes(size_bytes)


def compressible(size_bytes: int) -> bytes:
    """Makes data of one's own that compresses well."""
    line = secrets.token_hex(16).encode() + b" a line that comes again and again\n"
    return (line * (size_bytes // len(line) + 1))[:size_bytes]


def new_upload() -> str:
    """Makes an upload id."""
    return str(uuid.uuid4())


def describe(error: CallFailed | Message | BaseException) -> str:
    """Says a status in one short line."""
    if isinstance(error, CallFailed):
        code, message = error.code, error.message
    elif isinstance(error, Message):
        code, message = Code(error.code), error.message  # type: ignore[attr-defined]
    else:
        return f"{type(error).__name__}: {error}"
    text = " ".join(message.split())
    return f"{code.name} ({text[:120]})" if text else code.name


async def _each(
    requests: Iterable[bytestream.WriteRequest],
) -> AsyncIterator[bytestream.WriteRequest]:
    for request in requests:
        yield request
