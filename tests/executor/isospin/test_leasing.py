"""Actions hold what they declare of GPUs, and nothing is left held."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from support.executing import SHA256, Seen
from support.gpus import Shelf, gpu
from support.scripted_executor import Run, ScriptedExecutor

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.coeffects import PURE, Coeffects, GpuGrant, SandboxKind
from executor.errors import DevicesUnavailable, InvalidInput, WorkerFailure
from executor.evidence import Evidence
from executor.isospin.device import Need
from executor.isospin.leasing import GpuLeases, GpuOptions, LeasingExecutor
from executor.isospin.pool import WhenNone
from executor.ports import Progress
from executor.spec import Outcome, Work


class Witnessed:
    """Adds evidence of a sandbox to what a scripted executor says."""

    def __init__(self, inner: ScriptedExecutor) -> None:
        self._inner = inner

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        outcome = await self._inner.execute(work, progress)
        return replace(outcome, evidence=Evidence(SandboxKind.NAMESPACE))


@dataclass
class World:
    shelf: Shelf
    leases: GpuLeases
    scripted: ScriptedExecutor
    executor: LeasingExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.executor = LeasingExecutor(Witnessed(self.scripted), self.leases)

    async def run(
        self, *arguments: str, grant: GpuGrant | None = None, platform: dict[str, str] | None = None
    ) -> Outcome:
        coeffects = PURE if grant is None else Coeffects(gpu=grant)
        work = Work(
            name=str(uuid.uuid4()),
            digest_function=SHA256,
            input_root=SHA256.empty,
            arguments=arguments,
            coeffects=coeffects,
            platform=tuple((platform or {}).items()),
        )
        return await self.executor.execute(work, Seen())


@asynccontextmanager
async def world_of(shelf: Shelf, options: GpuOptions | None = None) -> AsyncIterator[World]:
    leases = GpuLeases(shelf, options or GpuOptions())
    await leases.refresh()
    yield World(shelf, leases, ScriptedExecutor(MemoryStore(), SystemClock().wall))
    await leases.close()
    assert leases.leases == ()
    assert leases.waiting == ()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came about")


async def test_action_gets_exactly_the_leased_device_and_evidence_tells() -> None:
    async with world_of(Shelf(gpu("a"), gpu("b", 40_000, sm=75))) as world:
        outcome = await world.run("true", grant=GpuGrant(sm=90))

        (work,) = world.scripted.runs
        assert work.devices is not None
        assert work.devices.nodes == ("/dev/a", "/dev/nvidiactl")
        assert dict(work.devices.environment) == {
            "CUDA_VISIBLE_DEVICES": "a",
            "NVIDIA_VISIBLE_DEVICES": "a",
        }
        assert outcome.evidence is not None
        assert outcome.evidence.sandbox is SandboxKind.NAMESPACE
        (leased,) = outcome.evidence.gpus
        assert (leased.uuid, leased.memory_mib, leased.sm) == ("a", 81_559, 90)
        assert leased.driver == "580.159.04"


async def test_action_without_gpu_holds_none() -> None:
    async with world_of(Shelf()) as world:
        outcome = await world.run("true")

        assert world.scripted.runs[0].devices is None
        assert outcome.evidence is not None
        assert outcome.evidence.gpus == ()


async def test_second_action_waits_for_the_first() -> None:
    async with world_of(Shelf(gpu("a"))) as world, asyncio.TaskGroup() as group:
        first = group.create_task(world.run("block", grant=GpuGrant()))
        await world.scripted.started.acquire()
        group.create_task(world.run("true", grant=GpuGrant()))
        await until(lambda: bool(world.leases.waiting))

        assert world.scripted.running == 1
        assert not first.done()
        world.scripted.release()


async def test_lease_is_freed_when_an_action_fails_or_is_cancelled() -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        with pytest.raises(InvalidInput, match="no program"):
            await world.run("nothing", grant=GpuGrant())
        assert world.leases.leases == ()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.run("block", grant=GpuGrant()))
            await world.scripted.started.acquire()
            task.cancel()
        assert world.leases.leases == ()
        assert len(world.scripted.cancelled) == 1


async def test_waiting_action_that_is_cancelled_waits_no_more() -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        world.leases.lease_by_hand("somebody", Need(), 60)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.run("true", grant=GpuGrant()))
            await until(lambda: bool(world.leases.waiting))
            task.cancel()

        assert world.leases.waiting == ()


async def test_action_whose_device_fails_is_killed_and_may_be_tried_again() -> None:
    async with world_of(Shelf(gpu("a"))) as world:

        async def spoil(run: Run) -> int:
            world.shelf.spoil("a", "fell off the bus")
            await world.leases.refresh()
            await asyncio.Event().wait()
            return 0

        world.scripted.scripts["spoil"] = spoil
        with pytest.raises(WorkerFailure, match="fell off the bus"):
            await world.run("spoil", grant=GpuGrant())

        assert len(world.scripted.cancelled) == 1


async def test_host_without_gpu_says_why_there_is_none() -> None:
    async with world_of(Shelf()) as world:
        with pytest.raises(DevicesUnavailable, match=r"can ever do \(it has none\); no GPU driver"):
            await world.run("true", grant=GpuGrant())


async def test_driver_that_surprises_leaves_no_device_and_all_else_alive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        world.shelf.find = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
        await world.leases.refresh()

        assert world.leases.devices == ()
        with pytest.raises(DevicesUnavailable, match="the server's log says how"):
            await world.run("true", grant=GpuGrant())
        assert "ZeroDivisionError" in caplog.text


async def test_action_does_not_wait_when_configured_so() -> None:
    async with world_of(Shelf(gpu("a")), GpuOptions(when_none=WhenNone.FAIL)) as world:
        world.leases.lease_by_hand("somebody", Need(), 60)

        with pytest.raises(DevicesUnavailable, match="held or faulty"):
            await world.run("true", grant=GpuGrant())


async def test_result_for_another_driver_or_architecture_is_refused() -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        await world.run(
            "true",
            grant=GpuGrant(),
            platform={"gpu-arch": "sm_90", "gpu-driver": "580.159.04"},
        )
        with pytest.raises(DevicesUnavailable, match=r"driver 1\.0: no GPU of this host"):
            await world.run("true", grant=GpuGrant(), platform={"gpu-driver": "1.0"})
        with pytest.raises(DevicesUnavailable, match="architecture sm_80"):
            await world.run("true", grant=GpuGrant(), platform={"gpu-arch": "sm_80"})
        with pytest.raises(InvalidInput, match="write it like sm_90"):
            await world.run("true", grant=GpuGrant(), platform={"gpu-arch": "hopper"})


async def test_lease_by_hand_ends_by_itself() -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        lease = world.leases.lease_by_hand("somebody", Need(), 0)
        assert world.leases.is_by_hand(lease.ticket)
        await until(lambda: not world.leases.leases)

        assert not world.leases.release_by_hand(lease.ticket)


async def test_lease_by_hand_never_waits() -> None:
    async with world_of(Shelf(gpu("a"))) as world:
        world.leases.lease_by_hand("somebody", Need(), 60)

        with pytest.raises(DevicesUnavailable, match="others hold"):
            world.leases.lease_by_hand("another", Need(), 60)

        assert world.leases.waiting == ()


async def test_lease_of_an_action_cannot_be_released_by_hand() -> None:
    async with world_of(Shelf(gpu("a"))) as world, asyncio.TaskGroup() as group:
        group.create_task(world.run("block", grant=GpuGrant()))
        await world.scripted.started.acquire()

        assert not world.leases.release_by_hand(world.leases.leases[0].ticket)
        world.scripted.release()
