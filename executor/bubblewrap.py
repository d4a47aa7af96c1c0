"""Sandboxes by bubblewrap: the fallback of our own launcher, and what its tests compare it with.

How one is started and ended (the order matters):

- bubblewrap is started from the event loop's thread, because `--die-with-parent` is tied to the
  thread that started it (PR_SET_PDEATHSIG, prctl(2)); it dies when this process does, and takes the
  sandbox with it.
- It reports the sandbox's first process and holds the command back (`--block-fd`) until that
  process is in its control group and has its limits; the command cannot outrun them.
- bubblewrap ends with the command, but what the command left running dies a moment later. The pidfd
  of the sandbox's first process tells when all are gone: the kernel reports its end only after
  killing and reaping the whole pid namespace (pid_namespaces(7)).
- bubblewrap's own failures are told from the command's exit by its status pipe, which has an
  `exit-code` only when the command was really started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from executor.call_filter import DENIED, program
from executor.concurrency import Threads, settle
from executor.errors import SandboxUnavailable, WorkerFailure
from executor.grants import Mount
from executor.launching import Confinement
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.pidfd import PidWatch
from executor.probe import explain, find_bubblewrap, probe
from executor.process import Ending, Job, Process, exec_failure, start_failure
from executor.rlimits import apply_limits
from executor.spec import Work
from executor.toolchain import Toolchain

_NAMESPACES = ("user", "ipc", "pid", "net", "uts")
_HARDENING: tuple[tuple[str, ...], ...] = (
    ("--unshare-cgroup", "--disable-userns"),
    ("--unshare-cgroup",),
    (),
)
"""What to use where the host can, best first."""
_TRIAL_TIMEOUT_S = 20
_KNOWN_TIMEOUT_S = 5.0


class Bubblewrap:
    """An executor.launching.Launcher."""

    name = "bubblewrap"

    def __init__(
        self, toolchain: Toolchain, options: ExecutorOptions, place: Path, threads: Threads
    ) -> None:
        """Tries a sandbox with all that actions will get. Blocks for some 50 ms.

        Writes an `/etc` below the directory `place`. Raises SandboxUnavailable, saying what is
        missing and how to mend it.
        """
        self._program = find_bubblewrap(options.bubblewrap)
        self._options = options
        self._threads = threads
        self._toolchain = _toolchain_arguments(toolchain, place / "etc")
        self._hardening = self._try_hardening()

    def _try_hardening(self) -> Sequence[str]:
        failure = ""
        for hardening in _HARDENING:
            failure = self._try(hardening)
            if not failure:
                return hardening
        raise SandboxUnavailable(explain(failure, probe(self._program)))

    def _try(self, hardening: Sequence[str]) -> str:
        """Answers what a trial run complained of; empty when it went well."""
        arguments = [
            *self._common(hardening, self._options.uid, self._options.gid),
            *self._toolchain,
            *self._private(),
            *("--remount-ro", "/"),
        ]
        fd = _memory_file("bwrap-filter", program())
        arguments += ["--seccomp", str(fd), "--", "/bin/sh", "-c", "exit 0"]
        try:
            done = subprocess.run(
                [self._program, *arguments],
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=(fd,),
                timeout=_TRIAL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            os.close(fd)
        if done.returncode == 0:
            return ""
        return done.stderr.decode(errors="replace").strip() or f"bwrap gave {done.returncode}"

    def _common(self, hardening: Sequence[str], uid: int, gid: int) -> list[str]:
        return [
            *(f"--unshare-{name}" for name in _NAMESPACES),
            *hardening,
            *("--uid", str(uid), "--gid", str(gid)),
            *("--hostname", self._options.hostname),
            "--die-with-parent",
            "--new-session",
            *("--cap-drop", "ALL"),
            "--clearenv",
        ]

    def _private(self) -> list[str]:
        size = ("--perms", "1777", "--size", str(self._options.tmp_bytes))
        return [
            # Its files of settings may be written by the host's root, whom no mode keeps off.
            *("--proc", "/proc", "--remount-ro", "/proc"),
            *("--dev", "/dev", *size, "--tmpfs", "/dev/shm"),  # noqa: S108
            *(*size, "--tmpfs", "/tmp"),  # noqa: S108 (the sandbox's own)
        ]

    def launch(
        self,
        job: Job,
        confinement: Confinement,
        outputs: tuple[int, int],
    ) -> Process:
        """Starts a command; see executor.launching.Launcher. It has no network."""
        sealed = ("--remount-ro", "/dev")
        if job.is_root:
            view = ["--bind", job.root, "/", *self._private(), *sealed]
        else:
            view = [
                *self._shown(job),
                *("--bind", job.root, BUILD_ROOT),
                *self._private(),
                *(word for mount in job.grants.mounts for word in _bind(mount)),
                *sealed,
                *("--remount-ro", "/"),
            ]
        top = "" if job.is_root else BUILD_ROOT
        arguments = [
            *self._common(self._hardening, confinement.uid, confinement.gid),
            *view,
            *("--chdir", "/".join((top, *job.cwd)) or "/"),
            *(word for pair in job.environment for word in ("--setenv", *pair)),
        ]
        limit = functools.partial(_confine, job, confinement.rlimits)
        return _Sandbox(
            self._program,
            arguments,
            job.work,
            outputs=outputs,
            confine=functools.partial(self._threads, limit),
        )

    def facts(self) -> Mapping[str, str]:
        """Answers what it applies to every action; see executor.launching.Launcher."""
        cgroup = ["cgroup"] if "--unshare-cgroup" in self._hardening else []
        return {
            "launcher": self.name,
            "namespaces": " ".join(["mnt", *_NAMESPACES, *cgroup]),
            "nested-namespaces": "no" if "--disable-userns" in self._hardening else "yes",
            "seccomp": "keyrings and io_uring",
            "landlock": "no",
        }

    def profile(self, job: Job) -> Mapping[str, object]:
        """Answers all that it applies to one action; see executor.launching.Launcher."""
        root = job.grants.root
        shown = self._toolchain if root is None else [f"rootfs={root.name}"]
        return {
            "view": [*shown, *self._private()],
            "hardening": list(self._hardening),
            "seccomp": DENIED,
        }

    def _shown(self, job: Job) -> Sequence[str]:
        root = job.grants.root
        if root is None:
            return self._toolchain
        return [
            *(word for path in root.directories for word in ("--dir", path)),
            *(word for path, content in root.links for word in ("--symlink", content, path)),
            *(word for mount in root.mounts for word in _bind(mount)),
        ]

    def close(self) -> None:
        """Does nothing: there is a process for each sandbox."""


class _Sandbox:
    """One running bubblewrap (see the module's theory)."""

    def __init__(
        self,
        bubblewrap: str,
        arguments: Sequence[str],
        work: Work,
        *,
        outputs: tuple[int, int],
        confine: Callable[[int], Awaitable[None]],
    ) -> None:
        """Starts it. `confine` puts limits on a process.

        Raises InvalidInput when the command line is too long, WorkerFailure.
        """
        self._confine = confine
        self._first: PidWatch | None = None
        self._first_pid = 0
        self._exit_code: int | None = None
        self._is_dying = False
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._known: asyncio.Future[None] = self._loop.create_future()
        self._status_ended: asyncio.Future[None] = self._loop.create_future()
        self._status, status = os.pipe()
        block, self._block = os.pipe()
        options = _memory_file("bwrap-arguments", _encode(arguments))
        denied = _memory_file("bwrap-filter", program())
        try:
            self._process = subprocess.Popen(
                [
                    bubblewrap,
                    *("--args", str(options)),
                    *("--json-status-fd", str(status), "--block-fd", str(block)),
                    *("--seccomp", str(denied)),
                    "--",
                    *work.arguments,
                ],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                pass_fds=(options, status, block, denied),
                start_new_session=True,  # A terminal's Ctrl-C is for the daemon, which drains.
            )
        except OSError as error:
            os.close(self._status)
            os.close(self._block)
            raise start_failure(error, work.arguments) from error
        finally:
            for fd in (options, status, block, denied):
                os.close(fd)
        os.set_blocking(self._status, False)
        self._loop.add_reader(self._status, self._read_status)
        self._outer = PidWatch(os.pidfd_open(self._process.pid), is_child=True)
        self.ended = self._outer.ended

    def _read_status(self) -> None:
        try:
            data = os.read(self._status, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._status)
            os.close(self._status)
            self._status_ended.set_result(None)
            self._settle_known()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: Mapping[str, int]) -> None:
        self._exit_code = message.get("exit-code", self._exit_code)
        if "child-pid" in message:
            self._first_pid = message["child-pid"]
            with contextlib.suppress(ProcessLookupError):
                self._first = PidWatch(os.pidfd_open(self._first_pid), is_child=False)
            self._settle_known()

    def _settle_known(self) -> None:
        if not self._known.done():
            self._known.set_result(None)
            if self._is_dying:
                self._strike()

    async def release(self) -> None:
        """Puts the limits on and lets the command run."""
        await asyncio.wait([self._known])
        if self._first is not None:
            await self._confine(self._first_pid)
        self._unblock()

    def _unblock(self) -> None:
        if self._block >= 0:
            os.close(self._block)  # bubblewrap waits for data or the end of file alike.
            self._block = -1

    async def kill(self) -> None:
        """Kills the sandbox and waits until its last process is gone."""
        self._is_dying = True
        if self._known.done():
            self._strike()
        # Else bubblewrap may be about to make a child that nobody would hear of; see _settle_known.
        timer = self._loop.call_later(_KNOWN_TIMEOUT_S, self._outer.kill)
        try:
            await settle(self._outer.ended, self._status_ended)
        finally:
            timer.cancel()
            await self._finish()

    def _strike(self) -> None:
        if self._first is not None:
            self._first.kill()
        self._outer.kill()

    async def _finish(self) -> None:
        try:
            if self._first is not None:
                await settle(self._first.ended)
        finally:
            self._unblock()
            self._process.wait()

    def ending(self, printed: str) -> Ending:
        """Says how the command ended. Raises WorkerFailure when it never ran."""
        if self._exit_code is not None:
            return Ending(self._exit_code)
        _, failed_exec, why = printed.rpartition("bwrap: execvp ")
        if failed_exec:
            return exec_failure(why, is_missing=why.endswith(os.strerror(errno.ENOENT)))
        code = self._process.returncode
        if code < 0:
            raise WorkerFailure(f"the sandbox launcher was killed by signal {-code}")
        raise WorkerFailure(f"the sandbox could not be made: {printed or f'bwrap gave {code}'}")


