"""An execution service over a scripted executor and a memory store, without a transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from google.longrunning import operations_pb2 as longrunning
from google.rpc import error_details_pb2
from support.clock import FakeClock
from support.scripted_executor import ScriptedExecutor

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.notary import Notary
from armitage.reapi.completeness import Completeness
from armitage.reapi.digests import wire_digest
from armitage.reapi.execution import ExecutionOptions, ExecutionService
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.operations import OperationsService
from armitage.reapi.request_metadata import HEADER
from armitage.reapi.trees import DirectoryCodec
from armitage.reapi.trusting import TrustGate
from armitage.scheduler.core import CoreOptions
from armitage.scheduler.platforms import PlatformRules
from armitage.scheduler.service import Scheduler
from armitage.scheduler.worker import EmbeddedWorker, WorkerOptions
from armitage.transport.port import Call, Code
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryActionCache, MemoryStore

SHA256 = DigestFunction.SHA256
PLATFORM = {"OSFamily": ("linux",), "ISA": ("x86-64", "x86-64-avx2")}


class Streams:
    """Live output kept for the test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = b""
        self.is_finished = False

    def append(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.is_finished = True


class HoldingStore(MemoryStore):
    """Shows who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, set[Digest]] = {}

    def hold(self, holder: str, digests: Iterable[Digest]) -> None:
        digests = set(digests)
        self.held.setdefault(holder, set()).update(digests)
        super().hold(holder, digests)

    def release(self, holder: str) -> None:
        self.held.pop(holder, None)
        super().release(holder)


@dataclass
class World:
    """One server without a transport."""

    clock: FakeClock
    store: HoldingStore
    cache: MemoryActionCache
    executor: ScriptedExecutor
    scheduler: Scheduler
    service: ExecutionService
    operations: OperationsService
    invocations: Invocations
    streams: dict[str, Streams]
    function: DigestFunction = SHA256

    async def put(self, data: bytes) -> reapi.Digest:
        return wire_digest(await self.store.put([self.function.digest(data)], data))

    async def put_message(self, message: object) -> reapi.Digest:
        return await self.put(message.SerializeToString())  # type: ignore[attr-defined]

    async def action(
        self,
        *arguments: str,
        action: Mapping[str, object] | None = None,
        root: reapi.Directory | None = None,
        **command: object,
    ) -> reapi.Digest:
        """Uploads an action and answers its digest."""
        made = reapi.Command(arguments=arguments or ("true",), **command)  # type: ignore[arg-type]
        return await self.put_message(
            reapi.Action(
                command_digest=await self.put_message(made),
                input_root_digest=await self.put_message(root or reapi.Directory()),
                **(action or {}),  # type: ignore[arg-type]
            )
        )

    async def states(
        self, action: reapi.Digest, call: Call | None = None, **request: object
    ) -> list[longrunning.Operation]:
        message = reapi.ExecuteRequest(action_digest=action, **request)  # type: ignore[arg-type]
        answers = self.service.execute(message.SerializeToString(), call or CALL)
        return [longrunning.Operation.FromString(data) async for data in answers]

    async def execute(
        self, action: reapi.Digest, call: Call | None = None, **request: object
    ) -> reapi.ExecuteResponse:
        return response_of((await self.states(action, call, **request))[-1])

    @asynccontextmanager
    async def open_execute(
        self, action: reapi.Digest, call: Call | None = None, **request: object
    ) -> AsyncIterator[AsyncIterator[longrunning.Operation]]:
        message = reapi.ExecuteRequest(action_digest=action, **request)  # type: ignore[arg-type]
        async with aclosing(self.service.execute(message.SerializeToString(), call or CALL)) as out:  # type: ignore[type-var]
            yield (longrunning.Operation.FromString(data) async for data in out)

    async def wait(self, name: str) -> list[longrunning.Operation]:
        request = reapi.WaitExecutionRequest(name=name).SerializeToString()
        answers = self.service.wait_execution(request, CALL)
        return [longrunning.Operation.FromString(data) async for data in answers]


CALL = Call("/test", peer="127.0.0.1:1")


def call_of(invocation: str) -> Call:
    said = reapi.RequestMetadata(tool_invocation_id=invocation)
    return Call("/test", {HEADER: said.SerializeToString()}, "127.0.0.1:1")


def response_of(operation: longrunning.Operation) -> reapi.ExecuteResponse:
    assert operation.done
    assert not operation.HasField("error")
    response = reapi.ExecuteResponse()
    assert operation.response.Unpack(response)
    return response


def metadata_of(operation: longrunning.Operation) -> reapi.ExecuteOperationMetadata:
    metadata = reapi.ExecuteOperationMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def missing_of(response: reapi.ExecuteResponse) -> set[str]:
    assert response.status.code == Code.FAILED_PRECONDITION
    failure = error_details_pb2.PreconditionFailure()
    assert response.status.details[0].Unpack(failure)
    assert all(violation.type == "MISSING" for violation in failure.violations)
    assert len({v.subject for v in failure.violations}) == len(failure.violations)
    return {violation.subject for violation in failure.violations}


@dataclass(frozen=True)
class Setup:
    """What a test wants otherwise than usual."""

    slots: int = 1
    rules: PlatformRules = field(default_factory=PlatformRules)
    core: CoreOptions = field(default_factory=CoreOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)
    function: DigestFunction = SHA256


MakeGate = Callable[[MemoryStore, FakeClock], TrustGate]


@asynccontextmanager
async def serving(
    setup: Setup = Setup(), notary: Notary | None = None, gate: MakeGate | None = None
) -> AsyncIterator[World]:
    clock = FakeClock()
    store, cache = HoldingStore(), MemoryActionCache()
    executor = ScriptedExecutor(store, clock.wall)
    worker = EmbeddedWorker(executor, WorkerOptions("test-worker", setup.slots, PLATFORM))
    streams: dict[str, Streams] = {}

    def open_streams(operation: str) -> tuple[Streams, Streams]:
        pair = Streams(f"{operation}/out"), Streams(f"{operation}/err")
        streams.update({stream.name: stream for stream in pair})
        return pair

    numbers = count(1)
    instances = Instances([Instance(), Instance("other"), Instance("off", exec_enabled=False)])
    invocations = Invocations(store, clock.monotonic)
    async with Scheduler([worker], clock, options=setup.core, rules=setup.rules) as scheduler:
        service = ExecutionService(
            scheduler=scheduler,
            store=store,
            retention=store,
            action_cache=cache,
            instances=instances,
            invocations=invocations,
            completeness=Completeness(store),
            codec=DirectoryCodec(),
            clock=clock,
            new_id=lambda: f"op-{next(numbers)}",
            options=setup.execution,
            open_streams=open_streams,
            notary=notary,
            gate=None if gate is None else gate(store, clock),
        )
        operations = OperationsService(scheduler, store)
        world = World(
            clock=clock,
            store=store,
            cache=cache,
            executor=executor,
            scheduler=scheduler,
            service=service,
            operations=operations,
            invocations=invocations,
            streams=streams,
            function=setup.function,
        )
        yield world
        executor.release()
        assert await scheduler.drain(5)
    assert executor.running == 0
    assert not [holder for holder in store.held if holder.startswith("operation:")]
    assert all(stream.is_finished for stream in streams.values())


def platform_of(**properties: str) -> reapi.Platform:
    pairs = [{"name": name, "value": value} for name, value in properties.items()]
    return reapi.Platform(properties=pairs)
