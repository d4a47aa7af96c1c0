"""The asyncio shell: watchers, workers, conclusions, the end."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from itertools import count

import pytest
from support.clock import FakeClock
from support.scripted_executor import Run, ScriptedExecutor

from armitage.clock import SystemClock
from armitage.errors import Cancelled, NotFound, PreconditionFailed, Unavailable
from armitage.scheduler.core import CoreOptions, OperationState, Stage
from armitage.scheduler.events import Ending
from armitage.scheduler.service import Attempt, Conclusion, Scheduler, Submission, Watch
from armitage.scheduler.worker import EmbeddedWorker, WorkerOptions
from cas.digest import DigestFunction
from cas.memory import MemoryStore
from executor.errors import WorkerFailure
from executor.spec import Outcome, Work

SHA256 = DigestFunction.SHA256


class ScriptedJob:
    """A job whose answer is its exit code, or its error."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.context: Context = copy_context()
        self.endings: list[Ending] = []
        self.attempts: list[Attempt] = []
        self.conclusion_error: Exception | None = None
        self.closing_error: Exception | None = None
        self.recorded = asyncio.Event()
        self.recorded.set()
        self._name = name
        self._arguments = arguments

    def work(self, attempt: int) -> Work:
        return Work(f"{self._name}-{attempt}", SHA256, SHA256.empty, self._arguments)

    def stdout(self, data: bytes) -> None:
        pass

    def stderr(self, data: bytes) -> None:
        pass

    async def conclude(self, outcome: Outcome | Exception, attempt: Attempt) -> Conclusion:
        self.attempts.append(attempt)
        await self.recorded.wait()
        if self.conclusion_error is not None:
            raise self.conclusion_error
        answer = outcome if isinstance(outcome, Exception) else outcome.exit_code
        return Conclusion(answer, 1, is_shareable=True)

    def close(self, ending: Ending) -> None:
        self.endings.append(ending)
        if self.closing_error is not None:
            raise self.closing_error


class Theatre:
    """A scheduler with one scripted worker, and what was submitted to it."""

    def __init__(self, scheduler: Scheduler, executor: ScriptedExecutor, clock: FakeClock) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.clock = clock
        self.jobs: dict[str, ScriptedJob] = {}
        self._names = count(1)

    def submit(self, *arguments: str, key: str | None = None, **more: object) -> Watch:
        name = f"op{next(self._names)}"
        self.jobs[name] = ScriptedJob(name, *arguments)
        platform = (
            frozenset({("OSFamily", "plan9")}) if more.pop("no_match", False) else frozenset()
        )
        return self.scheduler.submit(
            Submission(name, key, platform, "client", 0, self.jobs[name], None)
        )


async def last(watch: Watch) -> OperationState:
    return [state async for state in watch.states()][-1]


@asynccontextmanager
async def acting(slots: int = 1, options: CoreOptions | None = None) -> AsyncIterator[Theatre]:
    clock, store = FakeClock(), MemoryStore()
    executor = ScriptedExecutor(store, clock.wall)
    worker = EmbeddedWorker(executor, WorkerOptions(slots=slots))
    async with Scheduler([worker], clock, options=options) as scheduler:
        stage = Theatre(scheduler, executor, clock)
        yield stage
    assert executor.running == 0
    assert all(len(job.endings) == 1 for job in stage.jobs.values())
    assert len(asyncio.all_tasks()) == 1


async def test_watcher_sees_present_state_at_once_and_the_end() -> None:
    async with acting() as stage:
        with stage.submit("true") as watch:
            states = [state async for state in watch.states()]

    assert states[0].stage is Stage.EXECUTING
    assert states[-1].answer == 0
    assert stage.jobs["op1"].attempts == [Attempt("local", 1, 0.0)]


async def test_slow_watcher_gets_merged_changes_and_blocks_nobody() -> None:
    async with acting() as stage:
        blocker = stage.submit("block")
        with stage.submit("true") as slow, stage.submit("true") as fast, blocker:
            states = slow.states()
            assert (await anext(states)).stage is Stage.QUEUED
            stage.executor.release()
            assert (await last(fast)).answer == 0

            rest = [state.stage async for state in states]

        assert rest == [Stage.COMPLETED]


async def test_many_watchers_all_get_the_answer() -> None:
    async with acting() as stage:
        with stage.submit("block") as first:
            async with asyncio.TaskGroup() as group:
                watches = [stage.scheduler.watch(first.name) for _ in range(50)]
                waits = [group.create_task(last(watch)) for watch in watches]
                await asyncio.sleep(0)
                stage.executor.release()

    assert {wait.result().answer for wait in waits} == {0}


