"""The scheduler's rules, sans I/O: events in, commands out; time arrives in the events.

Theory of operation. An *operation* is one client's wish (REAPI `Execute`), a *task* the work that
fulfils it. Equal wishes share a task while it lives, so that each client can cancel its own without
harm to the others. A task is queued, leased to a worker, or being concluded (its result recorded);
an operation shows its task's phase until it has a final answer of its own. Every operation gets
exactly one: its task's result, or an error, or it is dropped since nobody has watched it for a
grace: alone while it waits; while its task runs, with all others of that, and the task is stopped.
A *lease* is one try on one worker and takes one slot until the worker has reported its end, so that
a slot is never handed out while its last command is still being killed.

Every event is handled whole or refused with an error of armitage.errors and no change at all.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from math import inf

from armitage.errors import Cancelled, Exhausted, NotFound, PreconditionFailed, Unavailable
from armitage.scheduler.events import (
    Answered,
    Assign,
    CancelRequested,
    Command,
    Conclude,
    Concluded,
    DeleteRequested,
    Dismiss,
    DrainExpired,
    DrainRequested,
    Ending,
    Event,
    LeaseFailed,
    LeasesRenewed,
    LeaseSucceeded,
    Notify,
    Revoke,
    Submitted,
    Tick,
    WatcherJoined,
    WatcherLeft,
    WorkerJoined,
    WorkerLost,
)
from armitage.scheduler.platforms import Platform, PlatformRules, Properties, describe
from armitage.scheduler.queue import Entry, FairQueue
from executor.errors import WorkerFailure

_PRUNE_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """The limits of the scheduler. Defaults suit one machine."""

    max_queued: int = 100_000
    """Operations that wait, of all clients; more are refused until there is room again."""
    max_queued_per_client: int = 50_000
    max_attempts: int = 3
    """Tries of one action on workers that are lost or fail, the first included."""
    disconnect_grace_s: float = 60.0
    """How long a waiting operation that nobody watches is kept for its client to come back."""
    running_grace_s: float | None = 60.0
    """How long an action goes on that nobody waits for; one that ends by then is cached. None: for
    as long as it takes.
    """
    unmatched_grace_s: float = 60.0
    """How long an accepted action waits for a worker when the last that matched it has gone."""
    keep_finished_s: float = 600.0
    """How long a finished operation can be asked for; at least 5 minutes suits clients that
    reconnect.
    """
    max_finished: int = 20_000
    max_finished_bytes: int = 64 * 2**20
    """Finished operations are forgotten early, the oldest first, above either bound."""
    priority_min: int = -1000
    priority_max: int = 1000
    """Priorities outside are moved to the nearer end; lower is sooner."""
    retry_after_s: float = 5.0
    """The hint to clients that are refused."""
    client_weights: Mapping[str, float] = field(default_factory=dict)
    """The share of a client (by its proven name) against 1 of the others."""

    def __post_init__(self) -> None:
        if min(self.max_queued, self.max_queued_per_client, self.max_attempts) < 1:
            raise ValueError(
                "max_queued, max_queued_per_client and max_attempts must be at least 1"
            )
        if self.priority_min > self.priority_max:
            raise ValueError("priority_min must not be above priority_max")
        if any(weight <= 0 for weight in self.client_weights.values()):
            raise ValueError("client_weights must be above 0")


class Stage(Enum):
    """Where an operation is (REAPI `ExecutionStage`)."""

    QUEUED = "queued"
    EXECUTING = "executing"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class OperationState:
    """What can be seen of an operation at one moment."""

    name: str
    stage: Stage
    subject: object
    client: str
    priority: int
    worker: str
    """The worker of the latest lease, or empty."""
    attempt: int
    """How many leases there were."""
    answer: object
    """The final answer, or None."""
    error: Exception | None
    """Why there is no answer, at the end."""
    age_s: float
    """Since it was submitted."""
    is_watched: bool
    """Whether anybody waits for it."""

    @property
    def is_done(self) -> bool:
        """Whether this state is the last."""
        return self.stage is Stage.COMPLETED


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot for metrics and status pages. Counters run from the start of the daemon."""

    is_draining: bool
    workers: int
    slots: int
    busy_slots: int
    operations_queued: int
    operations_executing: int
    operations_finished_kept: int
    tasks: int
    clients_waiting: int
    oldest_queued_s: float
    submitted: int
    shared: int
    """Submissions that joined a task or took its fresh result."""
    refused: int
    from_cache: int
    concluded: int
    failed: int
    """Operations that ended with an error of the scheduler's own (lost worker, drained, ...)."""
    cancelled: int
    dropped: int
    """Operations of which nothing came since nobody watched them any more."""
    stopped: int
    """Running tasks stopped for that reason."""
    retried: int


