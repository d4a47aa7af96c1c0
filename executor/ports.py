"""Protocols between executors and the rest: Executor (what we offer), TreeCodec and Progress (what
we are handed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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


class Executor(Protocol):
    """Runs one action in a sandbox."""

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        """Stages inputs, runs the command, stores stdout, stderr and outputs.

        Raises the errors of executor.errors. Cancelling kills the whole process tree and frees all
        scratch space before the
        cancellation goes on; nothing of the action is left behind in any case.
        """
