"""One side of a proxied exchange: HTTP/1.1 over a stream."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import h11

from armitage.witness.heads import head_fault
from armitage.witness.stream import Stream

HEAD_LIMIT_BYTES = 256 * 1024
_BEFORE_HEAD = frozenset({h11.IDLE, h11.SEND_RESPONSE})

Event = h11.Event
Head = h11.Request | h11.Response | h11.InformationalResponse


class OddHead(h11.RemoteProtocolError):
    """A head that another reader may understand differently."""

    def __init__(self, why: str, head: Head) -> None:
        super().__init__(why)
        self.head = head


class Side:
    """An h11 connection on a stream. Raises what the stream does, and h11.RemoteProtocolError for
    what is no HTTP (OddHead where it is and might be read in two ways).
    """

    def __init__(self, role: type[h11.CLIENT | h11.SERVER], stream: Stream) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self.stream = stream
        self._is_head = False
        self._length: int | None = None
        self._left_bytes = 0
        self._ends_next = False
        self._is_past = False
        """Whether the end of such a body has come."""
        self._is_beyond = False
        """Whether more came than the body that was to come."""

    async def receive(self) -> Event | type[h11.PAUSED]:
        """Answers the next event."""
        if self._left_bytes:
            return await self._receive_more()
        if self._ends_next:
            self._ends_next, self._is_past = False, True
            return h11.EndOfMessage()
        awaits_head = self.http.their_state in _BEFORE_HEAD
        raw = bytearray(self.http.trailing_data[0]) if awaits_head else None
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    self._is_head = event.method == b"HEAD"
                if isinstance(event, Head) and raw is not None:
                    self._check(event, raw)
                self._follow(event)
                return event  # type: ignore[return-value]  # The only sentinel left is PAUSED.
            data = await self.stream.read()
            if not data and not raw and self.http.our_role is h11.CLIENT and awaits_head:
                raise ConnectionResetError("the origin went away without an answer")
            if raw is not None:
                raw += data
            self.http.receive_data(data)

    @property
    def is_done(self) -> bool:
        """Whether a request and its answer, of known lengths, went through whole, nothing has come
        beyond them, and both ends are ready for the next.
        """
        here = self._is_past or self.http.their_state is h11.DONE
        rest, has_ended = self.http.trailing_data
        idle = here and self.http.our_state is h11.DONE
        return idle and not rest and not has_ended and not self._is_beyond

    def _follow(self, event: object) -> None:
        """Notes how much of an answer's body is still to come. h11 copies each piece four times, so
        what comes after the first is taken as it is, where the head says how much it is. What h11
        knows of the connection bears no other answer.
        """
        if isinstance(event, h11.Response):
            self._length = length_of(event)
        elif isinstance(event, h11.Data) and self._length is not None:
            self._left_bytes, self._length = self._length - len(event.data), None

    async def _receive_more(self) -> Event:
        data = await self.stream.read()
        if not data:
            raise h11.RemoteProtocolError(
                f"the connection ended {self._left_bytes} bytes before the end of the body"
            )
        if len(data) > self._left_bytes:
            self._is_beyond = True
            data = data[: self._left_bytes]
        self._left_bytes -= len(data)
        self._ends_next = not self._left_bytes
        return h11.Data(data=data)

    def _check(self, head: Head, raw: bytearray) -> None:
        """Looks at the bytes that a head was read from: those that are not left over."""
        left, _ = self.http.trailing_data
        fault = head_fault(bytes(raw[: len(raw) - len(left)]))
        if fault:
            raise OddHead(fault, head)

    async def send(self, *events: Event) -> None:
        """Sends events, and waits until they have left."""
        await self.stream.write(
            [part for event in events for part in self.http.send_with_data_passthrough(event) or ()]
        )

    async def go_on(self) -> None:
        """Tells a client that waits for that to send its body."""
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))

    async def answer(self, status: int, text: str, rule: str) -> None:
        """Answers in the origin's place, or, where its answer has begun, cuts the client off."""
        if self.http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            head, body, end = plain_answer(status, text, rule)
            await self.send(head, *([] if self._is_head else [body]), end)
        else:
            self.abort()

    async def start_tls(self, context: ssl.SSLContext, within_s: float) -> None:
        """Goes on inside TLS, as a server. Raises ssl.SSLError."""
        rest, _ = self.http.trailing_data
        if rest:
            raise ssl.SSLError("the client spoke before the tunnel was there")
        async with asyncio.timeout(within_s):
            await self.stream.start_tls(context)
        self.http = h11.Connection(self.http.our_role, max_incomplete_event_size=HEAD_LIMIT_BYTES)

    async def close(self) -> None:
        """Ends the connection; what was sent still arrives. Idempotent."""
        await self.stream.close()

    def abort(self) -> None:
        """Ends the connection so that the other end notices that something is missing."""
        self.stream.abort()


def length_of(response: h11.Response) -> int | None:
    """How long an answer says that its body is, in so many words."""
    named = dict(response.headers)  # In lower case; h11 lets no length come twice.
    if b"transfer-encoding" in named or b"content-length" not in named:
        return None
    return int(named[b"content-length"])


def printable(text: str, limit: int = 200) -> bytes:
    """Text as a reason phrase."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:limit].encode()


def plain_answer(status: int, text: str, rule: str) -> Sequence[Event]:
    """A whole answer of the proxy's own, with its reason where clients show it."""
    body = f"armitage witness: {text}\n".encode()
    headers = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Armitage-Rule", printable(rule)),
        (b"Connection", b"close"),
    ]
    response = h11.Response(status_code=status, headers=headers, reason=printable(text))
    return [response, h11.Data(data=body), h11.EndOfMessage()]
