"""The server side of one HTTP/2 connection (RFC 9113), without I/O.

Theory of operation. `receive` takes bytes of any size and parses whole frames out of them, but
takes DATA as it comes: a frame of which half has arrived gives half its payload at once, so that
little is ever held back or copied (`_rest` keeps at most one frame that is not DATA). What a stream
is told it acts on by itself (`Stream.on_data`...). What the peer did wrong is raised as
StreamFault or ConnectionFault and becomes RST_STREAM or GOAWAY in one place each.

Windows and turns are kept by the two halves that it is made of, `Receiving` and `Sending`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

from armitage.transport.http2 import frames
from armitage.transport.http2.codes import (
    ConnectionFault,
    ErrorCode,
    NotHttp2,
    StreamFault,
    name_of,
)
from armitage.transport.http2.floods import Allowance
from armitage.transport.http2.headers import HeaderMemory, HeaderReader, HeadersTooLarge
from armitage.transport.http2.options import Counters, Http2Options
from armitage.transport.http2.receiving import Receiving
from armitage.transport.http2.stream import Stream

Head = TypeVar("Head")
StreamT = TypeVar("StreamT", bound=Stream)

_RESETS_KEPT = 256
"""How many streams that we reset we still know as such."""
_GAPS_KEPT = 16
_HEADER_FRAMES = 128
"""Of one block: eight would do for the largest one that we take."""
_DRAIN_PING = b"draining"
_DATA, _HEADERS = frames.DATA, frames.HEADERS  # For the hot path: no look-up in a module.
_END_STREAM, _END_HEADERS, _PADDED = frames.END_STREAM, frames.END_HEADERS, frames.PADDED
_FRAME_LIMIT = frames.FRAME_LIMIT
_UNPACK = frames.HEAD.unpack_from
_WORTHY_BYTES = 1024
_VIEWED_BYTES = 4096
"""DATA from this size on is not copied out of what was received."""
_KEEPALIVE_PING = b"keepaliv"
_BLOCK_FLAGS = frames.PADDED | frames.WITH_PRIORITY | frames.END_HEADERS
_HTTP1 = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) ")
_MAYBE_HTTP1 = re.compile(rb"[A-Z]{1,7}")
_HTTP1_BODY = (
    b"This port speaks gRPC, over HTTP/2 with prior knowledge or after TLS with ALPN h2.\n"
)
_HTTP1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_HTTP1_BODY), _HTTP1_BODY)
)


class Connection(Receiving[StreamT], Generic[StreamT, Head]):
    """What is common to all that can be said over HTTP/2; the layer above extends it."""

    extra_settings: ClassVar[Mapping[int, int]] = {}
    """What the layer above tells its peers."""

    def __init__(
        self, options: Http2Options, counters: Counters, memory: HeaderMemory[Any, Head]
    ) -> None:
        super().__init__(options)
        self.counters = counters
        self.streams: dict[int, StreamT] = {}
        self.closing = False
        self.close_reason = ""

        self._reader = HeaderReader(memory)
        self._rest = b""
        self._need = len(frames.PREFACE)
        self._begun = False
        self._plain = False
        """The peer's SETTINGS came, and no header block is half there: any frame may come."""
        self._settings_pending = 0
        self._now = 0.0

        self._data_left = 0
        self._data_padding = 0
        self._data_ends = False
        self._data_stream: StreamT | None = None

        self._block: list[bytes] | None = None
        self._block_bytes = 0
        self._block_stream = 0
        self._block_ends = False

        self.last_stream = 0
        self._goaway_last: int | None = None
        self._resets: dict[int, None] = {}
        self._resets_forgotten = False
        self._gaps: deque[range] = deque(maxlen=_GAPS_KEPT)

        burst, rate = options.burst, options.rate

        def allowance(counter: str, what: str) -> Allowance:
            return Allowance(burst, rate, counter, f"too many {what}")

        self._resetting = allowance("reset_floods", "streams reset")
        self._pinging = allowance("ping_floods", "pings")
        self._setting = allowance("settings_floods", "settings")
        self._emptying = allowance("empty_frame_floods", "empty frames")
        self._prioritising = allowance("priority_floods", "priority and unknown frames")
        self._updating = allowance("window_update_floods", "window updates")
        self._lagging = allowance("late_frame_floods", "frames on streams that are over")

    # What the layer above adds

    @abstractmethod
    def open_stream(self, stream_id: int, id_bytes: bytes, head: Head, *, ended: bool) -> None:
        """A request came, perhaps already complete. `id_bytes` is the stream as in a frame head.
        The implementation makes its stream, and puts it in `streams`.
        """

    @abstractmethod
    def open_oversized(self, stream_id: int, id_bytes: bytes, *, ended: bool) -> None:
        """A request came whose headers are over the limit."""

    @abstractmethod
    def on_ping_acknowledged(self) -> None:
        """Our ping was answered."""

    # Receiving

    def consume(self, data: bytes, now: float) -> None:
        """Takes what the peer sent. Never raises for what is in it."""
        if self.closing:
            return
        self._now = now
        try:
            self._feed(data)
        except ConnectionFault as fault:
            self._fail(fault)
        except NotHttp2:
            self._answer_not_http2(self._rest)
        else:
            if self._begun:
                self.open_window()

    def _feed(self, data: bytes) -> None:
        at = 0
        while self._rest or not self._begun:
            take = self._need - len(self._rest)
            rest = self._rest + data[at : at + take]
            at += take
            if len(rest) < self._need:
                self._rest = rest
                if not self._begun:
                    self._check_preface(rest)
                return
            if self._begun:
                self._rest = b""
                self._rest = rest[self._parse(rest, 0) :]
            else:
                self._rest = rest
                self._check_preface(rest)
                self._rest = b""
                self._begin()
        if at < len(data):
            self._rest = data[self._parse(data, at) :]

    def _check_preface(self, start: bytes) -> None:
        if frames.PREFACE.startswith(start) or _MAYBE_HTTP1.fullmatch(start):
            return
        raise NotHttp2

    def _begin(self) -> None:
        self._begun = True
        self._need = frames.HEAD_BYTES
        options = self.options
        self._settings_pending += 1
        self.write(
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: 0,
                    frames.MAX_CONCURRENT_STREAMS: options.max_streams,
                    frames.INITIAL_WINDOW_SIZE: options.stream_window,
                    frames.MAX_HEADER_LIST_SIZE: options.header_list_limit,
                    **self.extra_settings,
                }
            )
        )
        self.open_window()

    def _parse(self, data: bytes, at: int) -> int:
        """Parses frames from there on and answers where it stopped. What is left is less than
        `_need` bytes, and cannot be parsed with fewer.
        """
        end = len(data)
        view: memoryview | None = None
        streams = self.streams
        unpack = _UNPACK
        while True:
            if self._data_left:
                at = self._continue_data(data, at)
            body = at + 9
            if body > end:
                self._need = 9
                return at
            high, low, kind, flags, stream_id = unpack(data, at)
            length = high << 8 | low
            stop = body + length
            if length > _FRAME_LIMIT:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            if kind == _DATA and self._plain:
                stream = streams.get(stream_id)
                if (
                    stream is None
                    or stop > end
                    or length == 0
                    or flags & _PADDED
                    or stream.remote_closed
                ):
                    padded = 1 if flags & frames.PADDED and length else 0
                    if body + padded > end:
                        self._need = 10
                        return at
                    self._begin_data(length, flags, stream_id & 0x7FFFFFFF, data[body : body + 1])
                    at = body + padded
                    continue
                self.receive_window -= length
                stream.receive_window -= length
                if self.receive_window < 0 or stream.receive_window < 0:
                    self._overrun(stream)
                    at = stop
                    continue
                at = stop
                if stream.content_left is not None:
                    self._check_content(stream, length, ends=flags & _END_STREAM != 0)
                    if stream.gone:
                        continue
                payload: bytes | memoryview
                if length < _VIEWED_BYTES:
                    payload = data[body:stop]
                else:
                    if view is None:
                        view = memoryview(data)
                    payload = view[body:stop]
                if flags & _END_STREAM:
                    stream.remote_closed = True
                    stream.on_data(payload, True)
                    if stream.local_closed:
                        self.settle(stream)
                else:
                    stream.on_data(payload, False)
                continue
            if stop > end:
                self._need = 9 + length
                return at
            stream_id &= frames.STREAM_ID_LIMIT
            if kind == _HEADERS and self._plain and flags & _BLOCK_FLAGS == _END_HEADERS:
                self._take_block(stream_id, data[body:stop], ends=flags & _END_STREAM != 0)
            else:
                self._take_frame(kind, flags, stream_id, data[body:stop])
            at = stop

    def _begin_data(self, length: int, flags: int, stream_id: int, first: bytes) -> None:
        """The head of a DATA frame that is not whole, empty, padded, or out of place. Sets what
        becomes of its payload.
        """
        padding = 0
        content = length
        if flags & frames.PADDED:
            if length == 0:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a length")
            padding = first[0]
            content = length - 1 - padding
            if content < 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than DATA")
        ends = flags & frames.END_STREAM != 0
        if content == 0 and not ends:
            self._emptying.spend(self._now, self.work)
        self.receive_window -= length
        stream = self._stream_for_data(stream_id, length)
        if stream is not None:
            stream.receive_window -= length
            self._check_content(stream, content, ends=ends)
        if stream is not None and stream.gone:
            stream = None
        self._data_left = content + padding
        self._data_padding = padding
        self._data_ends = ends
        self._data_stream = stream
        if content + padding == 0:
            self._end_data()

    def _stream_for_data(self, stream_id: int, length: int) -> StreamT | None:
        """Whose payload it is; None if nobody's. Checks windows."""
        if self.receive_window < 0:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window", "window_violations"
            )
        stream = self.streams.get(stream_id)
        if stream is None:
            self._take_late_data(stream_id, length)
        elif stream.remote_closed:
            self.reset(stream, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        elif length > stream.receive_window:
            self._overrun(stream)
        else:
            return stream
        return None

    def _overrun(self, stream: StreamT) -> None:
        """The peer sent more than a window allows."""
        self.counters.window_violations += 1
        if self.receive_window < 0:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of the connection"
            )
        self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of the stream")

    def _check_content(self, stream: StreamT, size: int, *, ends: bool) -> None:
        """Holds a request to its content-length (RFC 9113 section 8.1.1)."""
        if stream.content_left is None:
            return
        stream.content_left -= size
        if stream.content_left < 0 or (ends and stream.content_left):
            self.reset(stream, ErrorCode.PROTOCOL_ERROR, "the body is not of content-length bytes")

    def _continue_data(self, data: bytes, at: int) -> int:
        """Takes payload and padding of the DATA frame that is coming in."""
        take = min(self._data_left, len(data) - at)
        content = min(take, self._data_left - self._data_padding)
        self._data_left -= take
        stream = self._data_stream
        if content > 0 and stream is not None and not stream.gone:
            whole = memoryview(data) if content >= _VIEWED_BYTES else data
            stream.on_data(whole[at : at + content], False)
        if self._data_left == 0:
            self._end_data()
        return at + take

    def _end_data(self) -> None:
        stream, self._data_stream = self._data_stream, None
        if stream is None or stream.gone:
            return
        if self._data_ends:
            self._end_request(stream)
        else:
            stream.touch()  # For the sake of padding.

    def _end_request(self, stream: StreamT) -> None:
        stream.remote_closed = True
        stream.on_end()
        self.settle(stream)

    def _take_late_data(self, stream_id: int, length: int) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        if self._is_ignored(stream_id):
            return
        if stream_id > self.last_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
        if length < _WORTHY_BYTES:
            # Much may be under way when we reset an upload, but in frames of some size.
            self._lagging.spend(self._now, self.work)
        if stream_id in self._resets:
            return
        if not self._resets_forgotten:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "DATA on a stream that is over")
        self.write(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def _is_ignored(self, stream_id: int) -> bool:
        """Whether the stream came too late for us, as our GOAWAY says."""
        return self._goaway_last is not None and stream_id > self._goaway_last

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A whole frame; all that are not on the fast paths of `_parse`."""
        if not self._plain:
            if self._block is not None:
                if kind != frames.CONTINUATION or stream_id != self._block_stream:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block broke off")
            elif kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no SETTINGS came first")
        match kind:
            case frames.HEADERS:
                self._take_headers(flags, stream_id, payload)
            case frames.PRIORITY:
                self._take_priority(stream_id, payload)
            case frames.RST_STREAM:
                self._take_reset(stream_id, payload)
            case frames.SETTINGS:
                self._take_settings(flags, stream_id, payload)
            case frames.PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            case frames.PING:
                self._take_ping(flags, stream_id, payload)
            case frames.GOAWAY:
                _check_place(kind, stream_id, 0)
                if len(payload) < 8:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
                self._setting.spend(self._now, 0)
            case frames.WINDOW_UPDATE:
                self._take_window_update(stream_id, payload)
            case frames.CONTINUATION:
                self._take_continuation(flags, payload)
            case _:
                # Unknown kinds are for extensions (RFC 9113 section 5.5).
                self._prioritising.spend(self._now, self.work)

    # Header blocks

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            if not payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded HEADERS without a length")
            end = len(payload) - payload[0]
            if end < 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than HEADERS")
            payload = payload[1:end]
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS of a wrong size")
            payload = payload[5:]
        ends = flags & frames.END_STREAM != 0
        if flags & frames.END_HEADERS:
            self._take_block(stream_id, payload, ends=ends)
            return
        self._check_new(stream_id)
        self._plain = False
        self._block = []
        self._block_bytes = 0
        self._block_stream = stream_id
        self._block_ends = ends
        self._add_to_block(payload)

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._add_to_block(payload)
        if flags & frames.END_HEADERS:
            block, self._block = b"".join(self._block), None
            self._plain = True
            self._take_block(self._block_stream, block, ends=self._block_ends)

    def _add_to_block(self, payload: bytes) -> None:
        assert self._block is not None
        if not payload:
            self._emptying.spend(self._now, self.work)
        self._block.append(payload)
        self._block_bytes += len(payload)
        # Twice the limit: a list that is only a little over it is refused more politely.
        if (
            self._block_bytes > 2 * self.options.header_list_limit
            or len(self._block) > _HEADER_FRAMES
        ):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "an endless header block", "continuation_floods"
            )

    def _check_new(self, stream_id: int) -> None:
        """Refuses ids that no client may use (RFC 9113 section 5.1.1)."""
        if stream_id & 1 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")

    def _take_block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        """The headers, or trailers, of a request."""
        if stream_id <= self.last_stream:
            self._take_second_block(stream_id, block, ends=ends)
            return
        self._check_new(stream_id)
        if stream_id > self.last_stream + 2:
            self._gaps.append(range(self.last_stream + 1, stream_id))
        self.last_stream = stream_id
        if self._goaway_last is not None or len(self.streams) >= self.options.max_streams:
            self._reader.skip(block)
            if not self._is_ignored(stream_id):
                self.counters.refused_streams += 1
                self._send_reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        id_bytes = stream_id.to_bytes(4, "big")
        try:
            head = self._reader.head(block)
        except StreamFault as fault:
            self.counters.stream_errors += 1
            self._send_reset(stream_id, fault.code)
        except HeadersTooLarge:
            self.counters.header_bombs += 1
            self.open_oversized(stream_id, id_bytes, ended=ends)
        else:
            self.open_stream(stream_id, id_bytes, head, ended=ends)

    def _take_second_block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._take_late_block(stream_id, block)
            return
        if stream.remote_closed:
            self._reader.skip(block)
            self.reset(stream, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
            return
        try:
            self._reader.trailers(block)
        except StreamFault as fault:
            self.reset(stream, fault.code, fault.reason)
        except HeadersTooLarge:
            self.counters.header_bombs += 1
            self.reset(stream, ErrorCode.ENHANCE_YOUR_CALM, "trailers over the limit")
        else:
            if not ends:
                self.reset(stream, ErrorCode.PROTOCOL_ERROR, "HEADERS within a body")
                return
            self._check_content(stream, 0, ends=True)
            if not stream.gone:
                self._end_request(stream)

    def _take_late_block(self, stream_id: int, block: bytes) -> None:
        if self._is_ignored(stream_id) or stream_id in self._resets:
            self._lagging.spend(self._now, self.work)
            self._reader.skip(block)
            return
        self._check_new(stream_id)
        if any(stream_id in gap for gap in self._gaps):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "stream ids out of order")
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is over")

    # Other frames

    def _take_priority(self, stream_id: int, payload: bytes) -> None:
        """Only its form matters (RFC 9113 section 5.3.2)."""
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._prioritising.spend(self._now, self.work)
        if len(payload) != 5:
            self._fault(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")

    def _take_reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        self._check_not_idle(frames.RST_STREAM, stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._lagging.spend(self._now, self.work)
            return
        if not stream.local_closed or stream.queued_bytes:
            # Otherwise it costs us nothing: the request was answered.
            self._resetting.spend(self._now, self.work)
        self.forget(stream)
        code = int.from_bytes(payload, "big")
        stream.on_closed(f"the client reset the stream: {name_of(code)}")

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_place(frames.SETTINGS, stream_id, 0)
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            if self._settings_pending == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS ACK of nothing")
            self._settings_pending -= 1
            self._reader.forget_table()
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if self._plain:
            # Dear: it may change every stream.
            self._setting.spend(self._now, 0, 10)
        for name, value in frames.parse_settings(payload):
            self._apply_setting(name, value)
        self._plain = True
        self.write(frames.SETTINGS_ACK)

    def _apply_setting(self, name: int, value: int) -> None:
        match name:
            case frames.ENABLE_PUSH:
                if value > 1:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
            case frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_LIMIT:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR,
                        f"INITIAL_WINDOW_SIZE is {value}",
                        "window_violations",
                    )
                self._shift_windows(value - self.peer_window)
                self.peer_window = value
            case frames.MAX_FRAME_SIZE:
                if not frames.FRAME_LIMIT <= value <= 0xFFFFFF:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
            case _:
                pass  # The others do not concern what we send.

    def _shift_windows(self, change: int) -> None:
        """Of all streams, perhaps below zero (RFC 9113 section 6.9.2)."""
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.WINDOW_LIMIT:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    "INITIAL_WINDOW_SIZE opens a window too far",
                    "window_violations",
                )
            self.resume(stream)

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_place(frames.PING, stream_id, 0)
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        self._pinging.spend(self._now, self.work)
        if not flags & frames.ACK:
            self.write(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING:
            self.drain()
        else:
            self.on_ping_acknowledged()

    def _take_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = int.from_bytes(payload, "big") & frames.WINDOW_LIMIT
        self._updating.spend(self._now, self.work * 2)
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.send_window += increment
            if self.send_window > frames.WINDOW_LIMIT:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    "the window of the connection opened too far",
                    "window_violations",
                )
            return
        self._check_not_idle(frames.WINDOW_UPDATE, stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if increment == 0:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            return
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_LIMIT:
            self.counters.window_violations += 1
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR, "the window opened too far")
        else:
            self.resume(stream)

    def _check_not_idle(self, kind: int, stream_id: int) -> None:
        if stream_id == 0 or (stream_id > self.last_stream and not self._is_ignored(stream_id)):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"frame of kind {kind} on idle stream {stream_id}"
            )

    def say_farewell(self, stream: StreamT, frame: bytes) -> None:
        """The last HEADERS of a stream, once its queue is empty."""
        stream.local_closed = True
        if stream.queued_bytes:
            stream.farewell = frame
        else:
            self.write(frame)
            self.settle(stream)

    def settle(self, stream: StreamT) -> None:
        """Forgets a stream that is closed on both sides."""
        if (
            stream.remote_closed
            and stream.local_closed
            and not stream.queued_bytes
            and not stream.gone
        ):
            self.forget(stream)

    # Ends

    @property
    def greeted(self) -> bool:
        """Whether the peer has begun to speak HTTP/2."""
        return self._begun

    def forget(self, stream: StreamT) -> None:
        """Lets go of a stream, whatever its state."""
        del self.streams[stream.id]
        stream.gone = True
        if stream.queued_bytes:
            stream.queue = None
            self._drained.append(stream)
        if stream.holds_back:
            self.let_go(stream)
        if self._goaway_last is not None and not self.streams:
            self._close("drained")

    def reset(self, stream: StreamT, code: ErrorCode, reason: str) -> None:
        """Ends a stream for what the peer did to it."""
        self.counters.stream_errors += 1
        self.forget(stream)
        self._send_reset(stream.id, code)
        stream.on_closed(reason)

    def cancel(self, stream: StreamT, code: ErrorCode) -> None:
        """Ends a stream by our own doing."""
        self.forget(stream)
        self._remember_reset(stream.id)
        self.write(frames.rst_stream(stream.id, code))

    def _fault(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        """A stream error on a stream that may be over, or not yet there."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.reset(stream, code, reason)
        else:
            self.counters.stream_errors += 1
            self._send_reset(stream_id, code)

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        """Counts like the peer's own resets: making us reset is no better."""
        self._resetting.spend(self._now, self.work)
        self._remember_reset(stream_id)
        self.write(frames.rst_stream(stream_id, code))

    def _remember_reset(self, stream_id: int) -> None:
        resets = self._resets
        resets[stream_id] = None
        if len(resets) > _RESETS_KEPT:
            self._resets_forgotten = True
            for oldest in list(islice(resets, _RESETS_KEPT // 2)):
                del resets[oldest]

    def _fail(self, fault: ConnectionFault) -> None:
        counters = self.counters
        if fault.counter != "connection_errors":
            setattr(counters, fault.counter, getattr(counters, fault.counter) + 1)
        counters.connection_errors += 1
        self.terminate(fault.code, f"{fault.code.name}: {fault.reason}")

    def terminate(self, code: ErrorCode, reason: str) -> None:
        """Says goodbye and ends all streams."""
        if self.closing:
            return
        if self._begun:
            debug = reason.encode() if code != ErrorCode.NO_ERROR else b""
            self.write(frames.goaway(self.last_stream, code, debug))
        self.abort(reason)

    def abort(self, reason: str) -> None:
        """Ends all streams without a word, since nobody listens."""
        self._close(reason)
        self._turns.clear()
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.on_closed(reason)

    def _close(self, reason: str) -> None:
        if not self.closing:
            self.closing = True
            self.close_reason = reason

    def _answer_not_http2(self, start: bytes) -> None:
        if _HTTP1.match(start):
            self.counters.http1_requests += 1
            self.write(_HTTP1_ANSWER)
            self.abort("the client speaks HTTP/1")
        else:
            self.counters.bad_prefaces += 1
            self.abort("the client does not speak HTTP/2")

    # Keepalive and drain

    def ping(self) -> None:
        """Asks the peer whether it is there."""
        self.write(frames.ping(_KEEPALIVE_PING))

    def announce_drain(self) -> None:
        """Asks the peer to open no more streams, and to say when it knows (RFC 9113
        section 6.8).
        """
        if self._begun and not self.closing:
            self.write(frames.goaway(frames.STREAM_ID_LIMIT, ErrorCode.NO_ERROR))
            self.write(frames.ping(_DRAIN_PING))

    def drain(self) -> None:
        """Ignores streams that come from now on, and ends when the others have."""
        if self._goaway_last is not None or self.closing:
            return
        self._goaway_last = self.last_stream
        if self._begun:
            self.write(frames.goaway(self.last_stream, ErrorCode.NO_ERROR))
        if not self.streams:
            self._close("drained")


def _check_place(kind: int, stream_id: int, expected: int) -> None:
    if stream_id != expected:
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, f"frame of kind {kind} on stream {stream_id}"
        )
