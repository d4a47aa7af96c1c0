"""The scheduler's rules as plays: events in, commands out, no clock but the script's."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import TypeVar

import pytest

from armitage.errors import (
    ArmitageError,
    Cancelled,
    Exhausted,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from armitage.scheduler.core import CoreOptions, OperationState, SchedulerCore, Stage
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
from armitage.scheduler.platforms import Platform, PlatformRules
from executor.errors import WorkerFailure

C = TypeVar("C")
ANY: Platform = frozenset()
LINUX: Platform = frozenset({("OSFamily", "linux")})
PLAN9: Platform = frozenset({("OSFamily", "plan9")})


class Play:
    """A core, the present moment, and all commands that came."""

    def __init__(self, slots: int = 1, **options: object) -> None:
        self.core = SchedulerCore(CoreOptions(**options), PlatformRules())  # type: ignore[arg-type]
        self.at = 0.0
        self.commands: list[Command] = []
        self._keys = count()
        if slots:
            self.join("w", slots)

    def tell(self, event: Event) -> list[Command]:
        commands = self.core.handle(event)
        self.commands += commands
        return commands

    def join(self, worker: str, slots: int = 1, lease_s: float | None = None) -> list[Command]:
        offer = {"OSFamily": ["linux"]}
        return self.tell(WorkerJoined(self.at, worker, slots, offer, lease_s))

    def submit(
        self,
        name: str,
        key: Hashable | None = "unique",
        *,
        client: str = "c",
        priority: int = 0,
        platform: Platform = ANY,
        since: float | None = None,
    ) -> list[Command]:
        key = next(self._keys) if key == "unique" else key
        job = f"job of {name}"
        return self.tell(
            Submitted(self.at, name, key, platform, client, priority, job, since=since)
        )

    def leave(self, name: str) -> list[Command]:
        return self.tell(WatcherLeft(self.at, name))

    def cancel(self, name: str) -> list[Command]:
        return self.tell(CancelRequested(self.at, name))

    def succeed(self, lease: int, outcome: object = "outcome") -> list[Command]:
        return self.tell(LeaseSucceeded(self.at, lease, outcome))

    def fail(self, lease: int, *, is_retryable: bool = False) -> list[Command]:
        return self.tell(LeaseFailed(self.at, lease, WorkerFailure("broken"), is_retryable))

    def conclude(self, task: int, answer: object = "answer", **more: bool) -> list[Command]:
        return self.tell(Concluded(self.at, task, answer, size_bytes=1, **more))  # type: ignore[arg-type]

    def pass_time(self, seconds: float) -> list[Command]:
        """Lets time pass as the shell would: a Tick at each deadline."""
        end = self.at + seconds
        commands = []
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.at = max(self.at, due)
            commands += self.tell(Tick(self.at))
        self.at = end
        return commands

    def run(self, name: str) -> None:
        """Runs the operation's task from its lease to its end."""
        task = self.only(Conclude, self.succeed(self.lease_of(name))).task
        self.conclude(task)

    def lease_of(self, name: str) -> int:
        job = self.core.job(name)
        return [c.lease for c in self.commands if isinstance(c, Assign) and c.job == job][-1]

    def state(self, name: str) -> OperationState:
        return self.core.state(name)

    def stage(self, name: str) -> Stage:
        return self.core.state(name).stage

    def started(self) -> list[str]:
        prefix = "job of "
        return [str(c.job).removeprefix(prefix) for c in self.commands if isinstance(c, Assign)]

    def only(self, kind: type[C], commands: list[Command]) -> C:
        found = [command for command in commands if isinstance(command, kind)]
        assert len(found) == 1, commands
        return found[0]


