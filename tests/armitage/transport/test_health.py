from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
import grpc.aio
import pytest

from armitage._proto.grpc.health.v1 import health_pb2 as pb
from armitage.errors import NotFound
from armitage.reapi.gate import status_of
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.health import HealthService
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Method, ServerStream, Unary, join

CALL = Call("/grpc.health.v1.Health/Check")


def methods_of(health: HealthService) -> dict[str, Method]:
    return {method.path.rpartition("/")[2]: method for method in health.methods()}


async def check(health: HealthService, service: str) -> int:
    method = methods_of(health)["Check"]
    assert isinstance(method, Unary)
    request = pb.HealthCheckRequest(service=service).SerializeToString()
    return pb.HealthCheckResponse.FromString(await method.handler(request, CALL)).status


async def watch(health: HealthService, service: str) -> AsyncGenerator[int, None]:
    method = methods_of(health)["Watch"]
    assert isinstance(method, ServerStream)
    request = pb.HealthCheckRequest(service=service).SerializeToString()
    async for message in method.handler(request, CALL):
        yield pb.HealthCheckResponse.FromString(join(message)).status


async def test_check_answers_for_the_server_and_each_service() -> None:
    health = HealthService(["a.A", "b.B"])
    health.set_serving(serving=False, service="b.B")

    assert await check(health, "") == pb.HealthCheckResponse.SERVING
    assert await check(health, "a.A") == pb.HealthCheckResponse.SERVING
    assert await check(health, "b.B") == pb.HealthCheckResponse.NOT_SERVING


async def test_check_of_unknown_service_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"c\.C"):
        await check(HealthService([]), "c.C")


async def test_watch_tells_each_change_once() -> None:
    health = HealthService(["a.A"])
    async with aclosing(watch(health, "a.A")) as states:
        assert await anext(states) == pb.HealthCheckResponse.SERVING
        health.set_serving(serving=True)
        health.set_serving(serving=False)
        assert await anext(states) == pb.HealthCheckResponse.NOT_SERVING


async def test_watch_of_unknown_service_waits_until_it_is_known() -> None:
    health = HealthService([])
    async with aclosing(watch(health, "later.L")) as states:
        assert await anext(states) == pb.HealthCheckResponse.SERVICE_UNKNOWN
        health.set_serving(serving=True, service="later.L")
        assert await anext(states) == pb.HealthCheckResponse.SERVING


async def test_list_names_all() -> None:
    method = methods_of(HealthService(["a.A"]))["List"]
    assert isinstance(method, Unary)
    answer = pb.HealthListResponse.FromString(await method.handler(b"", CALL))

    assert set(answer.statuses) == {"", "a.A"}


async def test_drain_tells_watchers_and_ends_them() -> None:
    health = HealthService([])
    server = GrpcioServer(health.methods(), status_of, GrpcOptions(addresses=("127.0.0.1:0",)))
    [address] = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert pb.HealthCheckResponse.FromString(await call.read()).status == 1
        health.set_serving(serving=False)
        assert pb.HealthCheckResponse.FromString(await call.read()).status == 2
        await server.drain(60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
