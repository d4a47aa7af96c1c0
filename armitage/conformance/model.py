"""What a conformance case is, and what running one gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armitage.conformance.session import Session


class Level(IntEnum):
    """How much a failure weighs; a smaller number weighs more."""

    MUST = 0
    """The text of the API demands it. A server that fails here is wrong."""
    SHOULD = 1
    """The text recommends it, or names this status code without forcing it."""
    INTEROP = 2
    """The text is silent, yet a known client depends on it; the case says which."""


class Outcome(StrEnum):
    """How a case ended."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_SUPPORTED = "not supported"
    """The server does not offer this, and says so honestly."""
    SKIPPED = "skipped"
    """It could not be told from a distance, or the run was not asked for it."""
    ERROR = "error"
    """The suite itself broke: our bug, no verdict on the server."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which the server did not do what was expected."""

    level: Level
    seen: str


class Failed(Exception):
    """The case cannot go on: the server did something that makes the rest meaningless."""

    def __init__(self, seen: str, level: Level | None = None) -> None:
        super().__init__(seen)
        self.seen = seen
        self.level = level


class NotSupported(Exception):
    """The server honestly does not offer what the case is about."""


class Skipped(Exception):
    """The case needs something that this run does not have, such as control over the server."""


class Need(StrEnum):
    """A part of the API that a server may leave out, as the suite can tell from a distance."""

    EXECUTION = "execution"
    SHELL = "shell"
    """Execution, and that /bin/sh runs in what an empty input root gives."""
    ACTION_CACHE = "action-cache"
    UPDATE = "action-cache-update"
    BATCH = "batch"
    GET_TREE = "get-tree"
    BYTESTREAM = "bytestream"
    QUERY = "query-write-status"
    ZSTD = "zstd"
    DEFLATE = "deflate"
    BLAKE3 = "blake3"
    SPLIT = "split"
    SPLICE = "splice"
    OPERATIONS = "operations"
    FETCH = "asset-fetch"
    PUSH = "asset-push"
    LOGSTREAM = "logstream"


@dataclass(frozen=True, slots=True)
class Case:
    """One numbered case.

    `level` is the gravest finding that it can make; `source` says where the expectation comes from;
    `alone` keeps it from running beside others; `time_limit_s` covers it all, `full` mode gets ten
    times that.
    """

    number: int
    title: str
    level: Level
    source: str
    needs: tuple[Need, ...]
    run: Callable[[Session], Awaitable[None]]
    alone: bool = False
    time_limit_s: float = 60.0

    @property
    def name(self) -> str:
        """A stable identifier: the number and the function's name."""
        return f"{self.number:03d}-{self.run.__name__.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Result:
    """How one case ended on one server. `seen` is one line, empty when there is nothing to say."""

    case: Case
    outcome: Outcome
    level: Level | None
    seen: str
    seconds: float


_REGISTRY: dict[int, Case] = {}


def case(
    number: int,
    title: str,
    *,
    source: str,
    level: Level = Level.MUST,
    needs: tuple[Need, ...] = (),
    alone: bool = False,
    time_limit_s: float = 60.0,
) -> Callable[[Callable[[Session], Awaitable[None]]], Callable[[Session], Awaitable[None]]]:
    """Registers a coroutine function as the case of that number."""

    def register(
        function: Callable[[Session], Awaitable[None]],
    ) -> Callable[[Session], Awaitable[None]]:
        assert number not in _REGISTRY, f"two cases have the number {number}"
        _REGISTRY[number] = Case(number, title, level, source, needs, function, alone, time_limit_s)
        return function

    return register


def registered() -> list[Case]:
    """Answers all registered cases by number."""
    return [_REGISTRY[number] for number in sorted(_REGISTRY)]
