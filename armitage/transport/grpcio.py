"""The grpcio adapter of the transport port: grpc.aio under byte handlers.

Theory of operation. grpc.aio asks `_Lookup` for a handler once per call and gets an `_OpenCall`,
which lives as long as the call does. All four kinds of method are served through grpc.aio's
request-streaming shapes, because only there do we read the request ourselves: that lets an idle
client be told DEADLINE_EXCEEDED, which grpc.aio's unary shapes cannot do (they wait for the
request before our code runs, for ever).

A call ends in one of three ways. The handler returned: grpc.aio sends the rest. It raised: the
gate makes a status of that and `abort` sends it. The task was cancelled: by grpc.aio, since the
client left or its deadline passed, and then nobody listens any more; or by `interrupt`, which
leaves the error to answer with.

The server belongs to the event loop that `start` ran on; nothing here may be called from elsewhere,
except the certificate fetcher, which grpc runs on its own threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from armitage import errors
from armitage.transport.addresses import explain_bind_failure, join_address, split_address
from armitage.transport.options import ClientIdle, GrpcOptions
from armitage.transport.port import (
    Bidi,
    Call,
    ClientStream,
    Code,
    Method,
    Response,
    ServerStream,
    Status,
    StatusGate,
    Unary,
    close_stream,
    join,
)
from armitage.transport.rpc.metadata import encode_message
from armitage.transport.tls import FollowedTls, TlsFiles, TlsMaterial
from armitage.transport.trailers import fit, ok_status

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_EOF = grpc.aio.EOF

_FAREWELL_S = 2.0
"""How long the last responses may take to leave once every handler has ended."""


class GrpcioServer:
    """Serves methods over grpc.aio."""

    def __init__(self, methods: Sequence[Method], gate: StatusGate, options: GrpcOptions) -> None:
        self.options = options
        self._gate = gate
        self._lookup = _Lookup(self, methods)
        self._open: set[_OpenCall] = set()
        self._exempt: set[_OpenCall] = set()
        self._emptied = asyncio.Event()
        self._draining = False
        self._stopped = False
        self._server: Any = None
        self._sweep: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def open_calls(self) -> int:
        """How many calls have a handler running, those of exempt services left out."""
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Whether new calls are being refused."""
        return self._draining

    async def start(self) -> list[str]:
        """Binds and serves. Answers the bound addresses, in the order of the options.

        Raises ConfigError, with nothing left bound, when an address or TLS file is unusable.
        """
        self.options.check_reach()
        credentials = _credentials(self.options.tls) if self.options.tls else None
        self._loop = asyncio.get_running_loop()
        self._server = grpc.aio.server(options=channel_arguments(self.options))
        self._server.add_generic_rpc_handlers((self._lookup,))
        try:
            bound = [self._bind(address, credentials) for address in self.options.addresses]
        except errors.ConfigError:
            # grpc.aio lets go of what it has bound only when a started server stops.
            await self._server.start()
            await self._server.stop(None)
            raise
        await self._server.start()
        self._schedule_sweep()
        return bound

    async def drain(self, grace_s: float) -> None:
        """Refuses new calls (UNAVAILABLE with RetryInfo), lets running ones finish for up to
        `grace_s`, cancels the rest and closes everything. Calling it again does no harm.
        """
        if self._server is None or self._stopped:
            return
        self._draining = True
        if self._open:
            self._emptied.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
        for call in [*self._open, *self._exempt]:
            call.interrupt(self.refusal())
        await self._server.stop(_FAREWELL_S)
        self._stopped = True
        if self._sweep is not None:
            self._sweep.cancel()

    def refusal(self) -> errors.Unavailable:
        """What a call gets that this server does not serve any more."""
        return self.options.refusal()

    def is_exempt(self, path: str) -> bool:
        """Whether the method is served while draining."""
        return self.options.is_exempt(path)

    def opened(self, call: _OpenCall) -> None:
        """Counts a call whose handler starts."""
        (self._exempt if call.exempt else self._open).add(call)

    def closed(self, call: _OpenCall) -> None:
        """Forgets a call whose handler ended."""
        (self._exempt if call.exempt else self._open).discard(call)
        if self._draining and not self._open:
            self._emptied.set()

    def status_of(self, error: BaseException) -> Status:
        """Asks the gate, but for what only a transport knows."""
        if isinstance(error, ClientIdle):
            return Status(Code.DEADLINE_EXCEEDED, str(error))
        return fit(self._gate(error))

    def now(self) -> float:
        """Monotonic seconds, to measure idleness."""
        return self._loop.time()

    def _bind(self, address: str, credentials: Any) -> str:
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise explain_bind_failure(address) from None
        if address.startswith("unix"):
            return address
        return join_address(split_address(address)[0], port)

    def _schedule_sweep(self) -> None:
        idle_s = self.options.client_idle_s
        if idle_s is not None:
            self._sweep = self._loop.call_later(idle_s / 4, self._sweep_idle, idle_s)

    def _sweep_idle(self, idle_s: float) -> None:
        before = self.now() - idle_s
        for call in list(self._open):
            if call.waits_since() < before:
                call.interrupt(ClientIdle(idle_s))
        self._schedule_sweep()


