"""The fast transport's server: many connections under one set of methods.

Theory of operation. `start` binds and enters a task group, in which every handler runs; `drain`
leaves it. A timer sweeps all connections for what has taken too long, rather than one timer for
each. Draining goes in two steps on each connection, as RFC 9113 (6.8) has it: the client is asked
to make new calls elsewhere, and once it must have heard that, none is taken any more. Listening
goes on meanwhile, so that health checks find somebody; other calls on new connections are refused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from armitage import errors
from armitage.transport.fast.calls import OpenCall
from armitage.transport.fast.connection import Connection
from armitage.transport.fast.link import TLS_BUFFER_BYTES, PlainLink, TlsLink
from armitage.transport.fast.listener import Listener, bind, unbind
from armitage.transport.http2.options import Http2Options
from armitage.transport.options import ClientIdle, DeadlinePassed, GrpcOptions
from armitage.transport.port import Code, ImmediateHandler, Method, Status, StatusGate, Unary
from armitage.transport.rpc.failure import RpcFailure
from armitage.transport.rpc.server import RpcServer
from armitage.transport.tls import FollowedTls
from armitage.transport.trailers import fit

_FAREWELL_S = 2.0
"""How long handlers may take to end, and the last responses to leave, once all was said."""
_SWEEPS = 4
"""In the shortest time that anything is given."""
_SWEEP_MIN_S, _SWEEP_MAX_S = 0.01, 5.0


class FastServer:
    """Serves methods over sockets of its own."""

    def __init__(self, methods: Sequence[Method], gate: StatusGate, options: GrpcOptions) -> None:
        self.options = options
        self.immediate: dict[str, ImmediateHandler] = {
            method.path: method.immediate
            for method in methods
            if isinstance(method, Unary) and method.immediate is not None
        }
        """By path, for methods that may be answered at once, and only while they may be."""
        self._gate = gate
        self._core = RpcServer(
            methods,
            receive_limit_bytes=options.receive_limit_bytes,
            http2=Http2Options(
                max_streams=options.max_streams,
                header_list_limit=options.metadata_limit_bytes,
                discard_limit=options.discard_limit_bytes,
            ),
        )
        self._group = asyncio.TaskGroup()
        self._connections: set[Connection] = set()
        self._listeners: list[Listener] = []
        self._open: set[OpenCall] = set()
        self._exempt: set[OpenCall] = set()
        self._emptied = asyncio.Event()
        self._ended = asyncio.Event()
        self._draining = False
        self._stopped = False
        self._tls: FollowedTls | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray())
        self._loop: asyncio.AbstractEventLoop

    def figures(self) -> SimpleNamespace:
        """What peers did that is hostile or wrong (`Counters`), and how many `connections` there
        are.
        """
        return SimpleNamespace(connections=len(self._connections), **self._core.counters.read())

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
        if self.options.tls is not None:
            self._tls = FollowedTls(self.options.tls)
            self._buffer = memoryview(bytearray(TLS_BUFFER_BYTES))
        self._loop = asyncio.get_running_loop()
        bound: list[socket.socket] = []
        addresses = []
        try:
            for address in self.options.addresses:
                listening, where = bind(address)
                bound += listening
                addresses.append(where)
        except errors.ConfigError:
            for listening_one in bound:
                unbind(listening_one)
            raise
        await self._group.__aenter__()
        self._listeners = [Listener(self._loop, each, self._welcome) for each in bound]
        self._sweep_later()
        return addresses

    async def drain(self, grace_s: float) -> None:
        """Refuses new calls (UNAVAILABLE with RetryInfo), lets running ones finish for up to
        `grace_s`, cancels the rest and closes everything. Calling it again does no harm.
        """
        if not self._listeners or self._stopped:
            return
        if not self._draining:
            self._draining = True
            self._keep_immediate_of_exempt()
            for connection in list(self._connections):
                connection.announce_end()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._wait_for_calls()
        await self._stop()

    async def _wait_for_calls(self) -> None:
        while self._open:
            self._emptied.clear()
            await self._emptied.wait()

    async def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        for listener in self._listeners:
            listener.close()
        for call in [*self._open, *self._exempt]:
            call.interrupt(self.options.refusal(), for_good=True)
        for connection in list(self._connections):
            connection.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                while self._connections:
                    self._ended.clear()
                    await self._ended.wait()
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._group.__aexit__(None, None, None)

    def _keep_immediate_of_exempt(self) -> None:
        """Leaves the others to their tasks, which refuse them. In place: connections share it."""
        for path in [path for path in self.immediate if not self.is_exempt(path)]:
            del self.immediate[path]

    # For connections.

    def is_exempt(self, path: str) -> bool:
        """Whether the method is served while draining."""
        return self.options.is_exempt(path)

    def check_admission(self, call: OpenCall) -> None:
        """Raises Unavailable for a call that is not served any more."""
        if self._draining and not call.is_exempt:
            raise self.options.refusal()

    def status_of(self, error: BaseException) -> Status:
        """Asks the gate, but for what only a transport knows."""
        if isinstance(error, (ClientIdle, DeadlinePassed)):
            return Status(Code.DEADLINE_EXCEEDED, str(error))
        if isinstance(error, RpcFailure):
            return error.status
        return fit(self._gate(error))

    def opened(self, call: OpenCall) -> None:
        """Counts a call."""
        (self._exempt if call.is_exempt else self._open).add(call)

    def closed(self, call: OpenCall) -> None:
        """Forgets a call."""
        (self._exempt if call.is_exempt else self._open).discard(call)
        if not self._open:
            self._emptied.set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that the server waits for at its end."""
        return self._group.create_task(work)

    def forget(self, connection: Connection) -> None:
        """Forgets a connection that is over."""
        self._connections.discard(connection)
        self._ended.set()

    # Clients.

    def _welcome(self, accepted: socket.socket) -> None:
        connection = Connection(self, self._core.connect(), self._loop, _peer_of(accepted))
        self._connections.add(connection)
        if self._tls is None:
            connection.begin(PlainLink(self._loop, accepted, connection))
        else:
            context = self._tls.context()
            connection.begin(TlsLink(self._loop, accepted, connection, context, self._buffer))

    def _sweep_later(self) -> None:
        options = self.options
        given = [options.client_idle_s, options.keepalive_s, options.connection_age_s]
        given += [options.keepalive_timeout_s, options.handshake_timeout_s]
        given += [options.connection_idle_s, options.connection_age_grace_s]
        shortest = min(seconds for seconds in given if seconds is not None) / _SWEEPS
        period_s = min(max(shortest, _SWEEP_MIN_S), _SWEEP_MAX_S)
        self._sweeper = self._loop.call_later(period_s, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self._sweep_later()


def _peer_of(connected: socket.socket) -> str:
    """The client's address as gRPC writes it."""
    try:
        name = connected.getpeername()
    except OSError:  # It left at once.
        return ""
    match connected.family:
        case socket.AF_INET:
            return f"ipv4:{name[0]}:{name[1]}"
        case socket.AF_INET6:
            return f"ipv6:%5B{name[0]}%5D:{name[1]}"
        case _:
            return "unix:"
