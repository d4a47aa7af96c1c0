"""The header blocks of responses, without compression: written once, they fit every peer."""

from __future__ import annotations

from collections.abc import Iterable

from armitage.transport.http2 import frames
from armitage.transport.port import Code, Status
from armitage.transport.rpc.metadata import encode_binary, encode_message

_STATUS_200 = b"\x88"  # Static table, entry 8.
_LENGTH_LIMIT = 127


def _integer(value: int) -> bytes:
    """The length of a string literal (RFC 7541 section 5.1, with a prefix of 7 bits)."""
    if value < _LENGTH_LIMIT:
        return bytes([value])
    encoded = bytearray([_LENGTH_LIMIT])
    value -= _LENGTH_LIMIT
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def literal(name: bytes, value: bytes) -> bytes:
    """A field that enters no table (RFC 7541 section 6.2.2)."""
    return b"\x00" + _integer(len(name)) + name + _integer(len(value)) + value


_CONTENT_TYPE = literal(b"content-type", b"application/grpc")
RESPONSE = _STATUS_200 + _CONTENT_TYPE
"""Before the first message."""
OK_TRAILERS = literal(b"grpc-status", b"0")
_ACCEPT = literal(b"grpc-accept-encoding", b"identity,gzip")


def trailers(status: Status) -> bytes:
    """After the last message."""
    if status.code == Code.OK and not (status.message or status.details or status.trailers):
        return OK_TRAILERS
    block = literal(b"grpc-status", b"%d" % status.code)
    if status.message:
        block += literal(b"grpc-message", encode_message(status.message))
    if status.details:
        block += literal(b"grpc-status-details-bin", encode_binary(status.details))
    for name, text in status.trailers:
        block += literal(name.encode(), encode_message(text))
    return block


def trailers_only(status: Status) -> bytes:
    """Of a response without messages. Says also which encodings we take, for those that used
    another.
    """
    accept = _ACCEPT if status.code == Code.UNIMPLEMENTED else b""
    return RESPONSE + accept + trailers(status)


def http_error(code: int, length: int) -> bytes:
    """For requests that are not gRPC (gRPC over HTTP/2, "Responses"), before so much plain text."""
    block = literal(b":status", b"%d" % code)
    if code == 405:
        block += literal(b"allow", b"POST")
    block += literal(b"content-type", b"text/plain; charset=utf-8")
    return block + literal(b"content-length", b"%d" % length)


def header_frames(id_bytes: bytes, block: bytes, *, ends: bool) -> bytes:
    """A block in HEADERS, and CONTINUATION where it does not fit."""
    parts = list(_chunks(block))
    frame = b""
    for index, part in enumerate(parts):
        kind = frames.CONTINUATION if index else frames.HEADERS
        flags = frames.END_HEADERS if index == len(parts) - 1 else 0
        if ends and not index:
            flags |= frames.END_STREAM
        frame += head(len(part), kind, flags) + id_bytes + part
    return frame


def head(length: int, kind: int, flags: int) -> bytes:
    """The first five bytes of a frame, before its stream."""
    return frames.frame_head(length, kind, flags, 0)[:5]


def _chunks(block: bytes) -> Iterable[bytes]:
    limit = frames.FRAME_LIMIT
    return (block[at : at + limit] for at in range(0, max(len(block), 1), limit))
