"""The scheduler's promises under any order of events (Hypothesis)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from armitage.errors import ArmitageError, NotFound
from armitage.scheduler.core import CoreOptions, OperationState, SchedulerCore, Stage
from armitage.scheduler.events import (
    Assign,
    CancelRequested,
    Conclude,
    Concluded,
    DeleteRequested,
    Dismiss,
    DrainExpired,
    DrainRequested,
    Event,
    LeaseFailed,
    LeasesRenewed,
    LeaseSucceeded,
    Revoke,
    Submitted,
    Tick,
    WatcherJoined,
    WatcherLeft,
    WorkerJoined,
    WorkerLost,
)
from armitage.scheduler.platforms import Platform, PlatformRules
from executor.errors import WorkerFailure

PLATFORMS: list[Platform] = [frozenset(), frozenset({("kind", "a")}), frozenset({("kind", "b")})]
OFFERS: list[dict[str, list[str]]] = [{"kind": ["a"]}, {"kind": ["b"]}, {"kind": ["a", "b"]}]
OPTIONS = CoreOptions(
    max_queued=8,
    max_queued_per_client=5,
    max_attempts=2,
    disconnect_grace_s=10,
    running_grace_s=7,
    unmatched_grace_s=20,
    keep_finished_s=1e9,
)
LEASE_S = 15.0


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a core with all its neighbours: clients, workers and the recorder of results."""

    operations = Bundle("operations")

    def __init__(self) -> None:
        super().__init__()
        self.core = SchedulerCore(OPTIONS, PlatformRules())
        self.at = self.ticked_at = 0.0
        self.serial = 0
        self.slots: dict[str, int] = {}
        self.offers: dict[str, dict[str, list[str]]] = {}
        self.leases: dict[int, tuple[str, object]] = {}  # Running: worker and job.
        self.revoked: set[int] = set()
        self.concluding: dict[int, object] = {}
        self.jobs: dict[str, bool] = {}  # Whether dismissed.
        self.live: dict[str, int] = {}  # Watchers of operations that should still be known.
        self.finals: dict[str, tuple[object, object]] = {}
        self.is_draining = False

    # The neighbours.

    def tell(self, event: Event) -> None:
        for command in self.core.handle(event):
            match command:
                case Assign(worker, lease, job, attempt):
                    assert worker in self.slots
                    assert attempt <= OPTIONS.max_attempts
                    lost = set(self.slots) - set(self.core._workers)  # For their silence, just now.
                    running = [
                        j
                        for n, (name, j) in self.leases.items()
                        if n not in self.revoked and name not in lost
                    ]
                    assert job not in running, "one job on two leases"
                    assert not self.jobs[str(job)], "a dismissed job is assigned"
                    self.leases[lease] = (worker, job)
                case Revoke(worker, lease):
                    assert self.leases[lease][0] == worker
                    self.revoked.add(lease)
                case Conclude(task, job):
                    assert not self.jobs[str(job)]
                    self.concluding[task] = job
                case Dismiss(job):
                    assert self.jobs[str(job)] is False, "a job is dismissed twice"
                    self.jobs[str(job)] = True
                case _:
                    pass

    def forget_lost_leases(self, worker: str) -> None:
        for lease in [n for n, (name, _) in self.leases.items() if name == worker]:
            del self.leases[lease]

    def pick(self, choice: int) -> int | None:
        leases = sorted(self.leases)
        return leases[choice % len(leases)] if leases else None

    # The clients.

    @rule(
        target=operations,
        key=st.sampled_from([None, "k1", "k2", "k3"]),
        client=st.sampled_from("xyz"),
        priority=st.integers(-1, 1),
        platform=st.sampled_from(PLATFORMS),
        is_late=st.booleans(),
    )
    def submit(
        self, key: str | None, client: str, priority: int, platform: Platform, is_late: bool
    ) -> str:
        self.serial += 1
        name = f"op{self.serial}"
        job = f"job{self.serial}"
        full_key = None if key is None else (key, platform)
        since = self.at - 5 if is_late else None
        self.jobs[job] = False
        event = Submitted(
            self.at, name, full_key, platform, client, priority, job, subject=name, since=since
        )
        before = self.core.stats(self.at)
        try:
            self.tell(event)
        except ArmitageError:
            del self.jobs[job]
            after = self.core.stats(self.at)
            assert after.operations_queued == before.operations_queued
            assert after.refused == before.refused + 1
            return name
        self.live[name] = 1
        if self.core.job(name) != job and job not in map(str, (j for _, j in self.leases.values())):
            del self.jobs[job]  # Shared another's, or took a fresh result: never used.
        return name

    @rule(name=operations)
    def watch(self, name: str) -> None:
        if name in self.live:
            self.tell(WatcherJoined(self.at, name))
            self.live[name] += 1

    @rule(name=operations)
    def leave(self, name: str) -> None:
        if self.live.get(name, 0) > 0:
            self.tell(WatcherLeft(self.at, name))
            self.live[name] -= 1

    @rule(name=operations)
    def cancel(self, name: str) -> None:
        if name in self.live:
            self.tell(CancelRequested(self.at, name))
            assert self.core.state(name).is_done

    @rule(name=consumes(operations))
    def delete(self, name: str) -> None:
        if name in self.live:
            self.tell(DeleteRequested(self.at, name))
            del self.live[name]
            self.finals.pop(name, None)

    # The workers.

    @rule(
        worker=st.sampled_from(["v", "w"]),
        slots=st.integers(1, 3),
        offer=st.sampled_from(OFFERS),
        lease_s=st.sampled_from([None, LEASE_S]),
    )
    def join(
        self, worker: str, slots: int, offer: dict[str, list[str]], lease_s: float | None
    ) -> None:
        self.forget_lost_leases(worker)
        self.slots[worker], self.offers[worker] = slots, offer
        self.tell(WorkerJoined(self.at, worker, slots, offer, lease_s))

    @rule(worker=st.sampled_from(["v", "w"]))
    def lose(self, worker: str) -> None:
        self.forget_lost_leases(worker)
        self.slots.pop(worker, None)
        self.tell(WorkerLost(self.at, worker))

    @rule(choice=st.integers(0, 20), is_success=st.booleans(), is_retryable=st.booleans())
    def report(self, choice: int, is_success: bool, is_retryable: bool) -> None:
        lease = self.pick(choice)
        if lease is None:
            return
        del self.leases[lease]
        if is_success:
            self.tell(LeaseSucceeded(self.at, lease, "outcome"))
        else:
            self.tell(LeaseFailed(self.at, lease, WorkerFailure("x"), is_retryable))

    @rule(lease=st.integers(1, 200))
    def report_of_an_unknown_lease(self, lease: int) -> None:
        if lease not in self.leases:
            self.tell(LeaseSucceeded(self.at, lease, "outcome"))

    @rule(is_shareable=st.booleans())
    def conclude(self, is_shareable: bool) -> None:
        for task in list(self.concluding)[:1]:
            del self.concluding[task]
            event = Concluded(
                self.at, task, f"answer{task}", size_bytes=1, is_shareable=is_shareable
            )
            self.tell(event)
            self.tell(event)  # A second answer changes nothing (checked by `finals`).

    # Time.

    @rule(seconds=st.sampled_from([1.0, 5.0, 11.0]), do_renew=st.booleans())
    def pass_time(self, seconds: float, do_renew: bool) -> None:
        self.at += seconds
        if do_renew:
            for worker in self.slots:
                mine = frozenset(n for n, (name, _) in self.leases.items() if name == worker)
                self.tell(LeasesRenewed(self.at, worker, mine))
        self.tell(Tick(self.at))
        self.ticked_at = self.at
        due = self.core.next_deadline()
        assert due is None or due > self.at
        self.expect_what_time_ends()

    def expect_what_time_ends(self) -> None:
        for worker in list(self.slots):
            if worker not in self.core._workers:  # It was silent for too long.
                del self.slots[worker]
                self.forget_lost_leases(worker)
        for lease, (worker, _) in list(self.leases.items()):
            if worker in self.slots and lease not in self.core._leases:
                assert lease in self.revoked, "a lease ended without being revoked"
                del self.leases[lease]
        for name in list(self.live):
            if self.known(name) is None:
                assert self.live[name] == 0, "an operation that somebody watches is lost"
                assert name not in self.finals, "a finished operation is lost before its time"
                del self.live[name]

    @precondition(lambda self: not self.is_draining)
    @rule(chance=st.integers(0, 9))
    def drain(self, chance: int) -> None:
        if chance == 0:
            self.is_draining = True
            self.tell(DrainRequested(self.at))

    # The promises.

    def known(self, name: str) -> OperationState | None:
        try:
            return self.core.state(name)
        except NotFound:
            return None

    @invariant()
    def no_operation_is_lost_and_each_has_one_final_answer(self) -> None:
        for name in self.live:
            state = self.core.state(name)
            assert (state.answer is not None or state.error is not None) == state.is_done
            assert state.answer is None or state.error is None
            if state.is_done:
                final = (state.answer, state.error)
                assert self.finals.setdefault(name, final) == final
            else:
                assert name not in self.finals, "a final answer was taken back"

    @invariant()
    def slots_are_neither_leaked_nor_handed_out_twice(self) -> None:
        stats = self.core.stats(self.at)
        assert stats.slots == sum(self.slots.values())
        assert stats.busy_slots == len(self.leases)
        for worker, slots in self.slots.items():
            assert sum(name == worker for name, _ in self.leases.values()) <= slots

    @invariant()
    def nothing_runs_for_long_that_nobody_waits_for(self) -> None:
        assert OPTIONS.running_grace_s is not None
        limit = self.ticked_at - OPTIONS.running_grace_s
        for task in self.core._tasks.values():
            if task.lease is not None and task.operations and task.leased_at < self.ticked_at:
                assert any(
                    one.watchers or one.abandoned_at > limit for one in task.operations.values()
                )

    @invariant()
    def nobody_waits_for_a_slot_that_is_free(self) -> None:
        for worker, slots in self.slots.items():
            if sum(name == worker for name, _ in self.leases.values()) < slots:
                for platform in self.core._queue.platforms:
                    assert not PlatformRules().matches(platform, self.offers[worker])

    @invariant()
    def queued_operations_are_in_the_queue(self) -> None:
        queued = [s.name for s in self.core.states() if s.stage is Stage.QUEUED]
        assert len(self.core._queue) == len(queued)
        assert all(name in self.core._queue for name in queued)

    def teardown(self) -> None:
        """Whatever happened, an orderly end leaves nothing behind."""
        self.tell(DrainExpired(self.at))
        while self.leases:
            self.report(0, True, False)
        while self.concluding:
            self.conclude(True)
        self.no_operation_is_lost_and_each_has_one_final_answer()
        assert all(self.core.state(name).is_done for name in self.live)
        assert all(self.jobs.values()), "a job was never dismissed"
        assert self.core.is_idle
        left: list[Any] = [self.core._shared, self.core._queue, self.core._tasks, self.core._leases]
        assert not any(len(table) for table in left)


TestScheduler = pytest.mark.slow(SchedulerMachine.TestCase)
TestScheduler.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
