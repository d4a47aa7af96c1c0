"""Protobuf's wire format, for the hot paths that read and write it by hand."""

from __future__ import annotations

from google.protobuf.message import DecodeError


def encode_varint(value: int) -> bytes:
    """Encodes a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """Answers the unsigned 64-bit integer at the position and where it ends; or DecodeError."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise DecodeError("malformed varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7


def length_delimited(field: int, data: bytes) -> bytes:
    """Encodes a bytes or message field."""
    return encode_varint(field << 3 | 2) + encode_varint(len(data)) + data
