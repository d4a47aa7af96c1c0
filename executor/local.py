"""What every executor on this machine does alike: stage, run within limits, collect, clean up.

How one action goes:

1. Scratch space is made: `root` becomes the input root, beside it lie spools for long output.
2. The tree is laid out, and the parents of output paths are made.
3. The launcher starts the command, held back until its limits apply; then it is let go.
4. It ends, or is killed: at its timeout, on cancellation, or because the disk runs full. Either way
   every process of the action is dead before anything else happens.
5. Outputs and what was printed go into the store.
6. Scratch space and control group are removed, also after a failure, and only then is the end told.
   Of scratch space with little in it, only that it is out of every sandbox's reach (Scratch).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from cas.errors import CasError
from cas.store import BlobStore
from executor.capture import Capture
from executor.cgroup import Cgroups, Group, Limits, Usage, open_cgroups
from executor.concurrency import Threads
from executor.errors import InvalidInput, SandboxUnavailable, TimedOut, WorkerFailure
from executor.evidence import Evidence
from executor.options import ExecutorOptions, FilesystemRoot
from executor.outputs import OutputCollector, requests_of
from executor.paths import DIRECTORY_FLAGS, join, locate, make_parents, make_parents_beside
from executor.ports import NetworkUse, Progress, TreeCodec
from executor.process import Ending, Job, Process
from executor.rlimits import files_for_actions, limits_by_process
from executor.scratch import Scratch
from executor.spec import EndedBy, Outcome, OutputRequest, ResourceUse, Timings, Work
from executor.staging import FIXED_MTIME_S, InputTrees, Layout
from executor.tree_cache import Overlay

_WATCH_INTERVAL_S = 0.5
_DRAIN_TIMEOUT_S = 1.0
_INLINE_REQUESTS = 8
"""So few directories are made where we are: going to a thread and back takes longer."""
ROOTFS = "rootfs"
"""The platform property by which an action names its root filesystem."""
MOUNTED_IN_ROOT = ("dev", "proc", "tmp")
"""What every action gets of its own, also where its input root is the filesystem root."""


@dataclass(slots=True)
class _Times:
    """Timings being collected; each falls back to the one before it."""

    clock: Callable[[], float]
    marks: list[float] = field(default_factory=list)

    def mark(self) -> None:
        # Clocks step backwards; a client must still see times in their order.
        now = self.clock()
        self.marks.append(max(now, self.marks[-1]) if self.marks else now)


@dataclass(frozen=True, slots=True)
class _Attempt:
    work: Work
    progress: Progress
    requests: list[tuple[tuple[str, ...], OutputRequest]]
    scratch: Path
    root: str
    group: Group | None
    times: _Times
    held: ExitStack
    """What is let go of once the outputs are collected."""


@dataclass(frozen=True, slots=True)
class _Run:
    ending: Ending
    wall_s: float
    timed_out: bool


class LocalExecutor(ABC):
    """An Executor on this machine. Owned by one event loop.

    Nothing survives close; what a killed predecessor left in scratch space and control groups is
    removed on construction. Limits that the host cannot enforce are named in `Outcome.sandbox`.
    """

    start_timeout_s: float = 30.0
    """How long a sandbox may take to come up."""
    mounted_at: str
    """Where commands see the input root when it is not the filesystem root."""
    gives_rootfs: bool = False
    """Whether actions may name a root filesystem."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
    ) -> None:
        """`clock` answers seconds since the epoch.

        Raises SandboxUnavailable when scratch space cannot be used.
        """
        if sys.getfilesystemencoding() != "utf-8":
            raise SandboxUnavailable(
                f"file names would be {sys.getfilesystemencoding()}; start with LC_ALL=C.UTF-8"
            )
        self._store = store
        self._options = options
        self._clock = clock
        self._threads = Threads(options.threads)
        self._inputs = InputTrees(store, codec, options.trees, self._threads)
        self._outputs = OutputCollector(store, codec, options.trees, self._threads)
        self._scratch = Scratch(options.scratch)
        place = hashlib.sha256(bytes(self._scratch.directory)).hexdigest()
        self._identity = f"armitage-{place[:12]}"
        try:
            self._cgroups = self._open_cgroups()
        except OSError as error:
            self._scratch.close()
            raise SandboxUnavailable(
                f"clearing control groups of an earlier run: {error}; remove them by hand"
            ) from error

    def _open_cgroups(self) -> Cgroups:
        cgroups = open_cgroups(self._identity)
        cgroups.clear()
        return cgroups

    async def close(self) -> None:
        """Frees everything. No action may be running. Call it once."""
        self._threads.close()
        self._cgroups.close()
        self._scratch.close()

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        """Runs one action; see executor.ports.Executor."""
        times = _Times(self._clock)
        times.mark()
        requests = _check(work, self._options)
        if not self.gives_rootfs and asks_for_rootfs(work):
            raise InvalidInput(
                "the platform names a root filesystem (rootfs), which only sandbox:namespace gives"
            )
        group = self._cgroups.group(work.name) if self._cgroups.controllers else None
        scratch = self._scratch.make(work.name)
        held = ExitStack()
        try:
            root = f"{scratch}/root"
            return await self._execute(
                _Attempt(work, progress, requests, scratch, root, group, times, held)
            )
        except CasError as error:
            raise WorkerFailure(f"running {work.name}: the store failed: {error}") from error
        except OSError as error:
            raise WorkerFailure(f"running {work.name}: {error}") from error
        finally:
            held.close()
            await self._clean_up(scratch, group)

    async def _clean_up(self, scratch: Path, group: Group | None) -> None:
        try:
            try:
                if not self._scratch.discard_little(scratch):
                    await self._threads(self._scratch.discard, scratch)
            finally:
                if group is not None and not group.remove_at_once():
                    await self._threads(group.remove)
        except OSError as error:
            raise WorkerFailure(f"cleaning up after {scratch.name}: {error}") from error

    async def _execute(self, attempt: _Attempt) -> Outcome:
        work, root, group, times = attempt.work, attempt.root, attempt.group, attempt.times
        is_root = self._is_root(work)
        mounted_at = "/" if is_root else self._mount_point(attempt.scratch)
        os.mkdir(root, 0o755)
        times.mark()
        layout, overlay = await self._stage(work, root)
        lower = root
        if overlay is not None:
            attempt.held.callback(overlay.close)
            lower = overlay.lower
        if len(attempt.requests) <= _INLINE_REQUESTS:
            cwd = _prepare(attempt, mounted_at, self._limits(), lower)
        else:
            cwd = await self._threads(_prepare, attempt, mounted_at, self._limits(), lower)
        times.mark()
        environment = self._environment(work)
        job = Job(work, root, is_root, environment, cwd, group, overlay=overlay)
        job = await self._equip(job, layout)
        try:
            return await self._carry_out(job, attempt, mounted_at)
        finally:
            await self._let_go(job)

    async def _carry_out(self, job: Job, attempt: _Attempt, mounted_at: str) -> Outcome:
        work, group, times = attempt.work, attempt.group, attempt.times
        captures = self._captures(attempt)
        stdout, stderr = captures
        try:
            run, use = await self._run_and_settle(job, attempt, captures)
            times.mark()
            times.mark()
            usage = _usage(run.ending, group)
            out, err = await stdout.store(self._store), await stderr.store(self._store)
            if run.timed_out:
                raise TimedOut(timeout_of(work, self._options), out, err)
            if run.ending.is_lost and not usage.out_of_memory:
                raise WorkerFailure(f"running {work.name}: its sandbox was killed from outside")
        finally:
            for capture in captures:
                capture.close()
        found = await self._outputs.collect(
            job.overlay.merged if job.overlay else attempt.root,
            attempt.requests,
            mounted_at,
            work.digest_function,
        )
        times.mark()
        times.mark()
        return Outcome(
            exit_code=run.ending.exit_code,
            stdout=out,
            stderr=err,
            timings=Timings(*times.marks),
            resources=_resources(run, usage),
            files=found.files,
            directories=found.directories,
            symlinks=found.symlinks,
            sandbox=self._applied(job),
            ended_by=_ended_by(run.ending, usage),
            evidence=_with_network(await self._evidence(job), use),
            message=self._message(run.ending, usage, captures, use),
        )

    def _applied(self, job: Job) -> Mapping[str, str]:
        facts = self.sandbox(is_root=job.is_root)
        return {**facts, "network": "witness"} if job.grants.session else facts

    def _environment(self, work: Work) -> tuple[tuple[str, str], ...]:
        devices = work.devices.environment if work.devices else ()
        own = dict(self._options.environment) | dict(work.environment)
        return tuple((own | dict(devices)).items())

    async def _run_and_settle(
        self, job: Job, attempt: _Attempt, captures: tuple[Capture, Capture]
    ) -> tuple[_Run, NetworkUse | None]:
        session = job.grants.session
        use = None
        try:
            run = await self._run(job, attempt, captures)
        finally:
            if session is not None:
                use = await session.close()
        return run, use

    def _captures(self, attempt: _Attempt) -> tuple[Capture, Capture]:
        limit = self._options.output_limit_bytes
        function, progress = attempt.work.digest_function, attempt.progress
        return (
            Capture(function, f"{attempt.scratch}/stdout", limit, progress.stdout),
            Capture(function, f"{attempt.scratch}/stderr", limit, progress.stderr),
        )

    async def _run(self, job: Job, attempt: _Attempt, captures: tuple[Capture, Capture]) -> _Run:
        stdout, stderr = captures
        loop = asyncio.get_running_loop()
        try:
            process = self._launch(job, stdout.write_fd, stderr.write_fd)
        finally:
            for capture in captures:
                capture.close_write_end()
        try:
            async with asyncio.timeout(self.start_timeout_s):
                await process.release()
            attempt.times.mark()
            started = loop.time()
            attempt.progress.executing()
            timed_out = await self._watch(process.ended, timeout_of(job.work, self._options))
            wall_s = loop.time() - started
        except TimeoutError:
            raise WorkerFailure(
                f"starting {job.work.name}: no sandbox after {self.start_timeout_s:g} s"
            ) from None
        finally:
            await process.kill()
        for capture in captures:
            capture.drain()
        open_still = [capture.ended for capture in captures if not capture.ended.done()]
        if open_still:  # Others hold the pipe as well.
            await asyncio.wait(open_still, timeout=_DRAIN_TIMEOUT_S)
        for capture in captures:
            capture.stop()
        if timed_out:
            return _Run(Ending(128 + 9), wall_s, timed_out=True)
        ending = process.ending(stderr.beginning())
        if ending.stderr is not None:
            stderr.replace(ending.stderr)
        return _Run(ending, wall_s, timed_out=False)

    async def _watch(self, ended: asyncio.Future[None], timeout_s: float) -> bool:
        """Waits for the end; answers whether the timeout came first.

        Raises WorkerFailure when the scratch filesystem is nearly full.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not ended.done():
            left = deadline - loop.time()
            if left <= 0:
                return True
            await asyncio.wait([ended], timeout=min(left, _WATCH_INTERVAL_S))
            if not ended.done() and self._shortage():
                await self._save_room()
                if shortage := self._shortage():
                    raise WorkerFailure(f"killed: {shortage}")
        return False

    async def _save_room(self) -> None:  # noqa: B027 (few keep anything)
        """Frees what can be done without: the scratch filesystem is nearly full."""

    def _shortage(self) -> str:
        """Answers what the scratch filesystem is short of; empty while there is enough."""
        options, directory = self._options, self._scratch.directory
        if self._scratch.free_bytes() < options.reserve_bytes:
            return (
                f"under {options.reserve_bytes >> 20} MiB are free in scratch directory {directory}"
            )
        free_files = self._scratch.free_files()
        if free_files is not None and free_files < options.reserve_files:
            return (
                f"under {options.reserve_files} more files can be made in scratch"
                f" directory {directory}"
            )
        return ""

    def _limits(self) -> Limits:
        return Limits(self._options.memory_bytes, self._options.processes, self._options.cpus)

    def _rlimits(self) -> dict[int, int]:
        """Answers the limits that each process of an action gets (setrlimit(2)).

        Data memory and processes only where no control group limits them: memory is then counted
        for each process alone, and the kernel exempts root from the other.
        """
        options = self._options
        controllers = self._cgroups.controllers
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: files_for_actions(options)}
        if options.file_bytes is not None:
            limits[resource.RLIMIT_FSIZE] = options.file_bytes
        if options.memory_bytes is not None and "memory" not in controllers:
            limits[resource.RLIMIT_DATA] = options.memory_bytes
        if options.processes is not None and "pids" not in controllers:
            limits[resource.RLIMIT_NPROC] = options.processes
        return limits

    def _describe_limits(self) -> str:
        wanted = {
            "memory": self._options.memory_bytes,
            "pids": self._options.processes,
            "cpu": self._options.cpus,
        }
        asked = [name for name, value in wanted.items() if value is not None]
        grouped = [name for name in asked if name in self._cgroups.controllers]
        by_process = [name for name in asked if name not in grouped and name in limits_by_process()]
        lost = [name for name in asked if name not in (*grouped, *by_process)]
        parts = []
        if grouped:
            parts.append(f"cgroup v{self._cgroups.version}: {' '.join(grouped)}")
        if by_process:
            parts.append(f"rlimit: {' '.join(by_process)}")
        if lost:
            parts.append(f"not enforced: {' '.join(lost)}")
        return "; ".join(parts) or "none"

    def _message(
        self,
        ending: Ending,
        usage: Usage,
        captures: tuple[Capture, Capture],
        use: NetworkUse | None,
    ) -> str:
        options = self._options
        notes = [ending.message] if ending.message else []
        if usage.out_of_memory:
            limit = (options.memory_bytes or 0) >> 20
            notes.append(f"a process was killed: out of memory (the limit is {limit} MiB)")
        elif ending.signal == signal.SIGXFSZ:
            notes.append(f"killed: a file grew to the limit of {options.file_bytes} bytes")
        elif ending.signal is not None:
            notes.append(f"killed by signal {ending.signal} ({_signal_name(ending.signal)})")
        if usage.out_of_processes:
            notes.append(f"the limit of {options.processes} processes was reached")
        for name, capture in zip(("stdout", "stderr"), captures, strict=True):
            if capture.is_truncated:
                notes.append(f"{name} was truncated at {options.output_limit_bytes} bytes")
        return "; ".join((*notes, *(use.refused if use else ())))

    def _is_root(self, work: Work) -> bool:
        return wants_input_root(self._options.filesystem_root, work)

    async def _stage(self, work: Work, root: str) -> tuple[Layout, Overlay | None]:
        """Gives an action its input tree: in `root`, an empty directory, or as an overlay of it.

        Raises what InputTrees does. The caller closes the overlay.
        """
        layout = await self._inputs.plan(work)
        await self._inputs.lay_out(layout, root)
        return layout, None

    async def _equip(self, job: Job, layout: Layout) -> Job:  # noqa: ARG002 (for those who need it)
        """Answers the job with whatever else its launch takes; the time for it is not the
        command's. Raises what execute raises. A network session in its grants is closed by the
        caller.
        """
        return job

    async def _let_go(self, job: Job) -> None:
        """Gives back what _equip took, but for the network session. No process of it is left."""
        del job

    async def _evidence(self, job: Job) -> Evidence | None:  # noqa: ARG002 (for those who can tell)
        """Answers what the command really used but of the network, after it has run. Raises
        CasError.
        """
        return None

    @abstractmethod
    def _mount_point(self, scratch: Path) -> str:
        """Answers where a command sees its input root, when that is not the filesystem root."""

    @abstractmethod
    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        """Starts the command, held back. Raises InvalidInput, SandboxUnavailable, OSError."""

    @abstractmethod
    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers the sandbox really applied to actions, as short facts."""


