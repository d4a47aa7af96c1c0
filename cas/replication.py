"""Copies what is stored here to a remote, some time: the part of a tier that must not forget.

Theory of operation. An entry is noted durably (cas.pending) before its blob is stored, started once
it is, and removed when the remote has it, so that after a crash at any moment nothing that was
acknowledged is missing in the list. Workers take started entries in order. When the remote fails,
the entry goes back to the end of the queue, whoever waits for it hears of the failure, and the
worker rests, longer each time in a row. A result follows only after all blobs that were started
before it: who finds it in the remote shall find what it names.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from cas.errors import BlobNotFound, CasError
from cas.pending import Entry, Pending

_log = logging.getLogger(__name__)

_RESULTS_AT_ONCE = 4
_FIRST_REST_S = 0.2
_LONGEST_REST_S = 30.0


@dataclass(frozen=True, slots=True)
class ReplicationStats:
    """How a remote keeps up."""

    pending: int
    pending_bytes: int
    """Of blobs."""
    uploaded: int
    uploaded_bytes: int
    failed: int
    """Attempts that were given up for a while."""
    lost: int
    """Entries dropped since what they name is gone here, too."""


class _Job:
    """One started entry."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiters: list[asyncio.Future[None]] = []
        """Who waits for an attempt that has not begun yet."""
        self.is_under_way = False
        self.attempt_ended = asyncio.Event()
        self.is_wanted_again = False
        """A result was replaced while its forerunner was on its way."""


