"""A network namespace with nothing in it but loopback, and sockets inside it that are handed out.

As a program, for a process that is about to become a command: it enters such a namespace, opens the
sockets in it, sends them to whoever started it, and executes the command. A user namespace around
it sees to it that not even root can go back to the host's network. Neither veth nor privilege is
needed for that.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from executor.errors import SandboxUnavailable

_DNS_PORT = 53
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_NETLINK_HEADER = struct.Struct("IHHII")
_RTM_NEWROUTE, _RTA_OIF = 24, 4
_NEW_ACKNOWLEDGED = 0x1 | 0x4 | 0x200 | 0x400  # REQUEST, ACK, EXCL, CREATE
_LOCAL_ROUTE = (255, 3, 254, 2)  # table local, protocol boot, scope host, type local
_READY = b"ready"
_MESSAGE_BYTES = 4096
_ENTER_S = 30.0
NOT_FOUND, NOT_RUN = 127, 126


@dataclass(frozen=True, slots=True)
class Inside:
    """What is opened inside a namespace (executor.ports.NetworkSession)."""

    ports: tuple[int, ...]
    redirect: bool = False
    """With it also a resolver, and a raw socket."""
    resolv_conf: str = ""
    """A file that is shown as /etc/resolv.conf."""


def command(channel: socket.socket, inside: Inside) -> list[str]:
    """Answers the words to be put before a command's own. It must inherit the channel's descriptor,
    whose other end is for `receive`. A command that cannot be started ends with 127 (not found) or
    126.
    """
    return [sys.executable, "-m", __name__, str(channel.fileno()), json.dumps(asdict(inside))]


def receive(channel: socket.socket) -> list[socket.socket]:
    """Takes the sockets: one for each port; with a redirect then the resolver's UDP and TCP
    sockets, and the raw one. Blocks for up to 30 s.

    Raises SandboxUnavailable where this host does not let this user make a network namespace.
    """
    channel.settimeout(_ENTER_S)
    try:
        said, fds, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 64)
    except OSError as error:
        said, fds = str(error).encode(), []
    if said != _READY or not fds:
        raise SandboxUnavailable(
            f"no network namespace for the command: {said.decode('utf-8', 'replace') or 'it died'};"
            " unprivileged user namespaces must be allowed (sysctl kernel.unprivileged_userns_clone"
            " and user.max_user_namespaces)"
        )
    return [socket.socket(fileno=fd) for fd in fds]


def _enter(inside: Inside) -> None:
    """Moves this process, which has one thread, into namespaces of its own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    kinds = _CLONE_NEWUSER | _CLONE_NEWNET | (_CLONE_NEWNS if inside.resolv_conf else 0)
    _check(libc.unshare(kinds), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    if inside.redirect:
        _redirect_all()
    if inside.resolv_conf:
        _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount /")
        source, place = inside.resolv_conf.encode(), b"/etc/resolv.conf"
        _check(libc.mount(source, place, None, _MS_BIND, None), "mount /etc/resolv.conf")
    # A command whose witness is gone has nobody to answer to, and no setuid program gives back what
    # was given up.
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        _check(libc.prctl(option, value, 0, 0, 0), "prctl")


def _check(failed: int, what: str) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _redirect_all() -> None:
    """`ip route add local 0.0.0.0/0 dev lo` (rtnetlink(7)). Raises OSError."""
    lo = socket.if_nametoindex("lo")
    route = struct.pack("8BI", socket.AF_INET, 0, 0, 0, *_LOCAL_ROUTE, 0)
    device = struct.pack("HHI", 8, _RTA_OIF, lo)
    size = _NETLINK_HEADER.size + len(route) + len(device)
    head = _NETLINK_HEADER.pack(size, _RTM_NEWROUTE, _NEW_ACKNOWLEDGED, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + route + device)
        (error,) = struct.unpack_from("i", netlink.recv(_MESSAGE_BYTES), _NETLINK_HEADER.size)
    if error:
        raise OSError(-error, f"a route to loopback: {os.strerror(-error)}")


def _open(inside: Inside) -> list[socket.socket]:
    """Opens what is wanted. Raises OSError."""
    host = "0.0.0.0" if inside.redirect else "127.0.0.1"  # noqa: S104 (there is no device)
    opened = [socket.create_server((host, port), backlog=128) for port in inside.ports]
    if inside.redirect:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((host, _DNS_PORT))
        opened += [datagrams, socket.create_server((host, _DNS_PORT), backlog=128)]
        opened.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
    return opened


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _main(arguments: Sequence[str]) -> int:
    """What runs in the new process: enter, hand the sockets out, become the command."""
    channel = socket.socket(fileno=int(arguments[0]))
    inside, program = Inside(**json.loads(arguments[1])), arguments[2:]
    try:
        _enter(inside)
        opened = _open(inside)
        socket.send_fds(channel, [_READY], [one.fileno() for one in opened])
        for one in opened:
            one.close()
    except OSError as error:
        channel.send(str(error).encode()[:_MESSAGE_BYTES])
        return NOT_RUN
    channel.close()
    try:
        os.execvp(program[0], list(program))  # noqa: S606 (it is what the user asked for)
    except OSError as error:
        sys.stderr.write(f"armitage: {program[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