class _Phase(Enum):
    QUEUED = 1
    LEASED = 2
    CONCLUDING = 3
    ENDED = 4


@dataclass(slots=True)
class _Task:
    number: int
    key: Hashable | None
    platform: Platform
    job: object
    submitted_at: float
    phase: _Phase = _Phase.QUEUED
    operations: dict[str, _Operation] = field(default_factory=dict)
    attempt: int = 0
    worker: str = ""
    leased_at: float = 0.0
    lease: int | None = None


@dataclass(slots=True)
class _Operation:
    name: str
    subject: object
    client: str
    priority: int
    submitted_at: float
    task: _Task | None
    watchers: int = 0
    abandoned_at: float = 0.0
    grace_due: float = inf
    """When the next look at who watches it is due."""
    worker: str = ""
    attempt: int = 0
    answer: object = None
    error: Exception | None = None
    finished_at: float = 0.0
    size_bytes: int = 0


@dataclass(slots=True)
class _Worker:
    name: str
    slots: int
    properties: Properties
    lease_s: float | None
    heard_at: float
    leases: dict[int, _Lease] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.slots - len(self.leases)


@dataclass(slots=True)
class _Lease:
    number: int
    worker: _Worker
    task: _Task | None
    """None once revoked: the slot is taken until the worker reports the end."""
    renewed_at: float


