"""Sandboxes by our own launcher."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from cas.digest import DigestFunction
from executor.errors import SandboxUnavailable
from executor.launcher.binary import find_launcher
from executor.launcher.plan import DEVICES, Plan, needs_own_network
from executor.launcher.profile import program_digest, system_calls
from executor.launcher.sandbox import Sandbox
from executor.launcher.server import LauncherServer, receive
from executor.launching import Confinement
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.process import Job, Process
from executor.spec import Work
from executor.toolchain import Toolchain, read_toolchain

NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
_TRIAL_TIMEOUT_S = 20.0
_MAKERS_MAX = 1024
_MOST_SAID = 1000
"""Bytes of what a trial printed that are told."""


def trial_job(root: str) -> Job:
    """Answers a job that succeeds on any host, in the directory `root`."""
    empty = DigestFunction.SHA256.empty
    work = Work("trial", DigestFunction.SHA256, empty, ("/bin/sh", "-c", "exit 0"))
    return Job(work, root, False, (), (), None)


def try_launcher() -> int:
    """Runs a sandbox as actions get it by default; answers the version of Landlock, 0 for none.

    Blocks for some 20 ms. Raises SandboxUnavailable.
    """
    with trial_launcher() as (launcher, place, confinement):
        launcher.try_out(trial_job(str(place)), confinement)
        return launcher.landlock


@contextlib.contextmanager
def trial_launcher() -> Iterator[tuple[OwnLauncher, Path, Confinement]]:
    """Gives a launcher with the default options, a directory to try it in, and what its sandboxes
    get. Raises SandboxUnavailable.
    """
    with tempfile.TemporaryDirectory(prefix="armitage-trial-") as name:
        place = Path(name)
        options = ExecutorOptions(scratch=place)
        toolchain = read_toolchain(options, place.resolve())
        launcher = OwnLauncher(find_launcher(), toolchain, options)
        try:
            yield launcher, place, Confinement({}, options.uid, options.gid)
        finally:
            launcher.close()


class OwnLauncher:
    """An executor.launching.Launcher."""

    name = "armitage"

    def __init__(self, program: Path, toolchain: Toolchain, options: ExecutorOptions) -> None:
        """Starts it. Blocks for some 10 ms. Raises SandboxUnavailable, saying what failed."""
        self._program = program
        self._toolchain = toolchain
        self._options = options
        self._plan = Plan(toolchain, options)
        self._server = LauncherServer(program, self._plan.template())
        self._socket_makers: set[int] = set()
        """Hashes of the names of programs that have made a socket: other actions of theirs get a
        network namespace of their own, where that costs them nothing more (pool.c).
        """

    @property
    def landlock(self) -> int:
        """The version of Landlock that it applies; 0 for none."""
        return self._server.landlock

    def try_out(self, job: Job, confinement: Confinement) -> None:
        """Runs a job that succeeds anywhere. Blocks. Raises SandboxUnavailable, also with what the
        job has printed.
        """
        document = self._plan.action(job, confinement)
        printed = os.memfd_create("trial")
        with (
            open(printed, "r+b") as output,
            self._server.ask(document, (printed,) * 2, None) as control,
        ):
            control.settimeout(_TRIAL_TIMEOUT_S)
            try:
                while message := self._hear(control, job):
                    if message[:1] == b"E":
                        raise SandboxUnavailable(message[1:].decode(errors="replace"))
                    if message[:1] == b"X" and not any(message[1:5]):
                        return
            except OSError as error:
                raise SandboxUnavailable(f"a trial sandbox: {error}") from error
            output.seek(0)
            said = output.read(_MOST_SAID).decode(errors="replace").strip()
        raise SandboxUnavailable(f"a trial sandbox ended without success: {said or 'no word'}")

    def _hear(self, control: socket.socket, job: Job) -> bytes:
        message, fds = receive(control)
        if message[:1] == b"M" and fds and job.overlay is not None:
            job.overlay.take(fds.pop())
        for fd in fds:
            os.close(fd)
        return message

    def launch(
        self,
        job: Job,
        confinement: Confinement,
        outputs: tuple[int, int],
    ) -> Process:
        """Starts a command; see executor.launching.Launcher."""
        maker = hash(job.work.arguments[0])
        makes_sockets = maker in self._socket_makers
        document = self._plan.action(job, confinement, makes_sockets=makes_sockets)
        directory = job.group.directory if job.group else None
        group = None if directory is None else os.open(directory, os.O_PATH | os.O_CLOEXEC)
        try:
            return Sandbox(
                self._server,
                document,
                job.work.arguments,
                outputs=outputs,
                group=group,
                serve=job.grants.session.serve if job.grants.session else None,
                overlay=job.overlay,
                on_socket=partial(self._expect_sockets, maker),
            )
        finally:
            if group is not None:
                os.close(group)

    def _expect_sockets(self, maker: int) -> None:
        if len(self._socket_makers) >= _MAKERS_MAX:
            self._socket_makers.clear()
        self._socket_makers.add(maker)

    def facts(self) -> Mapping[str, str]:
        """Answers what it applies to every action; see executor.launching.Launcher."""
        landlock = self._server.landlock
        return {
            "launcher": self.name,
            "namespaces": " ".join(NAMESPACES),
            "nested-namespaces": "no",
            "seccomp": "yes",
            "landlock": f"version {landlock}" if landlock else "no",
        }

    def profile(self, job: Job) -> Mapping[str, object]:
        """Answers all that it applies to one action; see executor.launching.Launcher."""
        return {
            "program": program_digest(self._program),
            "seccomp": dict(system_calls()),
            "landlock": self._server.landlock,
            "capabilities": [],
            "network-namespace": self._network_namespace(job),
            "view": self._view(job),
        }

    def _network_namespace(self, job: Job) -> str:
        """Answers what is true whether or not one was used again."""
        if needs_own_network(job) or not self._server.reuses_networks:
            return "new"
        return "one in which no command had made a socket"

    def _view(self, job: Job) -> Mapping[str, object]:
        private = {
            "bytes": self._options.tmp_bytes,
            "files": self._options.tmp_files,
            "tmpfs": ["/dev/shm", "/tmp"],  # noqa: S108 (the sandbox's own)
        }
        common = {"devices": list(DEVICES), "masked": list(self._plan.masked), "private": private}
        if job.is_root:
            return common | {"/": "inputs"}
        if job.grants.root is not None:
            return common | {BUILD_ROOT: "inputs", "/": f"rootfs={job.grants.root.name}"}
        toolchain = self._toolchain
        return common | {
            BUILD_ROOT: "inputs",
            "shown": list(toolchain.shown),
            "links": [list(link) for link in toolchain.links],
            "files": [list(file) for file in toolchain.files],
        }

    def close(self) -> None:
        """Ends it."""
        self._server.close()
