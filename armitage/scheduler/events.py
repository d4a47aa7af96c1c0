"""What the core is told (events, in the past tense) and what it wants done (commands)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from armitage.scheduler.platforms import Platform, Properties

# Events: what has happened. `at` is monotonic time in seconds.


@dataclass(frozen=True, slots=True)
class Submitted:
    """A client asked for an execution under a new operation name, and watches it from here on.

    Refused with Unavailable (draining, queue full, no workers yet), Exhausted (this client's share
    of the queue is full) or PreconditionFailed (no worker matches).
    """

    at: float
    operation: str
    key: Hashable | None
    """Equal keys may share a task; None never does (REAPI `do_not_cache`)."""
    platform: Platform
    client: str
    """Who competes for slots; clients of one priority are served in turn."""
    priority: int
    job: object
    """Opaque; comes back in commands. Of the operations that share a task, the first's is used."""
    subject: object = None
    """Opaque; what this operation is about, kept for as long as it can be asked for."""
    since: float | None = None
    """A shareable result that came at or after this moment answers too, without a run."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A client was answered from the cache; the operation is kept among the finished ones."""

    at: float
    operation: str
    subject: object
    answer: object
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WatcherJoined:
    """Somebody began to watch. Refused with NotFound."""

    at: float
    operation: str


@dataclass(frozen=True, slots=True)
class WatcherLeft:
    """Somebody stopped watching; unknown operations are ignored (they may have been dropped)."""

    at: float
    operation: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A client wants the operation cancelled. Finished ones stay as they are. Refused: NotFound."""

    at: float
    operation: str


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """A client is no longer interested: forgets the operation, but lets a running task go on.

    Refused with NotFound.
    """

    at: float
    operation: str


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker offers slots. Joining again under one name means that the old one is lost."""

    at: float
    worker: str
    slots: int
    properties: Properties
    lease_s: float | None = None
    """How long it may be silent before it, or a lease that it does not renew, counts as lost; None
    for one that cannot be lost without this process.
    """


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker went away with all that it ran."""

    at: float
    worker: str


@dataclass(frozen=True, slots=True)
class LeasesRenewed:
    """A worker is alive and still has these leases. Unknown workers are ignored: they must join."""

    at: float
    worker: str
    leases: frozenset[int]


@dataclass(frozen=True, slots=True)
class LeaseSucceeded:
    """A worker ran the action to its end; `outcome` goes to the conclusion."""

    at: float
    lease: int
    outcome: object


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """A worker could not run the action. A retryable error may pass on another try.

    Also says that a revoked lease has ended.
    """

    at: float
    lease: int
    error: Exception
    is_retryable: bool = False


@dataclass(frozen=True, slots=True)
class Concluded:
    """The result was recorded; `answer` is final. Ignored unless the task is being concluded."""

    at: float
    task: int
    answer: object = None
    error: Exception | None = None
    """Instead of an answer, when it could not be recorded."""
    size_bytes: int = 0
    is_shareable: bool = False
    """Whether the answer is a result that equal wishes would get too."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """No new operations from here on; accepted ones go on."""

    at: float


@dataclass(frozen=True, slots=True)
class DrainExpired:
    """What is not finished now ends with Unavailable."""

    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; see `next_deadline`."""

    at: float


Event = (
    Submitted
    | Answered
    | WatcherJoined
    | WatcherLeft
    | CancelRequested
    | DeleteRequested
    | WorkerJoined
    | WorkerLost
    | LeasesRenewed
    | LeaseSucceeded
    | LeaseFailed
    | Concluded
    | DrainRequested
    | DrainExpired
    | Tick
)


# Commands: what is to be done.


@dataclass(frozen=True, slots=True)
class Assign:
    """Have the worker run the job under this lease. `attempt` counts from 1."""

    worker: str
    lease: int
    job: object
    attempt: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Have the worker kill what it runs under this lease, and report its end."""

    worker: str
    lease: int


@dataclass(frozen=True, slots=True)
class Conclude:
    """Record what came of the job (an outcome or an error) and report Concluded."""

    task: int
    job: object
    outcome: object
    worker: str
    attempt: int
    queued_s: float
    """How long the task had waited, from its first submission to its last lease."""


@dataclass(frozen=True, slots=True)
class Notify:
    """The operation's state has changed (or the operation is gone)."""

    operation: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The scheduler is done with the job. Comes exactly once for each accepted job."""

    job: object
    ending: Ending


Command = Assign | Revoke | Conclude | Notify | Dismiss


class Ending(Enum):
    """How a job ended."""

    CONCLUDED = "concluded"
    FAILED = "given up"
    """With an error of the scheduler's own: workers lost, none left that matches, shut down."""
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    """Before it ran: nobody waited for it any more, or it was not used."""
    ABANDONED = "stopped, since nobody waited for it any more"
    """While it ran."""
