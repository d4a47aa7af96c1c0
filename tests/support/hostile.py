"""What a hostile HTTP/2 peer sends: floods, broken rules, and things that never end.

Each attack is one connection's worth of bytes, with what RFC 9113 has a server answer.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from support.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
    frame,
    header_block,
    message,
    raw_client,
    request_fields,
)

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

FLOOD = 4000
"""Frames of a flood: far more than any client sends in a second, and soon sent."""

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
WRITE = "/google.bytestream.ByteStream/Write"
BLOCK = header_block(request_fields(CHECK))
OPEN = frame(SETTINGS, 0, 0)
U32 = struct.Struct(">I")


@dataclass(frozen=True)
class Attack:
    """What is sent after the preface, and what becomes of it."""

    name: str
    pieces: Callable[[], Iterator[bytes]]
    codes: frozenset[int]
    """The error codes that the RFC allows in the answer."""
    counter: str
    """What the server counts it as."""
    stream: int = 0
    """The stream that is reset, or 0: the connection ends."""


ATTACKS: list[Attack] = []


def _ends(
    name: str, *codes: int, counter: str = "connection_errors", stream: int = 0
) -> Callable[[Callable[[], Iterator[bytes]]], Callable[[], Iterator[bytes]]]:
    def add(pieces: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
        ATTACKS.append(Attack(name, pieces, frozenset(codes), counter, stream))
        return pieces

    return add


def _is(name: str, data: bytes, *codes: int, counter: str = "connection_errors") -> None:
    """An attack of a single burst that ends the connection."""
    _ends(name, *codes, counter=counter)(lambda: iter([OPEN + data]))


def _resets(name: str, data: bytes, *codes: int) -> None:
    """An attack of a single burst that ends stream 1 alone."""
    _ends(name, *codes, counter="stream_errors", stream=1)(lambda: iter([OPEN + data]))


def _request(stream: int, flags: int = END_HEADERS, block: bytes = BLOCK) -> bytes:
    return frame(HEADERS, flags, stream, block)


def _setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", name, value))


# Floods: legal frames, far too many of them.


@_ends("rapid-reset", ENHANCE_YOUR_CALM, counter="reset_floods")
def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487."""
    yield OPEN
    for stream in range(1, 2 * FLOOD, 2):
        yield _request(stream) + frame(RST_STREAM, 0, stream, U32.pack(8))


@_ends("rapid-refusal", ENHANCE_YOUR_CALM, counter="reset_floods")
def rapid_refusal() -> Iterator[bytes]:
    """The same by another road: streams that the server itself has to reset."""
    yield OPEN
    bad = header_block([("Upper", "case")])
    for stream in range(1, 2 * FLOOD, 2):
        yield _request(stream, block=bad)


@_ends("continuation-flood", ENHANCE_YOUR_CALM, PROTOCOL_ERROR, counter="continuation_floods")
def continuation_flood() -> Iterator[bytes]:
    """CVE-2024-27316."""
    yield OPEN + _request(1, flags=0)
    field = header_block([("x" * 100, "y" * 16_000)])
    for _ in range(60):
        yield frame(CONTINUATION, 0, 1, field)


@_ends("empty-continuation-flood", ENHANCE_YOUR_CALM, counter="continuation_floods")
def empty_continuation_flood() -> Iterator[bytes]:
    yield OPEN + _request(1, flags=0)
    yield from [frame(CONTINUATION, 0, 1)] * FLOOD


@_ends("settings-flood", ENHANCE_YOUR_CALM, counter="settings_floods")
def settings_flood() -> Iterator[bytes]:
    yield from [OPEN] * FLOOD


@_ends("ping-flood", ENHANCE_YOUR_CALM, counter="ping_floods")
def ping_flood() -> Iterator[bytes]:
    yield OPEN
    yield from [frame(PING, 0, 0, bytes(8))] * FLOOD


@_ends("empty-data-flood", ENHANCE_YOUR_CALM, counter="empty_frame_floods")
def empty_data_flood() -> Iterator[bytes]:
    yield OPEN + _request(1)
    yield from [frame(DATA, 0, 1)] * FLOOD


@_ends("padding-only-flood", ENHANCE_YOUR_CALM, counter="empty_frame_floods")
def padding_only_flood() -> Iterator[bytes]:
    yield OPEN + _request(1)
    yield from [frame(DATA, PADDED, 1, b"\x01\x00")] * FLOOD