def _bind(mount: Mount) -> tuple[str, str, str]:
    if mount.is_device:
        return ("--dev-bind", mount.source, mount.target)
    return ("--bind" if mount.is_writable else "--ro-bind", mount.source, mount.target)


def _toolchain_arguments(toolchain: Toolchain, etc: Path) -> list[str]:
    """Answers the mounts that show the toolchain. Writes an `/etc` of our making to `etc`."""
    arguments: list[str] = []
    if toolchain.files:
        _make_etc(etc, toolchain)
        arguments += ["--ro-bind", str(etc), "/etc"]
    for path in toolchain.shown:
        arguments += ["--ro-bind", path, path]
    for path, content in toolchain.links:
        if not path.startswith("/etc/"):
            arguments += ["--symlink", content, path]
    return arguments


def _make_etc(etc: Path, toolchain: Toolchain) -> None:
    """Writes the files, links, and places to mount the rest on."""
    if etc.exists():
        shutil.rmtree(etc)
    etc.mkdir(mode=0o755)
    for path, text in toolchain.files:
        (etc / path.removeprefix("/etc/")).write_text(text)
    for path, content in toolchain.links:
        if path.startswith("/etc/"):
            place = _place(etc, path)
            place.symlink_to(content)
    for path in toolchain.shown:
        if path.startswith("/etc/"):
            place = _place(etc, path)
            if os.path.isdir(path):
                place.mkdir(exist_ok=True)
            else:
                place.touch()


def _place(etc: Path, path: str) -> Path:
    place = etc / path.removeprefix("/etc/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _confine(job: Job, limits: Mapping[int, int], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # Its failure to start is told from elsewhere.
        if job.group is not None:
            job.group.join(pid)
        apply_limits(pid, limits)


def _encode(arguments: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)


def _memory_file(name: str, data: bytes) -> int:
    fd = os.memfd_create(name)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
