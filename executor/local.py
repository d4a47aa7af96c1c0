"""What every executor on this machine does alike: stage, run within limits, collect, clean up.

How one action goes (`preparing`, `running` and `account` have the parts, in this order):

1. Scratch space is made: `root` becomes the input root, beside it lie spools for long output.
2. The tree is laid out, and the parents of output paths are made.
3. The launcher starts the command, held back until its limits apply; then it is let go.
4. It ends, or is killed: at its timeout, on cancellation, or for what it takes of the disk. Either
   way every process of the action is dead before anything else happens.
5. Outputs and what was printed go into the store.
6. Scratch space and control group are removed, also after a failure, and only then is the end told.
   Of scratch space with little in it, only that it is out of every sandbox's reach (Scratch).
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cas.errors import CasError
from cas.store import BlobStore
from executor.account import ended_by, explain, resources, with_network
from executor.capture import Capture
from executor.cgroup import Cgroups, Group, Limits, Usage, open_cgroups
from executor.concurrency import Threads
from executor.errors import InvalidInput, SandboxUnavailable, TimedOut, WorkerFailure
from executor.evidence import Evidence
from executor.input_overlay import Overlay
from executor.options import ExecutorOptions
from executor.outputs import OutputCollector
from executor.ports import NetworkUse, Progress, TreeCodec
from executor.preparing import (
    Requests,
    asks_for_rootfs,
    check,
    prepare,
    timeout_of,
    wants_input_root,
)
from executor.process import Ending, Job, Process
from executor.rlimits import describe_limits, limits_for_processes
from executor.running import Bounds, Run, run
from executor.scratch import Scratch, Shortage
from executor.space import Space, SpaceWatch
from executor.spec import Outcome, Timings, Work
from executor.staging import InputTrees, Layout

_INLINE_REQUESTS = 8
"""So few directories are made where we are: going to a thread and back takes longer."""


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
    requests: Requests
    scratch: Path
    root: str
    group: Group | None
    times: _Times
    held: ExitStack
    """What is let go of once the outputs are collected."""


class LocalExecutor(ABC):
    """An Executor on this machine. Owned by one event loop.

    Nothing survives close; what a killed predecessor left in scratch space and control groups is
    removed on construction. Limits that the host cannot enforce are named in `Outcome.sandbox`.
    """

    start_timeout_s: float = 30.0
    """How long a sandbox may take to come up."""
    gives_rootfs: bool = False
    """Whether actions may name a root filesystem."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
        *,
        space: Space | None = None,
    ) -> None:
        """`clock` answers seconds since the epoch; executors on one disk share `space`.

        Raises SandboxUnavailable when scratch space cannot be used.
        """
        if sys.getfilesystemencoding() != "utf-8":
            raise SandboxUnavailable(
                f"file names would be {sys.getfilesystemencoding()}; start with LC_ALL=C.UTF-8"
            )
        self._store = store
        self._options = options
        self._clock = clock
        self._space = space or Space()
        self._threads = Threads(options.threads)
        self._inputs = InputTrees(store, codec, options.trees, self._threads)
        self._outputs = OutputCollector(
            store, codec, options.trees, self._threads, limit_bytes=options.outputs_bytes
        )
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
        requests = check(work, self._options)
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
            try:
                await self._clean_up(scratch, group, held)
            except OSError as error:
                raise WorkerFailure(f"cleaning up after {work.name}: {error}") from error
            finally:
                self._space.gone(str(scratch))

    async def _clean_up(self, scratch: Path, group: Group | None, held: ExitStack) -> None:
        try:
            held.close()
        finally:
            try:
                if not self._scratch.discard_little(scratch):
                    await self._threads(self._scratch.discard, scratch)
            finally:
                if group is not None and not group.remove_at_once():
                    await self._threads(group.remove)

    async def _execute(self, attempt: _Attempt) -> Outcome:
        work, root, group, times = attempt.work, attempt.root, attempt.group, attempt.times
        is_root = self._is_root(work)
        mounted_at = "/" if is_root else self._mount_point(attempt.scratch)
        os.mkdir(root, 0o755)
        times.mark()
        layout, overlay = await self._stage(work, root)
        if overlay is not None:
            attempt.held.callback(overlay.close)
        lowers = overlay.lowers if overlay else ()
        asked = (work.working_directory, attempt.requests, root, lowers, mounted_at)
        if len(attempt.requests) <= _INLINE_REQUESTS:
            cwd = prepare(*asked)
        else:
            cwd = await self._threads(prepare, *asked)
        if group is not None:
            group.make(self._limits())
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
            ran, use = await self._run_and_settle(job, attempt, captures)
            times.mark()
            times.mark()
            usage = _usage(ran.ending, group)
            out, err = await stdout.store(self._store), await stderr.store(self._store)
            if ran.timed_out:
                raise TimedOut(timeout_of(work, self._options), out, err)
            if ran.ending.is_lost and not usage.out_of_memory:
                raise WorkerFailure(f"running {work.name}: its sandbox was killed from outside")
        finally:
            for capture in captures:
                capture.close()
        root = job.overlay.merged if job.overlay else job.root
        for name in job.made:
            with suppress(OSError):  # The command may have put something there.
                os.rmdir(f"{root}/{name}")
        function = work.digest_function
        found = await self._outputs.collect(root, attempt.requests, mounted_at, function)
        times.mark()
        times.mark()
        return Outcome(
            exit_code=ran.ending.exit_code,
            stdout=out,
            stderr=err,
            timings=Timings(*times.marks),
            resources=resources(ran.wall_s, usage),
            files=found.files,
            directories=found.directories,
            symlinks=found.symlinks,
            sandbox=self._applied(job),
            ended_by=ended_by(ran.ending, usage),
            evidence=with_network(await self._evidence(job), use),
            message=explain(
                ran.ending,
                usage,
                {"stdout": stdout.is_truncated, "stderr": stderr.is_truncated},
                use,
                self._options,
            ),
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
    ) -> tuple[Run, NetworkUse | None]:
        session = job.grants.session
        use = None

        def begun() -> None:
            running.enter_context(self._space.running(directory))
            attempt.times.mark()
            attempt.progress.executing()

        timeout_s = timeout_of(job.work, self._options)
        directory, limit_bytes = str(attempt.scratch), self._options.scratch_bytes
        watch = SpaceWatch(self._space, directory, limit_bytes, self.shortage, self._save_room)
        bounds = Bounds(self.start_timeout_s, timeout_s, watch.stop)
        launch = functools.partial(self._launch, job)
        try:
            with ExitStack() as running:
                ran = await run(job.work.name, launch, captures, bounds, begun)
        finally:
            if session is not None:
                use = await session.close()
        return ran, use

    def _captures(self, attempt: _Attempt) -> tuple[Capture, Capture]:
        limit = self._options.output_limit_bytes
        function, progress = attempt.work.digest_function, attempt.progress
        return (
            Capture(function, f"{attempt.scratch}/stdout", limit, progress.stdout),
            Capture(function, f"{attempt.scratch}/stderr", limit, progress.stderr),
        )

    def shortage(self) -> Shortage | None:
        """Answers what the scratch filesystem is short of; None while there is enough."""
        return self._scratch.shortage(self._options.reserve_bytes, self._options.reserve_files)

    async def _save_room(self) -> None:  # noqa: B027 (few keep anything)
        """Frees what can be done without: the scratch filesystem is nearly full."""

    def _limits(self) -> Limits:
        return Limits(self._options.memory_bytes, self._options.processes, self._options.cpus)

    def _rlimits(self) -> dict[int, int]:
        return limits_for_processes(self._options, self._cgroups)

    def _describe_limits(self) -> str:
        return describe_limits(self._options, self._cgroups)

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


def _usage(ending: Ending, group: Group | None) -> Usage:
    """What a control group tells goes before what was counted of the processes that ended."""
    measured = Usage() if group is None else group.usage()
    return measured if ending.usage is None else measured.filled(ending.usage)
