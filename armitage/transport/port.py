"""The transport port: handlers take and return message bytes, and know nothing of how these travel.

A transport is given `Method`s and a `StatusGate`. For each call it makes a `Call`, runs the
handler, and turns whatever the
handler raises into a `Status` by the gate: no handler ever sets a status itself. When the client
goes away or its deadline
passes, the handler is cancelled (asyncio.CancelledError at its next await), whatever it is doing.
The end of a request stream is no proof that the client meant to end it there: a transport may learn
only afterwards that the client left. Where that matters the protocol must say so
(`WriteRequest.finish_write`).
Each call runs in a context (contextvars) of its own; immediate handlers leave theirs as it was.
Trailing metadata beside the status is said there (`say_trailer`), so that it goes out however the
call ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """The canonical status codes (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


Trailers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended. `details` is a serialised google.rpc.Status, sent as
    `grpc-status-details-bin` when not empty. `trailers` are names and texts of further trailing
    metadata, sent percent-encoded as `grpc-message` is.
    """

    code: Code
    message: str = ""
    details: bytes = b""
    trailers: Trailers = ()


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of the call that it serves."""

    path: str
    """`/package.Service/Method`."""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    """Lower-case names; `-bin` values are bytes. The last of repeated names wins."""
    peer: str = ""
    """The client's address, for logs."""
    identity: str | None = None
    """The proven name of the client (mTLS certificate subject), or None."""


_said: Final[ContextVar[Trailers]] = ContextVar("trailers", default=())


def say_trailer(name: str, text: str) -> None:
    """Has the answer of the call in whose context this runs carry one more field of trailing
    metadata, whether the handler then answers or raises. Not for immediate handlers. A transport
    shortens a text that clients would not take.
    """
    _said.set((*_said.get(), (name, text)))


def said_trailers() -> Trailers:
    """Answers what was said in this context. For transports."""
    return _said.get()


Piece = bytes | bytearray | memoryview
"""Consecutive bytes of a message."""

Response = bytes | tuple[Piece, ...]
"""A response message of a stream: whole, or in pieces that need not be joined to be sent. Pieces
must stay as they are for as long as somebody refers to them.
"""

UnaryHandler = Callable[[bytes, Call], Awaitable[bytes]]
ImmediateHandler = Callable[[bytes, Call], bytes | None]
ServerStreamHandler = Callable[[bytes, Call], AsyncIterator[Response]]
ClientStreamHandler = Callable[[AsyncIterator[bytes], Call], Awaitable[bytes]]
BidiHandler = Callable[[AsyncIterator[bytes], Call], AsyncIterator[Response]]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one response.

    `immediate`, where there is one, answers without waiting for anything, or answers None when it
    would have to wait; then nothing has happened, and `handler` is asked. What it answers or
    raises is what `handler` would have. It may be called from outside of any task, and takes a
    small part of a millisecond. Transports may do without it.
    """

    path: str
    handler: UnaryHandler
    immediate: ImmediateHandler | None = None


@dataclass(frozen=True, slots=True)
class ServerStream:
    """One request, a stream of responses.

    Back-pressure: the next response is asked for when the last has left.
    """

    path: str
    handler: ServerStreamHandler


@dataclass(frozen=True, slots=True)
class ClientStream:
    """A stream of requests, one response.

    The handler may answer without having read everything: the transport then drains and discards
    what the client still
    sends, within its limit, so that the answer is not lost behind a reset.
    """

    path: str
    handler: ClientStreamHandler


@dataclass(frozen=True, slots=True)
class Bidi:
    """Streams both ways."""

    path: str
    handler: BidiHandler


Method = Unary | ServerStream | ClientStream | Bidi

StatusGate = Callable[[BaseException], Status]
"""Turns whatever a handler raised into a status.

Total; unknown errors become INTERNAL and are logged there.
"""

Interceptor = Callable[[Method], Method]
"""Wraps a method (metrics, logs, traces, authorisation) without knowing the transport."""


def size_of(response: Response) -> int:
    """Answers the size of a response in bytes."""
    return sum(map(len, response)) if isinstance(response, tuple) else len(response)


def join(response: Response) -> bytes:
    """Answers a response as one piece, for transports that cannot send several."""
    return b"".join(response) if isinstance(response, tuple) else response


async def close_stream(stream: AsyncIterator[object]) -> None:
    """Ends a stream that is not read to its end, so that its `finally` runs now and not whenever
    the garbage collector comes by.
    """
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


def wrap(methods: Sequence[Method], interceptors: Sequence[Interceptor]) -> list[Method]:
    """Applies interceptors to each method, the first outermost."""
    wrapped = []
    for method in methods:
        current = method
        for interceptor in reversed(interceptors):
            current = interceptor(current)
        wrapped.append(current)
    return wrapped
