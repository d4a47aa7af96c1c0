"""Exit codes (docs/cli.md)."""

from __future__ import annotations

from enum import IntEnum


class NotStarted(Exception):
    """The daemon could not start; the message says why in one line."""


class Exit(IntEnum):
    """What the exit code of every command means. `armitage run` passes the command's own on."""

    OK = 0
    NO = 1
    """The answer is no: not found, not healthy, a check that failed."""
    USAGE = 2
    """Wrong flags, or an argument that cannot be (a bad path, digest or address)."""
    CONFIG = 3
    """The configuration is wrong."""
    UNREACHABLE = 4
    """No server answers there, or not in time."""
    REFUSED = 5
    """The server refused or failed the call, or answered what cannot be trusted."""
    NOT_STARTED = 6
    """The daemon could not start: port in use, data directory locked or not writable."""
    BUG = 70
    """An error of ours; the message says how to report it."""
    RUN_FAILED = 125
    """`armitage run` only: the command was not run to its end."""
    INTERRUPTED = 130
    """Ctrl-C."""
