"""The Operations service over the executions of a scripted executor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.longrunning import operations_pb2 as longrunning
from google.protobuf.struct_pb2 import Struct
from support.execution_world import (
    CALL,
    World,
    call_of,
    metadata_of,
    response_of,
    serving,
)

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest, NotFound
from armitage.transport.port import Code


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as made:
        yield made


async def get(world: World, name: str) -> longrunning.Operation:
    request = longrunning.GetOperationRequest(name=name).SerializeToString()
    return longrunning.Operation.FromString(await world.operations.get_operation(request, CALL))


async def cancel(world: World, name: str) -> None:
    request = longrunning.CancelOperationRequest(name=name).SerializeToString()
    assert await world.operations.cancel_operation(request, CALL) == b""


async def delete(world: World, name: str) -> None:
    request = longrunning.DeleteOperationRequest(name=name).SerializeToString()
    assert await world.operations.delete_operation(request, CALL) == b""


async def listed(world: World, **request: object) -> longrunning.ListOperationsResponse:
    message = longrunning.ListOperationsRequest(**request)
    answer = await world.operations.list_operations(message.SerializeToString(), CALL)
    return longrunning.ListOperationsResponse.FromString(answer)


async def names(world: World, **request: object) -> list[str]:
    return [operation.name for operation in (await listed(world, **request)).operations]


async def run(world: World, *arguments: str, **request: Any) -> longrunning.Operation:
    return (await world.states(await world.action(*arguments), **request))[-1]


async def test_get_answers_running_and_finished(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        name = (await anext(states)).name
        assert not (await get(world, name)).done
        world.executor.release()
        finished = [state async for state in states][-1]

    assert await get(world, name) == finished


async def test_get_inlines_as_the_execute_asked(world: World) -> None:
    operation = await run(world, "echo", "x", inline_stdout=True)

    assert response_of(await get(world, operation.name)).result.stdout_raw == b"x\n"


async def test_unknown_names_are_not_found(world: World) -> None:
    for call in (get, cancel, delete):
        with pytest.raises(NotFound):
            await call(world, "operations/never")


async def test_cancelling_a_running_operation_kills_it_and_tells_its_watcher(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        name = (await anext(states)).name
        await world.executor.started.acquire()
        await cancel(world, name)
        await cancel(world, name)
        final = [state async for state in states][-1]

    assert response_of(final).status.code == Code.CANCELLED
    assert metadata_of(final).stage == reapi.ExecutionStage.COMPLETED
    await asyncio.sleep(0)
    assert world.executor.cancelled == ["op-1-1"]


async def test_cancelling_a_queued_operation_ends_it_without_a_run(world: World) -> None:
    async with (
        world.open_execute(await world.action("block")) as first,
        world.open_execute(await world.action("echo")) as second,
    ):
        await anext(first)
        name = (await anext(second)).name
        await world.executor.started.acquire()
        await cancel(world, name)
        final = [state async for state in second][-1]
        world.executor.release()

    assert response_of(final).status.code == Code.CANCELLED
    assert len(world.executor.runs) == 1


async def test_cancelling_one_of_two_equal_executes_leaves_the_other(world: World) -> None:
    action = await world.action("block")
    async with world.open_execute(action) as first, world.open_execute(action) as second:
        name = (await anext(first)).name
        await anext(second)
        await cancel(world, name)
        assert response_of([s async for s in first][-1]).status.code == Code.CANCELLED
        world.executor.release()
        assert response_of([s async for s in second][-1]).status.code == Code.OK


async def test_cancelling_a_finished_operation_changes_nothing(world: World) -> None:
    operation = await run(world, "echo")

    await cancel(world, operation.name)

    assert await get(world, operation.name) == operation


async def test_list_tells_of_a_run_that_nobody_waits_for(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        await anext(states)
        assert not tells_unwatched((await listed(world)).operations[0])

    operation = (await listed(world)).operations[0]

    assert tells_unwatched(operation)
    assert tells_unwatched(await get(world, operation.name))
    world.executor.release()
    assert not tells_unwatched((await world.wait(operation.name))[-1])


def tells_unwatched(operation: longrunning.Operation) -> bool:
    told = Struct()
    auxiliary = metadata_of(operation).partial_execution_metadata.auxiliary_metadata
    return any(one.Unpack(told) and told["unwatched"] is True for one in auxiliary)


async def test_who_asks_for_an_operation_counts_as_waiting_for_it(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        name = (await anext(states)).name
    for _ in range(3):
        world.clock.advance(59)
        world.scheduler._tick()
        assert not (await get(world, name)).done

    world.clock.advance(61)
    world.scheduler._tick()

    with pytest.raises(NotFound):
        await get(world, name)


async def test_deleted_operation_is_unknown(world: World) -> None:
    operation = await run(world, "echo")

    await delete(world, operation.name)

    with pytest.raises(NotFound):
        await get(world, operation.name)
    with pytest.raises(NotFound):
        await world.wait(operation.name)


async def test_list_has_all_in_order_by_pages(world: World) -> None:
    made = [(await run(world, "echo", str(i))).name for i in range(5)]

    first = await listed(world, page_size=2)
    second = await listed(world, page_size=2, page_token=first.next_page_token)
    third = await listed(world, page_size=2, page_token=second.next_page_token)

    pages = [first, second, third]
    assert [op.name for page in pages for op in page.operations] == made
    assert [len(page.operations) for page in pages] == [2, 2, 1]
    assert third.next_page_token == ""


async def test_list_that_fills_its_last_page_has_no_next(world: World) -> None:
    await run(world, "echo")

    assert (await listed(world, page_size=1)).next_page_token == ""


async def test_list_is_split_below_the_message_limit(world: World) -> None:
    async def litter(run_: object) -> int:
        for number in range(600):
            await run_.write(f"{'long' * 600}{number}", b"")  # type: ignore[attr-defined]
        return 0

    world.executor.scripts["litter"] = litter
    for number in range(4):
        await run(world, "litter", str(number))

    page = await listed(world)

    assert 0 < len(page.operations) < 4
    assert page.next_page_token
    assert page.ByteSize() < 4 * 2**20


async def test_list_is_by_instance(world: World) -> None:
    plain = await run(world, "echo")
    other = await run(world, "echo", instance_name="other")

    assert await names(world) == [plain.name, other.name]
    assert await names(world, name="operations") == [plain.name]
    assert await names(world, name="other") == [other.name]
    assert await names(world, name="other/operations") == [other.name]
    assert await names(world, name="nowhere") == []


async def test_list_filters(world: World) -> None:
    done = await run(world, "echo")
    action = await world.action("block")
    async with world.open_execute(action, call_of("build-7")) as states:
        running = (await anext(states)).name

        assert await names(world, filter="done=true") == [done.name]
        assert await names(world, filter="done=false") == [running]
        assert await names(world, filter="stage = executing AND done=false") == [running]
        assert await names(world, filter="stage=queued") == []
        assert await names(world, filter='invocation="build-7"') == [running]
        assert await names(world, filter=f"action={action.hash}") == [running]
        assert await names(world, filter="client=invocation:build-7") == [running]
        world.executor.release()
        async for _ in states:
            pass


@pytest.mark.parametrize(
    "request_",
    [
        {"filter": "done"},
        {"filter": "colour=red"},
        {"filter": "done=true OR done=false"},
        {"page_token": "operations/never"},
        {"page_size": -1},
    ],
)
async def test_bad_lists_are_refused(world: World, request_: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await listed(world, **request_)


async def test_names_carry_their_instance(world: World) -> None:
    assert (await run(world, "echo")).name == "operations/op-1"
    assert (await run(world, "echo", instance_name="other")).name == "other/operations/op-2"
