"""Armitage's own errors.

Each class is one thing that a client does differently; `armitage.reapi.gate` maps each to a status.
"""

from __future__ import annotations

from collections.abc import Sequence


class ArmitageError(Exception):
    """The root of Armitage's errors."""


class InvalidRequest(ArmitageError):
    """The request can never succeed. `violations` are (field, description) pairs for a BadRequest
    detail.
    """

    def __init__(self, message: str, violations: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class NotFound(ArmitageError):
    """The named thing (result, operation, instance, stream, asset) does not exist."""


class OutOfRange(ArmitageError):
    """An offset is outside the thing that it points into."""


class PreconditionFailed(ArmitageError):
    """The state of the world forbids it. `missing` are the resource names of blobs whose upload
    would help (`blobs/HASH/SIZE`).
    """

    def __init__(self, message: str, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class Aborted(ArmitageError):
    """A consistency check failed (a checksum that does not match); another try as it stands will
    not help.
    """


class PermissionDenied(ArmitageError):
    """The caller may not do this."""


class Unauthenticated(ArmitageError):
    """The caller did not prove who it is."""


class Exhausted(ArmitageError):
    """A quota, queue or disk is used up. `retry_after_s` is a hint for a RetryInfo detail, where
    waiting may help.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ArmitageError):
    """Not now (draining, starting, worker lost); the same call may succeed later or elsewhere."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unsupported(ArmitageError):
    """This server does not implement it."""


class Cancelled(ArmitageError):
    """Somebody asked for it to be cancelled."""


class ConfigError(ArmitageError):
    """The configuration is wrong; the message starts with the path of the setting and ends with the
    remedy.
    """
