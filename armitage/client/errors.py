"""What can go wrong at the client's side of a call; see `channel.CallFailed` for the server's."""

from __future__ import annotations

from pathlib import Path

from cas.digest import Digest


class ClientError(Exception):
    """The root of the client's errors."""


class UsageError(ClientError):
    """What the user asked for cannot be (a bad address, path or digest); the message has the
    remedy.
    """


class BlobMissing(ClientError):
    """The server does not have a blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"the server does not have blob {digest.hash}/{digest.size_bytes}")
        self.digest = digest


class NotThere(ClientError):
    """The server does not have what was asked for."""


class NoAnswer(ClientError):
    """No server answers there."""


class UntrustworthyAnswer(ClientError):
    """The server answered something that must not be used: bytes of another digest, a path that
    leaves its directory, a message against the protocol.
    """


class InTheWay(ClientError):
    """Something local stops a download from being written."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ExecutionFailed(ClientError):
    """The server could not run the command to its end (`ExecuteResponse.status` or the call)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