async def test_unknown_operation_cannot_be_watched_cancelled_or_deleted() -> None:
    async with acting() as stage:
        for call in (stage.scheduler.watch, stage.scheduler.cancel, stage.scheduler.delete):
            with pytest.raises(NotFound):
                call("never")


async def test_refused_job_is_closed() -> None:
    async with acting() as stage:
        with pytest.raises(PreconditionFailed):
            stage.submit("true", no_match=True)

        assert stage.jobs["op1"].endings == [Ending.DROPPED]


async def test_unused_job_of_a_shared_run_is_closed_at_once() -> None:
    async with acting() as stage:
        with stage.submit("block", key="k") as one, stage.submit("block", key="k") as two:
            assert stage.jobs["op2"].endings == [Ending.DROPPED]
            stage.executor.release()
            assert (await last(one)).answer == (await last(two)).answer == 0

    assert len(stage.executor.runs) == 1


async def test_job_of_another_can_be_submitted_again_to_share_it() -> None:
    async with acting() as stage:
        with stage.submit("block", key="k"):
            job = stage.scheduler.shared_job("k")
            assert job is stage.jobs["op1"]
            submission = Submission("again", "k", frozenset(), "client", 0, job, None)
            with stage.scheduler.submit(submission) as again:
                stage.executor.release()
                assert (await last(again)).answer == 0


async def test_cancelled_run_is_killed_and_its_slot_given_on() -> None:
    async with acting() as stage:
        with stage.submit("block") as doomed, stage.submit("true") as next_one:
            await stage.executor.started.acquire()
            stage.scheduler.cancel(doomed.name)
            assert isinstance((await last(doomed)).error, Cancelled)
            assert (await last(next_one)).answer == 0

    assert stage.executor.cancelled == ["op1-1"]


async def test_run_cancelled_before_its_first_step_frees_its_slot() -> None:
    async with acting() as stage:
        with stage.submit("block") as doomed, stage.submit("true") as next_one:
            stage.scheduler.cancel(doomed.name)
            assert (await last(next_one)).answer == 0

    assert [work.name for work in stage.executor.runs] == ["op2-1"]


async def test_failed_attempt_is_made_again_under_another_name() -> None:
    async with acting() as stage:

        async def flaky(run: Run) -> int:
            if len(stage.executor.runs) < 3:
                raise WorkerFailure("broken")
            return 0

        stage.executor.scripts["flaky"] = flaky
        with stage.submit("flaky") as watch:
            assert (await last(watch)).answer == 0

    assert [work.name for work in stage.executor.runs] == ["op1-1", "op1-2", "op1-3"]


async def test_bug_in_an_executor_is_concluded_not_fatal() -> None:
    async with acting() as stage:

        async def broken(run: Run) -> int:
            raise ZeroDivisionError

        stage.executor.scripts["broken"] = broken
        with stage.submit("broken") as watch, stage.submit("true") as other:
            assert isinstance((await last(watch)).answer, ZeroDivisionError)
            assert (await last(other)).answer == 0


async def test_job_that_cannot_be_closed_keeps_no_other_from_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with acting() as stage:
        with stage.submit("true") as watch, stage.submit("true") as other:
            stage.jobs["op1"].closing_error = RuntimeError("store closed")
            assert (await last(watch)).answer == 0
            assert (await last(other)).answer == 0

    assert "could not be closed" in caplog.text


async def test_conclusion_that_fails_is_the_operations_error() -> None:
    async with acting() as stage:
        with stage.submit("true") as watch:
            stage.jobs["op1"].conclusion_error = error = RuntimeError("disk on fire")

            assert (await last(watch)).error is error


async def test_slot_is_free_while_a_result_is_recorded() -> None:
    async with acting() as stage:
        with stage.submit("true") as slow:
            stage.jobs["op1"].recorded.clear()
            with stage.submit("true") as quick:
                assert (await last(quick)).answer == 0
            assert not stage.scheduler.state(slow.name).is_done
            stage.jobs["op1"].recorded.set()
            assert (await last(slow)).answer == 0


async def test_deleted_operation_ends_its_watchers_with_not_found() -> None:
    async with acting() as stage:
        with stage.submit("block") as watch:
            states = watch.states()
            await anext(states)
            stage.scheduler.delete(watch.name)
            with pytest.raises(NotFound):
                await anext(states)


async def test_watcher_is_reminded_when_nothing_changes() -> None:
    async with acting() as stage:
        with stage.submit("block") as watch:
            states = watch.states(remind_s=0.001)

            seen = [await anext(states) for _ in range(3)]

        assert {state.stage for state in seen} == {Stage.EXECUTING}


