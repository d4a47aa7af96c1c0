"""An executor whose commands are Python functions: everything but the sandbox is real."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cas.digest import Digest
from cas.memory import MemoryStore
from executor.errors import InvalidInput
from executor.evidence import Evidence
from executor.ports import Progress
from executor.spec import (
    Outcome,
    OutputDirectory,
    OutputFile,
    OutputSymlink,
    ResourceUse,
    Timings,
    Work,
)


@dataclass
class Run:
    """One run as its script sees it."""

    work: Work
    progress: Progress
    store: MemoryStore
    printed: bytes = b""
    files: list[OutputFile] = field(default_factory=list)
    directories: list[OutputDirectory] = field(default_factory=list)
    symlinks: list[OutputSymlink] = field(default_factory=list)
    evidence: Evidence | None = None
    message: str = ""

    def print(self, text: str) -> None:
        self.printed += text.encode()
        self.progress.stdout(text.encode())

    async def put(self, data: bytes) -> Digest:
        return await self.store.put([self.work.digest_function.digest(data)], data)

    async def write(self, path: str, data: bytes, *, is_executable: bool = False) -> None:
        self.files.append(OutputFile(path, await self.put(data), is_executable))


Script = Callable[[Run], Awaitable[int]]


class ScriptedExecutor:
    """Runs the script named by the first argument. Knows `true`, `false`, `echo` and `block`.

    `block` runs until `release` is called. `runs` lists all works ever started, `cancelled` the
    names of those that were cancelled, `running` counts. `evidence` is what each run used, unless
    its script says otherwise.
    """

    def __init__(self, store: MemoryStore, wall: Callable[[], float]) -> None:
        self.runs: list[Work] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.evidence: Evidence | None = None
        self.started = asyncio.Semaphore(0)
        self._store = store
        self._wall = wall
        self._gate = asyncio.Event()
        self.scripts: dict[str, Script] = {
            "true": _exit_with(0),
            "false": _exit_with(1),
            "echo": _echo,
            "block": self._block,
        }

    def release(self) -> None:
        """Lets all blocked runs end, those to come included."""
        self._gate.set()

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        self.runs.append(work)
        self.running += 1
        try:
            script = self.scripts.get(work.arguments[0])
            if script is None:
                raise InvalidInput(f"there is no program {work.arguments[0]!r}")
            start = self._wall()
            run = Run(work, progress, self._store, evidence=self.evidence)
            progress.executing()
            self.started.release()
            code = await script(run)
            return await self._outcome(run, code, start)
        except asyncio.CancelledError:
            self.cancelled.append(work.name)
            raise
        finally:
            self.running -= 1

    async def _block(self, run: Run) -> int:
        await self._gate.wait()
        return 0

    async def _outcome(self, run: Run, code: int, start: float) -> Outcome:
        end = self._wall()
        return Outcome(
            exit_code=code,
            stdout=await run.put(run.printed),
            stderr=run.work.digest_function.empty,
            timings=Timings(start, start, start, start, end, end, end, end),
            resources=ResourceUse(wall_s=max(0.0, end - start), cpu_s=0.25, written_bytes=4096),
            files=tuple(run.files),
            directories=tuple(run.directories),
            symlinks=tuple(run.symlinks),
            sandbox={"kind": "scripted"},
            evidence=run.evidence,
            message=run.message,
        )


def _exit_with(code: int) -> Script:
    async def script(_: Run) -> int:
        return code

    return script


async def _echo(run: Run) -> int:
    run.print(" ".join(run.work.arguments[1:]) + "\n")
    return 0
