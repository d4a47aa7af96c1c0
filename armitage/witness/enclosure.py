"""A command whose only way out is the witness.

The command gets a network namespace of its own with nothing in it but loopback: no device, no
route, no resolver. Before it starts, a socket is opened inside that namespace and handed out to the
witness, which listens there and fetches from outside. Neither veth nor privilege is needed for
that. A user namespace around it sees to it that not even root can go back to the host's network.

This encloses the network and nothing else. The command sees the file system as its user does, Unix
sockets with a path included; only an action is in a whole sandbox.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from armitage.errors import ArmitageError

ADDRESS = "127.0.0.1:8981"
"""Where the witness listens inside."""

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_READY = b"ready"
_MESSAGE_BYTES = 4096
_ENTER_S = 30.0
NOT_FOUND, NOT_RUN = 127, 126


class CannotEnclose(ArmitageError):
    """This host does not let this user make a network namespace; the message says why."""


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A command that runs, and the socket inside its namespace."""

    process: asyncio.subprocess.Process
    listener: socket.socket


async def enclose(command: Sequence[str], environment: Mapping[str, str]) -> Enclosed:
    """Starts a command inside. Raises CannotEnclose; a command that cannot be started ends with
    127 (not found) or 126.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(theirs.fileno()), *command),
            env=environment,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        ours.settimeout(_ENTER_S)
        try:
            said, fds, _, _ = await asyncio.to_thread(socket.recv_fds, ours, _MESSAGE_BYTES, 1)
        except OSError as error:
            said, fds = str(error).encode(), []
    if said != _READY or len(fds) != 1:
        await process.wait()
        raise CannotEnclose(
            f"no network namespace for the command: {said.decode('utf-8', 'replace') or 'it died'};"
            " unprivileged user namespaces must be allowed (sysctl kernel.unprivileged_userns_clone"
            " and user.max_user_namespaces)"
        )
    return Enclosed(process, socket.socket(fileno=fds[0]))


def _enter() -> None:
    """Moves this process, which has one thread, into namespaces of its own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    # A command whose witness is gone has nobody to answer to, and no setuid program gives back what
    # was given up.
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl: " + os.strerror(ctypes.get_errno()))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _main(arguments: Sequence[str]) -> int:
    """What runs in the new process: enter, hand the socket out, become the command."""
    channel = socket.socket(fileno=int(arguments[0]))
    command = arguments[1:]
    try:
        _enter()
        host, _, port = ADDRESS.rpartition(":")
        with socket.create_server((host, int(port)), backlog=128) as listener:
            socket.send_fds(channel, [_READY], [listener.fileno()])
    except OSError as error:
        channel.send(str(error).encode()[:_MESSAGE_BYTES])
        return NOT_RUN
    channel.close()
    try:
        os.execvp(command[0], list(command))  # noqa: S606 (it is what the user asked for)
    except OSError as error:
        sys.stderr.write(f"armitage: {command[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