def wants_input_root(policy: FilesystemRoot, work: Work) -> bool:
    """Tells whether an action is to see its input root as `/`."""
    if policy is not FilesystemRoot.REQUESTED:
        return policy is FilesystemRoot.INPUTS
    asked = dict(work.platform)
    return asked.get("chroot-input-root", "").lower() == "true" or "unixUID" in asked


def asks_for_rootfs(work: Work) -> bool:
    """Tells whether an action names a root filesystem."""
    return any(name == ROOTFS for name, _ in work.platform)


def _ended_by(ending: Ending, usage: Usage) -> EndedBy:
    if usage.out_of_memory:
        return EndedBy.MEMORY
    if ending.is_over_limit or ending.signal == signal.SIGXFSZ or usage.out_of_processes:
        return EndedBy.LIMIT
    return EndedBy.EXIT if ending.signal is None else EndedBy.SIGNAL


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"


def _usage(ending: Ending, group: Group | None) -> Usage:
    """What a control group tells goes before what was counted of the processes that ended."""
    measured = Usage() if group is None else group.usage()
    return measured if ending.usage is None else measured.filled(ending.usage)


def _with_network(evidence: Evidence | None, use: NetworkUse | None) -> Evidence | None:
    if evidence is None or use is None:
        return evidence
    return replace(
        evidence,
        network_session=use.session,
        reached=use.reached,
        credentials=use.credentials,
        dropped=use.dropped,
    )


