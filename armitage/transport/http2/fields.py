"""What header fields may look like in HTTP/2 (RFC 9113 section 8.2)."""

from __future__ import annotations

import re

_NAME = re.compile(rb":?[!-9;-@\[-~]+\Z")
"""No upper case, no space or control character, a colon only in front (section 8.2.1)."""

_VALUE = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])\Z")

_CONNECTION_SPECIFIC = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)


def problem_with(name: bytes, value: bytes) -> str:
    """What makes a request with this field malformed; empty when nothing does."""
    if not _NAME.match(name):
        return "invalid header name"
    if not _VALUE.match(value):
        return f"invalid value of header {name.decode('ascii')}"
    if name in _CONNECTION_SPECIFIC:
        return f"header {name.decode('ascii')} does not belong in HTTP/2"
    if name == b"te" and value != b"trailers":
        return "te may only be trailers"
    return ""
