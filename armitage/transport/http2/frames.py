"""Frames (RFC 9113 sections 4 and 6): their numbers, and how the ones that we send are written."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

HEAD_BYTES = 9
FRAME_LIMIT = 16_384
"""The largest payload that every peer must take, and that we take: it keeps streams taking turns,
and larger ones were measured to gain nothing.
"""
INITIAL_WINDOW = 65_535
WINDOW_LIMIT = 2**31 - 1
STREAM_ID_LIMIT = 2**31 - 1

HEAD = Struct(">HBBBI")
"""Length in two parts (upper 16 bits, lower 8), kind, flags, stream with its reserved bit."""

_SETTING = Struct(">HI")
_GOAWAY_BODY = Struct(">II")
_INT = Struct(">I")


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame_head(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK = frame_head(0, SETTINGS, ACK, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings in their order, a name perhaps more than once. The length must be whole."""
    return list(_SETTING.iter_unpack(payload))


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """A PING frame with its eight bytes."""
    return frame_head(8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream: int, code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    payload = _GOAWAY_BODY.pack(last_stream, code) + debug
    return frame_head(len(payload), GOAWAY, 0, 0) + payload


def rst_stream(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame_head(4, RST_STREAM, 0, stream) + _INT.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame_head(4, WINDOW_UPDATE, 0, stream) + _INT.pack(increment)
