"""HTTP/2 clients that write to a core what tests tell them to, right or wrong, without a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from armitage.transport.http2 import frames
from armitage.transport.http2.options import Http2Options
from armitage.transport.port import (
    Bidi,
    Call,
    ClientStream,
    Method,
    Piece,
    ServerStream,
    Unary,
)
from armitage.transport.rpc.blocks import literal
from armitage.transport.rpc.messages import PREFIX
from armitage.transport.rpc.server import Event, RpcConnection, RpcServer

UNARY, DOWN, UP, BIDI = "/t.T/Unary", "/t.T/Down", "/t.T/Up", "/t.T/Bidi"

HEADERS: Mapping[bytes, bytes] = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": UNARY.encode(),
    b":authority": b"localhost",
    b"content-type": b"application/grpc",
    b"te": b"trailers",
}


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return frames.frame_head(len(payload), kind, flags, stream) + payload


def parse_frames(data: bytes) -> list[Frame]:
    """All of them; nothing may be left over."""
    found = []
    while data:
        high, low, kind, flags, stream = frames.HEAD.unpack_from(data)
        stop = 9 + (high << 8 | low)
        assert len(data) >= stop, "half a frame"
        found.append(Frame(kind, flags, stream, data[9:stop]))
        data = data[stop:]
    return found


def block(fields: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]]) -> bytes:
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return b"".join(literal(name, value) for name, value in pairs)


def headers(
    stream: int,
    path: str = UNARY,
    extra: Mapping[bytes, bytes] | None = None,
    *,
    ends: bool = False,
) -> bytes:
    """The HEADERS frame of a call."""
    payload = block({**HEADERS, b":path": path.encode(), **(extra or {})})
    return frame(frames.HEADERS, frames.END_HEADERS | ends, stream, payload)


def message(data: bytes, *, compressed: bool = False) -> bytes:
    """A message with its prefix."""
    return PREFIX.pack(compressed, len(data)) + data


def data(stream: int, payload: bytes, *, ends: bool = False) -> bytes:
    """DATA frames of the largest size."""
    limit = frames.FRAME_LIMIT
    parts = [payload[at : at + limit] for at in range(0, max(1, len(payload)), limit)]
    return b"".join(frame(frames.DATA, ends and part is parts[-1], stream, part) for part in parts)


def unary(stream: int, request: bytes = b"", path: str = UNARY) -> bytes:
    """A whole call."""
    return headers(stream, path) + data(stream, message(request), ends=True)


HELLO = frames.PREFACE + frames.settings({})


async def _no_unary(request: bytes, call: Call) -> bytes:
    raise AssertionError


def _never(*_: object) -> object:
    raise AssertionError("the core runs no handlers")


METHODS: list[Method] = [
    Unary(UNARY, _no_unary),
    ServerStream(DOWN, _never),  # type: ignore[arg-type]
    ClientStream(UP, _never),  # type: ignore[arg-type]
    Bidi(BIDI, _never),  # type: ignore[arg-type]
]


class Peer:
    """A connection to a core, and the client's end of it."""

    def __init__(
        self,
        options: Http2Options | None = None,
        *,
        receive_limit_bytes: int = 1 << 20,
        greet: bool = True,
        server: RpcServer | None = None,
    ) -> None:
        self.server = server or RpcServer(
            METHODS, receive_limit_bytes=receive_limit_bytes, http2=options
        )
        self.core: RpcConnection = self.server.connect()
        self.now = 0.0
        if greet:
            self.send(HELLO + frames.SETTINGS_ACK)
            self.take()

    @property
    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        return {name: count for name, count in self.server.counters.read().items() if count}

    def send(self, *parts: bytes) -> list[Event]:
        return self.core.receive(b"".join(parts), self.now)

    def take_bytes(self, limit: int = 1 << 30) -> bytes:
        pieces: list[Piece] = self.core.take_output(limit)
        return b"".join(pieces)

    def take(self) -> list[Frame]:
        """The frames that the core wants sent."""
        return parse_frames(self.take_bytes())

    def ask(self, *parts: bytes) -> list[Frame]:
        """Sends, and answers the frames that come of it."""
        self.send(*parts)
        return self.take()

    def goodbye(self) -> tuple[int, str]:
        """The code and text of the GOAWAY that ends the connection."""
        assert self.core.closing
        last = self.take()[-1]
        assert last.kind == frames.GOAWAY
        return int.from_bytes(last.payload[4:8], "big"), last.payload[8:].decode()
