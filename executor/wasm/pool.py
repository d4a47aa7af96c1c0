"""Worker processes as their supervisor sees them: started, given work, killed, kept for the next.

A worker is killed rather than trusted whenever there is doubt: it was told to stop, it ran a
component (whose writes the engine may still be finishing), it compiled, or it has run long enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.concurrency import settle
from executor.errors import WorkerFailure
from executor.pidfd import PidWatch
from executor.wasm import messages
from executor.wasm.nursery import Nursery

_RUNS = 10_000
"""A worker that has run so many programs is replaced: memory that leaks is leaked no further."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How workers are started."""

    scratch: Path
    """The only directory in which they can open files."""
    limits: Mapping[int, int]
    """For setrlimit(2)."""
    deterministic: bool


class WorkerProcess:
    """One worker process. Owned by the event loop."""

    def __init__(self, settings: WorkerSettings, nursery: Nursery) -> None:
        """Starts it; it takes work at once, and does it as soon as it can. Raises WorkerFailure."""
        self.runs = 0
        self.confinement: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self.is_ready: asyncio.Future[None] = self._loop.create_future()
        """Done when it is up, or will never be."""
        self._jobs, jobs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._words, words = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        chosen = {
            "scratch": str(settings.scratch),
            "limits": dict(settings.limits),
            "deterministic": settings.deterministic,
        }
        try:
            self.pid, pidfd = nursery.fork(chosen, jobs.fileno(), words.fileno())
        except BaseException:
            self._jobs.close()
            self._words.close()
            raise
        finally:
            jobs.close()
            words.close()
        self._jobs.setblocking(False)
        self._words.setblocking(False)
        self._loop.add_reader(self._jobs, self._read)
        self._watch = PidWatch(pidfd, is_child=False)
        self._watch.ended.add_done_callback(self._has_ended)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when it is gone, and nothing of it is left."""

    def ask(self, message: Mapping[str, Any], fds: Sequence[int]) -> asyncio.Future[dict[str, Any]]:
        """Gives it work; answers what will come of it, one at a time.

        That fails with WorkerFailure when the process dies first.
        """
        assert self._answer is None, "the worker is at work"
        self.runs += 1
        self._answer = self._loop.create_future()
        answer = self._answer
        if self.ended.done():
            self._fail()
            return answer
        with contextlib.suppress(OSError):  # It is dying, which its watch is about to tell.
            messages.send(self._jobs, {**message, "number": self.runs}, fds)
        return answer

    def interrupt(self) -> None:
        """Asks it to stop the program that it runs."""
        with contextlib.suppress(OSError):
            self._words.send(str(self.runs).encode())

    def kill(self) -> None:
        """Kills it. Idempotent."""
        self._watch.kill()

    async def end(self) -> None:
        """Kills it and waits until it is gone. Completes even when cancelled."""
        self.kill()
        await settle(self.ended)

    def _read(self) -> None:
        try:
            received = messages.receive(self._jobs)
        except (BlockingIOError, ConnectionError):
            return
        except (OSError, ValueError):
            self.kill()  # It speaks no language of ours.
            return
        if received is None:
            self._loop.remove_reader(self._jobs)
            self.kill()
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        if "confinement" in message:
            self.confinement = message["confinement"]
            self._settle_ready()
        elif self._answer is not None:
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result(message)

    def _has_ended(self, _: asyncio.Future[None]) -> None:
        self._loop.remove_reader(self._jobs)
        self._jobs.close()
        self._words.close()
        self._settle_ready()
        self._fail()
        self.ended.set_result(None)

    def _settle_ready(self) -> None:
        if not self.is_ready.done():
            self.is_ready.set_result(None)

    def _fail(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(WorkerFailure("a worker for wasm died at its work"))


class Pool:
    """Workers that are ready for the next program. Owned by the event loop."""

    def __init__(self, settings: WorkerSettings, idle: int, nursery: Nursery) -> None:
        """Keeps up to `idle` workers that have nothing to do. The nursery must be up for others to
        be started.
        """
        self._settings = settings
        self._nursery = nursery
        self._limit = idle
        self._idle: list[WorkerProcess] = []
        self._alive: set[WorkerProcess] = set()

    def take(self) -> WorkerProcess:
        """Answers a worker that has nothing to do, which is the caller's until give or end.

        Raises WorkerFailure.
        """
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended.done():
                return worker
        return self.start()

    def start(self) -> WorkerProcess:
        """Answers a worker that has never run anything. Raises WorkerFailure."""
        worker = WorkerProcess(self._settings, self._nursery)
        self._alive.add(worker)
        worker.ended.add_done_callback(lambda _: self._alive.discard(worker))
        return worker

    def give(self, worker: WorkerProcess) -> None:
        """Takes back a worker that has nothing to do."""
        if worker.runs >= _RUNS or len(self._idle) >= self._limit:
            worker.kill()
        elif not worker.ended.done():
            self._idle.append(worker)

    async def close(self) -> None:
        """Ends all workers. None may be at work."""
        for worker in list(self._alive):
            await worker.end()
