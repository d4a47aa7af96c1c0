"""How gRPC writes metadata, timeouts and messages of statuses into header fields (gRPC over HTTP/2,
"Requests" and "Responses").
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

TRUE_BINARY = 0xFE03
"""The HTTP/2 setting that says, when 1, that values of `-bin` metadata may come as they are, marked
by a NUL in front (gRPC proposal G1). It spares the base64 and the Huffman code of both sides.
"""
RAW = b"\0"

_UNSAFE = re.compile(rb"[^ -$&-~]")
"""All but printable ASCII, and the percent sign."""


def parse_timeout(value: bytes) -> float:
    """The seconds of a grpc-timeout. Raises ValueError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError("malformed grpc-timeout")
    return int(match[1]) * _UNIT_S[match[2]]


def encode_message(message: str) -> bytes:
    """A grpc-message."""
    text = message.encode("utf-8", "replace")
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text)


def decode_message(value: bytes) -> str:
    """What `encode_message` wrote. What is no encoding stands for itself."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def decode_text(value: bytes) -> str:
    """A value of metadata. Latin-1 where it is not UTF-8, so that nothing is lost."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def decode_binary(value: bytes) -> bytes:
    """A value of `-bin` metadata: base64, padded or not, of several values the last; or the bytes
    themselves after a NUL (see `TRUE_BINARY`). Raises ValueError.
    """
    if value.startswith(RAW):
        return value[1:]
    if b"," in value:
        value = value.rpartition(b",")[2].strip(b" ")
    last = value.rstrip(b"=")
    return binascii.a2b_base64(last + b"=" * (-len(last) % 4), strict_mode=True)


def encode_binary(value: bytes) -> bytes:
    """A value for `-bin` metadata, without padding."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")
