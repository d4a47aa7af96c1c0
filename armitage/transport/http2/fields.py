"""What header fields may look like in HTTP/2 (RFC 9113 section 8.2)."""

from __future__ import annotations

import re
from functools import lru_cache

_NAME = re.compile(rb":?[!-9;-@\[-~]+\Z")
"""No upper case, no space or control character, a colon only in front (section 8.2.1)."""

_NEVER_IN_VALUES = re.compile(rb"[\x00\r\n]")
_NEVER_AROUND_VALUES = b" \t"

_CONNECTION_SPECIFIC = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)
_NAMES_KEPT = 1024
_NAME_BYTES_KEPT = 128


def problem_with(name: bytes, value: bytes, *, binary: bool = False) -> str:
    """What makes a request with this field malformed; empty when nothing does. `binary` values may
    hold anything.
    """
    problem = (
        _problem_with_name(name)
        if len(name) <= _NAME_BYTES_KEPT
        else _problem_with_name.__wrapped__(name)
    )
    if problem:
        return problem
    if (
        value
        and not binary
        and (
            value[0] in _NEVER_AROUND_VALUES
            or value[-1] in _NEVER_AROUND_VALUES
            or _NEVER_IN_VALUES.search(value)
        )
    ):
        return f"invalid value of header {name.decode('ascii')}"
    if name == b"te" and value != b"trailers":
        return "te may only be trailers"
    return ""


@lru_cache(_NAMES_KEPT)
def _problem_with_name(name: bytes) -> str:
    """There are few names, and many values."""
    if not _NAME.match(name):
        return "invalid header name"
    if name in _CONNECTION_SPECIFIC:
        return f"header {name.decode('ascii')} does not belong in HTTP/2"
    return ""
