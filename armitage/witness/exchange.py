"""One exchange, whoever asks: an action's client through the proxy, or the daemon itself.

The request's head is checked, its grants and rules are asked, every address of its host is checked,
the origin's certificate is checked; then the request goes on, and the answer comes back while it is
hashed and written aside. What is sent to the client stays one piece behind what was received: the
last of it goes out only when the body is in the store and the record of the exchange is in the log.
So a client that has a whole answer has one that is on record.

Where a session is pinned, or fetching is off, answers that are on record take the origin's place; a
record of its own says so, and which one it repeats.

An exchange whose evidence cannot be kept is cut off. So is one whose answer ends too early, with
the record saying so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urljoin

import h11

from armitage.errors import Unavailable
from armitage.witness.bodies import Spool, Tally
from armitage.witness.evidence import Body, Exchange, Peer, digest_of
from armitage.witness.heads import (
    RawHeaders,
    Refused,
    Target,
    check_response_framing,
    downstream_headers,
    upstream_headers,
)
from armitage.witness.modes import normal_url
from armitage.witness.origins import Reached
from armitage.witness.policy import READING, Decision, decide
from armitage.witness.pool import Pool, Way
from armitage.witness.recall import Recalled, Wanted
from armitage.witness.sessions import Session
from armitage.witness.terms import Means, Terms
from armitage.witness.wire import Event, OddHead, Side, length_of
from cas.errors import CasError
from executor.errors import InvalidInput

_MAX_REFUSALS = 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_BODY = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY = frozenset({204, 304})
_MAX_INTERIM = 10
"""Of answers 1xx before the one that counts."""


class Client(Protocol):
    """Who asks, once the head of the request is read. Raises what Side does."""

    async def receive(self) -> Event | type[h11.PAUSED]:
        """Answers the next part of the request's body."""

    async def send(self, *events: Event) -> None:
        """Takes parts of the answer."""

    async def go_on(self) -> None:
        """Tells one who waits for that to send its body."""

    async def answer(self, status: int, text: str, rule: str) -> None:
        """Answers in the origin's place, or, where its answer has begun, cuts the client off."""


@dataclass(slots=True)
class Facts:
    """What is known of an exchange so far."""

    started_s: float
    method: str
    url: str
    host: str
    port: int
    tunnel: tuple[str, int] | None = None
    request_headers: RawHeaders = ()
    decision: Decision = field(default_factory=lambda: Decision(allowed=False, rule="malformed"))
    reached: Reached | None = None
    way: Way | None = None
    request_body: Body | None = None
    status: int | None = None
    response_headers: RawHeaders = ()
    response_body: Body | None = None
    credentials: Sequence[str] = ()
    replays: str = ""
    pin: str = ""
    error: str = ""
    is_kept: bool = False


@dataclass(slots=True)
class Use:
    """What a session's exchanges came to, taken together."""

    reached: dict[tuple[str, int], None] = field(default_factory=dict)
    credentials: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)

    def add(self, facts: Facts, kept: Exchange) -> None:
        """Takes an exchange that is on record."""
        if facts.reached is not None or facts.replays:
            self.reached[facts.host, facts.port] = None
        if facts.reached is not None:
            self.credentials.update(dict.fromkeys(facts.credentials))
        if not facts.decision.allowed and len(self.refused) < _MAX_REFUSALS:
            self.refused[f"{kept.method} {kept.url}: {kept.error}"] = None


