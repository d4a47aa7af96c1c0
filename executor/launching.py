"""What makes sandboxes: a protocol, and what goes into each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from executor.process import Job, Process


@dataclass(frozen=True, slots=True)
class Confinement:
    """What applies to an action whatever it sees."""

    rlimits: Mapping[int, int]
    """For each of its processes (setrlimit(2)); its control group is in the job."""
    uid: int
    gid: int


class Launcher(Protocol):
    """Makes sandboxes that all have the same toolchain."""

    name: str

    def launch(
        self,
        job: Job,
        confinement: Confinement,
        outputs: tuple[int, int],
    ) -> Process:
        """Starts a command, held back until it is released, with stdout and stderr.

        Raises InvalidInput, SandboxUnavailable, WorkerFailure, OSError.
        """

    def facts(self) -> Mapping[str, str]:
        """Answers what it applies to every action, as short facts."""

    def profile(self, job: Job) -> Mapping[str, object]:
        """Answers all that it applies to one action, the same for all with the same grants."""

    def close(self) -> None:
        """Frees everything. No sandbox may be left."""
