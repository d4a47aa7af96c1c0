"""One command of an action as executors hand it on: ready to be launched, running, ended."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from executor.cgroup import Group, Usage
from executor.errors import InvalidInput, WorkerFailure
from executor.grants import NOTHING, Grants
from executor.input_overlay import Overlay
from executor.spec import Work


@dataclass(frozen=True, slots=True)
class Job:
    """One action, staged and ready to be launched."""

    work: Work
    root: str
    """Host path of the input root."""
    is_root: bool
    """Whether the input root is to be the filesystem root."""
    environment: tuple[tuple[str, str], ...]
    cwd: tuple[str, ...]
    """Working directory as components below the root."""
    group: Group | None
    grants: Grants = NOTHING
    overlay: Overlay | None = None
    """Of which `root` is the layer with what the command changes."""
    made: tuple[str, ...] = ()
    """What its sandbox makes in the input root to mount on; to be removed where it is left empty.
    """


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended."""

    exit_code: int
    message: str = ""
    stderr: str | None = None
    """Takes the place of the launcher's own words on stderr."""
    usage: Usage | None = None
    """What it used, where that is not for its control group to say."""
    signal: int | None = None
    """What killed it, where that is known."""
    is_over_limit: bool = False
    """Whether it was stopped at a limit that neither a signal nor the control group tells of."""
    is_lost: bool = False
    """Whether the whole sandbox was killed, and not by us: it is worth something only where the
    control group tells why.
    """


class Process(Protocol):
    """A command that has been started but is held back."""

    ended: asyncio.Future[None]
    """Done when the command itself has ended; others of the action may still run."""

    async def release(self) -> None:
        """Puts the limits on and lets the command run. Raises WorkerFailure."""

    async def kill(self) -> None:
        """Kills all processes of the action and waits until the last is gone.

        Also after the command has ended, for what it left running. Completes even when cancelled.
        """

    def ending(self, printed: str) -> Ending:
        """Says how the command ended, after kill.

        `printed` is the beginning of stderr. Raises WorkerFailure when it never ran.
        """


def start_failure(error: OSError, arguments: Sequence[str]) -> Exception:
    """Answers what it means that a command could not even be started."""
    if error.errno == errno.E2BIG:
        return command_line_too_long(arguments)
    return WorkerFailure(f"starting the command: {error}")


def command_line_too_long(arguments: Sequence[str]) -> InvalidInput:
    """Answers what to tell of a command that the kernel does not take for its length."""
    size = sum(len(os.fsencode(argument)) + 1 for argument in arguments)
    return InvalidInput(f"the command line of {size} bytes is too long for this host")


def exec_failure(why: str, *, is_missing: bool) -> Ending:
    """Answers the end of a command that could not be executed.

    As shells have it: 127 for what is not there, 126 for what cannot be run.
    """
    message = f"cannot run {why}"
    return Ending(127 if is_missing else 126, message, stderr=f"armitage: {message}\n")