class Exchanges:
    """Performs the exchanges of one session."""

    def __init__(self, session: Session, terms: Terms, means: Means) -> None:
        self.means = means
        self.use = Use()
        self.session_id = session.id
        self._session = session
        self._terms = terms
        self._pins = dict(terms.pins or {})
        self._pool = Pool()

    def begin(self, request: h11.Request, tunnel: tuple[str, int] | None = None) -> Facts:
        """Answers what is known of a request by its head."""
        host, port = tunnel or ("", 0)
        return Facts(
            started_s=self.means.clock.wall(),
            method=request.method.decode("ascii", "replace"),
            url=request.target.decode("ascii", "replace"),
            host=host,
            port=port,
            tunnel=tunnel,
            request_headers=list(request.headers),
        )

    async def perform(self, client: Client, facts: Facts, find: Callable[[], Target]) -> None:
        """Performs one exchange; `find` answers where it goes, or raises Refused.

        Raises Unavailable when it cannot be kept, and what the client's end raises. Cancelled, it
        is on record all the same.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.means.limits.exchange_s):
                    await self._perform(client, facts, find, stack)
            except Refused as refused:
                await self.refuse(client, facts, refused)
            except (OSError, TimeoutError, h11.ProtocolError, CasError) as error:
                await self._fail(client, facts, error)
            except asyncio.CancelledError:
                facts.error = "cut off"
                with suppress(Unavailable):
                    await self.keep(facts)
                raise

    async def refuse(self, client: Client, facts: Facts, refused: Refused) -> None:
        """Records that it is not passed on, and says so to the client."""
        facts.decision = Decision(allowed=False, rule=refused.rule)
        facts.error = str(refused)
        await self.keep(facts)
        await client.answer(refused.status, str(refused), refused.rule)

    async def keep(self, facts: Facts) -> None:
        """Records an exchange, once. Raises Unavailable."""
        if not facts.is_kept:  # What fails after that is the client's matter.
            facts.is_kept = True
            exchange = self._exchange_of(facts)
            await self._session.record(exchange)
            self.use.add(facts, exchange)
            self.means.counts.took(exchange, asked=facts.reached is not None)

    @property
    def dropped(self) -> int:
        """How many exchanges could not be kept so far."""
        return self._session.dropped

    async def close(self) -> None:
        """Closes the session; no exchange may be under way. Raises Unavailable."""
        self._pool.close()
        await self._session.close()

    async def _perform(
        self, client: Client, facts: Facts, find: Callable[[], Target], stack: AsyncExitStack
    ) -> None:
        target = find()
        facts.url, facts.host, facts.port = target.url, target.host, target.port
        facts.decision = decide(target.fetch, self._terms.grants, self.means.rules)
        if not facts.decision.allowed:
            raise Refused(403, facts.decision.reason, facts.decision.rule)
        found = await self._pinned(facts, target)
        if found is not None:
            await self._drain(client, facts)
            await self._replay(client, facts, found)
        elif self.means.offline:
            await self._drain(client, facts)
            await self._replay(client, facts, await self._recorded(facts, target))
        else:
            stack.callback(self._leave, facts)
            response = await self._ask(client, facts, target)
            await self._pass_answer(client, response, facts, stack)

    # To the origin and back

    async def _ask(self, client: Client, facts: Facts, target: Target) -> h11.Response:
        """Sends the request to the origin, and answers the head of what it answers."""
        request = self._request_of(facts, target)
        facts.way = Way(
            target.scheme,
            target.host,
            target.port,
            facts.decision.networks,
            tuple(facts.credentials),
            self.means.redaction.private_tag(_readable(facts.request_headers)),
        )
        if target.method in READING and not any(name in _BODY for name, _ in request.headers):
            await self._drain(client, facts)
            response = await self._ask_again(facts, request)
            if response is not None:
                return response
            origin = await self._reach(facts, target)
            await origin.send(request, h11.EndOfMessage())
            return await _answer_head(origin)
        origin = await self._reach(facts, target)
        await client.go_on()
        await origin.send(request)
        async for data in self._request_body(client, facts):
            await _send_on(origin, h11.Data(data=data))
        await _send_on(origin, h11.EndOfMessage())
        return await _answer_head(origin)

    async def _ask_again(self, facts: Facts, request: h11.Request) -> h11.Response | None:
        """Asks over a connection that waits, if there is one. None where it is over by now: what
        only reads may then be asked for once more (RFC 9110 section 9.2.2).
        """
        assert facts.way is not None
        facts.reached = self._pool.take(facts.way)
        if facts.reached is None:
            return None
        try:
            await facts.reached.side.send(request, h11.EndOfMessage())
            return await _answer_head(facts.reached.side)
        except ConnectionError:
            facts.reached.side.abort()
            facts.reached = None
            return None

    async def _reach(self, facts: Facts, target: Target) -> Side:
        facts.reached = await self.means.origins.reach(target, facts.decision)
        return facts.reached.side

    def _leave(self, facts: Facts) -> None:
        if facts.reached is not None and facts.way is not None:
            self._pool.put(facts.way, facts.reached)

    def _request_of(self, facts: Facts, target: Target) -> h11.Request:
        injected, facts.credentials = self._terms.inject(target)
        asked = facts.request_headers
        if facts.pin:  # It is the whole content that is pinned, as it is.
            asked = [(name, value) for name, value in asked if name.lower() != b"range"]
            injected = [*injected, (b"accept-encoding", b"identity")]
        headers = upstream_headers(target, asked, injected)
        return h11.Request(method=target.method, target=target.target, headers=headers)

    async def _drain(self, client: Client, facts: Facts) -> None:
        await client.go_on()
        async for _ in self._request_body(client, facts):
            pass

    async def _request_body(self, client: Client, facts: Facts) -> AsyncIterator[bytes]:
        tally = Tally()
        while isinstance(event := await client.receive(), h11.Data):
            tally.write(event.data)
            if tally.size_bytes > self.means.limits.request_body_bytes:
                raise Refused(413, "the request's body is too large", "size")
            yield event.data
        complete = isinstance(event, h11.EndOfMessage)
        if tally.size_bytes or not complete:
            facts.request_body = tally.describe(complete=complete)
        if not complete:
            raise ConnectionResetError("the client went away")

    async def _pass_answer(
        self, client: Client, response: h11.Response, facts: Facts, stack: AsyncExitStack
    ) -> None:
        assert facts.reached is not None
        origin = facts.reached.side
        facts.status, facts.response_headers = response.status_code, list(response.headers)
        check_response_framing(response.headers)
        headers = downstream_headers(response.headers)
        held: list[h11.Event] = [
            h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
        ]
        length = length_of(response)
        spool = Spool(self.means.store)
        stack.push_async_callback(spool.discard)
        async for data in self._answer_body(origin, facts, spool):
            if facts.pin:
                continue
            if len(data) == length:  # All of a small body; it is sent with its head.
                held.append(h11.Data(data=data))
            else:
                await client.send(*held)
                held = [h11.Data(data=data)]
        if facts.pin:
            await self._check_pin(facts, spool)
        body = await spool.keep(content_encoding=_encoding(response.headers))
        # Where only the end of the connection ends a body, nobody knows whether all of it came.
        whole = bool(facts.pin) or facts.method == "HEAD" or _says_its_length(response)
        facts.response_body = body if whole else replace(body, complete=False)
        await self.keep(facts)
        if facts.pin:
            # Where a redirect leads is all that is wanted of it.
            await self._send_kept(client, facts, empty=facts.status in _REDIRECTS)
        else:
            await client.send(*held, h11.EndOfMessage())

    async def _answer_body(self, origin: Side, facts: Facts, spool: Spool) -> AsyncIterator[bytes]:
        limit = _least(facts.decision.max_bytes, self.means.limits.response_body_bytes)
        encoding = _encoding(facts.response_headers)
        while isinstance(event := await origin.receive(), h11.Data):
            data = bytes(event.data)
            await spool.write(data)
            if limit is not None and spool.size_bytes > limit:
                facts.response_body = await spool.describe(complete=False)
                raise Refused(502, f"the answer is larger than {limit} bytes", "size")
            yield data
        if not isinstance(event, h11.EndOfMessage):
            facts.response_body = await spool.describe(complete=False, content_encoding=encoding)
            raise ConnectionResetError("the origin went away in the middle of its answer")

    # What is on record already

    async def _pinned(self, facts: Facts, target: Target) -> Recalled | None:
        if self._terms.pins is None:
            return None
        facts.pin = self._pins.get(target.url, "")
        if not facts.pin:
            shown = self.means.redaction.url(target.url)
            raise Refused(
                403, f"{shown} is not pinned; add it and its SHA-256 to network-pins", "unpinned"
            )
        if target.method not in READING:
            raise Refused(403, f"{target.method} of a pinned URL; they are only read", "unpinned")
        recall = self.means.recall
        return None if recall is None else await recall.content(facts.pin, self._terms.credentials)

    async def _check_pin(self, facts: Facts, spool: Spool) -> None:
        """A pinned URL may lead on to another one, which is then pinned to the same content."""
        if facts.status in _REDIRECTS:
            for location in _values(facts.response_headers, b"location"):
                with suppress(InvalidInput):  # Nobody can ask for it then.
                    self._pins[normal_url(urljoin(facts.url, location))] = facts.pin
            return
        if facts.method == "HEAD":
            return
        shown = self.means.redaction.url(facts.url)
        facts.response_body = await spool.describe(complete=True)
        if facts.status != _OK:
            raise Refused(502, f"{shown} is pinned, and its origin answers {facts.status}", "pin")
        if facts.response_body.sha256 != f"sha256:{facts.pin}":
            raise Refused(
                502,
                f"the content of {shown} is {facts.response_body.sha256}, and sha256:{facts.pin}"
                " is pinned",
                "pin",
            )

    async def _recorded(self, facts: Facts, target: Target) -> Recalled:
        redaction, recall = self.means.redaction, self.means.recall
        headers = _readable(facts.request_headers)
        wanted = Wanted(
            instance=self._terms.instance,
            method=target.method,
            url=target.url,
            url_tag=redaction.tag(target.url),
            headers=redaction.request_headers(headers),
            body_sha256=facts.request_body.sha256 if facts.request_body else "",
            private_tag=redaction.private_tag(headers),
            credentials=self._terms.credentials,
        )
        found = None if recall is None else await recall.answer(wanted)
        if found is None:
            raise Refused(
                504,
                f"offline, and {target.method} {redaction.url(target.url)} is not on record; fetch"
                " it once with the network on",
                "offline",
            )
        return found

    async def _replay(self, client: Client, facts: Facts, found: Recalled) -> None:
        """Answers what another exchange was answered."""
        response = found.record["response"]
        facts.replays, facts.credentials = found.name, found.record["credentials"]
        facts.status, facts.response_body = response["status"], Body(**response["body"])
        facts.response_headers = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in response["headers"]
        ]
        await self.keep(facts)
        await self._send_kept(client, facts)

    async def _send_kept(self, client: Client, facts: Facts, *, empty: bool = False) -> None:
        """Sends an answer whose body is in the store."""
        assert facts.status is not None
        assert facts.response_body is not None
        body = digest_of(facts.response_body)
        length = "0" if empty else str(body.size_bytes)
        if facts.method == "HEAD":
            length = (_values(facts.response_headers, b"content-length") or [length])[0]
        headers = [
            (name, value)
            for name, value in downstream_headers(facts.response_headers)
            if name.lower() != b"content-length"
        ]
        headers.append((b"content-length", length.encode()))
        await client.send(h11.Response(status_code=facts.status, headers=headers))
        if facts.method != "HEAD" and not empty:
            async for data in self.means.store.read(body):
                await client.send(h11.Data(data=bytes(data)))
        await client.send(h11.EndOfMessage())

    # The record

    async def _fail(self, client: Client, facts: Facts, error: Exception) -> None:
        facts.error = str(error) or type(error).__name__
        await self.keep(facts)
        status = 504 if isinstance(error, TimeoutError) else 502
        await client.answer(status, f"{facts.host}: {facts.error}", "origin")

    def _exchange_of(self, facts: Facts) -> Exchange:
        redaction, reached = self.means.redaction, facts.reached
        headers = _readable(facts.request_headers)
        connect = "{}:{}".format(*facts.tunnel) if facts.tunnel else ""
        return Exchange(
            started_s=facts.started_s,
            ended_s=max(facts.started_s, self.means.clock.wall()),
            method=redaction.scrub(facts.method),
            url=redaction.url(facts.url),
            url_tag=redaction.tag(facts.url),
            peer=Peer(
                host=facts.host,
                port=facts.port,
                connect=connect,
                sni=facts.tunnel[0] if facts.tunnel else "",
                address=reached.address if reached else "",
                tls_version=reached.tls_version if reached else "",
                certificate_spki_sha256=reached.certificate_spki_sha256 if reached else "",
            ),
            allowed=facts.decision.allowed,
            rule=facts.decision.rule,
            request_headers=redaction.request_headers(headers),
            request_body=facts.request_body,
            status=facts.status,
            response_headers=redaction.response_headers(_readable(facts.response_headers)),
            response_body=facts.response_body,
            credentials=facts.credentials,
            private_tag=redaction.private_tag(headers),
            replays=facts.replays,
            error=redaction.scrub(facts.error),
        )


async def _answer_head(origin: Side) -> h11.Response:
    for _ in range(_MAX_INTERIM + 1):
        try:
            event = await origin.receive()
        except OddHead as odd:
            raise Refused(502, f"the origin's answer is odd: {odd}", "malformed answer") from None
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise ConnectionResetError("the origin went away without an answer")
    raise ConnectionResetError("the origin says again and again that its answer is to come")


def _says_its_length(response: h11.Response) -> bool:
    named = any(name.lower() in _BODY for name, _ in response.headers)
    return named or response.status_code in _WITHOUT_BODY


async def _send_on(origin: Side, event: h11.Event) -> None:
    """Sends a part of a body. An origin may have answered and gone before it has read all: its
    answer then says why.
    """
    with suppress(ConnectionError):
        await origin.send(event)


def _readable(headers: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _values(headers: RawHeaders, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]


def _encoding(headers: RawHeaders) -> str:
    return ", ".join(_values(headers, b"content-encoding"))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
