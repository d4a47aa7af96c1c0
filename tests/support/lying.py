"""A server that passes every call on to another one, and lies about the answers."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message

from armitage.client.channel import CallFailed, Channel
from armitage.reapi import rpcs
from armitage.reapi.gate import status_of
from armitage.reapi.rpcs import Rpc
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import (
    Call,
    ClientStream,
    Method,
    ServerStream,
    Status,
    StatusGate,
    Unary,
)

Lie = Callable[[Any], Any]
"""Changes a response message in place; what it answers is thrown away."""

_RPCS = [value for value in vars(rpcs).values() if isinstance(value, Rpc)]


@asynccontextmanager
async def lying_server(
    target: str,
    lies: Mapping[str, Lie],
    gate: StatusGate | None = None,
    instead: Sequence[Method] = (),
) -> AsyncIterator[str]:
    """Forwards to `target`; `lies` are by the last part of the method's path, and the methods of
    `instead` are not forwarded at all.
    """
    own = {method.path for method in instead}
    async with Channel(target) as channel:
        methods = [
            *instead,
            *(
                _forward(rpc, channel, lies.get(rpc.path.rpartition("/")[2]))
                for rpc in _RPCS
                if rpc.path not in own
            ),
        ]
        options = GrpcOptions(addresses=("127.0.0.1:0",))
        server = GrpcioServer(methods, gate or honest_gate, options)
        (address,) = await server.start()
        try:
            yield address
        finally:
            await server.drain(0.1)


def honest_gate(error: BaseException) -> Status:
    """Passes statuses on as they came."""
    if isinstance(error, CallFailed):
        return Status(error.code, error.message, error.details.SerializeToString())
    return status_of(error)


def _forward(rpc: Rpc[Any, Any], channel: Channel, lie: Lie | None) -> Method:
    def told(response: Message) -> bytes:
        if lie is not None:
            lie(response)
        return response.SerializeToString()

    async def unary(request: bytes, call: Call) -> bytes:
        return told(await channel.call(rpc, rpc.request.FromString(request)))

    async def server_stream(request: bytes, call: Call) -> AsyncIterator[bytes]:
        stream = channel.stream(rpc, rpc.request.FromString(request))
        try:
            async for response in stream:
                yield told(response)
        finally:
            await stream.aclose()

    async def client_stream(requests: AsyncIterator[bytes], call: Call) -> bytes:
        async def parsed() -> AsyncIterator[Message]:
            async for request in requests:
                yield rpc.request.FromString(request)

        return told(await channel.send(rpc, parsed()))

    if rpc.response_stream:
        return ServerStream(rpc.path, server_stream)
    return ClientStream(rpc.path, client_stream) if rpc.request_stream else Unary(rpc.path, unary)
