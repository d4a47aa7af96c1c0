"""One sandbox of our own launcher, from its making to the death of its last process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

from executor.cgroup import Usage
from executor.concurrency import settle
from executor.errors import InvalidInput, WorkerFailure
from executor.input_overlay import Overlay
from executor.launcher.server import LauncherServer, receive
from executor.pidfd import PidWatch
from executor.process import Ending, command_line_too_long, exec_failure

_KNOWN_TIMEOUT_S = 5.0
_FAILED_EXEC = struct.Struct("=4xI")
_ENDED = struct.Struct("=xIQQQQQ")
_BLOCK_BYTES = 512
"""Of getrusage(2), whatever the disk has."""

Serve = Callable[[Sequence[socket.socket]], Awaitable[None]]
"""Takes over the listening sockets of a sandbox."""


class Sandbox:
    """An executor.process.Process.

    The launcher tells of the sandbox's first process, by a pidfd; that process tells when all is
    made, and how the command ended (report.c). It ends with the command, and the kernel reports its
    end only after killing and reaping all others of its process namespace (pid_namespaces(7)).
    """

    def __init__(
        self,
        server: LauncherServer,
        document: bytes,
        arguments: Sequence[str],
        *,
        outputs: tuple[int, int],
        group: int | None,
        serve: Serve | None,
        overlay: Overlay | None,
        on_socket: Callable[[], None],
    ) -> None:
        """Asks for it. Raises WorkerFailure.

        With `serve` the document must hold the command back until it has served; `overlay` takes
        the view of it; `on_socket` is called when the command makes its first socket, where the
        launcher notices that.
        """
        self._server = server
        self._arguments = arguments
        self._serve = serve
        self._overlay = overlay
        self._on_socket = on_socket
        self._first: PidWatch | None = None
        self._listeners: list[socket.socket] = []
        self._ending: Ending | Exception | None = None
        self._is_dying = False
        self._loop = asyncio.get_running_loop()
        self._known: asyncio.Future[None] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._control = server.ask(document, outputs, group)
        self._control.setblocking(False)
        self._is_open = True
        # By number: asyncio asks the names of a socket that it does not know yet.
        self._loop.add_reader(self._control.fileno(), self._read)

    def _read(self) -> None:
        while self._is_open:
            try:
                data, fds = receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._shut()
                return
            self._take(data, fds)

    def _shut(self) -> None:
        """Lets go of the control socket, which also ends a sandbox that still has its other end."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            for future in (self._known, self._ready, self.ended):
                _settle(future)

    def _take(self, data: bytes, fds: list[int]) -> None:
        match data[:1]:
            case b"P":
                self._first = PidWatch(fds[0], is_child=False)
                _settle(self._known)
                if self._is_dying:
                    self._first.kill()
                return
            case b"M" if self._overlay is not None:
                self._overlay.take(fds[0])
                return
            case b"R":
                self._listeners = [socket.socket(fileno=fd) for fd in fds]
                _settle(self._ready)
                return
            case b"S":
                self._on_socket()
                return
            case b"N":
                self._ending = _failed_exec(_FAILED_EXEC.unpack(data)[0], self._arguments)
            case b"X":
                status, *usage = _ENDED.unpack(data)
                self._ending = _ending(status, _usage(*usage))
            case _:
                text = data[1:].decode(errors="replace")
                self._ending = WorkerFailure(f"the sandbox could not be made: {text}")
        for future in (self._ready, self.ended):
            _settle(future)

    async def release(self) -> None:
        """Lets the command run, once its sockets are served. Its limits apply already."""
        await asyncio.wait([self._ready])
        if self._serve is None or self._ending is not None or not self._is_open:
            return
        listeners, self._listeners = self._listeners, []
        await self._serve(listeners)
        with contextlib.suppress(OSError):  # Its end is told from elsewhere.
            self._control.send(b"G")

    async def kill(self) -> None:
        """Kills the sandbox and waits until its last process is gone."""
        self._is_dying = True
        if self._first is not None:
            self._first.kill()
        # Else the launcher may be about to make a process that nobody would hear of; see _take.
        timer = self._loop.call_later(_KNOWN_TIMEOUT_S, self._server.kill)
        try:
            await settle(self._known)
        finally:
            timer.cancel()
            await self._finish()

    async def _finish(self) -> None:
        try:
            if self._first is not None:
                await settle(self._first.ended)
        finally:
            self._read()  # What was said last, before the end was noticed.
            self._shut()
            for listener in self._listeners:
                listener.close()

    def ending(self, printed: str) -> Ending:
        """Says how the command ended. Raises WorkerFailure when it never ran."""
        del printed
        if isinstance(self._ending, Exception):
            raise self._ending
        return self._ending or Ending(128 + 9, signal=9, is_lost=True)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ending(status: int, usage: Usage) -> Ending:
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else None
    return Ending(code if number is None else 128 + number, usage=usage, signal=number)


def _usage(
    user_us: int, system_us: int, peak_kib: int, read_blocks: int, written_blocks: int
) -> Usage:
    """Answers what the processes used that had ended when the command did: the memory is of one,
    and written is what changed of files that have a disk, whether or not it is there yet.
    """
    return Usage(
        (user_us + system_us) / 1e6,
        peak_kib << 10,
        read_bytes=read_blocks * _BLOCK_BYTES,
        written_bytes=written_blocks * _BLOCK_BYTES,
    )


def _failed_exec(why: int, arguments: Sequence[str]) -> Ending | InvalidInput:
    if why == errno.E2BIG:
        return command_line_too_long(arguments)
    return exec_failure(f"{arguments[0]}: {os.strerror(why)}", is_missing=why == errno.ENOENT)