async def test_abandoned_queued_operation_is_dropped_by_the_timer() -> None:
    clock = SystemClock()
    executor = ScriptedExecutor(MemoryStore(), clock.wall)
    worker = EmbeddedWorker(executor, WorkerOptions())
    options = CoreOptions(disconnect_grace_s=0.01)
    async with Scheduler([worker], clock, options=options) as scheduler:
        stage = Theatre(scheduler, executor, FakeClock())
        running = stage.submit("block")
        with stage.submit("true") as abandoned:
            changed = scheduler.changed(abandoned.name)
        async with asyncio.timeout(5):
            await changed.wait()
        with running, pytest.raises(NotFound):
            scheduler.state(abandoned.name)


async def test_run_that_nobody_waits_for_is_killed_by_the_timer() -> None:
    async with acting(options=CoreOptions(running_grace_s=0)) as stage:
        with stage.submit("block") as abandoned:
            await stage.executor.started.acquire()
            changed = stage.scheduler.changed(abandoned.name)
        async with asyncio.timeout(5):
            await changed.wait()
            with stage.submit("true") as next_one:
                assert (await last(next_one)).answer == 0

    assert stage.executor.cancelled == ["op1-1"]
    assert stage.jobs["op1"].endings == [Ending.ABANDONED]
    assert stage.jobs["op1"].attempts == []


async def test_draining_waits_for_what_runs() -> None:
    async with acting() as stage:
        with stage.submit("block") as watch:
            async with asyncio.TaskGroup() as group:
                drained = group.create_task(stage.scheduler.drain(5))
                await asyncio.sleep(0)
                with pytest.raises(Unavailable):
                    stage.submit("true")
                stage.executor.release()
            assert drained.result()
            assert (await last(watch)).answer == 0


async def test_draining_gives_up_after_its_grace_and_stop_kills_the_rest() -> None:
    async with acting() as stage:
        running, queued = stage.submit("block"), stage.submit("true")
        await stage.executor.started.acquire()

        assert not await stage.scheduler.drain(0.001)

    assert stage.executor.cancelled == ["op1-1"]
    for watch in (running, queued):
        assert isinstance((await last(watch)).error, Unavailable)


async def test_answer_recorded_without_a_run_can_be_watched() -> None:
    async with acting() as stage:
        stage.scheduler.record_answer("cached", None, "result", 6)

        assert (await last(stage.scheduler.watch("cached"))).answer == "result"


async def test_counts_add_up() -> None:
    async with acting(slots=2) as stage:
        watches = [stage.submit("block") for _ in range(3)]
        stats = stage.scheduler.stats()
        assert (stats.slots, stats.busy_slots, stats.workers) == (2, 2, 1)
        assert (stats.operations_executing, stats.operations_queued) == (2, 1)
        stage.executor.release()
        for watch in watches:
            await last(watch)

        stats = stage.scheduler.stats()
        assert (stats.submitted, stats.concluded, stats.busy_slots) == (3, 3, 0)
        assert stats.operations_finished_kept == 3


async def test_nothing_is_left_when_all_watchers_are_cancelled() -> None:
    async with acting() as stage:
        tasks: list[asyncio.Task[OperationState]] = []

        async def watched() -> OperationState:
            with stage.submit("block") as watch:
                return await last(watch)

        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(watched()) for _ in range(20)]
            await stage.executor.started.acquire()
            for task in tasks:
                task.cancel()
        stage.executor.release()
    gc.collect()

    assert all(task.cancelled() for task in tasks)


@pytest.mark.parametrize("options", [{"slots": 0}, {"name": ""}])
def test_worker_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        WorkerOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
async def test_no_slot_is_leaked_by_clients_that_come_go_and_cancel(seed: int) -> None:
    chance = random.Random(seed)
    async with acting(slots=3, options=CoreOptions(max_attempts=2)) as stage:

        async def fidget(run: Run) -> int:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                raise WorkerFailure("broken")
            return 0

        async def client() -> None:
            for _ in range(20):
                key = chance.choice([None, "a", "b"])
                with stage.submit("fidget", key=key) as watch:
                    states = watch.states()
                    await anext(states)
                    choice = chance.random()
                    if choice < 0.3:
                        stage.scheduler.cancel(watch.name)
                    elif choice < 0.5:
                        await asyncio.sleep(0)
                        continue  # Leaves in the middle.
                    rest = [state async for state in states]
                    assert [state.is_done for state in rest] == [False] * (len(rest) - 1) + [True]

        stage.executor.scripts["fidget"] = fidget
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client())
        assert await stage.scheduler.drain(10)
        stats = stage.scheduler.stats()
        assert (stats.busy_slots, stats.operations_queued, stats.tasks) == (0, 0, 0)
