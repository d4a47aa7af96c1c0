"""The scheduler's asyncio shell: timers, watchers, workers and conclusions around the core."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from armitage.clock import Clock
from armitage.errors import ArmitageError
from armitage.scheduler import events
from armitage.scheduler.core import CoreOptions, OperationState, SchedulerCore, SchedulerStats
from armitage.scheduler.events import Ending
from armitage.scheduler.platforms import Platform, PlatformRules
from armitage.scheduler.worker import Worker
from executor.spec import Outcome, Work

_log = logging.getLogger(__name__)

_LAST_CONCLUSIONS_S = 10.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Where and how often an action was tried, as far as the scheduler knows."""

    worker: str
    number: int
    queued_s: float


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The final answer of a job, opaque to the scheduler, and its weight in memory."""

    answer: object
    size_bytes: int
    is_shareable: bool
    """Whether an equal wish that comes a moment too late to share the run may have it too."""


class Job(Protocol):
    """One action as the scheduler runs it; made by whoever submits."""

    context: Context
    """For the log lines of its tasks."""

    def work(self, attempt: int) -> Work:
        """Answers what to run, named apart for each attempt (they count from 1)."""

    def stdout(self, data: bytes) -> None:
        """The running command printed this."""

    def stderr(self, data: bytes) -> None:
        """The running command printed this on stderr."""

    async def conclude(self, outcome: Outcome | Exception, attempt: Attempt) -> Conclusion:
        """Records what came of it. What it raises becomes the operations' error."""

    def close(self, ending: Ending) -> None:
        """The scheduler is done with the job. Called exactly once for each submitted job."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A wish to execute; see `events.Submitted` for the fields of the same names."""

    operation: str
    key: Hashable | None
    platform: Platform
    client: str
    priority: int
    job: Job
    subject: object
    since: float | None = None