def _resources(run: _Run, usage: Usage) -> ResourceUse:
    return ResourceUse(
        wall_s=run.wall_s,
        cpu_s=usage.cpu_s,
        peak_memory_bytes=usage.peak_memory_bytes,
        read_bytes=usage.read_bytes,
        written_bytes=usage.written_bytes,
    )


def timeout_of(work: Work, options: ExecutorOptions) -> float:
    """Answers how many seconds an action's command may run."""
    return options.max_timeout_s if work.timeout_s is None else work.timeout_s


def _check(work: Work, options: ExecutorOptions) -> list[tuple[tuple[str, ...], OutputRequest]]:
    """Checks all that needs no blob; answers the output requests. Raises InvalidInput."""
    if not work.arguments or not work.arguments[0]:
        raise InvalidInput("the command has no arguments; arguments[0] names what to run")
    for argument in work.arguments:
        if "\0" in argument:
            raise InvalidInput(f"argument {argument[:100]!r} holds a NUL character")
    for name, value in work.environment:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidInput(f"environment variable {name[:100]!r} has a bad name or value")
    if work.timeout_s is not None and not 0 <= work.timeout_s <= options.max_timeout_s:
        raise InvalidInput(
            f"timeout of {work.timeout_s:g} s: this worker allows up to {options.max_timeout_s:g} s"
        )
    return requests_of(work)


