"""A worker process: runs programs, one at a time, that its supervisor sends it.

Two sockets lead to the supervisor. On one come jobs, and answers go back; the other carries words
for a job that runs, and its end is this process's end, whatever runs. The supervisor kills a worker
that does not hear.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor.errors import InvalidInput
from executor.wasm import messages
from executor.wasm.confinement import confine
from executor.wasm.engine import End, Kind, Preopen, Run
from executor.wasm.program import Machine, Program, Stale

_REMEMBERED = 16
_READ_BYTES = 1 << 20
_MESSAGE_CHARS = 2_000
"""Of why a program trapped; the cause stands at the end, and stderr has it all."""
_MICRO = 1_000_000


class Worker:
    """Serves one supervisor until it goes away."""

    def __init__(self, machine: Machine, jobs: socket.socket, null: int) -> None:
        """`null` is where what is printed between jobs goes."""
        self._machine = machine
        self._jobs = jobs
        self._null = null
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._lock = threading.Lock()
        self._current = 0
        """Which job runs; 0 for none. Guarded by _lock."""

    def serve(self) -> None:
        """Takes jobs until there are no more."""
        while (received := messages.receive(self._jobs, is_trusted=True)) is not None:
            job, fds = received
            try:
                answer = self._compile(*fds) if "compile" in job else self._run(job, fds)
            except InvalidInput as error:
                answer = {"invalid": str(error)}
            except Stale as error:
                answer = {"stale": str(error)}
            finally:
                for fd in fds:
                    os.close(fd)
            messages.send(self._jobs, answer)

    def listen(self, words: socket.socket) -> None:
        """Obeys words about jobs that run; for a thread of its own."""
        while word := words.recv(64):
            with self._lock:
                # A word for a job that has just ended must not hit the next.
                if int(word) == self._current:
                    self._machine.interrupt()
        os._exit(0)

    def _compile(self, source: int, target: int) -> dict[str, Any]:
        binary = bytearray()
        while chunk := os.pread(source, _READ_BYTES, len(binary)):
            binary += chunk
        kind, compiled = self._machine.compile(bytes(binary))
        with os.fdopen(os.dup(target), "wb") as file:
            file.write(compiled)
        return {"kind": kind.value}

    def _run(self, job: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        stdout, stderr, compiled = fds
        program = self._program(job["program"], Kind(job["kind"]), compiled)
        what = Run(
            arguments=tuple(job["arguments"]),
            memory_bytes=job["memory_bytes"],
            fuel=job["fuel"],
            environment=tuple((name, value) for name, value in job["environment"]),
            preopens=tuple(Preopen(*preopen) for preopen in job["preopens"]),
        )
        before = _cpu_us()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        self._set_current(job["number"])
        try:
            ended = self._machine.run(program, what)
            if ended.end in (End.TRAPPED, End.OUT_OF_FUEL):
                with contextlib.suppress(OSError):
                    os.write(2, f"{ended.message.strip()}\n".encode())
        finally:
            self._set_current(0)
            # Whoever reads what was printed waits for the last of us to let go.
            os.dup2(self._null, 1)
            os.dup2(self._null, 2)
        return {
            "end": ended.end.value,
            "exit_code": ended.exit_code,
            "fuel_used": ended.fuel_used,
            "memory_bytes": ended.memory_bytes,
            "cpu_us": _cpu_us() - before,
            "message": ended.message[-_MESSAGE_CHARS:],
        }

    def _program(self, name: str, kind: Kind, compiled: int) -> Program:
        program = self._programs.get(name)
        if program is None:
            program = self._machine.load(kind, f"/proc/self/fd/{compiled}")
            self._programs[name] = program
            if len(self._programs) > _REMEMBERED:
                self._programs.popitem(last=False)
        self._programs.move_to_end(name)
        return program

    def _set_current(self, number: int) -> None:
        with self._lock:
            self._current = number


def main(chosen: Mapping[str, Any], jobs_fd: int, words_fd: int) -> None:
    """Confines this process and serves (see pool.WorkerSettings)."""
    jobs, words = socket.socket(fileno=jobs_fd), socket.socket(fileno=words_fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    limits = {int(which): limit for which, limit in chosen["limits"].items()}
    # Before there are threads: it holds for this one and those that it makes.
    taken = confine(Path(chosen["scratch"]), limits)
    worker = Worker(Machine(deterministic=chosen["deterministic"]), jobs, null)
    threading.Thread(target=worker.listen, args=(words,), daemon=True).start()
    messages.send(jobs, {"confinement": taken})
    worker.serve()


def _cpu_us() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round((used.ru_utime + used.ru_stime) * _MICRO)
