"""The least of an HTTP/2 gRPC client, for what real clients will not do on demand: pings in a row,
streams left half open, frames counted, rules broken.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as it travels."""
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + payload


def request_fields(path: str, /, **changed: str) -> list[tuple[str, str]]:
    """The header fields of a gRPC call; `method`, `scheme` and so on change pseudo-headers."""
    pseudo = {"method": "POST", "scheme": "http", "path": path, "authority": "localhost"}
    fields = [(f":{name}", value) for name, value in (pseudo | changed).items()]
    return [*fields, ("content-type", "application/grpc"), ("te", "trailers")]


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Literal fields that no table remembers, without Huffman codes (RFC 7541 section 6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes([len(data)]) + data
    head, left = bytearray([127]), len(data) - 127
    while left >= 128:
        head.append(left % 128 + 128)
        left //= 128
    head.append(left)
    return bytes(head) + data


def message(data: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">xI", len(data)) + data


class RawClient:
    """One connection. Acknowledges settings and otherwise sends only what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.write(frame(kind, flags, stream, payload))

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(data)

    def close(self) -> None:
        """Leaves."""
        self._writer.close()

    async def flush(self) -> None:
        """Waits while too much is unsent. Raises ConnectionError once the server is gone."""
        await self._writer.drain()

    def open_stream(self, path: str, block: bytes | None = None) -> int:
        """Sends a call's headers, those of an ordinary one unless told otherwise; its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        block = header_block(request_fields(path)) if block is None else block
        self.send(HEADERS, END_HEADERS, stream, block)
        return stream

    def send_message(self, stream: int, data: bytes, *, last: bool) -> None:
        """Sends a message (at most 16 KiB) as one DATA frame."""
        self.send(DATA, END_STREAM if last else 0, stream, message(data))

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        try:
            head = await self._reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            stream = int.from_bytes(head[5:], "big")
            received = Frame(head[3], head[4], stream, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if received.kind == SETTINGS and not received.flags & ACK:
            self.send(SETTINGS, ACK, 0)
        return received

    async def ping(self) -> list[Frame]:
        """Sends a ping; answers what came until its acknowledgement.

        Fails when the server says goodbye.
        """
        self.send(PING, 0, 0, b"pingpong")
        frames: list[Frame] = []
        while True:
            received = await self.receive()
            assert received is not None, "the server closed the connection"
            assert received.kind != GOAWAY, f"GOAWAY: {received.payload[8:].decode()}"
            if received.kind == PING and received.flags & ACK:
                return frames
            frames.append(received)

    async def until_end_of(self, stream: int) -> list[Frame]:
        """The stream's frames up to the one that ends it."""
        frames = []
        while received := await self.receive():
            if received.stream == stream:
                frames.append(received)
                if received.kind == RST_STREAM or received.flags & END_STREAM:
                    break
        return frames

    async def until_closed(self) -> list[Frame]:
        """Everything that comes until the server closes the connection."""
        frames = []
        while received := await self.receive():
            frames.append(received)
        return frames


@asynccontextmanager
async def raw_client(address: str, opening: bytes | None = None) -> AsyncIterator[RawClient]:
    """A connection that has sent the preface and empty settings, or another opening."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = RawClient(reader, writer)
    client.write(PREFACE + frame(SETTINGS, 0, 0) if opening is None else opening)
    try:
        yield client
    finally:
        writer.close()