def _prepare(attempt: _Attempt, mounted_at: str, limits: Limits, lower: str) -> tuple[str, ...]:
    """Finds the working directory, makes the parents of outputs and the control group.

    `lower` is where the input tree is: the root, or what is below it.

    Answers the working directory, which no link leads through when the input root is the filesystem
    root: what the launcher mounts there is no place of the tree's. Raises InvalidInput, OSError.
    """
    directory = attempt.work.working_directory
    root_fd = os.open(lower, DIRECTORY_FLAGS)
    try:
        cwd = join("", directory)
        place = locate(root_fd, cwd, mounted_at, follow_last=True)
        if place is None or place.status is None or not stat.S_ISDIR(place.status.st_mode):
            raise InvalidInput(
                f"working directory {directory[:200]!r} is not a directory of the input tree"
            )
        if mounted_at == "/":
            cwd = place.parts
            if cwd and cwd[0] in MOUNTED_IN_ROOT:
                raise InvalidInput(
                    f"working directory {directory[:200]!r} lies in /{cwd[0]}, which is not the"
                    " input tree's when that is the filesystem root"
                )
        for parts, _ in attempt.requests:
            if lower == attempt.root:
                make_parents(root_fd, parts[:-1], mounted_at, FIXED_MTIME_S)
            else:
                upper = attempt.root
                make_parents_beside(root_fd, parts[:-1], mounted_at, FIXED_MTIME_S, upper)
    finally:
        os.close(root_fd)
    if attempt.group is not None:
        attempt.group.make(limits)
    return cwd
