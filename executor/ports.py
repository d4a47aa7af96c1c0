"""Protocols between executors and the rest: Executor (what we offer), TreeCodec, Progress and
Network (what we are handed).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from executor.evidence import Reached
from executor.spec import Directory, Outcome, Work


class TreeCodec(Protocol):
    """Turns directories into the bytes that name them and back.

    The wire format is the caller's business.
    """

    def decode_directory(self, data: bytes, work: Work) -> Directory:
        """Parses and checks one Directory, whose digests take the work's function.

        Raises InvalidInput, naming what is wrong.
        """

    def encode_directory(self, directory: Directory) -> bytes:
        """Encodes canonically: equal directories give equal bytes; children sorted by name."""

    def encode_tree(self, root: bytes, children: Sequence[bytes]) -> bytes:
        """Encodes a Tree of encoded directories; the caller orders children (parents first, each
        once).
        """


class Progress(Protocol):
    """Hears of a running action. Methods are synchronous, quick, and called on the event loop."""

    def executing(self) -> None:
        """The command has been started (inputs are in place)."""

    def stdout(self, data: bytes) -> None:
        """The command printed this on stdout."""

    def stderr(self, data: bytes) -> None:
        """The command printed this on stderr."""


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """What one action's network session came to."""

    session: str
    """Its name in the witness's log."""
    reached: tuple[Reached, ...] = ()
    """Hosts and ports that answered, each once."""
    credentials: tuple[str, ...] = ()
    """Names of the credentials that were put into requests."""
    dropped: int = 0
    """Exchanges of which no record could be kept."""
    refused: tuple[str, ...] = ()
    """What was asked for and refused, in words for the outcome's message; the first few, each
    once.
    """


PLACEHOLDERS = "198.18.0.0/15"
"""Addresses that stand for names where a session resolves them itself; the benchmarking network
(RFC 2544), which nobody else has.
"""
REDIRECTED = "0.0.0.0/0"
"""What leads to the sandbox itself where a session redirects, as a local route on its loopback:
placeholders, and whatever address a client knows by heart.
"""


class NetworkSession(Protocol):
    """One action's way to the network."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that lead clients to the witness; the action's own win. Not part of its key."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the sandbox shows read-only at these absolute paths (the bundle of trusted CAs)."""

    @property
    def ports(self) -> tuple[int, ...]:
        """TCP ports where the sandbox listens inside its network namespace, on 127.0.0.1 only
        unless it redirects.
        """

    @property
    def redirect(self) -> bool:
        """Whether REDIRECTED leads to the sandbox itself, which then listens on the ports of every
        address. An accepted socket's own name is what the client connected to.
        """

    @property
    def resolver(self) -> bool:
        """Whether the sandbox listens on port 53 too (of every address where it redirects, else of
        127.0.0.1), for the answers of names.

        The `resolv.conf` that says so is one of the files.
        """

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Answers on the sockets, opened inside the action's network namespace: one for each of the
        ports in their order; with a resolver, then its UDP socket and its listening TCP socket;
        with a redirect, then, where the sandbox can make one, a raw socket (SOCK_RAW, IPPROTO_TCP),
        which sees attempts to connect to other ports. Takes them over, not blocking ones. Returns
        at once.
        """

    async def close(self) -> NetworkUse:
        """Cuts what is under way and ends the records; after the action's last process is dead.

        Raises WorkerFailure when the records cannot be kept: the action must not count then.
        """


class Network(Protocol):
    """Opens sessions for actions that declare a network."""

    async def open(self, work: Work) -> NetworkSession:
        """Begins a session that allows what the work's coeffects grant and the policy leaves.

        Raises WorkerFailure when records cannot be kept, InvalidInput when the policy can never
        allow what is declared.
        """


class Executor(Protocol):
    """Runs one action in a sandbox."""

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        """Stages inputs, runs the command, stores stdout, stderr and outputs.

        Raises the errors of executor.errors. Cancelling kills the whole process tree and frees all
        scratch space before the
        cancellation goes on; nothing of the action is left behind in any case.
        """
