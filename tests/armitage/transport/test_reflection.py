"""Reflection as a grpc client sees it: what it answers must be enough to speak to the server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2  # noqa: F401
from armitage._proto.grpc.reflection.v1 import reflection_pb2 as pb
from armitage.reapi.gate import status_of
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Unary
from armitage.transport.reflection import (
    SERVICE,
    SERVICE_ALPHA,
    ReflectionService,
    services_of,
)

CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"


async def echo(request: bytes, call: Call) -> bytes:
    return request


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    methods = [Unary(f"/{CAS}/FindMissingBlobs", echo)]
    reflection = ReflectionService(services_of(methods))
    server = GrpcioServer(
        [*methods, *reflection.methods()], status_of, GrpcOptions(addresses=("127.0.0.1:0",))
    )
    [address] = await server.start()
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
    await server.drain(0)


@pytest.fixture(params=[SERVICE, SERVICE_ALPHA])
def path(request: pytest.FixtureRequest) -> str:
    return f"/{request.param}/ServerReflectionInfo"


async def ask(
    channel: grpc.aio.Channel, path: str, *requests: pb.ServerReflectionRequest
) -> list[pb.ServerReflectionResponse]:
    method = channel.stream_stream(
        path,
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )
    return [response async for response in method(iter(requests))]


async def test_services_are_listed(channel: grpc.aio.Channel, path: str) -> None:
    [response] = await ask(channel, path, pb.ServerReflectionRequest(list_services=""))

    names = [service.name for service in response.list_services_response.service]
    assert names == [CAS, SERVICE, SERVICE_ALPHA]


async def test_answered_files_are_complete(channel: grpc.aio.Channel, path: str) -> None:
    for symbol in (CAS, SERVICE, SERVICE_ALPHA, f"{CAS}.FindMissingBlobs"):
        [response] = await ask(
            channel, path, pb.ServerReflectionRequest(file_containing_symbol=symbol)
        )

        pool = descriptor_pool.DescriptorPool()
        for encoded in reversed(response.file_descriptor_response.file_descriptor_proto):
            pool.AddSerializedFile(encoded)
        service = symbol.removesuffix(".FindMissingBlobs")
        assert pool.FindServiceByName(service).methods


async def test_one_stream_answers_each_request_in_order(
    channel: grpc.aio.Channel, path: str
) -> None:
    name = "google/protobuf/any.proto"
    responses = await ask(
        channel,
        path,
        pb.ServerReflectionRequest(host="h", file_by_filename=name),
        pb.ServerReflectionRequest(file_by_filename="no/such.proto"),
        pb.ServerReflectionRequest(file_containing_symbol="no.Such"),
        pb.ServerReflectionRequest(all_extension_numbers_of_type="google.protobuf.MethodOptions"),
        pb.ServerReflectionRequest(
            file_containing_extension=pb.ExtensionRequest(
                containing_type="google.protobuf.MethodOptions", extension_number=72295728
            )
        ),
        pb.ServerReflectionRequest(),
    )

    file, no_file, no_symbol, numbers, extension, nothing = responses
    encoded = file.file_descriptor_response.file_descriptor_proto[0]
    assert descriptor_pb2.FileDescriptorProto.FromString(encoded).name == name
    assert file.valid_host == "h"
    assert file.original_request.file_by_filename == name
    assert no_file.error_response.error_code == 5
    assert no_symbol.error_response.error_code == 5
    assert 72295728 in numbers.all_extension_numbers_response.extension_number
    assert extension.file_descriptor_response.file_descriptor_proto
    assert nothing.error_response.error_code == 3
