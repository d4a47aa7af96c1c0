"""The least of an HTTP/2 gRPC client, for what real clients will not do on demand: pings in a row,
streams left half open, frames counted.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class RawClient:
    """One connection. Acknowledges settings and otherwise sends only what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
        self._writer.write(head + struct.pack(">I", stream) + payload)

    def open_stream(self, path: str) -> int:
        """Sends a call's headers and answers its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        self.send(HEADERS, END_HEADERS, stream, block)
        return stream

    def send_message(self, stream: int, message: bytes, *, last: bool) -> None:
        """Sends a message (at most 16 KiB) as one DATA frame."""
        self.send(
            DATA, END_STREAM if last else 0, stream, struct.pack(">xI", len(message)) + message
        )

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        try:
            head = await self._reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            stream = int.from_bytes(head[5:], "big")
            frame = Frame(head[3], head[4], stream, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if frame.kind == SETTINGS and not frame.flags & ACK:
            self.send(SETTINGS, ACK, 0)
        return frame

    async def ping(self) -> list[Frame]:
        """Sends a ping; answers what came until its acknowledgement.

        Fails when the server says goodbye.
        """
        self.send(PING, 0, 0, b"pingpong")
        frames: list[Frame] = []
        while True:
            frame = await self.receive()
            assert frame is not None, "the server closed the connection"
            assert frame.kind != GOAWAY, f"GOAWAY: {frame.payload[8:].decode()}"
            if frame.kind == PING and frame.flags & ACK:
                return frames
            frames.append(frame)

    async def until_end_of(self, stream: int) -> list[Frame]:
        """The stream's frames up to the one that ends it."""
        frames = []
        while frame := await self.receive():
            if frame.stream == stream:
                frames.append(frame)
                if frame.kind == RST_STREAM or frame.flags & END_STREAM:
                    break
        return frames


@asynccontextmanager
async def raw_client(address: str) -> AsyncIterator[RawClient]:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    client = RawClient(reader, writer)
    client.send(SETTINGS, 0, 0)
    try:
        yield client
    finally:
        writer.close()
