"""An HTTP proxy on a socket of its own that spoils what it passes on, the way networks, servers and
clocks do.

Faults are queued by a test and used up one request each, first come first served; without any, it
passes everything on as it is. Requests are parsed just as far as it takes to know where one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from socket import SO_LINGER, SOL_SOCKET


class Kind(Enum):
    """What befalls one request."""

    DELAY = "the answer comes late"
    STATUS = "an answer of the proxy's own"
    RESET = "the connection is reset after so many bytes of the answer's body"
    CUT = "the connection ends, cleanly, after so many bytes of the answer's body"
    SHORT = "the answer is whole and well formed, but with fewer bytes"
    WRONG = "one byte of the answer's body is another"
    WRONG_REQUEST = "one byte of the request's body is another"
    SKEW = "the request says another time"
    REFUSE = "the connection is reset before an answer"
    HANG = "no answer ever"


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    delay_s: float = 0.0
    after_bytes: int = 0
    status: int = 500
    code: str = "InternalError"
    method: str = ""
    """Only for requests of this method; empty: any."""


@dataclass
class Seen:
    method: str
    path: str
    head: bytes


@dataclass
class FaultProxy:
    host: str
    port: int
    upstream: tuple[str, int]
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    """What befalls every request that no queued fault does."""
    ignored_header: bytes = b""
    """Left out of every request, as an API does that does not know it. SigV4 signs conditions only
    where the client says so, and ours does not.
    """
    seen: list[Seen] = field(default_factory=list)
    open_requests: int = 0
    most_open: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with each request."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def add(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def count(self, method: str, part: str = "") -> int:
        """Requests of that method whose path contains that."""
        return sum(one.method == method and part in one.path for one in self.seen)

    def _next(self, method: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in ("", method):
                self.faults.remove(fault)
                return fault
        if self.always is not None and self.always.method in ("", method):
            return self.always
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, EOFError):
            pass  # Whoever it was has left.
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serves one request; answers whether another may follow."""
        head, body = await _message(reader)
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        self.seen.append(Seen(method, path, head))
        self.asked.set()
        fault = self._next(method)
        self.open_requests += 1
        self.most_open = max(self.most_open, self.open_requests)
        try:
            return await self._answer(writer, fault, method, head, body)
        finally:
            self.open_requests -= 1

    async def _answer(
        self,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
        method: str,
        head: bytes,
        body: bytes,
    ) -> bool:
        kind = fault.kind if fault else None
        if fault is not None and kind is Kind.STATUS:
            writer.write(_own_answer(fault, method))
            await writer.drain()
            return True
        if kind is Kind.REFUSE:
            _reset(writer)
            return False
        if kind is Kind.HANG:
            await asyncio.Event().wait()
        if fault is not None and kind is Kind.DELAY:
            await asyncio.sleep(fault.delay_s)
        if kind is Kind.WRONG_REQUEST:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if kind is Kind.SKEW:
            head = re.sub(rb"(?i)(x-amz-date: )(\d{4})", rb"\g<1>2020", head)
        if self.ignored_header:
            head = re.sub(rb"(?i)\r\n%b:[^\r]*" % self.ignored_header, b"", head)
        answer_head, answer = await self._ask(method, head, body)
        if fault is not None and kind in (Kind.RESET, Kind.CUT, Kind.SHORT, Kind.WRONG):
            return await _spoil(writer, fault, answer_head, answer)
        writer.write(answer_head + answer)
        await writer.drain()
        return True

    async def _ask(self, method: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self.upstream, limit=1 << 20)
        try:
            writer.write(head + body)
            await writer.drain()
            return await _message(reader, with_body=method != "HEAD")
        finally:
            writer.close()


async def _spoil(writer: asyncio.StreamWriter, fault: Fault, head: bytes, body: bytes) -> bool:
    kept = body[: fault.after_bytes]
    match fault.kind:
        case Kind.SHORT:
            length = b"Content-Length: %d" % len(kept)
            writer.write(re.sub(rb"(?i)content-length: \d+", length, head) + kept)
            await writer.drain()
            return True
        case Kind.WRONG:
            at = fault.after_bytes
            writer.write(head + body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
            await writer.drain()
            return True
        case _:
            writer.write(head + kept)
            await writer.drain()
            # What is on its way must arrive before the end does.
            await asyncio.sleep(0.02)
            if fault.kind is Kind.RESET:
                _reset(writer)
            return False


def _own_answer(fault: Fault, method: str) -> bytes:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{fault.code}</Code>'
        f"<Message>injected</Message></Error>"
    ).encode()
    head = (
        f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    return head if method == "HEAD" else head + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _message(reader: asyncio.StreamReader, *, with_body: bool = True) -> tuple[bytes, bytes]:
    """Reads one request or response: its head, to the empty line, and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    while b" 100 " in head.split(b"\r\n", 1)[0]:
        head = await reader.readuntil(b"\r\n\r\n")
    # We hold no connection to the server open.
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if not with_body:
        return head, b""
    if length is not None:
        return head, await reader.readexactly(int(length[1]))
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        body = bytearray()
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            body += size + chunk
            if len(chunk) == 2:
                return head, bytes(body)
    return head, b""


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy before the server at that URL (`http://HOST:PORT`)."""
    host, _, port = upstream.removeprefix("http://").partition(":")
    proxy = FaultProxy("127.0.0.1", 0, (host, int(port)))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, proxy.host, 0, limit=1 << 20)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await server.wait_closed()
