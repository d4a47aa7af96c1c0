from __future__ import annotations

import asyncio

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.observability.context import (
    add_fields,
    bound_fields,
    current_fields,
    remember_call,
)
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Call


async def test_fields_come_from_the_call_and_its_request_metadata() -> None:
    header = reapi.RequestMetadata(
        tool_details=reapi.ToolDetails(tool_name="bazel", tool_version="4.2.3"),
        tool_invocation_id="inv",
        action_id="act",
        target_id="//a:b",
    ).SerializeToString()
    remember_call(Call("/s/M", {HEADER: header, "authorization": "x"}, "ipv4:1.2.3.4:5", "CN=me"))

    assert current_fields() == {
        "method": "/s/M",
        "peer": "ipv4:1.2.3.4:5",
        "identity": "CN=me",
        "client": "bazel/4.2.3",
        "invocation": "inv",
        "action": "act",
        "target": "//a:b",
    }


async def test_broken_request_metadata_is_no_trouble() -> None:
    remember_call(Call("/s/M", {HEADER: b"\xff\xff"}))

    assert current_fields() == {"method": "/s/M"}


async def test_bound_fields_last_for_their_block() -> None:
    with bound_fields(action="a"), bound_fields(worker="w"):
        assert current_fields() == {"action": "a", "worker": "w"}

    assert current_fields() == {}


async def test_calls_that_run_together_do_not_mix() -> None:
    async def serve(path: str) -> dict[str, str]:
        remember_call(Call(path))
        add_fields(more=path)
        await asyncio.sleep(0)
        return current_fields()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(serve(f"/s/{number}")) for number in range(3)]

    assert [task.result() for task in tasks] == [
        {"method": f"/s/{number}", "more": f"/s/{number}"} for number in range(3)
    ]
    assert current_fields() == {}