@_ends("priority-flood", ENHANCE_YOUR_CALM, counter="priority_floods")
def priority_flood() -> Iterator[bytes]:
    yield OPEN
    yield from [frame(PRIORITY, 0, 1, bytes(5))] * FLOOD


@_ends("window-update-flood", ENHANCE_YOUR_CALM, counter="window_update_floods")
def window_update_flood() -> Iterator[bytes]:
    yield OPEN
    yield from [frame(WINDOW_UPDATE, 0, 0, U32.pack(1))] * FLOOD


@_ends("reset-of-the-dead-flood", ENHANCE_YOUR_CALM, STREAM_CLOSED, counter="late_frame_floods")
def reset_of_the_dead_flood() -> Iterator[bytes]:
    yield OPEN + _request(1) + frame(RST_STREAM, 0, 1, U32.pack(8))
    yield from [frame(RST_STREAM, 0, 1, U32.pack(8))] * FLOOD


@_ends("unknown-frame-flood", ENHANCE_YOUR_CALM, counter="priority_floods")
def unknown_frame_flood() -> Iterator[bytes]:
    yield OPEN
    yield from [frame(0xBE, 0, 0, b"?")] * FLOOD


# Windows.


_is(
    "connection-window-overflow",
    frame(WINDOW_UPDATE, 0, 0, U32.pack(2**31 - 1)),
    FLOW_CONTROL_ERROR,
    counter="window_violations",
)
_is("connection-window-update-of-zero", frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL_ERROR)
_is("short-window-update", frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR)
_is("window-update-of-idle-stream", frame(WINDOW_UPDATE, 0, 5, U32.pack(9)), PROTOCOL_ERROR)
_is("initial-window-too-large", _setting(4, 2**31), FLOW_CONTROL_ERROR)
_is(
    "initial-window-overflows-an-open-one",
    _request(1, block=header_block(request_fields(WATCH)))
    + frame(WINDOW_UPDATE, 0, 1, U32.pack(2**31 - 1 - 65_535))
    + _setting(4, 65_536),
    FLOW_CONTROL_ERROR,
    counter="window_violations",
)

# Frames out of shape or place.

