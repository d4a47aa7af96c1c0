"""What a peer may send, and when: our windows, and what holds them back."""

from __future__ import annotations

from typing import TypeVar

from armitage.transport.http2 import frames
from armitage.transport.http2.options import Http2Options
from armitage.transport.http2.sending import Sending
from armitage.transport.http2.stream import Stream

StreamT = TypeVar("StreamT", bound=Stream)


class Receiving(Sending[StreamT]):
    """The half of a connection that receives, on top of the one that sends.

    `receive_window` is what the peer may still send. It is opened again as data is taken:
    `target - unread - receive_window`, once that is worth a frame.

    Messages that are still coming in do not hold the connection's window back, or it could get
    stuck with none complete; but past a budget only the oldest of them goes on.
    """

    def __init__(self, options: Http2Options) -> None:
        super().__init__()
        self.options = options
        self.stream_window = options.stream_window
        self.receive_window = frames.INITIAL_WINDOW
        self.unread = 0
        """Bytes of all streams that hold the connection's window back."""
        self._grown = 0
        self._assembling: dict[StreamT, None] = {}
        self._assembled_bytes = 0

    def open_window(self) -> None:
        """Lets the peer send more on the connection, if that is worth a frame."""
        target = self.options.connection_window
        grant = target - self.unread - self.receive_window
        if grant * 4 >= target:
            self.receive_window += grant
            self.write(frames.window_update(0, grant))

    def refill(self, stream: StreamT) -> None:
        """Lets the peer send more on a stream, if that is worth a frame."""
        target = stream.window_target
        grant = target - stream.unread - stream.withheld - stream.receive_window
        if grant * 2 < target or stream.remote_closed:
            return
        stream.credited += grant
        if stream.credited >= 2 * target and self._may_grow(target):
            stream.holds_back = True
            self._grown += target
            stream.window_target += target
            grant += target
        stream.receive_window += grant
        self.write(frames.window_update(stream.id, grant))

    def _may_grow(self, target: int) -> bool:
        options = self.options
        return (
            2 * target <= options.stream_window_limit
            and self._grown + target <= options.connection_window
        )

    def take_unread(self, stream: StreamT, size: int) -> None:
        """Somebody took a message, counted with that size."""
        stream.unread -= size
        self.unread -= size
        self.open_window()
        self.release(stream)

    def add_unread(self, stream: StreamT, size: int) -> None:
        """A message waits for somebody to take it."""
        stream.holds_back = True
        stream.unread += size
        self.unread += size

    def assemble(self, stream: StreamT, size: int) -> None:
        """Counts bytes of an incomplete message."""
        stream.holds_back = True
        self._assembling[stream] = None
        self._assembled_bytes += size
        stream.assembling += size
        stream.withheld += size

    def assembled(self, stream: StreamT) -> None:
        """The stream's message is complete, or given up; others may go on in its place."""
        del self._assembling[stream]
        self._assembled_bytes -= stream.assembling
        stream.assembling = stream.withheld = 0
        if self._assembled_bytes <= self.options.assembly_budget:
            waiting = [each for each in self._assembling if each.withheld]
        else:
            waiting = list(self._assembling)[:1]
        for each in waiting:
            self.release(each)

    def release(self, stream: StreamT) -> None:
        """Lets the peer go on with an incomplete message, if somebody waits for it."""
        if stream.withheld and not stream.unread and self._may_assemble(stream):
            stream.withheld = 0
        self.refill(stream)

    def _may_assemble(self, stream: StreamT) -> bool:
        return (
            self._assembled_bytes <= self.options.assembly_budget
            or next(iter(self._assembling), stream) is stream
        )

    def let_go(self, stream: StreamT) -> None:
        """Nothing of the stream holds anything back any more."""
        if stream.unread:
            self.unread -= stream.unread
            stream.unread = 0
        if stream.assembling:
            self.assembled(stream)
        if stream.window_target > self.stream_window:
            self._grown -= stream.window_target - self.stream_window
            stream.window_target = self.stream_window
