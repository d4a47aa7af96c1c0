"""Actions in namespaces of their own, by way of bubblewrap.

A command sees, and nothing else:

- `/build`: its input root, writable, private to it; or that as `/` (see FilesystemRoot);
- the toolchain (`ExecutorOptions.toolchain`), read-only;
- `/etc` with just passwd, group, hosts and nsswitch.conf of our making;
- `/tmp` and `/dev/shm` of its own, in memory, gone afterwards; a minimal `/dev`; a `/proc` of its
  own processes.

It has user, mount, pid, ipc, uts, network and cgroup namespaces of its own, so no network at all,
not even a loopback address shared with the host, and no abstract sockets. It has no capabilities,
cannot gain any (no_new_privs, nosuid mounts, no nested user namespaces), and is in a session
without a terminal.

How it is started and ended (the order matters):

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
import glob
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cas.store import BlobStore
from executor.concurrency import settle
from executor.errors import InvalidInput, SandboxUnavailable, WorkerFailure
from executor.local import (
    Ending,
    ExecutorOptions,
    Job,
    LocalExecutor,
    Process,
    apply_limits,
    start_failure,
)
from executor.pidfd import PidWatch
from executor.ports import TreeCodec
from executor.probe import explain, find_bubblewrap, probe
from executor.spec import Work

BUILD_ROOT = "/build"
"""Where an action sees its input root, unless that is the filesystem root."""

_NAMESPACES = ("user", "ipc", "pid", "net", "uts")
_HARDENING: tuple[tuple[str, ...], ...] = (
    ("--unshare-cgroup", "--disable-userns"),
    ("--unshare-cgroup",),
    (),
)
"""What to use where the host can, best first."""
_MOUNTED_IN_ROOT = ("dev", "proc", "tmp")
_TRIAL_TIMEOUT_S = 20
_KNOWN_TIMEOUT_S = 5.0


class NamespaceExecutor(LocalExecutor):
    """Runs actions in bubblewrap sandboxes."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
    ) -> None:
        """Tries a sandbox with all that actions will get. Blocks for some 50 ms.

        Raises SandboxUnavailable, saying what is missing and how to mend it.
        """
        self._bubblewrap = find_bubblewrap(options.bubblewrap)
        super().__init__(store, codec, options, clock)
        try:
            self._toolchain = toolchain_arguments(options, self._scratch.directory)
            self._hardening = self._try_hardening()
        except BaseException:
            self._cgroups.close()
            self._scratch.close()
            raise

    def _try_hardening(self) -> Sequence[str]:
        failure = ""
        for hardening in _HARDENING:
            failure = self._try(hardening)
            if not failure:
                return hardening
        raise SandboxUnavailable(explain(failure, probe(self._bubblewrap)))

    def _try(self, hardening: Sequence[str]) -> str:
        """Answers what a trial run complained of; empty when it went well."""
        arguments = [
            *self._common(hardening, self._options.uid, self._options.gid),
            *self._toolchain,
            *self._private(),
            *("--remount-ro", "/"),
        ]
        try:
            done = subprocess.run(
                [self._bubblewrap, *arguments, "--", "/bin/sh", "-c", "exit 0"],
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TRIAL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
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
            *("--proc", "/proc"),
            *("--dev", "/dev", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
            *(*size, "--tmpfs", "/tmp"),  # noqa: S108 (the sandbox's own)
        ]

    def _mount_point(self, scratch: Path) -> str:  # noqa: ARG002 (the same for all)
        return BUILD_ROOT

    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        made = _missing_mount_points(job.root) if job.is_root else []
        uid, gid = _identity(job.work, self._options) if job.is_root else self._user()
        if job.is_root:
            view = ["--bind", job.root, "/", *self._private()]
        else:
            view = [
                *self._toolchain,
                *("--bind", job.root, BUILD_ROOT),
                *self._private(),
                *("--remount-ro", "/"),
            ]
        top = "" if job.is_root else BUILD_ROOT
        arguments = [
            *self._common(self._hardening, uid, gid),
            *view,
            *("--chdir", "/".join((top, *job.cwd)) or "/"),
            *(word for pair in job.environment for word in ("--setenv", *pair)),
        ]
        limit = functools.partial(_confine, job, self._rlimits())
        return _Sandbox(
            self._bubblewrap,
            arguments,
            job.work,
            outputs=(stdout_fd, stderr_fd),
            confine=functools.partial(self._threads, limit),
            made=made,
        )

    def _user(self) -> tuple[int, int]:
        return self._options.uid, self._options.gid

    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers the sandbox really applied to actions, as short facts."""
        cgroup = ["cgroup"] if "--unshare-cgroup" in self._hardening else []
        return {
            "sandbox": "namespaces",
            "launcher": "bubblewrap",
            "namespaces": " ".join(["mnt", *_NAMESPACES, *cgroup]),
            "nested-namespaces": "no" if "--disable-userns" in self._hardening else "yes",
            "network": "none",
            "root": "inputs" if is_root else "toolchain",
            "limits": self._describe_limits(),
        }


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
        made: Sequence[str],
    ) -> None:
        """Starts it. `confine` puts limits on a process; `made` are paths to remove at the end.

        Raises InvalidInput when the command line is too long, WorkerFailure.
        """
        self._confine = confine
        self._made = made
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
        options = os.memfd_create("bwrap-arguments")
        try:
            _fill(options, arguments)
            self._process = subprocess.Popen(
                [
                    bubblewrap,
                    *("--args", str(options)),
                    *("--json-status-fd", str(status), "--block-fd", str(block)),
                    "--",
                    *work.arguments,
                ],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                pass_fds=(options, status, block),
                start_new_session=True,  # A terminal's Ctrl-C is for the daemon, which drains.
            )
        except OSError as error:
            os.close(self._status)
            os.close(self._block)
            raise start_failure(error, work.arguments) from error
        finally:
            for fd in (options, status, block):
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
            for path in self._made:
                with contextlib.suppress(OSError):  # The command may have put something there.
                    os.rmdir(path)

    def ending(self, printed: str) -> Ending:
        """Says how the command ended. Raises WorkerFailure when it never ran."""
        if self._exit_code is not None:
            return Ending(self._exit_code)
        _, failed_exec, why = printed.rpartition("bwrap: execvp ")
        if failed_exec:
            message = f"cannot run {why}"
            # As shells have it: 127 for what is not there, 126 for what cannot be run.
            code = 127 if why.endswith(os.strerror(errno.ENOENT)) else 126
            return Ending(code, message, stderr=f"armitage: {message}\n")
        code = self._process.returncode
        if code < 0:
            raise WorkerFailure(f"the sandbox launcher was killed by signal {-code}")
        raise WorkerFailure(f"the sandbox could not be made: {printed or f'bwrap gave {code}'}")


def toolchain_arguments(options: ExecutorOptions, scratch: Path) -> list[str]:
    """Answers the mounts that show the toolchain, and an `/etc` of our making.

    Writes that `/etc` below the scratch directory. Raises SandboxUnavailable when the scratch
    directory would be visible to actions.
    """
    paths = sorted({path for pattern in options.toolchain for path in glob.glob(pattern)})
    for path in paths:
        if scratch.is_relative_to(Path(path).resolve()):
            raise SandboxUnavailable(
                f"scratch directory {scratch} lies in toolchain path {path}, which every action"
                " sees; configure another"
            )
    arguments: list[str] = []
    if "/etc" not in paths:
        _make_etc(scratch / "etc", [path for path in paths if path.startswith("/etc/")], options)
        arguments += ["--ro-bind", str(scratch / "etc"), "/etc"]
    for path in paths:
        if not os.path.islink(path):
            arguments += ["--ro-bind", path, path]
        elif not path.startswith("/etc/"):
            arguments += ["--symlink", os.readlink(path), path]
    return arguments


def _make_etc(etc: Path, visible: Iterable[str], options: ExecutorOptions) -> None:
    """Writes the files that say who and where a command is, and places to mount the rest on."""
    if etc.exists():
        shutil.rmtree(etc)
    etc.mkdir(mode=0o755)
    user = f"build:x:{options.uid}:{options.gid}:build:/tmp:/bin/sh\n" if options.uid else ""
    group = f"build:x:{options.gid}:\n" if options.gid else ""
    files = {
        "passwd": f"root:x:0:0:root:/root:/bin/sh\n{user}"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{group}nogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in files.items():
        (etc / name).write_text(text)
    for path in visible:
        place = etc / path.removeprefix("/etc/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(path):
            place.symlink_to(os.readlink(path))
        elif os.path.isdir(path):
            place.mkdir(exist_ok=True)
        else:
            place.touch()


def _identity(work: Work, options: ExecutorOptions) -> tuple[int, int]:
    """Answers the user and group that a platform asks for (BuildStream's unixUID, unixGID)."""
    platform = dict(work.platform)
    found = []
    for name, default in (("unixUID", options.uid), ("unixGID", options.gid)):
        value = platform.get(name, str(default))
        if not (value.isascii() and value.isdigit() and int(value) < 2**32 - 1):
            raise InvalidInput(f"platform property {name} is {value[:40]!r}, not a number")
        found.append(int(value))
    return found[0], found[1]


def _missing_mount_points(root: str) -> list[str]:
    """Answers the places in an input root that bubblewrap will make directories at.

    A link there could lead the launcher out of the root. Raises InvalidInput.
    """
    missing = []
    for name in _MOUNTED_IN_ROOT:
        path = f"{root}/{name}"
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            missing.append(path)
            continue
        if not stat.S_ISDIR(mode):
            raise InvalidInput(
                f"the input root is to be the filesystem root, but its /{name} is no directory"
            )
    return missing


def _confine(job: Job, limits: Mapping[int, int], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # Its failure to start is told from elsewhere.
        if job.group is not None:
            job.group.join(pid)
        apply_limits(pid, limits)


def _fill(fd: int, arguments: Sequence[str]) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
    os.lseek(fd, 0, os.SEEK_SET)
