"""The transports, each behind one face, for suites that hold them all to the same rules.

A suite takes the fixture `transport` (tests/conftest.py) and so runs once on each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio

from armitage.reapi.gate import status_of
from armitage.transport.fast.server import FastServer
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Method, StatusGate

MIB = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Server(Protocol):
    """What the daemon needs of a server, whatever it speaks with."""

    @property
    def open_calls(self) -> int: ...
    @property
    def draining(self) -> bool: ...
    async def start(self) -> list[str]: ...
    async def drain(self, grace_s: float) -> None: ...


@dataclass(frozen=True)
class Transport:
    """One transport: its name in the settings, and how to make a server of it."""

    name: str
    kind: Callable[[Sequence[Method], StatusGate, Any], Server]
    options: Callable[..., Any]

    @property
    def flags(self) -> tuple[str, str]:
        """What makes `armitage serve` use it."""
        return ("--transport", self.name)

    def server(self, *methods: Method, gate: StatusGate = status_of, **options: Any) -> Server:
        """A server that is not started yet; on a free port of loopback unless told otherwise."""
        options.setdefault("addresses", ("127.0.0.1:0",))
        return self.kind(methods, gate, self.options(**options))

    @asynccontextmanager
    async def serving(
        self,
        *methods: Method,
        channel_options: Sequence[tuple[str, Any]] = (),
        credentials: Any = None,
        **options: Any,
    ) -> AsyncIterator[Subject]:
        """A started server and a channel of grpcio's to it; both end with the block."""
        server = self.server(*methods, **options)
        [address] = await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.drain, 0)
            arguments = [*UNLIMITED, *channel_options]
            channel = (
                grpc.aio.insecure_channel(address, options=arguments)
                if credentials is None
                else grpc.aio.secure_channel(address, credentials, options=arguments)
            )
            await stack.enter_async_context(channel)
            yield Subject(server, address, channel)


TRANSPORTS = {
    each.name: each
    for each in (
        Transport("grpcio", GrpcioServer, GrpcOptions),
        Transport("fast", FastServer, GrpcOptions),
    )
}
"""A new transport joins every suite by a line here."""


class Subject:
    """A served server and a channel to it."""

    def __init__(self, server: Server, address: str, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.address = address
        self.channel = channel

    def unary(self, path: str) -> Any:
        return self.channel.unary_unary(path)

    async def settled(self) -> None:
        """Waits until no handler runs; fails by timeout if one leaks."""
        async with asyncio.timeout(5):
            while self.server.open_calls:  # noqa: ASYNC110 (the server has no event for tests)
                await asyncio.sleep(0.005)


class Waiting:
    """A handler that waits, and says when it began and how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    async def unary(self, request: bytes, call: Call) -> bytes:
        self.began.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"waited"

    async def stream(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield await self.unary(request, call)


async def echo(request: bytes, call: Call) -> bytes:
    return request