class Replicator:
    """The queue and its workers, which run in the group that is given.

    `upload` copies one entry and raises BlobNotFound when it is no longer here. `keep` and `let_go`
    are told what must not be evicted until it is copied.
    """

    def __init__(
        self,
        pending: Pending,
        upload: Callable[[Entry], Awaitable[None]],
        *,
        keep: Callable[[Entry], None],
        let_go: Callable[[Entry], None],
        chance: Callable[[], float],
    ) -> None:
        self._pending = pending
        self._upload = upload
        self._keep = keep
        self._let_go = let_go
        self._chance = chance
        self._noted: Counter[Entry] = Counter()
        self._jobs: dict[Entry, _Job] = {}
        self._blobs: OrderedDict[Entry, int] = OrderedDict()
        """The numbers of started blobs, lowest first."""
        self._held_back: deque[Entry] = deque()
        """Results that blobs go before."""
        self._ready_blobs: asyncio.Queue[Entry] = asyncio.Queue()
        self._ready_results: asyncio.Queue[Entry] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()
        self._number = 0
        self._in_a_row = 0
        self._pending_bytes = self._uploaded = self._uploaded_bytes = 0
        self._failed = self._lost = 0
        for entry in pending.entries():
            self._enter(entry)

    def run(self, group: asyncio.TaskGroup, workers: int) -> list[asyncio.Task[None]]:
        """Starts the workers; they end by being cancelled."""
        queues = [self._ready_blobs] * workers + [self._ready_results] * _RESULTS_AT_ONCE
        return [group.create_task(self._work(queue)) for queue in queues]

    async def note(self, entries: Iterable[Entry]) -> None:
        """Remembers durably what is about to be stored. Each must be started or forgotten next.

        Raises StoreUnavailable (nothing is noted then).
        """
        noted = list(entries)
        self._noted.update(noted)
        try:
            await self._pending.add(noted)
        except BaseException:
            self.forget(noted)
            raise

    def forget(self, entries: Iterable[Entry]) -> None:
        """What was noted is not stored after all; unless somebody else stores it."""
        self._pending.remove(
            [entry for entry in entries if self._unnote(entry) and entry not in self._jobs]
        )

    def start(self, entry: Entry) -> asyncio.Future[None]:
        """What was noted is stored: it will be copied. Answers what ends with the next attempt to
        do so, in error if that fails; whoever does not care may drop it.
        """
        self._unnote(entry)
        job = self._jobs.get(entry)
        if job is None:
            job = self._enter(entry)
        elif job.is_under_way and not entry.is_blob:
            job.is_wanted_again = True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody need look at it.
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        job.waiters.append(waiter)
        return waiter

    def _unnote(self, entry: Entry) -> bool:
        """Whether nobody has it noted any more."""
        self._noted[entry] -= 1
        if self._noted[entry] > 0:
            return False
        del self._noted[entry]
        return True

    async def cancel(self, entry: Entry) -> None:
        """What is pending is not to be copied any more, and is not being copied when this returns;
        does nothing when it is not pending.
        """
        job = self._jobs.get(entry)
        if job is None:
            return
        job.is_wanted_again = False
        self._end(entry, job, job.waiters, None)
        if job.is_under_way:
            await job.attempt_ended.wait()

    async def wait_until_idle(self) -> None:
        """Returns when nothing is left to copy."""
        await self._idle.wait()

    def is_over(self, entries: int, size_bytes: int) -> bool:
        """Whether more than that is pending."""
        return len(self._jobs) > entries or self._pending_bytes > size_bytes

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._jobs

    def _enter(self, entry: Entry) -> _Job:
        self._number += 1
        job = self._jobs[entry] = _Job(self._number)
        self._idle.clear()
        if entry.is_blob:
            self._blobs[entry] = self._number
            self._pending_bytes += entry.digest.size_bytes
        self._keep(entry)
        self._enqueue(entry)
        return job

    def _enqueue(self, entry: Entry) -> None:
        if entry.is_blob:
            self._ready_blobs.put_nowait(entry)
        else:
            self._held_back.append(entry)
            self._release_results()

    def _release_results(self) -> None:
        """Lets results go that no earlier blob is left before."""
        oldest = next(iter(self._blobs.values()), None)
        while self._held_back:
            job = self._jobs.get(self._held_back[0])
            if job is not None and oldest is not None and oldest < job.number:
                return
            self._ready_results.put_nowait(self._held_back.popleft())

    async def _work(self, queue: asyncio.Queue[Entry]) -> None:
        while True:
            entry = await queue.get()
            job = self._jobs.get(entry)
            if job is not None and not job.is_under_way:
                await self._copy(entry, job)

    async def _copy(self, entry: Entry, job: _Job) -> None:
        job.is_under_way, waiters, job.waiters = True, job.waiters, []
        job.attempt_ended.clear()
        try:
            try:
                await self._upload(entry)
            finally:
                job.attempt_ended.set()
        except BlobNotFound as error:
            _log.error("%s can no longer be copied to the remote: %s", _name(entry), error)
            self._lost += 1
            self._end(entry, job, waiters, error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the entry must not be lost)
            self._postpone(entry, job, waiters, error)
            rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** min(self._in_a_row, 20))
            await asyncio.sleep(self._chance() * rest_s)
        else:
            self._in_a_row = 0
            self._uploaded += 1
            self._uploaded_bytes += entry.digest.size_bytes if entry.is_blob else 0
            self._end(entry, job, waiters, None)

    def _end(
        self,
        entry: Entry,
        job: _Job,
        waiters: list[asyncio.Future[None]],
        error: Exception | None,
    ) -> None:
        _tell(waiters, error)
        if self._jobs.get(entry) is not job:
            return  # Cancelled in the meantime.
        if job.is_wanted_again and error is None:
            self._number += 1
            job.number, job.is_under_way, job.is_wanted_again = self._number, False, False
            self._enqueue(entry)
            return
        del self._jobs[entry]
        if not self._jobs:
            self._idle.set()
        _tell(job.waiters, error)
        if entry.is_blob:
            del self._blobs[entry]
            self._pending_bytes -= entry.digest.size_bytes
        self._let_go(entry)
        if entry not in self._noted:
            self._pending.remove([entry])
        self._release_results()

    def _postpone(
        self,
        entry: Entry,
        job: _Job,
        waiters: list[asyncio.Future[None]],
        error: Exception,
    ) -> None:
        self._failed += 1
        self._in_a_row += 1
        if self._in_a_row == 1 or not isinstance(error, CasError):
            _log.warning(
                "copying to the remote failed, and is tried again: %s",
                error,
                exc_info=None if isinstance(error, CasError) else error,
            )
        _tell(waiters, error)
        if self._jobs.get(entry) is job:
            job.is_under_way = job.is_wanted_again = False
            self._enqueue(entry)

    def stats(self) -> ReplicationStats:
        """Answers the figures of this moment."""
        return ReplicationStats(
            pending=len(self._jobs),
            pending_bytes=self._pending_bytes,
            uploaded=self._uploaded,
            uploaded_bytes=self._uploaded_bytes,
            failed=self._failed,
            lost=self._lost,
        )


def _tell(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _name(entry: Entry) -> str:
    return f"blob {entry.digest}" if entry.is_blob else f"the result of {entry.digest}"
