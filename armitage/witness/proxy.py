"""The proxy of one session: the only way out, and nothing goes through it unseen.

One exchange: the request's head is checked, its grants and rules are asked, every address of its
host is checked, the origin's certificate is checked; then the request goes on, and the answer comes
back while it is hashed and written aside. What is sent to the client stays one piece behind what
was received: the last of it goes out only when the body is in the CAS and the record of the
exchange is in the log. So a client that has a whole answer has one that is on record.

An exchange whose evidence cannot be kept is cut off. So is one whose answer ends too early, with
the record saying so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h11

from armitage.clock import Clock
from armitage.errors import Unavailable
from armitage.witness.authority import SessionAuthority
from armitage.witness.bodies import Spool
from armitage.witness.evidence import Body, Exchange, Peer
from armitage.witness.heads import (
    RawHeaders,
    Refused,
    Target,
    check_response_framing,
    connect_target,
    downstream_headers,
    plain_target,
    tunnel_target,
    upstream_headers,
)
from armitage.witness.origins import Origins, Reached
from armitage.witness.policy import Decision, Grant, Rule, decide
from armitage.witness.redaction import Redaction
from armitage.witness.sessions import Session
from armitage.witness.wire import Side, plain_answer
from cas.errors import CasError
from cas.store import BlobImporter

_log = logging.getLogger(__name__)

Inject = Callable[[Target], tuple[RawHeaders, Sequence[str]]]
"""Answers the headers that are added for a target, and the names of the credentials in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """What one exchange may cost."""

    idle_s: float = 60.0
    """How long either side may be silent."""
    exchange_s: float = 3600.0
    request_body_bytes: int = 64 << 20
    response_body_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every session of one installation shares."""

    origins: Origins
    store: BlobImporter
    spool: Path
    """A directory for bodies on their way; nothing in it outlives an exchange."""
    threads: Executor
    clock: Clock
    redaction: Redaction
    rules: Sequence[Rule] = ()
    limits: ProxyLimits = field(default_factory=ProxyLimits)


def no_credentials(_: Target) -> tuple[RawHeaders, Sequence[str]]:
    """Adds nothing."""
    return [], []


@dataclass(slots=True)
class _Facts:
    """What is known of an exchange so far."""

    started_s: float
    method: str
    url: str
    host: str
    port: int
    tunnel: tuple[str, int] | None
    request_headers: RawHeaders = ()
    decision: Decision = field(default_factory=lambda: Decision(allowed=False, rule="malformed"))
    reached: Reached | None = None
    request_body: Body | None = None
    status: int | None = None
    response_headers: RawHeaders = ()
    response_body: Body | None = None
    credentials: Sequence[str] = ()
    error: str = ""
    is_kept: bool = False


class Proxy:
    """Serves the connections of one session."""

    def __init__(
        self,
        session: Session,
        authority: SessionAuthority,
        grants: Sequence[Grant],
        means: Means,
        inject: Inject = no_credentials,
    ) -> None:
        self._session = session
        self._authority = authority
        self._grants = grants
        self._means = means
        self._inject = inject
        self._serving: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until either end closes it; a callback of asyncio.start_server."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        side = Side(h11.SERVER, reader, writer, self._means.limits.idle_s)
        try:
            await self._serve(side)
        except (OSError, TimeoutError, h11.ProtocolError):
            side.abort()
        except Unavailable as error:
            _log.error("witness: cut off: %s", error)
            side.abort()
        except asyncio.CancelledError:
            side.abort()
            if not self._is_closing:
                raise
        finally:
            self._serving.discard(task)
            side.close()

    async def close(self) -> None:
        """Cuts off what is still under way, with its evidence, and closes the session. Idempotent.

        Raises Unavailable.
        """
        if self._is_closing:
            return
        self._is_closing = True
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(set(self._serving))
        await self._session.close()

    # A connection

    async def _serve(self, side: Side) -> None:
        tunnel: tuple[str, int] | None = None
        while True:
            event = await side.receive()
            if not isinstance(event, h11.Request):
                return
            if event.method == b"CONNECT" and tunnel is None:
                tunnel = await self._open_tunnel(side, event)
                if tunnel is None:
                    return
                continue
            async with asyncio.timeout(self._means.limits.exchange_s):
                await self._exchange(side, event, tunnel)
            if side.http.our_state is not h11.DONE or side.http.their_state is not h11.DONE:
                return
            side.http.start_next_cycle()

    async def _open_tunnel(self, side: Side, request: h11.Request) -> tuple[str, int] | None:
        facts = self._facts(request, None)
        try:
            host, port = connect_target(request.target, request.headers)
        except Refused as refused:
            await self._refuse(side, facts, refused)
            return None
        facts.host, facts.port, facts.url = host, port, f"https://{host}:{port}/"
        facts.tunnel = (host, port)
        try:
            context = self._authority.context(host)
            await side.send(h11.Response(status_code=200, headers=[], reason=b"Witnessed"))
            await side.start_tls(context)
        except (OSError, ValueError, TimeoutError) as error:
            facts.decision = Decision(allowed=False, rule="handshake")
            facts.error = f"no TLS for {host} inside the tunnel: {error}"
            await self._keep(facts)
            raise ConnectionResetError(facts.error) from error
        return host, port

    # An exchange

    def _facts(self, request: h11.Request, tunnel: tuple[str, int] | None) -> _Facts:
        host, port = tunnel or ("", 0)
        return _Facts(
            started_s=self._means.clock.wall(),
            method=request.method.decode("ascii", "replace"),
            url=request.target.decode("ascii", "replace"),
            host=host,
            port=port,
            tunnel=tunnel,
            request_headers=list(request.headers),
        )

    async def _exchange(
        self, side: Side, request: h11.Request, tunnel: tuple[str, int] | None
    ) -> None:
        facts = self._facts(request, tunnel)
        async with AsyncExitStack() as stack:
            try:
                reached, target = await self._reach(facts, request, tunnel)
                stack.callback(reached.side.close)
                await self._send_request(side, reached.side, facts, target, stack)
                await self._pass_answer(side, reached.side, facts, stack)
            except Refused as refused:
                await self._refuse(side, facts, refused)
            except (OSError, TimeoutError, h11.ProtocolError, CasError) as error:
                await self._fail(side, facts, error)
            except asyncio.CancelledError:
                facts.error = "cut off"
                with suppress(Unavailable):
                    await self._keep(facts)
                raise

    async def _reach(
        self, facts: _Facts, request: h11.Request, tunnel: tuple[str, int] | None
    ) -> tuple[Reached, Target]:
        if tunnel is None:
            target = plain_target(request.method, request.target, request.headers)
        else:
            target = tunnel_target(*tunnel, request.method, request.target, request.headers)
        facts.url, facts.host, facts.port = target.url, target.host, target.port
        facts.decision = decide(target.fetch, self._grants, self._means.rules)
        if not facts.decision.allowed:
            raise Refused(403, facts.decision.reason, facts.decision.rule)
        facts.reached = await self._means.origins.reach(target, facts.decision)
        return facts.reached, target

    async def _send_request(
        self, side: Side, origin: Side, facts: _Facts, target: Target, stack: AsyncExitStack
    ) -> None:
        injected, facts.credentials = self._inject(target)
        headers = upstream_headers(target, facts.request_headers, injected)
        if side.http.they_are_waiting_for_100_continue:
            await side.send(h11.InformationalResponse(status_code=100, headers=[]))
        await origin.send(h11.Request(method=target.method, target=target.target, headers=headers))
        spool = self._spool(stack)
        while isinstance(event := await side.receive(), h11.Data):
            await spool.write(bytes(event.data))
            if spool.size_bytes > self._means.limits.request_body_bytes:
                raise Refused(413, "the request's body is too large", "size")
            await _send_on(origin, h11.Data(data=event.data))
        complete = isinstance(event, h11.EndOfMessage)
        if spool.size_bytes or not complete:
            facts.request_body = await spool.describe(complete=complete)
        if not complete:
            raise ConnectionResetError("the client went away")
        await _send_on(origin, h11.EndOfMessage())

    async def _pass_answer(
        self, side: Side, origin: Side, facts: _Facts, stack: AsyncExitStack
    ) -> None:
        response = await self._answer_head(origin)
        facts.status, facts.response_headers = response.status_code, list(response.headers)
        check_response_framing(response.headers)
        headers = downstream_headers(response.headers)
        held: list[h11.Event] = [
            h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
        ]
        spool = self._spool(stack)
        limit = _least(facts.decision.max_bytes, self._means.limits.response_body_bytes)
        while isinstance(event := await origin.receive(), h11.Data):
            await spool.write(bytes(event.data))
            if limit is not None and spool.size_bytes > limit:
                facts.response_body = await spool.describe(complete=False)
                raise Refused(502, f"the answer is larger than {limit} bytes", "size")
            await side.send(*held)
            held = [h11.Data(data=event.data)]
        encoding = _encoding(response.headers)
        if not isinstance(event, h11.EndOfMessage):
            facts.response_body = await spool.describe(complete=False, content_encoding=encoding)
            raise ConnectionResetError("the origin went away in the middle of its answer")
        facts.response_body = await spool.keep(self._means.store, content_encoding=encoding)
        await self._keep(facts)
        await side.send(*held, h11.EndOfMessage())

    async def _answer_head(self, origin: Side) -> h11.Response:
        while True:
            event = await origin.receive()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the origin went away without an answer")

    # Ends

    async def _refuse(self, side: Side, facts: _Facts, refused: Refused) -> None:
        facts.decision = Decision(allowed=False, rule=refused.rule)
        facts.error = str(refused)
        await self._keep(facts)
        await _answer(side, refused.status, str(refused), refused.rule)

    async def _fail(self, side: Side, facts: _Facts, error: Exception) -> None:
        facts.error = str(error) or type(error).__name__
        await self._keep(facts)
        status = 504 if isinstance(error, TimeoutError) else 502
        await _answer(side, status, f"{facts.host}: {facts.error}", "origin")

    async def _keep(self, facts: _Facts) -> None:
        if not facts.is_kept:  # What fails after that is the client's matter.
            facts.is_kept = True
            await self._session.record(self._exchange_of(facts))

    def _exchange_of(self, facts: _Facts) -> Exchange:
        redaction, reached = self._means.redaction, facts.reached
        connect = "{}:{}".format(*facts.tunnel) if facts.tunnel else ""
        return Exchange(
            started_s=facts.started_s,
            ended_s=max(facts.started_s, self._means.clock.wall()),
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
            request_headers=redaction.request_headers(_readable(facts.request_headers)),
            request_body=facts.request_body,
            status=facts.status,
            response_headers=redaction.response_headers(_readable(facts.response_headers)),
            response_body=facts.response_body,
            credentials=facts.credentials,
            error=redaction.scrub(facts.error),
        )

    def _spool(self, stack: AsyncExitStack) -> Spool:
        spool = Spool(self._means.spool, self._means.threads)
        stack.push_async_callback(spool.discard)
        return spool


async def _send_on(origin: Side, event: h11.Event) -> None:
    """Sends a part of a body. An origin may have answered and gone before it has read all: its
    answer then says why.
    """
    with suppress(ConnectionError):
        await origin.send(event)


async def _answer(side: Side, status: int, text: str, rule: str) -> None:
    """Answers in the origin's place, or, where its answer has begun, cuts the client off."""
    if side.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        side.abort()
        return
    await side.send(*plain_answer(status, text, rule))


def _readable(headers: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _encoding(headers: RawHeaders) -> str:
    found = [value for name, value in headers if name.lower() == b"content-encoding"]
    return b", ".join(found).decode("latin-1")


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