class _OpenCall:
    """One call, and what grpc.aio calls its method handler."""

    __slots__ = (
        "_context",
        "_interruption",
        "_metadata",
        "_reading_since",
        "_server",
        "_task",
        "_writing_since",
        "exempt",
        "method",
    )
    request_streaming = True
    response_streaming = False
    request_deserializer = None
    response_serializer = None

    def __init__(
        self, server: GrpcioServer, method: Method, metadata: Iterable[Any], *, exempt: bool
    ) -> None:
        self.method = method
        self.exempt = exempt
        self._server = server
        self._metadata = metadata
        self._interruption: Exception | None = None
        self._reading_since = 0.0
        self._writing_since = 0.0
        self._context: Any = None
        self._task: asyncio.Task[Any]

    def interrupt(self, error: Exception) -> None:
        """Cancels the handler and answers the client with the error's status."""
        if self._interruption is None:
            self._interruption = error
            self._task.cancel()

    def waits_since(self) -> float:
        """When the call began to wait for its client; infinity while it does not wait."""
        return min(self._reading_since or float("inf"), self._writing_since or float("inf"))

    def begin(self, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._context = context
        self._server.opened(self)
        if self._server.draining and not self.exempt:
            raise self._server.refusal()

    def end(self) -> None:
        self._server.closed(self)

    async def read(self) -> Any:
        """The next message as bytes, or _EOF."""
        self._reading_since = self._server.now()
        message = await self._context.read()
        self._reading_since = 0.0
        return message

    async def read_only(self) -> bytes:
        """The one request of a call that has one."""
        message = await self.read()
        if message is _EOF:
            # Also what a call looks like whose client left at once; then the cancellation follows.
            raise errors.InvalidRequest("the call ended before its request message")
        request: bytes = message
        return request

    async def write_all(self, responses: AsyncIterator[Response]) -> None:
        write = self._context.write
        now = self._server.now
        try:
            async for response in responses:
                self._writing_since = now()
                await write(join(response))
                self._writing_since = 0.0
        finally:
            await close_stream(responses)
        self.succeed()

    def call(self) -> Call:
        context = self._context
        return Call(
            self.method.path,
            dict(self._metadata),
            context.peer(),
            _identity(context) if self._server.options.tls else None,
        )

    def succeed(self) -> None:
        """Says what the handler said beside its answer."""
        status = ok_status()
        if status is not None:
            self._context.set_trailing_metadata(_metadata(status))

    async def fail(self, error: BaseException) -> None:
        """Answers with the error's status. Always raises."""
        if isinstance(error, asyncio.CancelledError):
            if self._interruption is not None:
                self._task.uncancel()
                error = self._interruption
            elif self._task.cancelling():
                raise error
            else:
                error = errors.Cancelled("the server cancelled the call")
        if isinstance(error, grpc.aio.InternalError):
            # A write found the client gone before the cancellation came; grpc would log it as an
            # error of ours, with a traceback.
            raise asyncio.CancelledError from error
        if isinstance(error, grpc.aio.BaseError) or not isinstance(error, Exception):
            raise error
        status = self._server.status_of(error)
        await self._context.abort(_CODES[status.code], status.message, _metadata(status))


def _metadata(status: Status) -> tuple[tuple[str, str | bytes], ...]:
    """What goes out beside a status' code and message."""
    details = (("grpc-status-details-bin", status.details),) if status.details else ()
    return (*details, *((name, encode_message(text).decode()) for name, text in status.trailers))


class _UnaryCall(_OpenCall):
    __slots__ = ()
    method: Unary

    async def stream_unary(self, _: Any, context: Any) -> bytes:
        try:
            self.begin(context)
            request, call = await self.read_only(), self.call()
            if self.method.immediate is not None:
                response = self.method.immediate(request, call)
                if response is not None:
                    return response
            response = await self.method.handler(request, call)
            self.succeed()
            return response
        except BaseException as error:
            await self.fail(error)
            raise
        finally:
            self.end()


class _ServerStreamCall(_OpenCall):
    __slots__ = ()
    method: ServerStream
    response_streaming = True

    async def stream_stream(self, _: Any, context: Any) -> None:
        try:
            self.begin(context)
            await self.write_all(self.method.handler(await self.read_only(), self.call()))
        except BaseException as error:
            await self.fail(error)
            raise
        finally:
            self.end()


class _ClientStreamCall(_OpenCall):
    __slots__ = ()
    method: ClientStream

    async def stream_unary(self, _: Any, context: Any) -> bytes:
        requests = _Requests(self)
        try:
            self.begin(context)
            try:
                response = await self.method.handler(requests, self.call())
                self.succeed()
                return response
            finally:
                if not self._task.cancelling():
                    await self._discard(requests)
        except BaseException as error:
            await self.fail(error)
            raise
        finally:
            self.end()

    async def _discard(self, requests: _Requests) -> None:
        """Reads what the client still sends, since grpc resets the stream of a call that ends
        before its client has finished, and some clients then lose sight of the answer.
        """
        if requests.ended:
            return
        options = self._server.options
        left = options.discard_limit_bytes
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(options.discard_limit_s),
                asyncio.timeout(options.discard_idle_s) as idle,
            ):
                async for message in requests:
                    idle.reschedule(self._server.now() + options.discard_idle_s)
                    left -= len(message)
                    if left < 0:
                        return


