"""A process that has the engine loaded and forks workers, so that a fresh one costs milliseconds.

It never runs or compiles anything itself, so each worker begins as clean as the first. It dies with
the process that started it, and its workers die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from executor.errors import WorkerFailure
from executor.wasm import messages

_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 30.0
_FORK_TIMEOUT_S = 10.0


class Nursery:
    """The process, as its owner sees it. Methods block; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def is_up(self) -> bool:
        """Whether it was started, and nothing is known to have befallen it."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it unless it is up; takes as long as loading the engine. Raises WorkerFailure."""
        with self._lock:
            if self.is_up:
                return
            self._end()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "executor.wasm.nursery", str(theirs.fileno())],
                    env={"LC_ALL": "C.UTF-8"},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # A terminal's Ctrl-C is for the daemon, which drains.
                )
            except OSError as error:
                ours.close()
                raise WorkerFailure(f"starting the engine for wasm: {error}") from error
            finally:
                theirs.close()
            self._connection = ours
            if self._ask(None, (), _START_TIMEOUT_S) is None:
                self._end()
                raise WorkerFailure("the engine for wasm does not start: try `armitage doctor`")

    def fork(self, settings: Mapping[str, Any], jobs: int, words: int) -> tuple[int, int]:
        """Makes a worker on two sockets; answers its pid and a pidfd, which is the caller's.

        Raises WorkerFailure when it is not up (any more).
        """
        with self._lock:
            answer = self._ask(settings, (jobs, words), _FORK_TIMEOUT_S) if self.is_up else None
            if answer is None:
                self._end()
                raise WorkerFailure("the process that forks workers for wasm is gone")
            if answer[1] < 0:
                raise WorkerFailure("a worker for wasm died as it was started")
            return answer

    def close(self) -> None:
        """Ends it, and all its workers. Idempotent; it may be started again."""
        with self._lock:
            self._end()

    def _ask(
        self, settings: Mapping[str, Any] | None, fds: tuple[int, ...], timeout_s: float
    ) -> tuple[int, int] | None:
        """Asks for a worker, or (without settings) only whether it is there."""
        assert self._connection is not None
        self._connection.settimeout(timeout_s)
        try:
            messages.send(self._connection, settings or {}, fds)
            received = messages.receive(self._connection)
        except (OSError, ValueError):
            return None
        if received is None:
            return None
        message, passed = received
        return message["pid"], passed[0] if passed else -1

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main(connection: socket.socket) -> None:
    """Forks workers until nobody is left to ask for one."""
    from executor.wasm import worker  # Loads the engine.

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for workers: they just go.
    while (received := messages.receive(connection, is_trusted=True)) is not None:
        settings, fds = received
        if not settings:
            messages.send(connection, {"pid": 0})
            continue
        pid = os.fork()
        if pid == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker.main(settings, *fds)
            os._exit(0)
        _tell(connection, pid)
        for fd in fds:
            os.close(fd)


def _tell(connection: socket.socket, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # Dead and gone already.
        messages.send(connection, {"pid": 0})
        return
    with contextlib.suppress(OSError):
        messages.send(connection, {"pid": pid}, [pidfd])
    os.close(pidfd)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
