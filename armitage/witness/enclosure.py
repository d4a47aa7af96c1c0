"""A command whose only way out is the witness.

The command gets a network namespace of its own with nothing in it but loopback: no device, no
route, no resolver. Before it starts, a socket is opened inside that namespace and handed out to the
witness, which listens there and fetches from outside. Neither veth nor privilege is needed for
that. A user namespace around it sees to it that not even root can go back to the host's network.

Transparent, every address leads to the namespace's own loopback, where further sockets catch
clients that know of no proxy, and a resolver answers them (armitage.witness.transparent); a mount
namespace shows a resolv.conf that names it.

This encloses the network and nothing else. The command sees the file system as its user does, Unix
sockets with a path included; only an action is in a whole sandbox.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from executor import netns
from executor.errors import SandboxUnavailable

PORT = 8981
"""Where the proxy listens inside."""


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A command that runs, and the sockets inside its namespace: one for each port; with a
    redirect then the resolver's UDP and TCP sockets, and the raw one.
    """

    process: asyncio.subprocess.Process
    sockets: list[socket.socket]


async def enclose(
    command: Sequence[str],
    environment: Mapping[str, str],
    inside: netns.Inside,
    directory: str | None = None,
    stdout: int | None = None,
) -> Enclosed:
    """Starts a command inside. Raises SandboxUnavailable where this host makes no network namespace
    for this user; a command that cannot be started ends with 127 (not found) or 126.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *netns.command(theirs, inside),
            *command,
            env=environment,
            pass_fds=[theirs.fileno()],
            cwd=directory,
            stdout=stdout,
            stderr=stdout,
        )
        theirs.close()
        try:
            sockets = await asyncio.to_thread(netns.receive, ours)
        except SandboxUnavailable:
            await process.wait()
            raise
    return Enclosed(process, sockets)