_is("huge-frame", b"\xff\xff\xff" + bytes(6), FRAME_SIZE_ERROR)
_is("frame-over-the-limit", _request(1) + frame(DATA, 0, 1, bytes(16_385)), FRAME_SIZE_ERROR)
_is("headers-on-stream-0", _request(0), PROTOCOL_ERROR)
_is("data-on-stream-0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR)
_is("data-on-idle-stream", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR)
_is("reset-of-idle-stream", frame(RST_STREAM, 0, 1, bytes(4)), PROTOCOL_ERROR)
_is("reset-of-stream-0", frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL_ERROR)
_is("long-reset", _request(1) + frame(RST_STREAM, 0, 1, bytes(5)), FRAME_SIZE_ERROR)
_is("even-stream", _request(2), PROTOCOL_ERROR)
_is("stream-below-a-newer-one", _request(9) + _request(7), PROTOCOL_ERROR)
_is(
    "stream-opened-again",
    _request(1, END_HEADERS | END_STREAM) + _request(1, END_HEADERS | END_STREAM),
    PROTOCOL_ERROR,
    STREAM_CLOSED,
)
_is("continuation-of-nothing", frame(CONTINUATION, END_HEADERS, 1, BLOCK), PROTOCOL_ERROR)
_is("block-interrupted", _request(1, 0) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR)
_is(
    "block-continued-elsewhere",
    _request(1, 0) + frame(CONTINUATION, END_HEADERS, 3),
    PROTOCOL_ERROR,
)
_is("push-promise", frame(PUSH_PROMISE, END_HEADERS, 1, U32.pack(2) + BLOCK), PROTOCOL_ERROR)
_is("settings-on-a-stream", frame(SETTINGS, 0, 1), PROTOCOL_ERROR)
_is("settings-cut-short", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR)
_is("settings-ack-with-payload", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR)
_is("settings-push-of-2", _setting(2, 2), PROTOCOL_ERROR)
_is("settings-frame-size-of-100", _setting(5, 100), PROTOCOL_ERROR)
_is("short-ping", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR)
_is("ping-on-a-stream", frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR)
_is("goaway-on-a-stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR)
_is(
    "padding-longer-than-its-frame",
    _request(1) + frame(DATA, PADDED, 1, b"\x09x"),
    PROTOCOL_ERROR,
)
_is(
    "padded-headers-without-length",
    frame(HEADERS, PADDED | END_HEADERS, 1),
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
)
_is(
    "priority-cut-short",
    frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, b"abc"),
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
)

# Header compression.

_is("index-0", _request(1, block=b"\x80"), COMPRESSION_ERROR)
_is("index-beyond-the-tables", _request(1, block=b"\xff\xf0\x10"), COMPRESSION_ERROR)
_is("endless-integer", _request(1, block=b"\xff" * 200), COMPRESSION_ERROR)
_is("text-longer-than-its-block", _request(1, block=b"\x00\x7f\x80\xff\x01a"), COMPRESSION_ERROR)
_is("table-larger-than-offered", _request(1, block=b"\x3f\xe2\x7f" + BLOCK), COMPRESSION_ERROR)

_is(
    "header-bomb",
    # A field of 3 KB is kept in the table, then named ten thousand times with one byte each.
    _request(1, block=BLOCK + b"\x40\x04bomb\x7f\xb9\x16" + b"x" * 3000 + b"\xbe" * 10_000),
    ENHANCE_YOUR_CALM,
    counter="header_bombs",
)

# Requests that are none.


def _changed(**pseudo: str) -> bytes:
    return _request(1, block=header_block(request_fields(CHECK, **pseudo)))


def _with(*fields: tuple[str, str]) -> bytes:
    return _request(1, block=header_block([*request_fields(CHECK), *fields]))


def _without(name: str) -> bytes:
    kept = [field for field in request_fields(CHECK) if field[0] != name]
    return _request(1, block=header_block(kept))


_resets("no-method", _without(":method"), PROTOCOL_ERROR)
_resets("no-scheme", _without(":scheme"), PROTOCOL_ERROR)
_resets("no-path", _without(":path"), PROTOCOL_ERROR)
_resets("empty-path", _changed(path=""), PROTOCOL_ERROR)
_resets("pseudo-header-after-others", _with((":path", CHECK)), PROTOCOL_ERROR)
_resets("pseudo-header-of-responses", _changed(status="200"), PROTOCOL_ERROR)
_resets("pseudo-header-unknown", _changed(gossip="1"), PROTOCOL_ERROR)
_resets("upper-case-name", _with(("X-Upper", "1")), PROTOCOL_ERROR)
_resets("connection-header", _with(("connection", "keep-alive")), PROTOCOL_ERROR)
_resets("te-of-gzip", _with(("te", "gzip")), PROTOCOL_ERROR)
_resets("line-break-in-a-value", _with(("x-a", "1\r\nx-b: 2")), PROTOCOL_ERROR)
_resets("zero-byte-in-a-value", _with(("x-a", "a\0b")), PROTOCOL_ERROR)
_resets("empty-name", _with(("", "1")), PROTOCOL_ERROR)
_resets(
    "stream-window-update-of-zero",
    _request(1, block=header_block(request_fields(WATCH))) + frame(WINDOW_UPDATE, 0, 1, bytes(4)),
    PROTOCOL_ERROR,
)
_resets(
    "stream-window-overflow",
    _request(1, block=header_block(request_fields(WATCH)))
    + frame(WINDOW_UPDATE, 0, 1, U32.pack(2**31 - 1)),
    FLOW_CONTROL_ERROR,
)
_resets(
    "data-after-the-end",
    _request(1, block=header_block(request_fields(WATCH)))
    + frame(DATA, END_STREAM, 1, message(b""))
    + frame(DATA, 0, 1, b"more"),
    STREAM_CLOSED,
)


async def send(address: str, attack: Attack, wait_s: float = 10.0) -> list[Frame]:
    """Attacks, and gives what came until the attack's answer, the end, or the end of patience."""
    frames: list[Frame] = []
    async with raw_client(address, PREFACE) as client:

        async def listen() -> None:
            while received := await client.receive():
                frames.append(received)
                if answer_to(attack, [received]):
                    break

        async def assail() -> None:
            with suppress(ConnectionError):
                for piece in attack.pieces():
                    client.write(piece)
                    await client.flush()

        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s), asyncio.TaskGroup() as group:
                listening = group.create_task(listen())
                sending = group.create_task(assail())
                await listening
                sending.cancel()
    return frames


def answer_to(attack: Attack, frames: list[Frame]) -> int | None:
    """The error code with which the server ended the stream or the connection."""
    for received in frames:
        if received.kind == GOAWAY:
            return U32.unpack(received.payload[4:8])[0]  # type: ignore[no-any-return]
        if attack.stream and received.kind == RST_STREAM and received.stream == attack.stream:
            return U32.unpack(received.payload)[0]  # type: ignore[no-any-return]
    return None
