"""Actions that are WebAssembly programs, in worker processes of our own.

A program sees, and nothing else:

- `/build`: its input root, and `.`: its working directory, both for reading;
- the directories that its outputs go to, for writing (whole directories, with what is in them: a
  private copy, as everywhere);
- `/tmp`: an empty directory of its own, gone afterwards;
- its arguments, the environment of the action and `PWD`, and an empty stdin.

It has no network, no other process and no device. A program that is not there, or is none, ends
with 127 or 126 and a word on stderr, as with a shell.

How it is ended: a word to the worker makes the engine stop the program at its next loop or call; a
worker that does not answer soon after that is killed, which reaches a program that waits in a call
of the host. A worker dies with this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cas.digest import Digest
from cas.store import BlobStore
from executor.cgroup import Cgroups, Usage
from executor.coeffects import Coeffects, SandboxKind
from executor.concurrency import settle
from executor.errors import InvalidInput, WorkerFailure
from executor.evidence import Evidence
from executor.local import LocalExecutor
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.ports import TreeCodec
from executor.preparing import asks_for_rootfs, timeout_of
from executor.process import Ending, Job, Process, exec_failure
from executor.space import Space
from executor.spec import Work
from executor.staging import Layout
from executor.wasm.engine import End, Kind, Preopen, engine_name
from executor.wasm.modules import Compiled, CompiledModules
from executor.wasm.nursery import Nursery
from executor.wasm.options import WasmOptions
from executor.wasm.pool import Pool, WorkerProcess, WorkerSettings
from executor.wasm.programs import Programs
from executor.wasm.views import preopens

_APIS = {Kind.MODULE: "wasi preview 1", Kind.COMPONENT: "wasi 0.2"}
_WORKER_BYTES = 1 << 30
"""Data of a worker itself: the interpreter, and the programs that it has loaded."""
_WORKER_FILES = 1024
_REMEMBERED = 256
"""Profiles."""
_GRACE_S = 0.1
"""How long a program that is told to stop may take before its worker is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _WasmJob(Job):
    """One action with all that its program is given."""

    program: Compiled | None
    preopens: tuple[Preopen, ...]
    fuel: int
    refusal: Ending | None = None
    """Why there is no program."""
    confinement: dict[str, str] = field(default_factory=dict)
    """What the worker that ran it had given up; filled in by the run."""


