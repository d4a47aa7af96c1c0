"""One stream as its connection sees it (RFC 9113 section 5)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from armitage.transport.port import Piece

if TYPE_CHECKING:
    from armitage.transport.http2.connection import Connection


class Stream:
    """A request and its response. The layer above extends it: the connection calls the `on_`
    methods, never after `on_closed`, and reads and writes the rest.

    Most streams live for some microseconds. What most of them never change is therefore kept on
    the class, not set for each.
    """

    remote_closed = False
    """The peer has sent END_STREAM."""
    local_closed = False
    """We have sent END_STREAM, or queued it (`farewell`)."""
    gone = False
    """The connection has forgotten the stream."""

    # Receiving
    window_target: int
    """What `receive_window` is refilled to, what is unread left out."""
    credited = 0
    """By how much the peer's window was opened so far."""
    unread = 0
    """Bytes of whole messages that nobody has taken yet; they hold the connection back too."""
    assembling = 0
    """Bytes of a message that is still coming in..."""
    withheld = 0
    """...and how many of them hold the window back, when the connection has too much of that."""
    holds_back = False
    """Whether any of these ever was more than it is for most streams."""
    content_left: int | None = None
    """What content-length leaves to come."""

    # Sending
    queued_bytes = 0
    is_queued = False
    """The connection takes frames from it in turns."""
    begun = False
    """Part of what is queued was sent."""
    farewell: bytes | None = None
    """The last HEADERS frame, to send when the queue is empty."""

    def __init__(self, connection: Connection[Any, Any], stream_id: int, id_bytes: bytes) -> None:
        self.id = stream_id
        self.id_bytes = id_bytes
        self.receive_window = connection.stream_window
        self.window_target = self.receive_window
        self.send_window = connection.peer_window
        self.queue: deque[Piece] | None = None

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        """Part of the request's body, never empty, and whether it is the last."""
        raise NotImplementedError

    def touch(self) -> None:
        """Sees that the window is opened at the end of the turn, if that is due."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The request ended, without more data."""
        raise NotImplementedError

    def on_closed(self, reason: str) -> None:
        """The stream is over, and not by our own doing: what is sent to it is lost."""
        raise NotImplementedError