class _BidiCall(_OpenCall):
    __slots__ = ()
    method: Bidi
    response_streaming = True

    async def stream_stream(self, _: Any, context: Any) -> None:
        try:
            self.begin(context)
            await self.write_all(self.method.handler(_Requests(self), self.call()))
        except BaseException as error:
            await self.fail(error)
            raise
        finally:
            self.end()


class _Requests:
    """The request messages of a call, for one reader."""

    __slots__ = ("_call", "ended")

    def __init__(self, call: _OpenCall) -> None:
        self._call = call
        self.ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.ended:
            raise StopAsyncIteration
        message = await self._call.read()
        if message is _EOF:
            self.ended = True
            # grpc ends the stream of a client that left like that of one that is done; the
            # cancellation that tells them apart is usually due right now.
            await asyncio.sleep(0)
            raise StopAsyncIteration
        request: bytes = message
        return request


_KINDS: Mapping[type, type[_OpenCall]] = {
    Unary: _UnaryCall,
    ServerStream: _ServerStreamCall,
    ClientStream: _ClientStreamCall,
    Bidi: _BidiCall,
}


class _Lookup(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Finds the handler of a call by its path; None makes grpc answer UNIMPLEMENTED."""

    def __init__(self, server: GrpcioServer, methods: Sequence[Method]) -> None:
        self._server = server
        self._methods = {
            method.path: (_KINDS[type(method)], method, server.is_exempt(method.path))
            for method in methods
        }
        if len(self._methods) != len(methods):
            raise ValueError("two methods have the same path")

    def service(self, details: Any) -> _OpenCall | None:
        found = self._methods.get(details.method)
        if found is None:
            return None
        kind, method, exempt = found
        return kind(self._server, method, details.invocation_metadata, exempt=exempt)


def _identity(context: Any) -> str | None:
    """The subject of the client's certificate, which grpc has verified; None without one."""
    proven = context.auth_context()
    for name in ("x509_subject", "x509_common_name"):
        values = proven.get(name)
        if values:
            subject: bytes = values[0]
            return subject.decode("utf-8", "replace")
    return None


def _credentials(files: TlsFiles) -> Any:
    """Server credentials that follow the files."""
    tls = FollowedTls(files)

    def fetch() -> Any:
        changed = tls.changed()
        return None if changed is None else _configuration(changed)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(tls.material),
        fetch,
        require_client_authentication=files.client_authority is not None,
    )


def _configuration(material: TlsMaterial) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_authority
    )


def channel_arguments(options: GrpcOptions) -> list[tuple[str, int]]:
    """The options in grpc's own words."""
    arguments: list[tuple[str, int]] = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.receive_limit_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", options.metadata_limit_bytes),
        ("grpc.absolute_max_metadata_size", options.metadata_limit_bytes * 2),
        ("grpc.max_concurrent_streams", options.max_streams),
        # Blobs have compressors of their own; expanding messages would only feed bombs.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(options.min_ping_interval_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server_handshake_timeout_ms", _ms(options.handshake_timeout_s)),
    ]
    if options.keepalive_s is not None:
        arguments += [
            ("grpc.keepalive_time_ms", _ms(options.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(options.keepalive_timeout_s)),
            # grpc waits for the longer of the two, and this one is a minute by default.
            ("grpc.http2.ping_timeout_ms", _ms(options.keepalive_timeout_s)),
        ]
    for name, seconds in (
        ("grpc.max_connection_idle_ms", options.connection_idle_s),
        ("grpc.max_connection_age_ms", options.connection_age_s),
        ("grpc.max_connection_age_grace_ms", options.connection_age_grace_s),
    ):
        if seconds is not None:
            arguments.append((name, _ms(seconds)))
    return arguments


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