def of(kind: type[C], commands: list[Command]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


# From submission to answer.


def test_operation_goes_from_queue_to_worker_to_answer() -> None:
    play = Play(slots=0)
    play.join("w")

    assign = play.only(Assign, play.submit("op"))
    assert (assign.worker, assign.job, assign.attempt) == ("w", "job of op", 1)
    assert play.stage("op") is Stage.EXECUTING
    play.at = 2.0
    conclude = play.only(Conclude, play.succeed(assign.lease, "exit 0"))
    assert (conclude.job, conclude.outcome, conclude.worker) == ("job of op", "exit 0", "w")
    assert play.stage("op") is Stage.EXECUTING
    ended = play.conclude(conclude.task, "result")

    assert of(Notify, ended) == [Notify("op")]
    assert of(Dismiss, ended) == [Dismiss("job of op", Ending.CONCLUDED)]
    assert play.state("op").answer == "result"
    assert play.state("op").worker == "w"
    assert play.core.is_idle


def test_second_waits_for_the_slot_and_gets_it_when_the_first_is_run() -> None:
    play = Play()
    play.submit("one")
    assert of(Assign, play.submit("two")) == []
    assert play.stage("two") is Stage.QUEUED

    commands = play.succeed(play.lease_of("one"))

    assert play.only(Assign, commands).job == "job of two"


def test_queued_time_is_told_to_the_conclusion() -> None:
    play = Play()
    play.submit("one")
    play.submit("two")
    play.at = 7.0
    play.succeed(play.lease_of("one"))

    conclude = play.only(Conclude, play.succeed(play.lease_of("two")))

    assert conclude.queued_s == 7.0


def test_emptiest_worker_is_chosen() -> None:
    play = Play(slots=1)
    play.join("large", 3)

    for name in "abcd":
        play.submit(name)

    workers = [c.worker for c in play.commands if isinstance(c, Assign)]
    assert workers == ["large", "large", "w", "large"]


def test_conclusion_that_failed_is_the_operations_error() -> None:
    play = Play()
    play.submit("op")
    task = play.only(Conclude, play.succeed(play.lease_of("op"))).task
    error = RuntimeError("disk on fire")

    play.tell(Concluded(1.0, task, error=error))

    assert play.state("op").error is error
    assert play.core.is_idle


def test_idle_worker_that_does_not_match_keeps_no_other_from_work() -> None:
    play = Play(slots=0)
    play.tell(WorkerJoined(0.0, "plan9", 8, {"OSFamily": ["plan9"]}))
    play.join("linux")

    play.submit("op", platform=LINUX)

    assert play.only(Assign, play.commands).worker == "linux"


def test_second_conclusion_of_a_task_changes_nothing() -> None:
    play = Play(slots=0)
    play.join("w")
    play.submit("op")
    task = play.only(Conclude, play.succeed(play.lease_of("op"))).task
    play.conclude(task, "first")

    assert play.conclude(task, "second") == []
    assert play.state("op").answer == "first"


def test_conclusion_of_a_task_that_still_runs_is_ignored() -> None:
    play = Play()
    play.submit("op")

    for task in range(10):
        play.conclude(task)

    assert play.stage("op") is Stage.EXECUTING


def test_key_is_free_again_after_the_end() -> None:
    play = Play()
    for name in ("one", "two"):
        play.submit(name, "k")
        play.run(name)

    assert play.started() == ["one", "two"]


# Sharing.


def test_equal_wishes_share_one_run_and_each_get_the_answer() -> None:
    play = Play()
    play.submit("one", "k")
    play.submit("two", "k")

    play.run("one")

    assert play.started() == ["one"]
    assert play.state("one").answer == play.state("two").answer == "answer"
    assert of(Dismiss, play.commands) == [Dismiss("job of one", Ending.CONCLUDED)]
    assert play.core.stats(0).shared == 1


def test_wishes_without_key_never_share() -> None:
    play = Play(slots=2)
    play.submit("one", None)
    play.submit("two", None)

    assert play.started() == ["one", "two"]


def test_shared_task_is_run_as_soon_as_its_most_urgent_operation() -> None:
    play = Play()
    play.submit("first")
    play.submit("other", priority=1)
    play.submit("slow", "k", priority=5)
    play.submit("urgent", "k", priority=-5)

    play.succeed(play.lease_of("first"))

    assert play.started() == ["first", "slow"]
    assert play.stage("slow") is play.stage("urgent") is Stage.EXECUTING
    assert play.core.stats(0).operations_queued == 1


def test_cancelling_one_of_two_leaves_the_run_to_the_other() -> None:
    play = Play()
    play.submit("one", "k")
    play.submit("two", "k")

    assert of(Revoke, play.cancel("one")) == []
    task = play.only(Conclude, play.succeed(play.lease_of("two"))).task
    play.conclude(task)

    assert isinstance(play.state("one").error, Cancelled)
    assert play.state("two").answer == "answer"


def test_late_equal_wish_takes_the_fresh_result_its_lookup_missed() -> None:
    play = Play()
    play.submit("one", "k")
    play.at = 5.0
    task = play.only(Conclude, play.succeed(play.lease_of("one"))).task
    play.conclude(task, is_shareable=True)
    play.at = 6.0

    play.submit("looked before", "k", since=4.0)
    play.submit("looked after", "k", since=5.5)

    assert play.state("looked before").answer == "answer"
    assert play.stage("looked after") is Stage.EXECUTING


def test_result_that_is_not_shareable_is_not_taken_late() -> None:
    play = Play()
    play.submit("one", "k")
    play.run("one")

    play.submit("two", "k", since=0.0)

    assert play.stage("two") is Stage.EXECUTING


# Order.


def test_lower_priority_value_goes_first() -> None:
    play = Play()
    play.submit("running")
    play.submit("late", priority=5)
    play.submit("soon", priority=-5)

    play.run("running")

    assert play.started() == ["running", "soon"]


def test_priorities_are_clamped() -> None:
    play = Play(priority_min=-1, priority_max=1)
    play.submit("running")
    play.submit("a", priority=-1)
    play.submit("b", priority=-(2**31))

    play.run("running")

    assert play.started() == ["running", "a"]
    assert play.state("b").priority == -1


def test_client_with_few_does_not_starve_beside_one_with_many() -> None:
    play = Play()
    for number in range(1000):
        play.submit(f"big{number}", client="big")
    for number in range(10):
        play.submit(f"small{number}", client="small")

    while any(not play.state(f"small{number}").is_done for number in range(10)):
        play.run(play.started()[-1])

    assert len(play.started()) < 30


# Platforms and limits.


def test_platform_without_worker_is_refused_and_changes_nothing() -> None:
    play = Play()

    with pytest.raises(PreconditionFailed, match="OSFamily=plan9"):
        play.submit("op", platform=PLAN9)

    with pytest.raises(NotFound):
        play.state("op")
    assert play.core.is_idle
    assert play.core.stats(0).refused == 1


def test_without_any_worker_the_client_is_asked_to_come_again() -> None:
    play = Play(slots=0)

    with pytest.raises(Unavailable) as caught:
        play.submit("op")

    assert caught.value.retry_after_s


def test_full_queue_is_unavailable_until_there_is_room() -> None:
    play = Play(max_queued=2)
    for name in ("running", "a", "b"):
        play.submit(name)

    with pytest.raises(Unavailable, match="queue is full") as caught:
        play.submit("c")
    assert caught.value.retry_after_s
    play.cancel("a")

    play.submit("c")


def test_client_over_its_share_of_the_queue_is_exhausted_and_others_are_not() -> None:
    play = Play(max_queued_per_client=1)
    for name in ("running", "a"):
        play.submit(name, client="greedy")

    with pytest.raises(Exhausted):
        play.submit("b", client="greedy")

    play.submit("c", client="modest")


def test_joining_counts_against_the_limit_too() -> None:
    play = Play(max_queued=2)
    play.submit("running")
    play.submit("a", "k")
    play.submit("b", "k")

    with pytest.raises(Unavailable):
        play.submit("c", "k")


# Lost workers and failed leases.


def test_action_of_a_lost_worker_goes_to_another_before_what_came_later() -> None:
    play = Play()
    play.submit("op")
    play.submit("later")
    play.join("other", 0)

    play.tell(WorkerLost(1.0, "w"))
    assert play.stage("op") is Stage.QUEUED
    assign = play.only(Assign, play.join("new"))

    assert (assign.job, assign.attempt) == ("job of op", 2)


def test_late_report_of_a_lost_worker_changes_nothing() -> None:
    play = Play()
    play.submit("op")
    old = play.lease_of("op")
    play.tell(WorkerLost(1.0, "w"))
    play.join("new")

    assert play.succeed(old) == []
    assert play.stage("op") is Stage.EXECUTING
    play.run("op")

    assert play.state("op").answer == "answer"


def test_retries_are_bounded_and_end_in_worker_failure() -> None:
    play = Play(max_attempts=3)
    play.submit("op")
    play.submit("bystander")

    for _ in range(2):
        play.fail(play.lease_of("op"), is_retryable=True)
        assert play.started()[-1] == "op"
    commands = play.fail(play.lease_of("op"), is_retryable=True)

    assert isinstance(play.state("op").error, WorkerFailure)
    assert "3 tries" in str(play.state("op").error)
    assert Dismiss("job of op", Ending.FAILED) in commands
    assert play.stage("bystander") is Stage.EXECUTING


def test_error_that_is_not_retryable_is_concluded_at_once() -> None:
    play = Play()
    play.submit("op")

    conclude = play.only(Conclude, play.fail(play.lease_of("op")))

    assert isinstance(conclude.outcome, WorkerFailure)


def test_action_nobody_wants_any_more_is_not_tried_again() -> None:
    play = Play()
    play.submit("op")
    lease = play.lease_of("op")
    play.tell(DeleteRequested(1.0, "op"))

    commands = play.fail(lease, is_retryable=True)

    assert commands == [Dismiss("job of op", Ending.DROPPED)]
    assert play.core.is_idle


def test_silent_worker_is_lost() -> None:
    play = Play(slots=0)
    play.join("w", lease_s=10)
    play.submit("op")
    lease = play.lease_of("op")
    play.pass_time(8)
    play.tell(LeasesRenewed(play.at, "w", frozenset({lease})))
    play.pass_time(9)
    assert play.lease_of("op") == lease

    play.pass_time(2)

    assert play.stage("op") is Stage.QUEUED
    assert play.core.stats(0).workers == 0


def test_lease_that_its_worker_does_not_renew_is_revoked_and_tried_again() -> None:
    play = Play(slots=0)
    play.join("w", lease_s=10)
    play.submit("op")
    lost = play.lease_of("op")
    for _ in range(3):
        play.pass_time(4)
        play.tell(LeasesRenewed(play.at, "w", frozenset()))

    assert Revoke("w", lost) in play.commands
    assert play.lease_of("op") != lost
    assert play.core.stats(0).busy_slots == 1


def test_worker_that_joins_again_has_lost_what_it_ran() -> None:
    play = Play()
    play.submit("op")

    assign = play.only(Assign, play.join("w"))

    assert assign.attempt == 2
    assert play.core.stats(0).slots == 1


def test_queued_action_whose_last_worker_left_ends_after_a_grace() -> None:
    play = Play(unmatched_grace_s=60)
    play.submit("running", platform=LINUX)
    play.submit("op", platform=LINUX)
    play.tell(WorkerLost(0.0, "w"))
    play.pass_time(59)
    assert play.stage("op") is Stage.QUEUED

    play.pass_time(2)

    assert isinstance(play.state("op").error, Unavailable)
    assert play.core.is_idle


def test_worker_that_comes_back_within_the_grace_saves_the_queue() -> None:
    play = Play(unmatched_grace_s=60)
    play.submit("op", platform=LINUX)
    play.tell(WorkerLost(0.0, "w"))
    play.pass_time(59)
    play.join("w")
    play.pass_time(100)

    assert play.stage("op") is Stage.EXECUTING


# Cancelling, deleting, leaving.


def test_cancelling_a_queued_operation_ends_it() -> None:
    play = Play()
    play.submit("running")
    play.submit("op")

    commands = play.cancel("op")

    assert isinstance(play.state("op").error, Cancelled)
    assert Dismiss("job of op", Ending.CANCELLED) in commands
    play.run("running")
    assert play.started() == ["running"]


def test_cancelling_a_running_operation_frees_the_slot_when_the_kill_is_reported() -> None:
    play = Play()
    play.submit("op")
    play.submit("next")
    lease = play.lease_of("op")

    commands = play.cancel("op")
    assert of(Revoke, commands) == [Revoke("w", lease)]
    assert isinstance(play.state("op").error, Cancelled)
    assert of(Assign, commands) == []

    assert play.only(Assign, play.fail(lease)).job == "job of next"


def test_cancelling_twice_or_after_the_end_changes_nothing() -> None:
    play = Play()
    play.submit("op")
    play.run("op")

    assert play.cancel("op") == []
    assert play.cancel("op") == []
    assert play.state("op").answer == "answer"


def test_operation_cancelled_while_concluding_keeps_its_error_and_the_result_is_recorded() -> None:
    play = Play()
    play.submit("op")
    task = play.only(Conclude, play.succeed(play.lease_of("op"))).task

    play.cancel("op")
    commands = play.conclude(task)

    assert isinstance(play.state("op").error, Cancelled)
    assert commands == [Dismiss("job of op", Ending.CONCLUDED)]


@pytest.mark.parametrize("kind", [CancelRequested, DeleteRequested, WatcherJoined])
def test_unknown_operation_is_not_found(kind: type[CancelRequested]) -> None:
    with pytest.raises(NotFound):
        Play().tell(kind(0.0, "never"))


def test_deleting_a_running_operation_lets_the_run_go_on() -> None:
    play = Play()
    play.submit("op")
    lease = play.lease_of("op")

    play.tell(DeleteRequested(0.0, "op"))
    with pytest.raises(NotFound):
        play.state("op")
    play.conclude(play.only(Conclude, play.succeed(lease)).task)

    assert play.core.is_idle


def test_deleting_a_finished_operation_forgets_it() -> None:
    play = Play()
    play.submit("op")
    play.run("op")

    play.tell(DeleteRequested(0.0, "op"))

    with pytest.raises(NotFound):
        play.state("op")


def test_queued_operation_without_watchers_is_dropped_after_the_grace() -> None:
    play = Play(disconnect_grace_s=60)
    play.submit("running")
    play.submit("op")
    play.leave("op")
    play.pass_time(59)
    assert play.stage("op") is Stage.QUEUED

    commands = play.pass_time(2)

    assert Dismiss("job of op", Ending.DROPPED) in commands
    with pytest.raises(NotFound):
        play.state("op")
    assert play.core.stats(0).dropped == 1


def test_watcher_that_comes_back_within_the_grace_keeps_it() -> None:
    play = Play(disconnect_grace_s=60)
    play.submit("running")
    play.submit("op")
    play.leave("op")
    play.pass_time(30)
    play.tell(WatcherJoined(play.at, "op"))
    play.pass_time(1000)
    assert play.stage("op") is Stage.QUEUED

    play.leave("op")
    play.pass_time(59)
    assert play.stage("op") is Stage.QUEUED
    play.pass_time(2)

    with pytest.raises(NotFound):
        play.state("op")


def test_running_action_is_stopped_after_its_grace_when_nobody_waits() -> None:
    play = Play(disconnect_grace_s=1, running_grace_s=60)
    play.submit("op")
    play.submit("next")
    lease = play.lease_of("op")
    play.leave("op")
    play.pass_time(59)
    assert play.stage("op") is Stage.EXECUTING
    assert not play.state("op").is_watched

    commands = play.pass_time(2)

    assert of(Revoke, commands) == [Revoke("w", lease)]
    assert of(Dismiss, commands) == [Dismiss("job of op", Ending.ABANDONED)]
    with pytest.raises(NotFound):
        play.state("op")
    stats = play.core.stats(play.at)
    assert (stats.stopped, stats.dropped, stats.cancelled) == (1, 1, 0)
    assert play.stage("next") is Stage.QUEUED
    play.fail(lease)
    assert play.stage("next") is Stage.EXECUTING


def test_watcher_that_comes_back_keeps_a_running_action_for_another_grace() -> None:
    play = Play(running_grace_s=60)
    play.submit("op")
    play.leave("op")
    play.pass_time(30)
    play.tell(WatcherJoined(play.at, "op"))
    play.pass_time(1000)
    assert play.state("op").is_watched

    play.leave("op")
    play.pass_time(59)
    assert play.stage("op") is Stage.EXECUTING
    play.pass_time(2)

    with pytest.raises(NotFound):
        play.state("op")


def test_running_action_goes_on_for_whoever_of_several_still_waits() -> None:
    play = Play(running_grace_s=60)
    play.submit("gone", "k")
    play.submit("stays", "k")
    play.leave("gone")

    assert of(Revoke, play.pass_time(1000)) == []
    play.run("stays")

    assert play.state("stays").answer == play.state("gone").answer == "answer"


@pytest.mark.parametrize("last", [WatcherLeft, CancelRequested, DeleteRequested])
def test_running_action_is_stopped_when_the_last_of_several_goes(last: type[WatcherLeft]) -> None:
    play = Play(running_grace_s=60)
    play.submit("gone", "k")
    play.submit("stays", "k")
    play.leave("gone")
    play.pass_time(1000)

    play.tell(last(play.at, "stays"))
    commands = play.pass_time(61)

    assert of(Dismiss, commands) == [Dismiss("job of gone", Ending.ABANDONED)]
    with pytest.raises(NotFound):
        play.state("gone")


def test_time_without_watchers_counts_from_before_the_start() -> None:
    play = Play(disconnect_grace_s=100, running_grace_s=60)
    play.submit("first")
    play.submit("op")
    play.leave("op")
    play.pass_time(50)
    play.run("first")
    assert play.stage("op") is Stage.EXECUTING

    commands = play.pass_time(11)

    assert of(Dismiss, commands) == [Dismiss("job of op", Ending.ABANDONED)]


def test_result_that_is_being_recorded_is_recorded_though_nobody_waits() -> None:
    play = Play(running_grace_s=60)
    play.submit("op")
    play.leave("op")
    task = play.only(Conclude, play.succeed(play.lease_of("op"))).task
    play.pass_time(100)

    play.conclude(task)

    assert play.state("op").answer == "answer"


def test_running_action_without_watchers_goes_on_where_no_grace_is_set() -> None:
    play = Play(running_grace_s=None)
    play.submit("op")
    play.leave("op")
    play.pass_time(100_000)
    assert play.stage("op") is Stage.EXECUTING

    play.run("op")

    assert play.state("op").answer == "answer"


def test_task_lives_on_for_the_watcher_that_stayed() -> None:
    play = Play()
    play.submit("running")
    play.submit("gone", "k")
    play.submit("stays", "k")
    play.leave("gone")
    play.pass_time(1000)

    play.run("running")

    assert play.stage("stays") is Stage.EXECUTING


# What is kept.


def test_finished_operation_is_kept_for_its_time() -> None:
    play = Play(keep_finished_s=300)
    play.submit("op")
    play.run("op")
    play.pass_time(299)
    assert play.state("op").is_done

    play.pass_time(20)

    with pytest.raises(NotFound):
        play.state("op")
    assert play.core.next_deadline() is None


@pytest.mark.parametrize("bound", [{"max_finished": 2}, {"max_finished_bytes": 2}])
def test_finished_operations_are_bounded(bound: dict[str, int]) -> None:
    play = Play(**bound)
    for name in "abcd":
        play.submit(name)
        play.run(name)

    assert [state.name for state in play.core.states()] == ["c", "d"]


def test_answer_from_cache_is_kept_like_others() -> None:
    play = Play(slots=0)

    play.tell(Answered(0.0, "op", "subject", "cached", 6))

    assert play.state("op").answer == "cached"
    assert play.state("op").is_done


# Draining.


def test_draining_refuses_new_and_finishes_accepted() -> None:
    play = Play()
    play.submit("running")
    play.submit("queued", "k")
    play.tell(DrainRequested(0.0))

    for key in ("new", "k"):
        with pytest.raises(Unavailable):
            play.submit("refused", key)
    play.run("running")
    play.run("queued")

    assert play.core.is_idle


def test_end_of_draining_ends_everything_with_unavailable() -> None:
    play = Play()
    play.submit("running")
    play.submit("queued")
    lease = play.lease_of("running")

    commands = play.tell(DrainExpired(0.0))

    assert of(Revoke, commands) == [Revoke("w", lease)]
    assert isinstance(play.state("running").error, Unavailable)
    assert isinstance(play.state("queued").error, Unavailable)
    assert not play.core.is_idle
    play.fail(lease)
    assert play.core.is_idle


def test_time_that_steps_back_is_not_believed() -> None:
    play = Play(disconnect_grace_s=60)
    play.submit("running")
    play.at = 100.0
    play.submit("op")
    play.leave("op")

    play.tell(Tick(0.0))
    play.tell(Tick(159.0))
    assert play.stage("op") is Stage.QUEUED
    play.tell(Tick(161.0))

    with pytest.raises(ArmitageError):
        play.state("op")


@pytest.mark.parametrize(
    "options",
    [
        {"max_queued": 0},
        {"max_attempts": 0},
        {"priority_min": 1, "priority_max": 0},
        {"client_weights": {"x": 0.0}},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        CoreOptions(**options)  # type: ignore[arg-type]
