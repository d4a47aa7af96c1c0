"""Cases 95-102: operations: joining, leaving, cancelling, priorities, long streams, draining."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

from google.longrunning import operations_pb2 as longrunning

from armitage.client.channel import CallFailed, Channel
from armitage.conformance import actions
from armitage.conformance.actions import Prepared, Stage, Verdict
from armitage.conformance.control import Variant
from armitage.conformance.model import Failed, Level, Need, NotSupported, Skipped, case
from armitage.conformance.needs import demand
from armitage.conformance.session import Session, describe
from armitage.reapi import rpcs
from armitage.transport.port import Code

_NEEDS = (Need.SHELL,)
_RANDOM = "od -An -N16 -tx1 /dev/urandom"
_PING_S = 10.0
_PINGS = 5.5


def _sleeper(s: Session, seconds: float, text: str = _RANDOM) -> Prepared:
    return actions.prepare(s, ["/bin/sh", "-c", f"sleep {seconds}; {text}"])


async def _begin(s: Session, prepared: Prepared) -> str:
    """Executes, leaves the stream at its first message, and answers the operation's name."""
    await s.put(*prepared.blobs)
    request = actions.request_for(s, prepared.action_digest)
    async with aclosing(actions.operations_of(s.channel, request, s)) as stream:
        async for operation in stream:
            name: str = operation.name
            return name
    raise Failed("the stream of operations ended without a message")


class _Running:
    """An execution under way."""

    def __init__(self) -> None:
        self.name = ""
        self.started = asyncio.Event()

    async def follow(self, s: Session, prepared: Prepared) -> Verdict:
        """Executes to the end, telling when it is EXECUTING (or already over)."""
        try:
            return await actions.follow(s, self._watched(s, prepared))
        finally:
            self.started.set()

    async def _watched(
        self, s: Session, prepared: Prepared
    ) -> AsyncIterator[longrunning.Operation]:
        request = actions.request_for(s, prepared.action_digest)
        async with aclosing(actions.operations_of(s.channel, request, s)) as stream:
            async for operation in stream:
                self.name = operation.name
                metadata = actions.metadata_of(operation)
                if operation.done or (metadata and metadata.stage == Stage.EXECUTING):
                    self.started.set()
                yield operation


@asynccontextmanager
async def _running(
    s: Session, prepared: Prepared
) -> AsyncIterator[tuple[str, asyncio.Task[Verdict]]]:
    """Enters while the action is EXECUTING; gives the operation's name and the verdict to await."""
    await s.put(*prepared.blobs)
    running = _Running()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(running.follow(s, prepared))
        await running.started.wait()
        try:
            yield running.name, task
        finally:
            if not task.done():
                task.cancel()


async def _last_word(s: Session, name: str) -> Verdict:
    return await actions.follow(s, actions.wait_for(s, name))


@case(
    95,
    "A worker killed in mid-run gives one final answer: run again, or an error of its own",
    source="ExecutionStage: may go back to QUEUED; INTERNAL",
    needs=_NEEDS,
)
async def killed_worker_is_survived(s: Session) -> None:
    async with s.elsewhere(Variant.DISPOSABLE) as other:
        prepared = _sleeper(other, 2)
        async with _running(other, prepared) as (_, task):
            await other.control.kill_worker()
            verdict = await task
        fine = {Code.OK, Code.INTERNAL, Code.UNAVAILABLE}
        s.check(verdict.code in fine, verdict.says())
        exit_code = verdict.result.exit_code
        seen = f"it looks like a failure of the command (exit code {exit_code})"
        s.check(verdict.code != Code.OK or exit_code == 0, seen, Level.SHOULD)
        done = [operation for operation in verdict.operations if operation.done]
        s.check(len(done) == 1, f"{len(done)} final messages")
        again = await actions.run_script(other, "echo alive")
        again.expect_ok()


