"""Protocols between executors and the rest: Executor (what we offer), TreeCodec, Progress and
Network (what we are handed).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
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


class SocketKind(Enum):
    """What kind of socket a session is handed."""

    STREAM = "stream"
    """TCP, bound and listening."""
    DATAGRAM = "datagram"
    """UDP, bound."""
    RAW_TCP = "raw TCP"
    """SOCK_RAW with IPPROTO_TCP, which sees every attempt to connect, also where nobody listens."""


@dataclass(frozen=True, slots=True)
class SocketRequest:
    """A socket that a session wants, opened inside the sandbox's network namespace."""

    kind: SocketKind
    address: str = "0.0.0.0"  # noqa: S104 (inside a namespace that has no device)
    """IPv4; a raw socket is not bound."""
    port: int = 0


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


class NetworkSession(Protocol):
    """One action's way to the network."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that lead clients to the witness; the action's own win. Not part of its key."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the sandbox shows read-only at these absolute paths (the bundle of trusted CAs)."""

    @property
    def sockets(self) -> tuple[SocketRequest, ...]:
        """What the sandbox opens inside its network namespace, with loopback up."""

    @property
    def catches_all(self) -> bool:
        """Whether every IPv4 address is to lead to the sandbox's loopback (`ip route add local
        0.0.0.0/0 dev lo`), so that clients which know of no proxy end at the sockets too.
        """

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Answers on the sockets, one for each that was asked for, in that order. Takes them over.
        Returns at once.
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
