"""Log streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.wire import Services, code_of

from armitage._proto.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as logstream
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs
from armitage.reapi.instances import Instance
from armitage.reapi.logstream import LogLimits
from armitage.transport.port import Code


async def create(services: Services, parent: str = "") -> logstream.LogStream:
    return await services.call(
        rpcs.CREATE_LOG_STREAM, logstream.CreateLogStreamRequest(parent=parent)
    )


async def next_of(reader: AsyncIterator[bytestream.ReadResponse]) -> bytestream.ReadResponse:
    return await anext(reader)


async def test_a_reader_gets_bytes_before_the_log_is_finished() -> None:
    services = Services()
    log = await create(services)
    await services.write(log.write_resource_name, b"first ", finish=False)
    reader = services.stream(rpcs.READ, bytestream.ReadRequest(resource_name=log.name))

    assert (await anext(reader)).data == b"first "

    async with asyncio.TaskGroup() as group:
        following = group.create_task(next_of(reader))
        await services.write(log.write_resource_name, b"second", offset=6)
    assert following.result().data == b"second"
    assert [message.data async for message in reader] == []


@pytest.mark.parametrize("parent", ["", "main", "a/b"])
async def test_names_are_below_their_parent(parent: str) -> None:
    services = Services([Instance(parent)])

    log = await create(services, parent)

    assert log.name.startswith(f"{parent}/logstreams/" if parent else "logstreams/")
    assert log.write_resource_name.startswith(log.name + "/")


async def test_an_unknown_parent_is_not_found() -> None:
    assert await code_of(create(Services(), "who")) == Code.NOT_FOUND


async def test_the_write_name_cannot_be_read_and_the_name_not_written() -> None:
    services = Services()
    log = await create(services)

    assert await code_of(services.read(log.write_resource_name)) == Code.INVALID_ARGUMENT
    assert await code_of(services.write(log.name, b"x")) == Code.INVALID_ARGUMENT
    assert await code_of(services.write(log.name + "/guess", b"x")) == Code.NOT_FOUND


async def test_an_unknown_log_is_not_found() -> None:
    assert await code_of(Services().read("logstreams/unknown")) == Code.NOT_FOUND


async def test_a_log_grows_at_its_end_only_and_not_after_its_end() -> None:
    services = Services()
    name = (await create(services)).write_resource_name
    await services.write(name, b"abc", finish=False)

    assert await code_of(services.write(name, b"x", offset=0)) == Code.INVALID_ARGUMENT
    assert await services.write_status(name) == (3, False)
    assert await services.write(name, b"def", offset=3) == 6
    assert await services.write_status(name) == (6, True)
    assert await code_of(services.write(name, b"x", offset=6)) == Code.INVALID_ARGUMENT


async def test_a_finished_log_is_read_from_any_offset() -> None:
    services = Services()
    log = await create(services)
    await services.write(log.write_resource_name, b"0123456789", piece=3)

    assert await services.read(log.name, 4) == b"456789"
    assert await services.read(log.name, 4, 3) == b"456"
    assert await services.read(log.name, 10) == b""
    assert await code_of(services.read(log.name, 11)) == Code.OUT_OF_RANGE
    assert await code_of(services.read(log.name, -1)) == Code.OUT_OF_RANGE


async def test_a_log_over_its_bound_drops_its_beginning_and_says_so() -> None:
    services = Services(log_limits=LogLimits(max_log_bytes=10))
    log = services.logs.create("")
    log.write(b"a" * 8)
    log.write(b"b" * 8)
    log.finish()

    text = await services.read(log.name)

    assert text == b"\n[6 bytes of this log were dropped]\n" + b"aabbbbbbbb"


async def test_all_logs_together_are_bounded() -> None:
    services = Services(log_limits=LogLimits(max_log_bytes=1 << 20, max_total_bytes=1 << 20))
    finished, live = services.logs.create(""), services.logs.create("")
    finished.write(bytes(700_000))
    finished.finish()
    live.write(bytes(700_000))
    assert await code_of(services.read(finished.name)) == Code.NOT_FOUND
    assert live.kept_bytes == 700_000

    other = services.logs.create("")
    other.write(bytes(700_000))

    assert other.kept_bytes == 64 << 10


async def test_unfinished_logs_are_bounded_in_number_and_finished_ones_give_way() -> None:
    services = Services(log_limits=LogLimits(max_logs=2))
    first = services.logs.create("")
    services.logs.create("")
    assert await code_of(create(services)) == Code.RESOURCE_EXHAUSTED

    first.finish()
    assert await code_of(create(services)) == Code.OK


async def test_a_finished_log_stays_for_a_while() -> None:
    services = Services()
    log = services.logs.create("")
    log.write(b"text")
    log.finish()

    services.time.now += 500
    services.logs.expire()
    assert await services.read(log.name) == b"text"

    services.time.now += 500
    services.logs.expire()
    assert await code_of(services.read(log.name)) == Code.NOT_FOUND


async def test_a_vanished_clients_log_ends_for_its_readers() -> None:
    services = Services()
    ours = services.logs.create("")
    theirs = await create(services)
    await services.write(theirs.write_resource_name, b"text", finish=False)

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(services.read(theirs.name))
        await asyncio.sleep(0)
        services.time.now += 4000
        services.logs.expire()

    assert reading.result() == b"text"
    assert not ours.is_finished