@case(
    96,
    "WaitExecution: a running operation streams, a finished one is done, others NOT_FOUND",
    source="WaitExecution",
    needs=_NEEDS,
)
async def wait_execution_joins(s: Session) -> None:
    prepared = _sleeper(s, 2.5)
    name = await _begin(s, prepared)
    first, last = await _first_and_last(s, name)
    s.check(not first.done, "the first message of a running operation is already done")
    s.check(last.done, "the stream ended before the operation was done")
    s.check(first.name == name, f"the name is {first.name}, not {name}")
    try:
        finished = await _last_word(s, name)
    except Failed as error:
        s.fail(f"a finished operation: {error.seen}")
    else:
        gone = finished.at_rpc and finished.code == Code.NOT_FOUND
        s.check(not gone, "a finished operation is forgotten at once", Level.SHOULD)
        s.check(gone or finished.code == Code.OK, f"a finished operation: {finished.says()}")
    unknown = await _last_word(s, f"{name}-no-such-operation")
    s.check(unknown.at_rpc, "an unknown operation has a stream")
    s.check(unknown.code == Code.NOT_FOUND, f"an unknown operation: {unknown.says()}")


async def _first_and_last(
    s: Session, name: str
) -> tuple[longrunning.Operation, longrunning.Operation]:
    seen = [operation async for operation in actions.wait_for(s, name)]
    if not seen:
        raise Failed("WaitExecution ended without a message")
    return seen[0], seen[-1]


@case(
    97,
    "A client that lost its stream gets the result by WaitExecution, of the same run",
    source="Execute, WaitExecution; Bazel and BuildStream reconnect so",
    needs=_NEEDS,
)
async def lost_stream_is_rejoined(s: Session) -> None:
    prepared = _sleeper(s, 1.5)
    name = await _begin(s, prepared)
    await asyncio.sleep(0.3)
    result = (await _last_word(s, name)).expect_ok()
    verdict = await actions.execute(s, prepared.action_digest)
    if verdict.response.cached_result:
        one = await actions.stdout_of(s, result)
        two = await actions.stdout_of(s, verdict.expect_ok())
        s.check(one == two, "it ran twice", Level.SHOULD)


@case(
    98,
    "A queued action whose watchers all left is dropped after a grace",
    source="clients that vanished must not keep workers busy (Buck2 races local and remote)",
    level=Level.INTEROP,
    needs=_NEEDS,
)
async def abandoned_action_is_dropped(s: Session) -> None:
    async with s.elsewhere(Variant.ONE_SLOT) as other:
        blocker, abandoned = _sleeper(other, 4), _sleeper(other, 0)
        async with _running(other, blocker) as (_, task):
            name = await _begin(other, abandoned)
            (await task).expect_ok()
        last = await _last_word(other, name)
        dropped = last.code in {Code.NOT_FOUND, Code.CANCELLED}
        s.check(dropped, f"the abandoned action: {last.says()}", Level.INTEROP)


@case(
    99,
    "CancelOperation ends it as CANCELLED in the response, not in Operation.error",
    source="Execute: CANCELLED; the server MUST NOT set Operation.error",
    needs=(Need.SHELL, Need.OPERATIONS),
)
async def cancelled_operation_says_so(s: Session) -> None:
    marker = f"8{secrets.randbelow(10**8):08d}"
    prepared = actions.prepare(s, ["/bin/sh", "-c", f"sleep {marker}"])
    async with _running(s, prepared) as (name, task):
        request = longrunning.CancelOperationRequest(name=name)
        for _ in range(2):
            await s.channel.call(rpcs.CANCEL_OPERATION, request, timeout=s.options.call_timeout_s)
        verdict = await task
    s.check(verdict.code == Code.CANCELLED, verdict.says())
    for operation in verdict.operations:
        failed = operation.WhichOneof("result") == "error"
        s.check(not failed, "Operation.error is set")
    s.check(not verdict.at_rpc, "the RPC failed instead of ending with a done Operation")
    get = longrunning.GetOperationRequest(name=name)
    try:
        operation = await s.channel.call(rpcs.GET_OPERATION, get, timeout=s.options.call_timeout_s)
    except CallFailed as error:
        s.check(error.code == Code.NOT_FOUND, f"GetOperation: {describe(error)}")
    else:
        s.check(operation.done, "GetOperation: it is not done")
        s.check(operation.WhichOneof("result") != "error", "GetOperation: error is set")
    unknown = longrunning.CancelOperationRequest(name=f"{name}-no-such-operation")
    await s.rejected(
        s.channel.call(rpcs.CANCEL_OPERATION, unknown, timeout=s.options.call_timeout_s),
        {Code.NOT_FOUND, Code.INVALID_ARGUMENT},
        "cancelling an unknown operation",
        level=Level.SHOULD,
    )
    try:
        alive = await s.control.is_running(marker)
    except Skipped:
        return
    s.check(not alive, "its processes live on", Level.SHOULD)


