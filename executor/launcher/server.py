"""The launcher's process: it is started once, and then asked for one sandbox after the other.

Only this process has the other end of its socket, so it ends when this one does, however that is,
and every sandbox with it (main.c).
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from executor.errors import SandboxUnavailable, WorkerFailure

PROTOCOL = 6
"""Of documents and messages; PROTOCOL in launcher.h."""

_START_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 5.0
"""It takes requests off its socket at once, unless something has stopped it."""
_MESSAGE_BYTES = 2048
_LISTENERS_MAX = 64
_OPTIONS = socket.AF_UNIX, socket.SOCK_SEQPACKET


class LauncherServer:
    """A running launcher. Started again when it is found to have died."""

    def __init__(self, program: Path, template: bytes) -> None:
        """Starts it with a template, the document of what all actions see.

        Blocks for some 5 ms. Raises SandboxUnavailable, saying what failed.
        """
        self._program = program
        self._template = template
        self.landlock = 0
        """The version of Landlock that it applies; 0 for none."""
        self.reuses_networks = False
        """Whether sandboxes get network namespaces in which others have made no socket (pool.c)."""
        self._socket, self._process = self._start()

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(*_OPTIONS)
        ours.settimeout(_SEND_TIMEOUT_S)
        try:
            with theirs:
                process = _spawn(self._program, theirs)
            try:
                self._shake_hands(ours)
            except BaseException:
                process.kill()
                process.wait()
                raise
        except OSError as error:
            ours.close()
            raise SandboxUnavailable(f"starting {self._program}: {error}") from error
        except BaseException:
            ours.close()
            raise
        return ours, process

    def _shake_hands(self, connection: socket.socket) -> None:
        with _memory_file(self._template) as document:
            socket.send_fds(connection, [b"T"], [document])
        connection.settimeout(_START_TIMEOUT_S)
        try:
            answer = connection.recv(_MESSAGE_BYTES)
        except TimeoutError:
            raise SandboxUnavailable(f"{self._program} does not answer") from None
        connection.settimeout(_SEND_TIMEOUT_S)
        if answer[:1] == b"E":
            raise SandboxUnavailable(answer[1:].decode(errors="replace"))
        if len(answer) != 4 or answer[0:2] != bytes((ord("K"), PROTOCOL)):
            raise SandboxUnavailable(
                f"{self._program} is of another version than this package; build it again"
                " (python hatch_build.py)"
            )
        self.landlock, self.reuses_networks = answer[2], bool(answer[3])

    def ask(self, document: bytes, outputs: Sequence[int], group: int | None) -> socket.socket:
        """Asks for a sandbox; answers the control socket, on which its fate is told (report.c).

        `outputs` are its stdout and stderr, `group` the directory of a version 2 control group for
        its processes. Raises WorkerFailure.
        """
        ours, theirs = socket.socketpair(*_OPTIONS)
        try:
            with theirs, _memory_file(document) as file:
                fds = [file, *outputs, theirs.fileno(), *([] if group is None else [group])]
                self._send(fds)
        except (OSError, SandboxUnavailable) as error:
            ours.close()
            raise WorkerFailure(f"asking for a sandbox: {error}") from error
        return ours

    def _send(self, fds: Sequence[int]) -> None:
        try:
            socket.send_fds(self._socket, [b"A"], fds)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.kill()
            self.close()
            self._socket, self._process = self._start()
            socket.send_fds(self._socket, [b"A"], fds)

    def kill(self) -> None:
        """Kills it, and with it all sandboxes. The next request starts another."""
        self._process.kill()

    def close(self) -> None:
        """Lets go of it, and waits until it has ended."""
        self._socket.close()
        self._process.wait()


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Takes one message about a sandbox, empty at the end, and the descriptors that came with it,
    which are the caller's.
    """
    # socket.recv_fds passes no flags on.
    data, ancillary, _, _ = control.recvmsg(
        _MESSAGE_BYTES, socket.CMSG_SPACE(4 * _LISTENERS_MAX), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, passed in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(passed[: len(passed) - len(passed) % fds.itemsize])
    return data, list(fds)


def _spawn(program: Path, connection: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(program)],
        env={},
        cwd="/",
        stdin=connection.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # A terminal's Ctrl-C is for the daemon, which drains.
    )


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("launcher-document")
    try:
        written = 0
        while written < len(data):
            written += os.write(fd, data[written:])
        yield fd
    finally:
        os.close(fd)