class WasmExecutor(LocalExecutor):
    """Runs actions that are WASI programs."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
        nursery: Nursery | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Forks workers from a nursery of its own, or shares one, which it then leaves open.

        Raises SandboxUnavailable when scratch space or the cache cannot be used.
        """
        super().__init__(store, codec, options, clock, space=space)
        self._wasm: WasmOptions = options.wasm
        try:
            self._modules = CompiledModules(self._wasm.cache, self._wasm.cache_bytes, self._threads)
        except BaseException:
            self._scratch.close()
            raise
        self._engine = engine_name()
        self._settings = WorkerSettings(
            self._scratch.work, self._worker_limits(), self._wasm.deterministic
        )
        self._nursery = nursery or Nursery()
        self._owns_nursery = nursery is None
        self._pool = Pool(self._settings, self._wasm.idle_workers, self._nursery)
        self._documents: dict[Hashable, tuple[Digest, bytes]] = {}
        self._programs = Programs(self._wasm.toolchains, store, self._threads)

    def suits(self, work: Work) -> bool:
        """Tells whether an action looks like one for this executor."""
        name = work.arguments[0] if work.arguments else ""
        is_program = name in self._wasm.toolchains or name.endswith(".wasm")
        return is_program and not _refused(work.coeffects) and not asks_for_rootfs(work)

    async def close(self) -> None:
        """Frees everything. No action may be running. Call it once."""
        await self._pool.close()
        self._modules.close()
        if self._owns_nursery:
            self._nursery.close()
        await super().close()

    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers the sandbox really applied to actions, as short facts."""
        del is_root
        return {
            "sandbox": "wasm",
            "engine": self._engine,
            "network": "none",
            "deterministic": "yes" if self._wasm.deterministic else "no",
            "limits": f"memory of {self._wasm.memory_bytes >> 20} MiB; fuel; files by rlimit",
        }

    def _open_cgroups(self) -> Cgroups:
        return Cgroups(1, {})  # The engine limits memory, and there are no processes.

    def _worker_limits(self) -> dict[int, int]:
        options = self._options
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NOFILE: min(options.open_files, _WORKER_FILES),
            resource.RLIMIT_DATA: self._wasm.memory_bytes + _WORKER_BYTES,
        }
        if options.file_bytes is not None:
            limits[resource.RLIMIT_FSIZE] = options.file_bytes
        return limits

    def _is_root(self, work: Work) -> bool:  # noqa: ARG002 (nothing of the host shows anyway)
        return False

    def _mount_point(self, scratch: object) -> str:  # noqa: ARG002 (the same for all)
        return BUILD_ROOT

    async def _equip(self, job: Job, layout: Layout) -> Job:
        work = job.work
        refused = _refused(work.coeffects)
        if refused:
            raise InvalidInput(
                f"the action declares {refused}, which sandbox:wasm cannot give; allow it another"
                " sandbox (sandbox:namespace), or declare less"
            )
        if not self._nursery.is_up:
            await self._threads(self._nursery.start)
        program, refusal = None, None
        try:
            source = await self._programs.find(job, layout)
            program = await self._modules.get(
                source.digest, lambda: self._programs.open(source), self._compile
            )
        except FileNotFoundError:
            name = work.arguments[0]
            where = "in the input tree, nor named in executor.wasm.toolchains"
            refusal = exec_failure(f"{name}: not found {where}", is_missing=True)
        except InvalidInput as error:
            refusal = exec_failure(f"{work.arguments[0]}: {error}", is_missing=False)
        return _WasmJob(
            **{one.name: getattr(job, one.name) for one in fields(Job)},
            program=program,
            preopens=preopens(job),
            fuel=max(1, int(timeout_of(work, self._options) * self._wasm.fuel_per_s)),
            refusal=refusal,
        )

    async def _compile(self, source: int, target: int) -> Kind:
        """Compiles in a process of its own, which never runs a program."""
        timeout_s = self._wasm.compile_timeout_s
        worker = self._pool.start()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await worker.ask({"compile": True}, (source, target))
        except TimeoutError:
            raise InvalidInput(f"compiling it takes longer than {timeout_s:g} s") from None
        finally:
            await worker.end()
        if "invalid" in answer:
            raise InvalidInput(answer["invalid"])
        return Kind(answer["kind"])

    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        assert isinstance(job, _WasmJob)
        if job.program is None:
            assert job.refusal is not None
            return _Refused(job.refusal)
        message = {
            "program": job.program.name,
            "kind": job.program.kind.value,
            "arguments": job.work.arguments,
            "environment": [*job.work.environment, *_pwd(job)],
            "preopens": [(one.host, one.guest, one.writable) for one in job.preopens],
            "memory_bytes": self._wasm.memory_bytes,
            "fuel": job.fuel,
        }
        return _Running(self._pool, self._modules, job, message, (stdout_fd, stderr_fd))

    async def _evidence(self, job: Job) -> Evidence | None:
        assert isinstance(job, _WasmJob)
        digest, profile = self._document(job)
        if await self._store.find_missing([digest]):
            await self._store.put([digest], profile)
        return Evidence(sandbox=SandboxKind.WASM, profile=digest)

    def _document(self, job: _WasmJob) -> tuple[Digest, bytes]:
        """Answers the profile, encoded, and its digest. Remembers some: most actions' are alike."""
        function = job.work.digest_function
        varying = (
            function,
            None if job.program is None else job.program.kind,
            job.fuel,
            tuple((one.guest, one.writable) for one in job.preopens),
            tuple(job.confinement.items()),
        )
        known = self._documents.get(varying)
        if known is None:
            text = json.dumps(self._profile(job), sort_keys=True, separators=(",", ":"))
            known = function.digest(text.encode()), text.encode()
            if len(self._documents) >= _REMEMBERED:
                self._documents.clear()
            self._documents[varying] = known
        return known

    def _profile(self, job: _WasmJob) -> Mapping[str, Any]:
        """All that was applied to one program (docs/wasm.md, "The profile")."""
        kind = None if job.program is None else job.program.kind
        return {
            "sandbox": SandboxKind.WASM.value,
            "engine": self._engine,
            "api": "none" if kind is None else _APIS[kind],
            "deterministic": self._wasm.deterministic,
            "network": "none",
            "preopens": {one.guest: "rw" if one.writable else "ro" for one in job.preopens},
            "limits": {
                "memory_bytes": self._wasm.memory_bytes,
                "fuel": job.fuel,
                "file_bytes": self._options.file_bytes,
            },
            "worker": job.confinement,
        }


