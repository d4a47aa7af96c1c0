"""Error codes of HTTP/2 (RFC 9113 section 7), and what the core raises within itself."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def name_of(code: int) -> str:
    """The name of a code for logs; unknown ones are no error (RFC 9113 section 7)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code:#x}"


class ConnectionFault(Exception):
    """The peer broke a rule such that the connection must end."""

    def __init__(self, code: ErrorCode, reason: str, counter: str = "connection_errors") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.counter = counter
        """The field of `Counters` to count it in."""


class StreamFault(Exception):
    """The peer broke a rule such that one stream must end."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class NotHttp2(Exception):
    """What came is no HTTP/2."""
