"""Log streams: bytes of unknown length that readers follow while they are written (REAPI
`LogStreamService`, `ExecuteOperationMetadata.stdout_stream_name`).

Logs live in memory, each bounded: what is over the bound is dropped from its beginning, and a
reader who comes to the gap is shown how much is missing. A finished log stays for a while. The log
of an action is whole in its result all the same (`stdout_digest`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from armitage._proto.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as logstream
from armitage.errors import Exhausted, InvalidRequest, NotFound, OutOfRange
from armitage.reapi import rpcs
from armitage.reapi.instances import Instances
from armitage.reapi.resource_names import LogName
from armitage.transport.port import Call, Method, Unary
from cas.digest import Buffer

_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class LogLimits:
    """What logs may take up in memory, and for how long."""

    max_log_bytes: int = 1 << 20
    max_total_bytes: int = 256 << 20
    max_logs: int = 4096
    keep_finished_s: float = 600.0
    max_silence_s: float = 3600.0
    """A client's log that it has not written to for so long is taken for finished."""


class Log:
    """One log, for who writes it within this process."""

    def __init__(self, streams: LogStreams, parent: str, log_id: str, secret: str) -> None:
        prefix = f"{parent}/" if parent else ""
        self.name = f"{prefix}logstreams/{log_id}"
        """What readers ask ByteStream.Read for."""
        self.write_name = f"{self.name}/{secret}"
        """What writers name to ByteStream.Write. Secret."""
        self.secret = secret
        self.start = 0
        """Where the kept bytes begin."""
        self.end = 0
        self.is_finished = False
        self.is_a_clients = False
        """Whether a client writes it, who may vanish without finishing it."""
        self.touched = 0.0
        self._streams = streams
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()

    @property
    def kept_bytes(self) -> int:
        """What is kept of it."""
        return self.end - self.start

    def write(self, data: Buffer) -> None:
        """Appends, and wakes the readers. Does nothing once the log is finished."""
        if data and not self.is_finished:
            self._pieces.append(bytes(data))
            self.end += len(data)
            self._streams.account(self, len(data))
            self._wake()

    def finish(self) -> None:
        """Ends the log: readers get the rest and then their end. Idempotent."""
        if not self.is_finished:
            self.is_finished = True
            self._streams.account(self, 0)
            self._wake()

    def trim(self, keep_bytes: int) -> int:
        """Drops from the beginning what is over; answers how many bytes."""
        dropped = 0
        while self._pieces and self.kept_bytes > keep_bytes:
            over = self.kept_bytes - keep_bytes
            piece = self._pieces.popleft()
            if len(piece) > over:
                self._pieces.appendleft(piece[over:])
            cut = min(over, len(piece))
            self.start += cut
            dropped += cut
        return dropped

    async def follow(self, offset: int) -> AsyncIterator[bytes]:
        """Streams from the offset to the log's end, waiting for what is yet to be written."""
        while True:
            if offset < self.start:
                yield f"\n[{self.start - offset} bytes of this log were dropped]\n".encode()
                offset = self.start
            data = self._slice(offset)
            if data:
                offset += len(data)
                yield data
            elif self.is_finished:
                return
            else:
                await self._changed.wait()

    def _slice(self, offset: int) -> bytes:
        """Answers some of what there is from the offset on, which is not before the start."""
        position = self.start
        out: list[bytes] = []
        size = 0
        for piece in self._pieces:
            if position + len(piece) > offset and size < _PIECE_BYTES:
                out.append(piece[max(0, offset - position) :])
                size += len(out[-1])
            position += len(piece)
        return b"".join(out)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class LogStreams:
    """All logs by name. Synchronous but for reading, in memory, for the event loop only."""

    def __init__(
        self,
        instances: Instances,
        monotonic: Callable[[], float],
        *,
        limits: LogLimits | None = None,
        new_secret: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._instances = instances
        self._monotonic = monotonic
        self._limits = limits or LogLimits()
        self._new_secret = new_secret
        self._logs: OrderedDict[tuple[str, str], Log] = OrderedDict()  # Oldest first.
        self._total_bytes = 0

    def methods(self) -> list[Method]:
        """Answers the methods for a transport; reading and writing is ByteStream's part."""
        return [Unary(rpcs.CREATE_LOG_STREAM.path, self.create_log_stream)]

    async def create_log_stream(self, request: bytes, _call: Call) -> bytes:
        """Starts a log for a client, whose parent must be an instance. Raises NotFound."""
        message = logstream.CreateLogStreamRequest.FromString(request)
        self._instances.get(message.parent)
        log = self.create(message.parent)
        log.is_a_clients = True
        return logstream.LogStream(
            name=log.name, write_resource_name=log.write_name
        ).SerializeToString()

    def create(self, parent: str) -> Log:
        """Starts a log. Raises Exhausted when there are too many unfinished ones."""
        if not self._has_room():
            self.expire()  # Only now: it looks at every log, and each action makes two.
            if not self._has_room():
                raise Exhausted(f"there are {len(self._logs)} unfinished logs already")
        log_id = self._new_secret()
        log = Log(self, parent, log_id, self._new_secret())
        log.touched = self._monotonic()
        self._logs[parent, log_id] = log
        return log

    async def read(self, name: LogName, offset: int, limit: int) -> AsyncIterator[bytes]:
        """Streams a log from the offset to its end, following it; a limit of 0 is none."""
        if name.secret is not None:
            raise InvalidRequest("a log's write name cannot be read; read its name")
        log = self._get(name)
        if offset < 0 or (offset > log.end and log.is_finished):
            raise OutOfRange(f"read_offset {offset} is outside log {log.name}")
        left = limit or None
        async for data in log.follow(offset):
            if left is None:
                yield data
                continue
            yield data[:left]
            left -= len(data)
            if left <= 0:
                return

    def append(self, name: LogName, offset: int, data: Buffer) -> int:
        """Appends a client's bytes; answers the log's length. Raises InvalidRequest for a name that
        is only for reading, an offset that is not the log's end, and a finished log.
        """
        log = self._writable(name)
        if offset != log.end:
            raise InvalidRequest(f"write_offset {offset} is wrong: the log has {log.end} bytes")
        if log.is_finished:
            raise InvalidRequest(f"log {log.name} is finished")
        log.write(data)
        return log.end

    def finish(self, name: LogName) -> None:
        """Ends a client's log."""
        self._writable(name).finish()

    def write_status(self, name: LogName) -> tuple[int, bool]:
        """Answers a log's length, and whether it is finished."""
        log = self._writable(name)
        return log.end, log.is_finished

    def expire(self) -> None:
        """Finishes silent logs and forgets old finished ones; to be called now and then."""
        now = self._monotonic()
        for log in list(self._logs.values()):
            if log.is_a_clients and log.touched <= now - self._limits.max_silence_s:
                log.finish()
        for key, log in list(self._logs.items()):
            if log.is_finished and log.touched <= now - self._limits.keep_finished_s:
                self._forget(key)

    def account(self, log: Log, added_bytes: int) -> None:
        """Hears from a log that it grew or ended, and keeps all within the limits."""
        log.touched = self._monotonic()
        self._total_bytes += added_bytes - log.trim(self._limits.max_log_bytes)
        while self._total_bytes > self._limits.max_total_bytes and self._drop_oldest_finished():
            pass
        if self._total_bytes > self._limits.max_total_bytes:
            self._total_bytes -= log.trim(_PIECE_BYTES)

    def _has_room(self) -> bool:
        return len(self._logs) < self._limits.max_logs or self._drop_oldest_finished()

    def _drop_oldest_finished(self) -> bool:
        key = next((key for key, log in self._logs.items() if log.is_finished), None)
        if key is not None:
            self._forget(key)
        return key is not None

    def _forget(self, key: tuple[str, str]) -> None:
        self._total_bytes -= self._logs.pop(key).kept_bytes

    def _get(self, name: LogName) -> Log:
        log = self._logs.get((name.parent, name.id))
        if log is None:
            raise NotFound(f"log stream {name.id[:100]!r} is unknown, or finished and forgotten")
        return log

    def _writable(self, name: LogName) -> Log:
        log = self._get(name)
        if name.secret is None:
            raise InvalidRequest("a log's name is for reading; write to its write_resource_name")
        if not secrets.compare_digest(name.secret.encode(), log.secret.encode()):
            raise NotFound(f"log stream {name.id[:100]!r} has no such write name")
        return log
