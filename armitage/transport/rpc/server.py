"""The server side of gRPC over HTTP/2, without I/O.

How a shell drives it. One `RpcServer` per listening server, one `RpcConnection` per socket:

    connection = server.connect()
    loop: data came         events = connection.receive(data, now)    # bytes of any size
                            ...act on events, which calls the methods of their `ServerCall`s...
          then, and whenever the socket takes more again:
                            buffers = connection.take_output()        # [] when there is nothing
                            ...write them (sendmsg, writelines, join), in order...
                            for call in connection.take_drained(): wake its writer
          connection.closing: write what take_output gives, then close the socket; what still
                            comes in need not be handed over.
          the socket ended  events = connection.lost()                # Ended for each open call

Everything that a shell calls may add output (a response, a WINDOW_UPDATE from `read`), so end each
turn with take_output. Nothing here blocks, awaits, or reads a clock; `now` is monotonic seconds.

Events (in the order of their causes; a call's events only ever come in the order below)

    Opened(call)            The headers came. For methods that stream requests at once. For the
                            others only if the request did not come in the same turn: the shell
                            can then start to count its deadline and idle time.
    Requested(call, message)  Unary, ServerStream: the request is there. Start the handler.
    Readable(call)          ClientStream, Bidi: messages, or the end, came where `read` answered
                            None before. At most one per turn.
    Ended(call, reason)     The client reset the call, broke the protocol, or left; or the call
                            failed here (message too large...) and has been answered. Cancel the
                            handler. Nothing of the call comes after it, and its methods then do
                            nothing.
    PingAcknowledged()      The answer to our last ping.
    Calls that end by our own finish/respond/reset get no event.

Back-pressure. `send` and `respond` answer whether everything was handed to the output; if not,
the call comes up in take_drained() once it was. take_output(limit) gives about `limit` bytes at
most and takes the frames of all waiting calls in turns, so a shell that asks only while the socket
takes bytes bounds its own memory and keeps calls from starving each other. The receive window
opens as `read` (or Requested) hands messages over: a handler that does not read stops its client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from armitage.transport.http2.options import Counters, Http2Options
from armitage.transport.port import Method, Piece, Response, Status


class Compressed(Protocol):
    """A message that came compressed (grpc-encoding: gzip)."""

    def expand(self) -> bytes:
        """The message. Takes time in proportion to it, so call it in a thread (it touches nothing
        shared). Raises RpcFailure: finish the call with its `.status`.
        """
        ...


class ServerCall(Protocol):
    """One call. All members are for the thread of the connection."""

    method: Method
    path: str
    metadata: Mapping[str, str | bytes]
    """As in `port.Call`; without what HTTP and gRPC use themselves (te, content-type...)."""
    timeout_s: float | None
    """From the arrival of the headers (grpc-timeout)."""
    ended: bool
    """Nothing more can be sent."""
    half_closed: bool
    """The client has sent all of its request (there may be messages left to read)."""

    def read(self) -> bytes | Compressed | None:
        """The next request message of a streaming call, or None: at the end if `exhausted`, else
        for want of one; then Readable will come.
        """
        ...

    @property
    def exhausted(self) -> bool:
        """The client ended the stream and every message was read."""
        ...

    def respond(self, message: bytes) -> bool:
        """The response message of a call without any yet, and status OK. The fast path."""
        ...

    def send(self, message: Response) -> bool:
        """A response message of a stream. Pieces are referred to, not copied, until they left.
        Answers whether all of it went to the output. Send nothing more before it drained.
        """
        ...

    def finish(self, status: Status) -> None:
        """The status, after what was sent before. Once only. What the client still sends is read
        and thrown away, up to a limit, then reset with NO_ERROR.
        """
        ...

    def abandon(self) -> None:
        """Resets the stream now: with CANCEL before its status left, with NO_ERROR after."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    call: ServerCall


@dataclass(frozen=True, slots=True)
class Requested:
    call: ServerCall
    message: bytes | Compressed


@dataclass(frozen=True, slots=True)
class Readable:
    call: ServerCall


@dataclass(frozen=True, slots=True)
class Ended:
    call: ServerCall
    reason: str


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    pass


Event = Opened | Requested | Readable | Ended | PingAcknowledged


class RpcServer(Protocol):
    """What all connections share: methods, options, counters, memoised headers.

    RpcServer(methods: Iterable[Method], *, receive_limit_bytes: int,
              http2: Http2Options = Http2Options(), counters: Counters | None = None)
    A path that no method has is answered UNIMPLEMENTED without an event.
    """

    counters: Counters

    def connect(self) -> RpcConnection:
        """A new connection; its first output is our SETTINGS."""
        ...


class RpcConnection(Protocol):
    """One connection."""

    closing: bool
    """Write what is there, then close: a fatal error, or drained and empty, or not HTTP/2."""
    close_reason: str
    """For logs; empty while not closing."""
    calls: Iterable[ServerCall]
    """Those open, for sweeps of idle ones."""
    open_calls: int
    output_bytes: int
    """How much take_output would give without limit, about."""

    def receive(self, data: bytes, now: float) -> list[Event]: ...
    def take_output(self, limit: int = 1 << 20) -> list[Piece]: ...
    def take_drained(self) -> list[ServerCall]: ...
    def lost(self) -> list[Event]:
        """The peer is gone: every open call ends. Idempotent."""
        ...

    def ping(self) -> None:
        """Asks for a PingAcknowledged (keepalive)."""
        ...

    def announce_drain(self) -> None:
        """Step one of a graceful end: GOAWAY(2^31-1) and a ping; calls that the client has not
        heard that in time for still come in.
        """
        ...

    def drain(self) -> None:
        """Step two, by itself when that ping is acknowledged (or when the shell says so): GOAWAY
        with the last stream. New streams are ignored, and `closing` is set when no call is left.
        """
        ...

    def close(self, reason: str = "") -> list[Event]:
        """At once: GOAWAY(NO_ERROR), Ended for each open call, closing."""
        ...
