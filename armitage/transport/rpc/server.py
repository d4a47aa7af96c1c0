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
turn with take_output. While the socket does not take what there is, hand nothing more to `receive`:
what a peer can make us say is bounded by what it sends. Nothing here blocks, awaits, or reads a
clock; `now` is monotonic seconds.

Events (in the order of their causes; a call's events only ever come in the order below)

    Opened(call)            The headers came. For methods that stream requests at once. For the
                            others only if the request did not come in the same turn: the shell
                            can then start to count its deadline and idle time.
    Requested(call, message)  Unary, ServerStream: the request is there. Start the handler, unless
                            `call.ended`: a reset may have come in the same turn.
    Readable(call)          ClientStream, Bidi: messages, or the end, came where `read` answered
                            None before.
    Ended(call, reason)     The client reset the call, broke the protocol, or left; or the call
                            failed here (message too large...) and has been answered. Cancel the
                            handler. Nothing of the call comes after it, and its methods then do
                            nothing.
    PingAcknowledged()      The answer to our last ping.
    Calls that end by our own finish/respond/abandon get no event.

Back-pressure. `send` and `respond` answer whether everything was handed to the output; if not,
the call comes up in take_drained() once it was. take_output(limit) gives about `limit` bytes at
most and takes the frames of all waiting calls in turns, so a shell that asks only while the socket
takes bytes bounds its own memory and keeps calls from starving each other. The receive window
opens as `read` (or Requested) hands messages over: a handler that does not read stops its client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar

from armitage.transport.http2 import frames
from armitage.transport.http2.codes import ErrorCode
from armitage.transport.http2.connection import Connection
from armitage.transport.http2.headers import HeaderMemory
from armitage.transport.http2.options import Counters, Http2Options
from armitage.transport.http2.stream import Stream
from armitage.transport.port import (
    Code,
    Method,
    Response,
    ServerStream,
    Status,
    Unary,
    size_of,
)
from armitage.transport.rpc import blocks
from armitage.transport.rpc.failure import RpcFailure
from armitage.transport.rpc.head import Field, Head, RequestRules
from armitage.transport.rpc.messages import (
    PREFIX,
    PREFIX_BYTES,
    Message,
    MessageReader,
    too_large,
)
from armitage.transport.rpc.metadata import TRUE_BINARY

_OK = Status(Code.OK)
_MESSAGE_OVERHEAD = 48
"""What an unread message costs beside its bytes: many small ones must not come for free."""

_SMALL_BYTES = frames.FRAME_LIMIT - PREFIX_BYTES
_RESPONSE_HEAD = blocks.head(len(blocks.RESPONSE), frames.HEADERS, frames.END_HEADERS)
_TRAILERS_HEAD = blocks.head(
    len(blocks.OK_TRAILERS), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM
)
_RESPONSE_START = Struct(f">5s4s{len(blocks.RESPONSE)}sIB4sBI")
"""The HEADERS frame of a response, the head of a DATA frame, the prefix of a message."""
_DATA_START = Struct(">IB4sBI")


@dataclass(slots=True)
class Opened:
    """See above, as for the other events."""

    call: ServerCall


@dataclass(slots=True)
class Requested:
    """The request of a call that takes one."""

    call: ServerCall
    message: Message


@dataclass(slots=True)
class Readable:
    """There is something to read."""

    call: ServerCall


@dataclass(slots=True)
class Ended:
    """Nobody waits for the handler any more."""

    call: ServerCall
    reason: str


@dataclass(slots=True)
class PingAcknowledged:
    """The client is there."""


Event = Opened | Requested | Readable | Ended | PingAcknowledged


class RpcServer:
    """What all connections share: methods, options, counters, memoised headers.

    A path that no method has is answered UNIMPLEMENTED without an event.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        receive_limit_bytes: int,
        http2: Http2Options | None = None,
        counters: Counters | None = None,
    ) -> None:
        given = list(methods)
        self.methods = {method.path: method for method in given}
        if len(self.methods) != len(given):
            raise ValueError("two methods have the same path")
        self.receive_limit_bytes = receive_limit_bytes
        self.http2 = http2 or Http2Options()
        self.counters = counters or Counters()
        self.memory: HeaderMemory[Field, Head] = HeaderMemory(
            RequestRules(), self.http2.header_list_limit
        )

    def connect(self) -> RpcConnection:
        """A new connection. It says nothing before its peer has."""
        return RpcConnection(self)


class RpcConnection(Connection["ServerCall", Head]):
    """One connection. Besides what is here a shell uses of its base: `closing`, `close_reason`,
    `greeted`, `has_output`, `output_bytes`, `take_output`, `take_drained`, `ping`,
    `announce_drain`, `drain`.
    """

    extra_settings: ClassVar[Mapping[int, int]] = {TRUE_BINARY: 1}

    def __init__(self, server: RpcServer) -> None:
        super().__init__(server.http2, server.counters, server.memory)
        self.server = server
        self.methods = server.methods
        self.events: list[Event] = []
        self._fresh: list[ServerCall] = []
        self.touched: list[ServerCall] = []
        """Calls with something to count at the end of the turn."""

    @property
    def calls(self) -> Collection[ServerCall]:
        """Those that the connection knows of, also those answered whose client still sends."""
        return self.streams.values()

    @property
    def open_calls(self) -> int:
        """How many `calls` there are."""
        return len(self.streams)

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What the client sent, in pieces of any size, which may be referred to for a while."""
        self.consume(data, now)
        if self.touched:
            self._end_turn(len(data))
        return self._take_events()

    def _end_turn(self, chunk_bytes: int) -> None:
        touched, self.touched = self.touched, []
        for call in touched:
            call.end_turn(chunk_bytes)

    def lost(self) -> list[Event]:
        """The peer is gone: every open call ends. Idempotent."""
        self.abort("the client left")
        return self._take_events()

    def close(self, reason: str = "closed") -> list[Event]:
        """Ends everything at once, with a GOAWAY."""
        self.terminate(ErrorCode.NO_ERROR, reason)
        return self._take_events()

    def expire(self, now: float, patience_s: float) -> None:
        """Resets the streams that were answered, and of which the client has neither taken any of
        the answer nor ended its side for so long. To be called every so often.
        """
        for call in list(self.streams.values()):
            if not call.ended:
                continue
            if call.left_behind is None or call.left_behind[0] != call.queued_bytes:
                call.left_behind = (call.queued_bytes, now)
            elif now - call.left_behind[1] > patience_s:
                call.abandon()

    def _take_events(self) -> list[Event]:
        if self._fresh:
            for call in self._fresh:
                if not (call.requested or call.ended or call.gone):
                    call.announced = True
                    self.events.append(Opened(call))
            self._fresh = []
        events, self.events = self.events, []
        return events

    def on_ping_acknowledged(self) -> None:
        """See the base."""
        self.events.append(PingAcknowledged())

    def open_stream(self, stream_id: int, id_bytes: bytes, head: Head, *, ended: bool) -> None:
        """Starts a call, or refuses it."""
        call = ServerCall(self, stream_id, id_bytes, head)
        self.streams[stream_id] = call
        if ended:
            call.remote_closed = True
        if head.http_status:
            self._hold_to_length(call, ended=ended)
            call.reject()
        elif head.refusal is not None:
            call.finish(head.refusal)
        else:
            method = self.methods.get(head.path)
            if method is None:
                call.finish(Status(Code.UNIMPLEMENTED, "Method not found!"))
            else:
                self._start(call, method, ended=ended)

    def _start(self, call: ServerCall, method: Method, *, ended: bool) -> None:
        call.method = method
        if call.head.content_length is not None:
            self._hold_to_length(call, ended=ended)
            if call.gone:
                return
        if type(method) is Unary or type(method) is ServerStream:
            self._fresh.append(call)
        else:
            call.streams = call.announced = True
            self.events.append(Opened(call))
        if ended:
            call.on_end()

    def _hold_to_length(self, call: ServerCall, *, ended: bool) -> None:
        call.content_left = call.head.content_length
        self._check_content(call, 0, ends=ended)

    def open_oversized(self, stream_id: int, id_bytes: bytes, *, ended: bool) -> None:
        """Refuses a call in gRPC's terms."""
        call = ServerCall(self, stream_id, id_bytes, _OVERSIZED)
        self.streams[stream_id] = call
        call.remote_closed = ended
        limit = self.options.header_list_limit
        call.finish(
            Status(Code.RESOURCE_EXHAUSTED, f"the metadata is over the limit of {limit} bytes")
        )


class ServerCall(Stream):
    """One call. All members are for the thread of the connection."""

    method: Method
    """Set once the method was found, hence on every call of an event."""
    streams = False
    """The method streams requests."""
    owner: Any = None
    """For the shell."""

    ended = False
    """Nothing more can be sent."""
    left_behind: tuple[int, float] | None = None
    """How much of the answer waits to be sent, and since when no less."""
    announced = False
    """An event told of the call, so its end must be told too."""
    requested = False
    """The one request of a method that does not stream requests has been handed over."""
    began = False
    """The response headers left."""
    _reader: MessageReader | None = None
    _inbox: deque[Message] | None = None
    _touched = False
    _waits = False
    """`read` found nothing: say when there is something."""
    _discarded = 0

    def __init__(
        self, connection: RpcConnection, stream_id: int, id_bytes: bytes, head: Head
    ) -> None:
        super().__init__(connection, stream_id, id_bytes)
        self.connection = connection
        self.head = head

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        return self.head.path

    @property
    def metadata(self) -> Mapping[str, str | bytes]:
        """As in `port.Call`; without what HTTP and gRPC use themselves (te, content-type...)."""
        return self.head.metadata

    @property
    def timeout_s(self) -> float | None:
        """From the arrival of the headers (grpc-timeout)."""
        return self.head.timeout_s

    @property
    def half_closed(self) -> bool:
        """The client has sent all of its request (there may be messages left to read)."""
        return self.remote_closed

    # Requests

    def read(self) -> Message | None:
        """The next request message of a streaming call, or None: at the end if `exhausted`, else
        for want of one; then Readable will come.
        """
        if not self._inbox:
            self._waits = not self.remote_closed
            return None
        message = self._inbox.popleft()
        if not self.gone:
            self.connection.take_unread(self, len(message) + _MESSAGE_OVERHEAD)
        return message

    @property
    def exhausted(self) -> bool:
        """The client ended the stream and every message was read."""
        return self.remote_closed and not self._inbox

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        """Takes messages, or parts of them."""
        size = len(data)
        reader = self._reader
        if reader is not None and size < reader.left and not end:
            reader.add(data)
            if not self._touched:
                self.touch()
            return
        if self.requested or self.ended:
            self._discard(size)
            return
        if size >= PREFIX_BYTES and (reader is None or reader.is_between):
            flag, length = PREFIX.unpack_from(data)
            if flag == 0 and length == size - PREFIX_BYTES:
                if length > self.connection.server.receive_limit_bytes:
                    self._fail(too_large(self.connection.server.receive_limit_bytes).status)
                else:
                    message = data[PREFIX_BYTES:]
                    self._take(message if type(message) is bytes else bytes(message))
                    if end:
                        self.on_end()
                    elif not self.gone:
                        self.connection.refill(self)
                return
        self._assemble(data)
        if end and not self.gone:
            self.on_end()

    def _assemble(self, data: bytes | memoryview) -> None:
        """Takes part of a message, or parts of several."""
        connection = self.connection
        reader = self._reader
        if reader is None:
            limit = connection.server.receive_limit_bytes
            reader = self._reader = MessageReader(limit, gzip=self.head.gzip)
        try:
            messages = reader.feed(data)
        except RpcFailure as failure:
            self._fail(failure.status)
            return
        if messages:
            if self.assembling:
                connection.assembled(self)
            for message in messages:
                self._take(message)
        if self.requested:
            self._reader = None
            connection.refill(self)
        else:
            self.touch()

    def touch(self) -> None:
        """Sees that what came is counted, and the window opened, at the end of the turn."""
        if not self._touched:
            self._touched = True
            self.connection.touched.append(self)

    def end_turn(self, chunk_bytes: int) -> None:
        """Counts what came of an incomplete message in a chunk of that size."""
        self._touched = False
        if self.gone:
            return
        reader = self._reader
        if reader is not None:
            more = reader.size - self.assembling
            if more:
                self.connection.assemble(self, more)
                reader.let_go(chunk_bytes)
        self.connection.release(self)

    def _take(self, message: Message) -> None:
        """A whole message."""
        connection = self.connection
        if not self.streams:
            if not self.requested:
                self.requested = self.announced = True
                connection.events.append(Requested(self, message))
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        connection.add_unread(self, len(message) + _MESSAGE_OVERHEAD)
        self._notify()

    def _notify(self) -> None:
        if self._waits:
            self._waits = False
            self.connection.events.append(Readable(self))

    def on_end(self) -> None:
        """Takes the end of the request."""
        if self.ended:
            return
        if self._reader is not None and not self._reader.is_between and not self.requested:
            self._fail(Status(Code.INTERNAL, "the request ended within a message"))
        elif self.streams:
            self._notify()
        elif not self.requested:
            self._fail(Status(Code.INVALID_ARGUMENT, "the call ended before its request message"))

    def _discard(self, size: int) -> None:
        """What nobody will read: after the answer, or after the only request."""
        self._discarded += size
        if self._discarded <= self.connection.options.discard_limit:
            self.connection.refill(self)
        elif self.ended:
            self.connection.cancel(self, ErrorCode.NO_ERROR)
        else:
            self.connection.reset(self, ErrorCode.ENHANCE_YOUR_CALM, "endless further requests")

    def on_closed(self, reason: str) -> None:
        """Tells of an end that nobody here wanted."""
        if not self.ended:
            self.ended = True
            if self.announced:
                self.connection.events.append(Ended(self, reason))

    def _fail(self, status: Status) -> None:
        """Answers what no handler could."""
        if not self.ended:
            if self.announced:
                self.connection.events.append(Ended(self, status.message))
            self.finish(status)

    # Responses

    def respond(self, message: bytes) -> bool:
        """The response message of a call without any yet, and status OK. The fast path."""
        if self.ended:
            return True
        connection = self.connection
        length = len(message)
        size = length + PREFIX_BYTES
        if (
            length > _SMALL_BYTES
            or size > connection.send_window
            or size > self.send_window
            or self.began
        ):
            everything = self.send(message)
            self.finish(_OK)
            return everything
        connection.send_window -= size
        connection.work += 1
        id_bytes = self.id_bytes
        start = _RESPONSE_START.pack(
            _RESPONSE_HEAD, id_bytes, blocks.RESPONSE, size << 8, 0, id_bytes, 0, length
        )
        connection.write(b"".join((start, message, _TRAILERS_HEAD, id_bytes, blocks.OK_TRAILERS)))
        self.ended = self.began = self.local_closed = True
        if self.remote_closed:
            connection.forget(self)
        else:
            self._release()
        return True

    def send(self, message: Response) -> bool:
        """A response message of a stream. Pieces are referred to, not copied, until they left.
        Answers whether all of it went to the output. Send nothing more before it drained.
        """
        if self.ended:
            return True
        connection = self.connection
        if not self.began:
            self.began = True
            connection.write(blocks.header_frames(self.id_bytes, blocks.RESPONSE, ends=False))
        length = size_of(message)
        size = length + PREFIX_BYTES
        pieces = message if isinstance(message, tuple) else (message,)
        if (
            length <= _SMALL_BYTES
            and size <= connection.send_window
            and size <= self.send_window
            and not self.queued_bytes
        ):
            connection.send_window -= size
            self.send_window -= size
            connection.work += 1
            start = _DATA_START.pack(size << 8, 0, self.id_bytes, 0, length)
            connection.write(b"".join((start, *pieces)))
            return True
        connection.enqueue(self, (PREFIX.pack(0, length), *pieces), size)
        return False

    def finish(self, status: Status) -> None:
        """The status, after what was sent before. Once only. What the client still sends is read
        and thrown away, up to a limit, then reset with NO_ERROR.

        A message that waits to be sent is given up if the status is not OK, unless part of it left.
        """
        if self.ended:
            return
        self.ended = True
        if status.code != Code.OK and self.queued_bytes and not self.begun:
            self.queued_bytes = 0
            self.queue = None
        if self.began:
            block = blocks.trailers(status)
        else:
            self.began = True
            block = blocks.trailers_only(status)
        self._part(block)

    def reject(self) -> None:
        """Answers what is no gRPC, so that who looks with another tool learns why."""
        if self.gone:
            return
        self.ended = self.began = True
        block = blocks.http_error(self.head.http_status, len(_NOT_GRPC))
        if self.head.bodiless:
            self._part(block)
            return
        self.connection.write(blocks.header_frames(self.id_bytes, block, ends=False))
        self.connection.enqueue(self, (_NOT_GRPC,), len(_NOT_GRPC))
        self._leave(blocks.head(0, frames.DATA, frames.END_STREAM) + self.id_bytes)

    def _part(self, block: bytes) -> None:
        self._leave(blocks.header_frames(self.id_bytes, block, ends=True))

    def _leave(self, frame: bytes) -> None:
        self.connection.say_farewell(self, frame)
        if not self.gone:
            self._release()

    def _release(self) -> None:
        """Gives up what came and nobody will read; what still comes is thrown away."""
        connection = self.connection
        self._inbox = self._reader = None
        if self.unread or self.assembling:
            connection.let_go(self)
            connection.open_window()
        connection.refill(self)

    def abandon(self) -> None:
        """Resets the stream now: with CANCEL before its status left, with NO_ERROR after."""
        if self.gone:
            return
        answered = self.ended and not self.queued_bytes
        self.ended = True
        self.connection.cancel(self, ErrorCode.NO_ERROR if answered else ErrorCode.CANCEL)


_OVERSIZED = Head("", {})
_NOT_GRPC = b"This port speaks gRPC: POST with content-type application/grpc.\n"