class _Refused:
    """A command that could not even be looked at, in a Process's place."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def release(self) -> None:
        self.ended.set_result(None)

    async def kill(self) -> None:
        """Has nothing to kill."""

    def ending(self, printed: str) -> Ending:
        del printed
        return self._ending


class _Running:
    """One program, in a worker."""

    def __init__(
        self,
        pool: Pool,
        modules: CompiledModules,
        job: _WasmJob,
        message: Mapping[str, Any],
        outputs: tuple[int, int],
    ) -> None:
        """Holds a worker, and the program back. Raises WorkerFailure, OSError."""
        assert job.program is not None
        self._pool = pool
        self._modules = modules
        self._job = job
        self._program = job.program
        self._message = message
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Any] = self._loop.create_future()
        self._outputs: list[int] = []
        try:
            for fd in outputs:
                self._outputs.append(os.dup(fd))
            self._worker: WorkerProcess = pool.take()
        except BaseException:
            self._close_outputs()
            raise

    async def release(self) -> None:
        """Lets the program run, once the worker is up."""
        if not self._worker.is_ready.done():
            await asyncio.wait([self._worker.is_ready])
        self._answer = self._worker.ask(self._message, (*self._outputs, self._program.fd))
        self.ended = self._answer
        self._close_outputs()

    def _close_outputs(self) -> None:
        while self._outputs:
            os.close(self._outputs.pop())

    async def kill(self) -> None:
        """Stops the program, and the worker if that takes too long or cannot be trusted."""
        self._close_outputs()
        worker, answer = self._worker, self._answer
        if answer is None:
            self._pool.give(worker)
            return
        timer = None
        was_stopped = not answer.done()
        if was_stopped:
            worker.interrupt()
            timer = self._loop.call_later(_GRACE_S, worker.kill)
        try:
            await settle(self.ended)
        finally:
            if timer is not None:
                timer.cancel()
            self._job.confinement.update(worker.confinement)
            has_failed = answer.exception() is not None
            if has_failed or was_stopped or self._program.kind is Kind.COMPONENT:
                await worker.end()
            else:
                self._pool.give(worker)

    def ending(self, printed: str) -> Ending:
        """Says how the program ended. Raises WorkerFailure when its worker died of it."""
        del printed
        assert self._answer is not None
        answer = self._answer.result()
        if "stale" in answer:
            self._modules.forget(self._program)
            raise WorkerFailure(f"a compiled program cannot be loaded: {answer['stale']}")
        if "invalid" in answer:
            name = self._job.work.arguments[0]
            return exec_failure(f"{name}: {answer['invalid']}", is_missing=False)
        usage = Usage(answer["cpu_us"] / 1e6, answer["memory_bytes"])
        is_spent = answer["end"] == End.OUT_OF_FUEL.value
        return Ending(
            answer["exit_code"], self._explain(answer), usage=usage, is_over_limit=is_spent
        )

    def _explain(self, answer: Mapping[str, Any]) -> str:
        match End(answer["end"]):
            case End.TRAPPED:
                return f"the program trapped: {answer['message'].strip().splitlines()[-1].strip()}"
            case End.OUT_OF_FUEL:
                return f"the program was stopped: it had spent its fuel of {self._job.fuel}"
            case _:
                return ""


def _refused(coeffects: Coeffects) -> str:
    """Answers what is declared that no wasm program can be given; empty when there is nothing."""
    declared = {
        "network": coeffects.network,
        "auth": coeffects.auth,
        "filesystem": coeffects.filesystem,
        "gpu": coeffects.gpu,
    }
    return ", ".join(name for name, value in declared.items() if value)


def _pwd(job: Job) -> Sequence[tuple[str, str]]:
    has_own = any(name == "PWD" for name, _ in job.work.environment)
    return () if has_own else (("PWD", "/".join((BUILD_ROOT, *job.cwd))),)
