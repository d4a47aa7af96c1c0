from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from google.longrunning import operations_pb2 as longrunning
from google.rpc import error_details_pb2, status_pb2

from armitage import errors
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed, Channel
from armitage.client.errors import UntrustworthyAnswer
from armitage.client.execution import Patience, Update, execute, only_blobs_are_missing
from armitage.client.remote import Remote
from armitage.reapi import rpcs
from armitage.reapi.gate import status_of
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Code, ServerStream
from cas.digest import DigestFunction

ACTION = DigestFunction.SHA256.digest(b"action")
QUICK = Patience(give_up_after_s=60, first_pause_s=0.001, longest_pause_s=0.001)
Step: TypeAlias = longrunning.Operation | Exception


def operation(name: str, *, done: bool = False) -> longrunning.Operation:
    message = longrunning.Operation(name=name, done=done)
    message.metadata.Pack(reapi.ExecuteOperationMetadata(stage=reapi.ExecutionStage.EXECUTING))
    if done:
        message.response.Pack(reapi.ExecuteResponse(message=f"done {name}"))
    return message


@dataclass
class Script:
    """Each call takes the next play: messages to send, then an error to raise or a plain end."""

    plays: list[Sequence[Step]]
    calls: list[str] = field(default_factory=list)

    async def play(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        self.calls.append(call.path.rpartition("/")[2])
        for step in self.plays.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step.SerializeToString()

    def methods(self) -> list[ServerStream]:
        return [
            ServerStream(rpcs.EXECUTE.path, self.play),
            ServerStream(rpcs.WAIT_EXECUTION.path, self.play),
        ]


@asynccontextmanager
async def server_with(script: Script) -> AsyncIterator[Remote]:
    options = GrpcOptions(addresses=("127.0.0.1:0",))
    server = GrpcioServer(script.methods(), status_of, options)
    (target,) = await server.start()
    try:
        async with Channel(target) as channel:
            yield Remote(channel, "", DigestFunction.SHA256, 1000, exec_enabled=True)
    finally:
        await server.drain(0)


def ticking() -> Callable[[], float]:
    """A clock that goes on by one second each time it is read."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 1.0
        return now

    return monotonic


async def run(script: Script, patience: Patience = QUICK) -> list[Update]:
    async with server_with(script) as remote:
        stream = execute(remote, ACTION, patience=patience, monotonic=ticking())
        return [update async for update in stream]


async def test_updates_end_with_the_response() -> None:
    script = Script([[operation("a"), operation("a", done=True)]])

    updates = await run(script)

    assert [update.response is None for update in updates] == [True, False]
    assert updates[-1].response is not None
    assert updates[-1].response.message == "done a"
    assert script.calls == ["Execute"]


@pytest.mark.parametrize("ending", [[], [errors.Unavailable("gone")], [RuntimeError("broken")]])
async def test_a_broken_stream_is_taken_up_again(ending: list[Step]) -> None:
    script = Script(
        [[operation("a"), *ending], [operation("a"), *ending], [operation("a", done=True)]]
    )

    updates = await run(script)

    assert updates[-1].response is not None
    assert script.calls == ["Execute", "WaitExecution", "WaitExecution"]


async def test_an_operation_that_the_server_forgot_is_executed_anew() -> None:
    script = Script(
        [[operation("a")], [errors.NotFound("no operation a")], [operation("b", done=True)]]
    )

    updates = await run(script)

    assert [update.operation for update in updates] == ["a", "b"]
    assert script.calls == ["Execute", "WaitExecution", "Execute"]


async def test_a_server_that_is_full_is_asked_again() -> None:
    script = Script([[errors.Exhausted("queue full")], [operation("a", done=True)]])

    await run(script)

    assert script.calls == ["Execute", "Execute"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("bad digest"), Code.INVALID_ARGUMENT),
        (errors.PreconditionFailed("no worker"), Code.FAILED_PRECONDITION),
        (errors.PermissionDenied("no"), Code.PERMISSION_DENIED),
    ],
)
async def test_a_refusal_is_final(error: Exception, code: Code) -> None:
    script = Script([[error], [error]])

    with pytest.raises(CallFailed) as caught:
        await run(script)

    assert caught.value.code is code
    assert script.calls == ["Execute"]


async def test_an_unknown_instance_is_not_mistaken_for_a_forgotten_operation() -> None:
    script = Script([[errors.NotFound("no such instance")]])

    with pytest.raises(CallFailed, match="no such instance"):
        await run(script)

    assert script.calls == ["Execute"]


@pytest.mark.parametrize("ending", [[], [errors.Unavailable("gone")]])
async def test_patience_ends(ending: list[Step]) -> None:
    script = Script([[operation("a")], *[list(ending) for _ in range(50)]])
    patience = Patience(give_up_after_s=5, first_pause_s=0.001, longest_pause_s=0.001)

    with pytest.raises(CallFailed) as caught:
        await run(script, patience)

    assert caught.value.code is Code.UNAVAILABLE
    assert len(script.calls) < 20


async def test_an_operation_that_is_done_without_a_response_is_refused() -> None:
    script = Script([[longrunning.Operation(name="a", done=True)]])

    with pytest.raises(UntrustworthyAnswer, match="done without an ExecuteResponse"):
        await run(script)


def failed_precondition(*kinds: str) -> status_pb2.Status:
    status = status_pb2.Status(code=Code.FAILED_PRECONDITION)
    detail = error_details_pb2.PreconditionFailure(
        violations=[error_details_pb2.PreconditionFailure.Violation(type=kind) for kind in kinds]
    )
    status.details.add().Pack(detail)
    return status


def test_uploading_again_helps_only_when_nothing_else_is_wrong() -> None:
    assert only_blobs_are_missing(failed_precondition("MISSING", "MISSING"))
    assert not only_blobs_are_missing(failed_precondition("MISSING", "OTHER"))
    assert not only_blobs_are_missing(failed_precondition())
    assert not only_blobs_are_missing(status_pb2.Status(code=Code.FAILED_PRECONDITION))
    assert not only_blobs_are_missing(status_pb2.Status())