@dataclass(slots=True)
class _Counts:
    submitted: int = 0
    shared: int = 0
    refused: int = 0
    from_cache: int = 0
    concluded: int = 0
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    stopped: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A result that came just now, for equal wishes whose cache look-up was too early for it."""

    at: float
    operation: str


class SchedulerCore:
    """The state machine. Not for concurrent use; owned by the asyncio shell."""

    def __init__(self, options: CoreOptions, rules: PlatformRules) -> None:
        self._options = options
        self._rules = rules
        self._now = 0.0
        self._draining = False
        self._operations: dict[str, _Operation] = {}
        self._finished: OrderedDict[str, _Operation] = OrderedDict()  # Oldest first.
        self._finished_bytes = 0
        self._tasks: dict[int, _Task] = {}
        self._shared: dict[Hashable, _Task] = {}
        self._fresh: OrderedDict[Hashable, _Fresh] = OrderedDict()
        self._workers: dict[str, _Worker] = {}
        self._leases: dict[int, _Lease] = {}
        self._queue = FairQueue(lambda client: options.client_weights.get(client, 1.0))
        self._unmatched: dict[Platform, float] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._is_prune_armed = False
        self._numbers = count(1)
        self._commands: list[Command] = []
        self._counts = _Counts()
        self._handlers: dict[type, Callable[..., None]] = {
            Submitted: self._submit,
            Answered: self._answered,
            WatcherJoined: self._join_watcher,
            WatcherLeft: self._leave_watcher,
            CancelRequested: self._cancel,
            DeleteRequested: self._delete,
            WorkerJoined: self._join_worker,
            WorkerLost: lambda event: self._lose_worker(event.worker),
            LeasesRenewed: self._renew,
            LeaseSucceeded: self._lease_succeeded,
            LeaseFailed: self._lease_failed,
            Concluded: self._concluded,
            DrainRequested: self._drain,
            DrainExpired: self._end_all,
            Tick: lambda _: self._tick(),
        }

    # What can be asked.

    def state(self, operation: str) -> OperationState:
        """Shows an operation. Raises NotFound."""
        return self._view(self._find(operation))

    def states(self) -> Iterator[OperationState]:
        """Shows all operations that can be asked for, in order of submission."""
        return map(self._view, self._operations.values())

    def job(self, operation: str) -> object:
        """Answers the job that an unfinished operation waits for; None for a finished one."""
        task = self._find(operation).task
        return None if task is None else task.job

    def shared_job(self, key: Hashable) -> object:
        """Answers the job of the task that has this key; None when there is none."""
        task = self._shared.get(key)
        return None if task is None else task.job

    def next_deadline(self) -> float | None:
        """When a Tick is due, if nothing else happens."""
        return self._timers[0][0] if self._timers else None

    @property
    def is_idle(self) -> bool:
        """Whether no task lives and no slot is taken."""
        return not self._tasks and not self._leases

    def stats(self, at: float) -> SchedulerStats:
        """Counts what there is."""
        unfinished = len(self._operations) - len(self._finished)
        oldest = self._queue.oldest()
        oldest_at = at if oldest is None else self._operations[oldest].submitted_at
        counts = self._counts
        return SchedulerStats(
            is_draining=self._draining,
            workers=len(self._workers),
            slots=sum(worker.slots for worker in self._workers.values()),
            busy_slots=len(self._leases),
            operations_queued=len(self._queue),
            operations_executing=unfinished - len(self._queue),
            operations_finished_kept=len(self._finished),
            tasks=len(self._tasks),
            clients_waiting=self._queue.flows,
            oldest_queued_s=max(0.0, at - oldest_at),
            submitted=counts.submitted,
            shared=counts.shared,
            refused=counts.refused,
            from_cache=counts.from_cache,
            concluded=counts.concluded,
            failed=counts.failed,
            cancelled=counts.cancelled,
            dropped=counts.dropped,
            stopped=counts.stopped,
            retried=counts.retried,
        )

    def handle(self, event: Event) -> list[Command]:
        """Takes one event and answers what is to be done now, in order.

        Raises what the event's class says, and then nothing has changed.
        """
        self._now = max(self._now, event.at)
        self._handlers[type(event)](event)
        self._assign()
        commands, self._commands = self._commands, []
        return commands

    # Submission.

    def _submit(self, event: Submitted) -> None:
        priority = max(self._options.priority_min, min(event.priority, self._options.priority_max))
        fresh = self._fresh_answer(event)
        task = None if event.key is None else self._shared.get(event.key)
        try:
            self._refuse(event, is_shared=fresh is not None or task is not None)
        except (Unavailable, Exhausted, PreconditionFailed):
            self._counts.refused += 1
            raise
        self._counts.submitted += 1
        operation = _Operation(
            event.operation, event.subject, event.client, priority, self._now, task, watchers=1
        )
        self._operations[operation.name] = operation
        if fresh is not None:
            self._counts.shared += 1
            operation.worker, operation.attempt = fresh.worker, fresh.attempt
            self._finish(operation, answer=fresh.answer, size_bytes=fresh.size_bytes)
            return
        if task is None:
            task = self._new_task(event)
            operation.task = task
        else:
            self._counts.shared += 1
        task.operations[operation.name] = operation
        if task.phase is _Phase.QUEUED:
            self._enqueue(operation, task)

    def _refuse(self, event: Submitted, *, is_shared: bool) -> None:
        options = self._options
        if self._draining:
            raise Unavailable("this server is shutting down", options.retry_after_s)
        if not is_shared and not self._workers:
            raise Unavailable("no worker has joined yet", options.retry_after_s)
        if not is_shared and not self._has_match(event.platform):
            offers = [worker.properties for worker in self._workers.values()]
            raise PreconditionFailed(
                f"no worker matches the platform {describe(event.platform)}:"
                f" {self._rules.unmet(event.platform, offers)}; see the server's worker.properties"
                " and platform.ignore"
            )
        waiting = len(self._operations) - len(self._finished) - len(self._leases)
        if waiting >= options.max_queued:
            raise Unavailable(
                f"the queue is full ({options.max_queued} operations)", options.retry_after_s
            )
        if self._queue.waiting(event.client) >= options.max_queued_per_client:
            raise Exhausted(
                f"this client's share of the queue is full"
                f" ({options.max_queued_per_client} operations)",
                options.retry_after_s,
            )

    def _fresh_answer(self, event: Submitted) -> _Operation | None:
        fresh = None if event.key is None else self._fresh.get(event.key)
        if fresh is None or event.since is None or fresh.at < event.since:
            return None
        return self._finished.get(fresh.operation)

    def _new_task(self, event: Submitted) -> _Task:
        task = _Task(next(self._numbers), event.key, event.platform, event.job, self._now)
        self._tasks[task.number] = task
        if event.key is not None:
            self._shared[event.key] = task
        return task

    def _enqueue(self, operation: _Operation, task: _Task, *, front: bool = False) -> None:
        entry = Entry(operation.name, task.platform, operation.priority, operation.client)
        self._queue.push(entry, front=front)

    def _answered(self, event: Answered) -> None:
        self._counts.from_cache += 1
        operation = _Operation(event.operation, event.subject, "", 0, self._now, None)
        self._operations[operation.name] = operation
        self._finish(operation, answer=event.answer, size_bytes=event.size_bytes)

    # Watchers, cancellation, the end of operations.

    def _join_watcher(self, event: WatcherJoined) -> None:
        self._find(event.operation).watchers += 1

    def _leave_watcher(self, event: WatcherLeft) -> None:
        operation = self._operations.get(event.operation)
        if operation is None:
            return
        operation.watchers -= 1
        if operation.watchers == 0 and operation.task is not None:
            operation.abandoned_at = self._now
            self._arm_grace(operation, operation.task)

    def _arm_graces(self, task: _Task) -> None:
        for operation in task.operations.values():
            self._arm_grace(operation, task)

    def _arm_grace(self, operation: _Operation, task: _Task) -> None:
        due = self._kept_until(operation, task)
        if due < operation.grace_due:
            operation.grace_due = due
            self._arm(due, lambda: self._grace_passed(operation))

    def _kept_until(self, operation: _Operation, task: _Task) -> float:
        """Answers when nobody will have watched an operation for too long; never, if it is watched
        or its task cannot be stopped any more.
        """
        grace_s = None
        if task.phase is _Phase.QUEUED:
            grace_s = self._options.disconnect_grace_s
        elif task.phase is _Phase.LEASED:
            grace_s = self._options.running_grace_s
        return inf if operation.watchers or grace_s is None else operation.abandoned_at + grace_s

    def _grace_passed(self, operation: _Operation) -> None:
        operation.grace_due = inf
        task = operation.task
        if task is None:
            return
        if self._kept_until(operation, task) > self._now:
            self._arm_grace(operation, task)
        elif task.phase is _Phase.QUEUED:
            self._drop(operation, task)
        elif all(self._kept_until(one, task) <= self._now for one in task.operations.values()):
            self._counts.stopped += 1
            for one in list(task.operations.values()):
                self._drop(one, task)
            self._stop(task, Ending.ABANDONED)

    def _drop(self, operation: _Operation, task: _Task) -> None:
        self._counts.dropped += 1
        self._detach(operation, task, Ending.DROPPED)
        self._forget(operation)

    def _cancel(self, event: CancelRequested) -> None:
        operation = self._find(event.operation)
        task = operation.task
        if task is None:
            return
        self._counts.cancelled += 1
        self._detach(operation, task, Ending.CANCELLED)
        self._finish(operation, error=Cancelled("the operation was cancelled on request"))
        if task.operations:
            self._arm_graces(task)
        else:
            self._stop(task, Ending.CANCELLED)

    def _delete(self, event: DeleteRequested) -> None:
        operation = self._find(event.operation)
        task = operation.task
        if task is not None:
            self._detach(operation, task, Ending.DROPPED)
            self._arm_graces(task)
        self._forget(operation)

    def _detach(self, operation: _Operation, task: _Task, ending: Ending) -> None:
        """Parts an operation from its task, which ends if it waits and has no other."""
        del task.operations[operation.name]
        operation.task = None
        self._queue.remove(operation.name)
        if not task.operations and task.phase is _Phase.QUEUED:
            self._end(task, ending)

    def _finish(
        self,
        operation: _Operation,
        *,
        answer: object = None,
        error: Exception | None = None,
        size_bytes: int = 0,
    ) -> None:
        operation.task = None
        operation.answer, operation.error = answer, error
        operation.finished_at, operation.size_bytes = self._now, size_bytes
        self._finished[operation.name] = operation
        self._finished_bytes += size_bytes
        self._commands.append(Notify(operation.name))
        self._prune()
        if not self._is_prune_armed:
            self._is_prune_armed = True
            self._arm(self._now + self._options.keep_finished_s, self._prune_in_time)

    def _forget(self, operation: _Operation) -> None:
        if self._finished.pop(operation.name, None) is not None:
            self._finished_bytes -= operation.size_bytes
        del self._operations[operation.name]
        self._commands.append(Notify(operation.name))

    def _prune(self) -> None:
        """Forgets finished operations that are too old or too many, but never the latest."""
        options = self._options
        while len(self._finished) > 1:
            oldest = next(iter(self._finished.values()))
            if (
                len(self._finished) <= options.max_finished
                and self._finished_bytes <= options.max_finished_bytes
                and oldest.finished_at + options.keep_finished_s > self._now
            ):
                return
            self._forget(oldest)

    def _prune_in_time(self) -> None:
        self._is_prune_armed = False
        keep = self._options.keep_finished_s
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if oldest.finished_at + keep > self._now:
                self._is_prune_armed = True
                self._arm(oldest.finished_at + keep + _PRUNE_SLACK_S, self._prune_in_time)
                return
            self._forget(oldest)

    # Tasks.

    def _stop(self, task: _Task, ending: Ending) -> None:
        """Ends a leased task that nobody wants any more. One being concluded concludes."""
        if task.phase is _Phase.LEASED and task.lease is not None:
            self._revoke(self._leases[task.lease])
            self._end(task, ending)

    def _end(self, task: _Task, ending: Ending) -> None:
        task.phase = _Phase.ENDED
        del self._tasks[task.number]
        if task.key is not None:
            del self._shared[task.key]
        self._commands.append(Dismiss(task.job, ending))

    def _fail(self, task: _Task, error: Exception) -> None:
        """Ends a task with an error for all its operations."""
        for operation in list(task.operations.values()):
            self._counts.failed += 1
            self._queue.remove(operation.name)
            self._finish(operation, error=error)
        task.operations.clear()
        self._end(task, Ending.FAILED)

    def _concluded(self, event: Concluded) -> None:
        task = self._tasks.get(event.task)
        if task is None or task.phase is not _Phase.CONCLUDING:
            return
        self._counts.concluded += 1
        for operation in task.operations.values():
            operation.worker, operation.attempt = task.worker, task.attempt
            self._finish(
                operation, answer=event.answer, error=event.error, size_bytes=event.size_bytes
            )
        if event.is_shareable and task.key is not None and task.operations:
            self._remember(task.key, next(reversed(task.operations)))
        task.operations.clear()
        self._end(task, Ending.CONCLUDED)

    def _remember(self, key: Hashable, operation: str) -> None:
        self._fresh[key] = _Fresh(self._now, operation)
        self._fresh.move_to_end(key)
        while len(self._fresh) > self._options.max_finished:
            self._fresh.popitem(last=False)

    def _requeue(self, task: _Task, error: Exception) -> None:
        """Gives a task whose lease failed another try, at the front of its lines."""
        task.lease = None
        if not task.operations:
            self._end(task, Ending.DROPPED)
        elif task.attempt >= self._options.max_attempts:
            tries = "try" if task.attempt == 1 else "tries"
            self._fail(task, WorkerFailure(f"gave up after {task.attempt} {tries}: {error}"))
        else:
            self._counts.retried += 1
            task.phase = _Phase.QUEUED
            for operation in task.operations.values():
                self._enqueue(operation, task, front=True)
                self._arm_grace(operation, task)
                self._commands.append(Notify(operation.name))
            self._mind_match(task.platform)

    # Workers and leases.

    def _join_worker(self, event: WorkerJoined) -> None:
        self._lose_worker(event.worker)
        worker = _Worker(event.worker, event.slots, event.properties, event.lease_s, self._now)
        self._workers[worker.name] = worker
        for platform in [p for p in self._unmatched if self._rules.matches(p, worker.properties)]:
            del self._unmatched[platform]
        if worker.lease_s is not None:
            self._arm(self._now + worker.lease_s, lambda: self._check_silence(worker))

    def _lose_worker(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        for lease in list(worker.leases.values()):
            self._lose_lease(lease, f"worker {name} was lost")
        for platform in self._queue.platforms:
            self._mind_match(platform)

    def _lose_lease(self, lease: _Lease, reason: str) -> None:
        task = self._close(lease)
        if task is not None:
            self._requeue(task, WorkerFailure(reason))

    def _check_silence(self, worker: _Worker) -> None:
        if self._workers.get(worker.name) is not worker or worker.lease_s is None:
            return
        if worker.heard_at + worker.lease_s <= self._now:
            self._lose_worker(worker.name)
            return
        for lease in list(worker.leases.values()):
            if lease.renewed_at + worker.lease_s <= self._now:
                self._commands.append(Revoke(worker.name, lease.number))
                self._lose_lease(lease, f"worker {worker.name} lost the action")
        times = [worker.heard_at, *(lease.renewed_at for lease in worker.leases.values())]
        self._arm(min(times) + worker.lease_s, lambda: self._check_silence(worker))

    def _renew(self, event: LeasesRenewed) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.heard_at = self._now
        for number in event.leases:
            lease = worker.leases.get(number)
            if lease is not None:
                lease.renewed_at = self._now

    def _lease_succeeded(self, event: LeaseSucceeded) -> None:
        lease = self._leases.get(event.lease)
        task = None if lease is None else self._close(lease)
        if task is not None:
            self._conclude(task, event.outcome)

    def _lease_failed(self, event: LeaseFailed) -> None:
        lease = self._leases.get(event.lease)
        task = None if lease is None else self._close(lease)
        if task is None:
            return
        if event.is_retryable:
            self._requeue(task, event.error)
        else:
            self._conclude(task, event.error)

    def _conclude(self, task: _Task, outcome: object) -> None:
        task.phase = _Phase.CONCLUDING
        task.lease = None
        queued_s = task.leased_at - task.submitted_at
        self._commands.append(
            Conclude(task.number, task.job, outcome, task.worker, task.attempt, queued_s)
        )

    def _revoke(self, lease: _Lease) -> None:
        lease.task = None
        self._commands.append(Revoke(lease.worker.name, lease.number))

    def _close(self, lease: _Lease) -> _Task | None:
        """Frees a lease's slot; answers its task if it still has one."""
        del self._leases[lease.number]
        del lease.worker.leases[lease.number]
        return lease.task

    def _assign(self) -> None:
        """Fills free slots, on the emptiest worker first."""
        if not len(self._queue):
            return
        ready = [worker for worker in self._workers.values() if worker.free > 0]
        while ready:
            worker = max(ready, key=lambda candidate: candidate.free)
            name = self._queue.pop(lambda p: self._rules.matches(p, worker.properties))  # noqa: B023
            if name is None or self._lease(worker, name) == 0:
                ready.remove(worker)

    def _lease(self, worker: _Worker, operation: str) -> int:
        """Leases an operation's task to a worker; answers how many slots that leaves."""
        task = self._operations[operation].task
        assert task is not None
        for other in task.operations.values():
            self._queue.remove(other.name)
        lease = _Lease(next(self._numbers), worker, task, self._now)
        self._leases[lease.number] = worker.leases[lease.number] = lease
        task.phase, task.lease, task.worker = _Phase.LEASED, lease.number, worker.name
        task.attempt += 1
        task.leased_at = self._now
        self._commands.append(Assign(worker.name, lease.number, task.job, task.attempt))
        self._arm_graces(task)
        self._notify(task)
        return worker.free

    # Platforms without workers.

    def _has_match(self, platform: Platform) -> bool:
        workers = self._workers.values()
        return any(self._rules.matches(platform, worker.properties) for worker in workers)

    def _mind_match(self, platform: Platform) -> None:
        if platform not in self._unmatched and not self._has_match(platform):
            self._unmatched[platform] = self._now
            due = self._now + self._options.unmatched_grace_s
            self._arm(due, lambda: self._match_grace_passed(platform))

    def _match_grace_passed(self, platform: Platform) -> None:
        since = self._unmatched.get(platform)
        if since is None or since + self._options.unmatched_grace_s > self._now:
            return
        del self._unmatched[platform]
        error = Unavailable(
            f"the last worker that matched the platform {describe(platform)} is gone",
            self._options.retry_after_s,
        )
        for task in list(self._tasks.values()):
            if task.phase is _Phase.QUEUED and task.platform == platform:
                self._fail(task, error)

    # Draining and time.

    def _drain(self, _: DrainRequested) -> None:
        self._draining = True

    def _end_all(self, _: DrainExpired) -> None:
        self._draining = True
        error = Unavailable("this server was shut down before the action finished")
        for task in list(self._tasks.values()):
            if task.phase is _Phase.LEASED and task.lease is not None:
                self._revoke(self._leases[task.lease])
            if task.phase is not _Phase.CONCLUDING:
                self._fail(task, error)

    def _arm(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (at, next(self._numbers), action))

    def _tick(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            _, _, action = heapq.heappop(self._timers)
            action()

    # Small things.

    def _find(self, name: str) -> _Operation:
        operation = self._operations.get(name)
        if operation is None:
            raise NotFound(
                f"operation {name[:200]!r} is not known here (finished long ago, or never)"
            )
        return operation

    def _notify(self, task: _Task) -> None:
        for name in task.operations:
            self._commands.append(Notify(name))

    def _view(self, operation: _Operation) -> OperationState:
        task = operation.task
        source = operation if task is None else task
        if task is None:
            stage = Stage.COMPLETED
        else:
            stage = Stage.QUEUED if task.phase is _Phase.QUEUED else Stage.EXECUTING
        return OperationState(
            name=operation.name,
            stage=stage,
            subject=operation.subject,
            client=operation.client,
            priority=operation.priority,
            worker=source.worker,
            attempt=source.attempt,
            answer=operation.answer,
            error=operation.error,
            age_s=max(0.0, self._now - operation.submitted_at),
            is_watched=operation.watchers > 0,
        )
