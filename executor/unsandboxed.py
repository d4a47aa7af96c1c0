"""Actions as plain processes of this user, for hosts that cannot sandbox. Only by explicit choice.

A command sees the whole host, its network, and other actions. What is kept of the contract: inputs
are private copies, limits apply, the environment is clean, and what it started is killed at its
end: whatever is in its control group where there is one, else its session, all descendants, and all
processes that still carry its marker variable. A process that leaves all of these behind on purpose
escapes. When this process is killed with SIGKILL, its actions run on until the next start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cas.store import BlobStore
from executor.concurrency import Threads, settle
from executor.errors import InvalidInput
from executor.local import LocalExecutor
from executor.options import ExecutorOptions
from executor.pidfd import PidWatch
from executor.ports import TreeCodec
from executor.process import Ending, Job, Process, start_failure
from executor.rlimits import apply_limits
from executor.space import Space

MARKER = "ARMITAGE_ACTION"
"""Environment variable that every unsandboxed command is given: which action it belongs to."""

_LAUNCHER = 'read -r _; exec "$@" </dev/null'
"""Waits for a line on stdin, so that limits apply before the command starts."""
_KILL_ROUNDS = 100


class UnsandboxedExecutor(LocalExecutor):
    """Runs actions with no isolation at all."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
        *,
        space: Space | None = None,
    ) -> None:
        """Kills what a killed predecessor left running.

        Raises SandboxUnavailable when scratch space cannot be used.
        """
        super().__init__(store, codec, options, clock, space=space)
        for pid, _, _ in _processes():
            if _has_marker(pid, f"{MARKER}={self._identity}:"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _mount_point(self, scratch: Path) -> str:
        return str(scratch / "root")

    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        if job.is_root:
            raise InvalidInput(
                "the platform asks for the input root as filesystem root, which takes a sandbox"
            )
        return _Plain(
            job,
            f"{MARKER}={self._identity}:{job.work.name}",
            outputs=(stdout_fd, stderr_fd),
            limits=self._rlimits(),
            threads=self._threads,
        )

    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers that there is none, and which limits apply."""
        del is_root
        return {"sandbox": "none", "network": "host", "limits": self._describe_limits()}


class _Plain:
    """One running command and whatever it started."""

    def __init__(
        self,
        job: Job,
        marker: str,
        *,
        outputs: tuple[int, int],
        limits: Mapping[int, int],
        threads: Threads,
    ) -> None:
        """Starts a shell that waits for release. Raises InvalidInput, WorkerFailure."""
        self._job = job
        self._limits = limits
        self._threads = threads
        self._marker = marker
        gate, self._gate = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCHER, "armitage", *job.work.arguments],
                env=dict(job.environment) | dict([self._marker.split("=", 1)]),
                cwd="/".join((job.root, *job.cwd)),
                stdin=gate,
                stdout=outputs[0],
                stderr=outputs[1],
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._gate)
            raise start_failure(error, job.work.arguments) from error
        finally:
            os.close(gate)
        self._watch = PidWatch(os.pidfd_open(self._process.pid), is_child=True)
        self.ended = self._watch.ended

    async def release(self) -> None:
        """Puts the limits on and lets the command run."""
        await self._threads(self._confine)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"\n")
        self._close_gate()

    def _confine(self) -> None:
        if self._job.group is not None:
            self._job.group.join(self._process.pid)
        apply_limits(self._process.pid, self._limits)

    def _close_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    async def kill(self) -> None:
        """Kills the command and all that can be found of what it started."""
        try:
            await self._threads(self._kill_all)
        finally:
            self._watch.kill()
            try:
                await settle(self.ended)
            finally:
                self._close_gate()
                self._process.wait()

    def _kill_all(self) -> None:
        if self._job.group is not None:
            self._job.group.kill()
            return
        known = {self._process.pid}
        for _ in range(_KILL_ROUNDS):
            found = self._family(known)
            if not found:
                return
            known |= found
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _family(self, known: set[int]) -> set[int]:
        """Answers the processes of this action that are alive: by session, parent or marker."""
        found = set()
        for pid, parent, session in _processes():
            if pid == os.getpid():
                continue
            if session == self._process.pid or parent in known or _has_marker(pid, self._marker):
                found.add(pid)
        return found

    def ending(self, printed: str) -> Ending:
        """Says how the command ended."""
        del printed
        code = self._process.returncode
        return Ending(code if code >= 0 else 128 - code)


def _has_marker(pid: int, marker: str) -> bool:
    """Tells whether a process was started with the marker, or one that begins so if it ends in a
    colon.
    """
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # Gone, or another user's and so not ours.
    wanted = marker.encode()
    if marker.endswith(":"):
        return any(variable.startswith(wanted) for variable in variables)
    return wanted in variables


def _processes() -> list[tuple[int, int, int]]:
    """Answers pid, parent and session of every process that is alive."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue
        # The command name may hold anything, so count from its closing parenthesis.
        state, parent, _, session = text.rpartition(")")[2].split()[:4]
        if state not in "ZX":
            found.append((int(name), int(parent), int(session)))
    return found
