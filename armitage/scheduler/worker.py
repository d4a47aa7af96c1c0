"""Workers as the scheduler sees them, and the one inside the daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Protocol

from armitage.errors import Cancelled
from executor.errors import ExecutorError, WorkerFailure
from executor.ports import Executor, Progress
from executor.spec import Outcome, Work

_log = logging.getLogger(__name__)


class Reports(Protocol):
    """What a worker tells the scheduler. Synchronous; on the event loop.

    Exactly one of `succeeded` and `failed` comes for each lease, also for a revoked one.
    """

    def succeeded(self, lease: int, outcome: Outcome) -> None:
        """The action ran to its own end."""

    def failed(self, lease: int, error: Exception, *, is_retryable: bool) -> None:
        """The action did not run to its own end, and nothing of it is left."""


class Worker(Protocol):
    """Runs leases, each in one slot. A remote worker is one of these with a wire in between."""

    @property
    def name(self) -> str:
        """Unique among workers; clients see it in `ExecutedActionMetadata.worker`."""

    @property
    def slots(self) -> int:
        """How many leases it takes at once."""

    @property
    def properties(self) -> Mapping[str, tuple[str, ...]]:
        """What it offers (REAPI `Platform.Property`), all values of each name."""

    def start(self, group: asyncio.TaskGroup, reports: Reports) -> None:
        """Begins to take leases. Its tasks live in the group."""

    def assign(self, lease: int, work: Work, progress: Progress, context: Context) -> None:
        """Starts an action; its log lines carry the context. Never blocks."""

    def revoke(self, lease: int) -> None:
        """Kills what runs under the lease. Unknown leases are ignored."""

    def stop(self) -> None:
        """Revokes all leases and takes no more."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The worker inside the daemon."""

    name: str = "local"
    slots: int = 1
    """Actions at once."""
    properties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: clients need it in every result")
        if self.slots < 1:
            raise ValueError("slots must be at least 1")


class EmbeddedWorker:
    """Runs actions by an executor in this process."""

    def __init__(self, executor: Executor, options: WorkerOptions) -> None:
        self._executor = executor
        self._options = options
        self._running: dict[int, asyncio.Task[Outcome | Exception]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._reports: Reports | None = None

    @property
    def name(self) -> str:
        """The configured name."""
        return self._options.name

    @property
    def slots(self) -> int:
        """The configured number."""
        return self._options.slots

    @property
    def properties(self) -> Mapping[str, tuple[str, ...]]:
        """The configured properties."""
        return self._options.properties

    def start(self, group: asyncio.TaskGroup, reports: Reports) -> None:
        """Begins to take leases."""
        self._group, self._reports = group, reports

    def assign(self, lease: int, work: Work, progress: Progress, context: Context) -> None:
        """Starts an action in its own task."""
        assert self._group is not None, "the worker was not started"
        task = self._group.create_task(self._run(work, progress), context=context)
        self._running[lease] = task
        # A callback and not the task's own last line: a task that is cancelled before its first
        # step never runs, and its slot would be lost.
        task.add_done_callback(lambda done: self._ended(lease, done))

    def revoke(self, lease: int) -> None:
        """Cancels the action; the executor kills its processes before the end is reported."""
        task = self._running.get(lease)
        if task is not None:
            task.cancel()

    def stop(self) -> None:
        """Cancels all actions."""
        for lease in list(self._running):
            self.revoke(lease)

    async def _run(self, work: Work, progress: Progress) -> Outcome | Exception:
        try:
            return await self._executor.execute(work, progress)
        except Exception as error:  # noqa: BLE001 (a task boundary: the report carries it on)
            if not isinstance(error, ExecutorError):
                _log.debug("the executor failed with a foreign error", exc_info=True)
            return error

    def _ended(self, lease: int, task: asyncio.Task[Outcome | Exception]) -> None:
        del self._running[lease]
        assert self._reports is not None
        if task.cancelled():
            self._reports.failed(lease, Cancelled("the lease was revoked"), is_retryable=False)
            return
        result = task.result()
        if isinstance(result, Exception):
            is_retryable = isinstance(result, WorkerFailure)
            self._reports.failed(lease, result, is_retryable=is_retryable)
        else:
            self._reports.succeeded(lease, result)
