import asyncio
from collections.abc import AsyncIterator

import pytest

from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed, Channel
from armitage.reapi import rpcs
from armitage.reapi.gate import status_of
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, ClientStream, Code


async def take_all(requests: AsyncIterator[bytes], call: Call) -> bytes:
    async for _ in requests:
        pass
    return bytestream.WriteResponse(committed_size=1).SerializeToString()


@pytest.fixture
async def server() -> AsyncIterator[str]:
    server = GrpcioServer(
        [ClientStream(rpcs.WRITE.path, take_all)],
        status_of,
        GrpcOptions(addresses=("127.0.0.1:0",)),
    )
    (target,) = await server.start()
    yield target
    await server.drain(0)


async def test_requests_that_cannot_be_made_fail_the_call(server: str) -> None:
    """grpc.aio only cancels the call, which a TaskGroup would take for success."""

    async def broken() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest()
        raise ValueError("broken source")

    async with Channel(server) as channel:
        with pytest.raises(CallFailed) as caught:
            await channel.send(rpcs.WRITE, broken())

    assert caught.value.code is Code.CANCELLED


async def test_cancelling_the_caller_cancels_the_call(server: str) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest()
        started.set()
        await asyncio.Event().wait()

    async with Channel(server) as channel, asyncio.TaskGroup() as group:
        sending = group.create_task(channel.send(rpcs.WRITE, endless()))
        await started.wait()
        sending.cancel()

    assert sending.cancelled()
