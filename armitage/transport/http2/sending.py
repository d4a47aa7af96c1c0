"""What a connection sends, and when: the output, the peer's windows, and whose turn it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from armitage.transport.http2 import frames
from armitage.transport.http2.stream import Stream
from armitage.transport.port import Piece

StreamT = TypeVar("StreamT", bound=Stream)

_WORTHY_BYTES = 1024


class Sending(ABC, Generic[StreamT]):
    """The half of a connection that sends.

    Control frames, headers and small responses go straight to `output`. DATA that is large, or that
    a window holds up, waits at its stream; streams that may send stand in `_turns`, and
    `take_output` takes a frame of each in turn. Our header blocks never touch the peer's dynamic
    table, so frames of different streams may be put together in any order.
    """

    def __init__(self) -> None:
        self.send_window = frames.INITIAL_WINDOW
        self.peer_window = frames.INITIAL_WINDOW
        """What streams that the peer opens from now on may be sent."""
        self.output: list[Piece] = []
        self.output_bytes = 0
        self.work = 0
        """DATA frames sent, tiny ones left out: the peer may answer each with window updates and a
        ping.
        """
        self._turns: deque[StreamT] = deque()
        self._drained: list[StreamT] = []

    @property
    def has_output(self) -> bool:
        """Whether `take_output` would give anything."""
        return bool(self.output) or (bool(self._turns) and self.send_window > 0)

    def write(self, frame: bytes) -> None:
        """Output that no window holds up."""
        self.output.append(frame)
        self.output_bytes += len(frame)

    def enqueue(self, stream: StreamT, pieces: Sequence[Piece], size: int) -> None:
        """DATA of a stream, to be sent in turn with that of others."""
        if stream.queue is None:
            stream.queue = deque()
        if not stream.queued_bytes:
            stream.begun = False
        stream.queue.extend(pieces)
        stream.queued_bytes += size
        self.resume(stream)

    def resume(self, stream: StreamT) -> None:
        """Gives a stream its turn, if it has something to send and may."""
        if stream.queued_bytes and stream.send_window > 0 and not stream.is_queued:
            stream.is_queued = True
            self._turns.append(stream)

    def take_output(self, limit: int = 1 << 20) -> list[Piece]:
        """What is to be sent next, about `limit` bytes at most, in order; empty if nothing can be
        sent now.
        """
        if self._turns:
            self._take_turns(limit)
        output = self.output
        if output:
            self.output = []
            self.output_bytes = 0
        return output

    def take_drained(self) -> list[StreamT]:
        """The streams whose queued data has all been taken, or given up, since this was last
        asked.
        """
        drained, self._drained = self._drained, []
        return drained

    def _take_turns(self, limit: int) -> None:
        turns = self._turns
        while turns and self.output_bytes < limit and self.send_window > 0:
            stream = turns.popleft()
            if stream.gone:
                continue
            size = min(
                stream.queued_bytes, frames.FRAME_LIMIT, stream.send_window, self.send_window
            )
            if size <= 0:
                stream.is_queued = False
                continue
            if turns or size < frames.FRAME_LIMIT:
                self._send_frame(stream, size)
            else:
                self._send_burst(stream, limit)
            if stream.queued_bytes:
                turns.append(stream)
                continue
            stream.is_queued = False
            self._drained.append(stream)
            if stream.farewell is not None:
                self.write(stream.farewell)
                self.settle(stream)

    def _send_burst(self, stream: StreamT, limit: int) -> None:
        """Sends as many full frames of the first piece as may go, since no other stream waits."""
        queue = stream.queue
        assert queue is not None
        full = frames.FRAME_LIMIT
        room = min(stream.send_window, self.send_window, limit - self.output_bytes)
        count = min(len(queue[0]), room) // full
        if count < 2:
            self._send_frame(stream, min(full, stream.queued_bytes))
            return
        head = frames.frame_head(full, frames.DATA, 0, stream.id)
        piece = memoryview(queue[0])
        size = count * full
        self.output += [
            each for start in range(0, size, full) for each in (head, piece[start : start + full])
        ]
        if size == len(piece):
            queue.popleft()
        else:
            queue[0] = piece[size:]
        self.output_bytes += size + count * frames.HEAD_BYTES
        self.work += count
        self.send_window -= size
        stream.send_window -= size
        stream.queued_bytes -= size
        stream.begun = True

    def _send_frame(self, stream: StreamT, size: int) -> None:
        queue = stream.queue
        assert queue is not None
        output = self.output
        output.append(frames.frame_head(size, frames.DATA, 0, stream.id))
        self.output_bytes += size + frames.HEAD_BYTES
        if size >= _WORTHY_BYTES or size == stream.queued_bytes:
            # Else a peer could have a message sent in crumbs, and be let off the updates for them.
            self.work += 1
        self.send_window -= size
        stream.send_window -= size
        stream.queued_bytes -= size
        stream.begun = True
        while size:
            piece = queue[0]
            if len(piece) <= size:
                output.append(queue.popleft())
                size -= len(piece)
            else:
                rest = memoryview(piece)
                output.append(rest[:size])
                queue[0] = rest[size:]
                size = 0

    @abstractmethod
    def settle(self, stream: StreamT) -> None:
        """Called when the last frame of a stream has gone to the output."""