class Watch:
    """One watcher of one operation. A context manager: the watcher leaves when it ends."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler = scheduler
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scheduler.leave(self.name)

    async def states(
        self, remind_s: float | None = None, settle_s: float = 0.0
    ) -> AsyncIterator[OperationState]:
        """Yields the present state at once, then each change until it is done.

        Changes that come faster than they are taken are merged, and one that is not the end waits
        for `settle_s`, since for a short action the end follows at once. After `remind_s` without a
        change the state comes again. Raises NotFound when the operation is deleted meanwhile.
        """
        while True:
            changed = self._scheduler.changed(self.name)
            state = self._scheduler.state(self.name)
            yield state
            if state.is_done:
                return
            try:
                async with asyncio.timeout(remind_s):
                    await changed.wait()
            except TimeoutError:
                continue
            await self._settle(settle_s)

    async def _settle(self, settle_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(settle_s):
                while not self._scheduler.state(self.name).is_done:
                    await self._scheduler.changed(self.name).wait()


class _JobProgress:
    """Passes live output to the job."""

    def __init__(self, job: Job) -> None:
        self.stdout = job.stdout
        self.stderr = job.stderr

    def executing(self) -> None:
        """Staging counts as executing (REAPI `ExecutionStage`), so nothing changes for watchers."""


class Scheduler:
    """Runs submitted jobs on workers.

    An async context manager (or start and stop, by the same task); all its tasks are in one group
    that ends with it. All other methods are for the event loop's thread, synchronous and quick.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        clock: Clock,
        *,
        options: CoreOptions | None = None,
        rules: PlatformRules | None = None,
    ) -> None:
        self.rules = rules or PlatformRules()
        self._core = SchedulerCore(options or CoreOptions(), self.rules)
        self._clock = clock
        self._workers = {worker.name: worker for worker in workers}
        self._group = asyncio.TaskGroup()
        self._changed: dict[str, asyncio.Event] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._idle: asyncio.Event | None = None
        self._concluding: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the workers."""
        await self._group.__aenter__()
        for worker in self._workers.values():
            worker.start(self._group, self)
            self._take(
                events.WorkerJoined(self._now(), worker.name, worker.slots, worker.properties)
            )

    async def drain(self, grace_s: float) -> bool:
        """Refuses new operations and waits for the accepted ones; answers whether all finished."""
        self._take(events.DrainRequested(self._now()))
        return await self._wait_idle(grace_s)

    async def stop(self) -> None:
        """Ends what is left with Unavailable and waits until all processes are gone."""
        self._take(events.DrainExpired(self._now()))
        for worker in self._workers.values():
            worker.stop()
        if not await self._wait_idle(_LAST_CONCLUSIONS_S):
            _log.warning("%d actions were still being concluded at the end", len(self._concluding))
            for task in self._concluding:
                task.cancel()
        await self._group.__aexit__(None, None, None)
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # For the API.

    def submit(self, submission: Submission) -> Watch:
        """Accepts an operation and answers the first watch of it, to be left by the caller.

        Raises as `events.Submitted` says. A job that is not used (the operation was refused, shares
        another's, or takes a fresh result) is closed at once.
        """
        s = submission
        is_own = s.key is None or self._core.shared_job(s.key) is not s.job
        try:
            self._submit(s)
        except ArmitageError:
            if is_own:
                _close(s.job, Ending.DROPPED)
            raise
        if is_own and self._core.job(s.operation) is not s.job:
            _close(s.job, Ending.DROPPED)
        return Watch(self, s.operation)

    def _submit(self, s: Submission) -> None:
        self._take(
            events.Submitted(
                at=self._now(),
                operation=s.operation,
                key=s.key,
                platform=s.platform,
                client=s.client,
                priority=s.priority,
                job=s.job,
                subject=s.subject,
                since=s.since,
            )
        )

    def shared_job(self, key: Hashable) -> Job | None:
        """Answers the job that a submission under this key would share now; submit it with that."""
        job = self._core.shared_job(key)
        return None if job is None else _job(job)

    def record_answer(
        self, operation: str, subject: object, answer: object, size_bytes: int
    ) -> OperationState:
        """Keeps an operation that was answered without a run."""
        self._take(events.Answered(self._now(), operation, subject, answer, size_bytes))
        return self._core.state(operation)

    def watch(self, operation: str) -> Watch:
        """Joins an operation. Raises NotFound."""
        self._take(events.WatcherJoined(self._now(), operation))
        return Watch(self, operation)

    def leave(self, operation: str) -> None:
        """Counts a watcher's leaving (see Watch)."""
        self._take(events.WatcherLeft(self._now(), operation))

    def changed(self, operation: str) -> asyncio.Event:
        """Answers an event that is set at the operation's next change."""
        event = self._changed.get(operation)
        if event is None:
            event = self._changed[operation] = asyncio.Event()
        return event

    def state(self, operation: str) -> OperationState:
        """Shows an operation. Raises NotFound."""
        return self._core.state(operation)

    def states(self) -> Iterator[OperationState]:
        """Shows all operations, oldest first; not to be kept across an await."""
        return self._core.states()

    def cancel(self, operation: str) -> None:
        """Cancels an operation; its processes are killed when no other shares them.

        Raises NotFound.
        """
        self._take(events.CancelRequested(self._now(), operation))

    def delete(self, operation: str) -> None:
        """Forgets an operation without stopping it. Raises NotFound."""
        self._take(events.DeleteRequested(self._now(), operation))

    def now(self) -> float:
        """The time that `Submission.since` is measured in."""
        return self._now()

    def stats(self) -> SchedulerStats:
        """Counts what there is."""
        return self._core.stats(self._now())

    # For workers (see worker.Reports).

    def succeeded(self, lease: int, outcome: Outcome) -> None:
        """A worker's report."""
        self._take(events.LeaseSucceeded(self._now(), lease, outcome))

    def failed(self, lease: int, error: Exception, *, is_retryable: bool) -> None:
        """A worker's report."""
        if is_retryable:
            _log.warning("lease %d failed, which another try may mend: %s", lease, error)
        self._take(events.LeaseFailed(self._now(), lease, error, is_retryable))

    # The shell proper.

    def _now(self) -> float:
        return self._clock.monotonic()

    def _take(self, event: events.Event) -> None:
        for command in self._core.handle(event):
            self._perform(command)
        self._set_timer()
        if self._idle is not None and self._core.is_idle:
            self._idle.set()

    def _perform(self, command: events.Command) -> None:
        match command:
            case events.Notify(operation):
                event = self._changed.pop(operation, None)
                if event is not None:
                    event.set()
            case events.Assign(worker, lease, job, attempt):
                own = _job(job)
                progress = _JobProgress(own)
                self._workers[worker].assign(lease, own.work(attempt), progress, own.context)
            case events.Revoke(worker, lease):
                self._workers[worker].revoke(lease)
            case events.Conclude():
                context = _job(command.job).context
                task = self._group.create_task(self._conclude(command), context=context)
                self._concluding.add(task)
                task.add_done_callback(self._concluding.discard)
            case events.Dismiss(job, ending):
                _close(_job(job), ending)

    async def _conclude(self, command: events.Conclude) -> None:
        outcome = command.outcome
        assert isinstance(outcome, (Outcome, Exception))
        attempt = Attempt(command.worker, command.attempt, command.queued_s)
        try:
            conclusion = await _job(command.job).conclude(outcome, attempt)
        except Exception as error:  # noqa: BLE001 (a task boundary: the operations carry it on)
            self._take(events.Concluded(self._now(), command.task, error=error))
        else:
            self._take(
                events.Concluded(
                    self._now(),
                    command.task,
                    answer=conclusion.answer,
                    size_bytes=conclusion.size_bytes,
                    is_shareable=conclusion.is_shareable,
                )
            )

    def _set_timer(self) -> None:
        due = self._core.next_deadline()
        if due == self._timer_due or self._is_stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_due = due
        if due is not None:
            delay = max(0.0, due - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_due = None
        self._take(events.Tick(self._now()))

    async def _wait_idle(self, grace_s: float) -> bool:
        if self._core.is_idle:
            return True
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._idle = None
        return True


def _close(job: Job, ending: Ending) -> None:
    """Closes a job. What goes wrong there must not keep other commands from being performed."""
    try:
        job.close(ending)
    except Exception:  # noqa: BLE001 (see above)
        _log.exception("a job could not be closed")


def _job(job: object) -> Job:
    """The core carries jobs without looking at them; only `submit` puts them in."""
    return job  # type: ignore[return-value]