@case(
    100,
    "Of two queued actions the one with the lower priority value runs first",
    source="ExecutionPolicy.priority",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def lower_priority_value_runs_first(s: Session) -> None:
    async with s.elsewhere(Variant.ONE_SLOT) as other:
        late, soon = _sleeper(other, 0.2), _sleeper(other, 0.2)
        await other.put(*late.blobs, *soon.blobs)
        order: list[str] = []

        async def queued(name: str, prepared: Prepared, priority: int) -> None:
            verdict = await actions.execute(other, prepared.action_digest, priority=priority)
            verdict.expect_ok()
            order.append(name)

        blocker = _sleeper(other, 3)
        async with _running(other, blocker) as (_, blocking), asyncio.TaskGroup() as group:
            group.create_task(queued("5", late, 5))
            await asyncio.sleep(0.5)
            group.create_task(queued("-5", soon, -5))
            await blocking
        s.check(order == ["-5", "5"], f"they ended in the order {order}", Level.SHOULD)


@case(
    101,
    "Quiet streams survive HTTP/2 pings every 10 s on their connections",
    source="Buck2 pings every 30 s whatever happens, and keeps hundreds of streams open",
    level=Level.INTEROP,
    time_limit_s=150,
)
async def streams_survive_pings(s: Session) -> None:
    """Unless told not to, gRPC's own server library answers the fifth ping without data in five
    minutes with GOAWAY. A client reconnects for its next call, so only an open call shows it.
    """
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(s.another_connection(_PING_S)) for _ in range(4)
        ]
        async with asyncio.TaskGroup() as group:
            for channel in channels[:2]:
                group.create_task(_hold_write(replace(s, channel=channel)))
            if await _runs_actions(s):
                group.create_task(_hold_executions(s, channels))


async def _runs_actions(s: Session) -> bool:
    try:
        await demand(Need.SHELL, s)
    except (NotSupported, Skipped):
        return False
    return True


async def _hold_write(s: Session) -> None:
    data = b"quiet " + secrets.token_bytes(100)
    async with s.open_write() as stream:
        stream.send(s.write_name(s.digest(data)), 0, data[:5])
        await asyncio.sleep(_PINGS * _PING_S)
        stream.send("", 5, data[5:], finish=True)
        stream.half_close()
        try:
            await stream.answer(s.options.call_timeout_s)
        except CallFailed as error:
            s.fail(f"a quiet Write: {describe(error)}", Level.INTEROP)


async def _hold_executions(s: Session, channels: list[Channel]) -> None:
    """Opens many streams on one operation, so that it takes a single worker."""
    each, seconds = (100, 600) if s.options.full else (10, 10)
    s = replace(s, options=replace(s.options, call_timeout_s=s.options.call_timeout_s + seconds))
    name = await _begin(s, _sleeper(s, seconds))

    async def one(channel: Channel) -> None:
        verdict = await actions.follow(s, actions.wait_for(replace(s, channel=channel), name))
        seen = f"one of {each} streams on a connection: {verdict.says()}"
        s.check(verdict.code == Code.OK, seen, Level.INTEROP)

    async with asyncio.TaskGroup() as group:
        for channel in channels:
            for _ in range(each):
                group.create_task(one(channel))


@case(
    102,
    "A draining server refuses new actions with UNAVAILABLE and finishes running ones",
    source="Execute: UNAVAILABLE, the client should retry",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def draining_server_finishes(s: Session) -> None:
    async with s.elsewhere(Variant.DISPOSABLE) as other:
        late = _sleeper(other, 0)
        await other.put(*late.blobs)
        async with _running(other, _sleeper(other, 3)) as (_, task):
            await other.control.drain()
            await asyncio.sleep(0.5)
            refused = await actions.execute(other, late.action_digest)
            wanted = refused.code == Code.UNAVAILABLE
            s.check(wanted, f"a new action: {refused.says()}", Level.SHOULD)
            (await task).expect_ok()
