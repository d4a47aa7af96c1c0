"""The proxy of one session: connections of clients, in the forms in which they ask.

A client that knows of the proxy names whole URLs, or opens a tunnel and speaks TLS inside it, to a
certificate of the session's authority. A client that does not is caught on its way
(armitage.witness.transparent) and served here too. What becomes of each request is for
armitage.witness.exchange.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import h11

from armitage.errors import Unavailable
from armitage.witness.authority import SessionAuthority
from armitage.witness.exchange import Exchanges, Facts
from armitage.witness.heads import (
    Refused,
    Target,
    connect_target,
    direct_target,
    plain_target,
    tunnel_target,
)
from armitage.witness.policy import Decision
from armitage.witness.stream import Stream
from armitage.witness.wire import OddHead, Side

_log = logging.getLogger(__name__)

Find = Callable[[h11.Request], Target]


def _anybody(_: h11.Request) -> bool:
    return True


class Proxy:
    """Serves the connections of one session."""

    def __init__(self, exchanges: Exchanges, authority: SessionAuthority) -> None:
        self.exchanges = exchanges
        self.authority = authority
        self._serving: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def serve(self, made: socket.socket) -> None:
        """Serves one connection of a client that knows of the proxy until either end closes it."""
        await self._run(Stream(made, self._idle_s), self._serve_asking)

    async def serve_from(
        self, side: Side, request: h11.Request, admit: Callable[[h11.Request], bool]
    ) -> None:
        """Serves a connection whose first request was read already; the requests after it that are
        not admitted end it.
        """

        async def serve(_: Side) -> None:
            await self._serve_asking(side, request, admit)

        await self._run_on(side, serve)

    async def serve_caught(self, stream: Stream, host: str | None, port: int) -> None:
        """Serves a connection that was meant for an origin: its TLS is up, where it has any.

        `host` is known from the handshake or the look-up; None: from the request alone.
        """
        tunnel: tuple[str, int] | None = None
        if stream.tls is not None:
            assert host is not None
            tunnel = host, port

        def find(request: h11.Request) -> Target:
            if tunnel is not None:
                return _through_tunnel(*tunnel)(request)
            return direct_target(host, port, request.method, request.target, request.headers)

        async def serve(side: Side) -> None:
            await self._requests(side, await self._next(side, tunnel), find, tunnel)

        await self._run(stream, serve)

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
        await self.exchanges.close()

    # A connection

    @property
    def _idle_s(self) -> float:
        return self.exchanges.means.limits.idle_s

    async def _run(self, stream: Stream, serve: Callable[[Side], Awaitable[None]]) -> None:
        await self._run_on(Side(h11.SERVER, stream), serve)

    async def _run_on(self, side: Side, serve: Callable[[Side], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await serve(side)
            await side.close()
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
            side.abort()

    async def _serve_asking(
        self, side: Side, request: object = None, admit: Callable[[h11.Request], bool] = _anybody
    ) -> None:
        if request is None:
            request = await self._next(side, None)
        if isinstance(request, h11.Request) and request.method == b"CONNECT":
            tunnel = await self._open_tunnel(side, request)
            if tunnel is not None:
                first = await self._next(side, tunnel)
                await self._requests(side, first, _through_tunnel(*tunnel), tunnel)
        else:
            await self._requests(side, request, _by_url, admit=admit)

    async def _requests(
        self,
        side: Side,
        request: object,
        find: Find,
        tunnel: tuple[str, int] | None = None,
        *,
        admit: Callable[[h11.Request], bool] = _anybody,
    ) -> None:
        """Performs one exchange after the other."""
        while isinstance(request, h11.Request) and admit(request):
            facts = self.exchanges.begin(request, tunnel)
            await self.exchanges.perform(side, facts, partial(find, request))
            if side.http.our_state is not h11.DONE or side.http.their_state is not h11.DONE:
                return
            side.http.start_next_cycle()
            request = await self._next(side, tunnel)

    async def _next(self, side: Side, tunnel: tuple[str, int] | None) -> object:
        """Answers the next request, if there is one; what is no HTTP is on record, too."""
        try:
            return await side.receive()
        except OddHead as odd:
            await self._refuse_odd(side, odd, tunnel)
            return None
        except h11.RemoteProtocolError as error:
            host, port = tunnel or ("", 0)
            facts = Facts(self.exchanges.means.clock.wall(), "", "", host, port, tunnel)
            await self.exchanges.refuse(side, facts, Refused(400, f"this is no HTTP: {error}"))
            return None

    async def _refuse_odd(self, side: Side, odd: OddHead, tunnel: tuple[str, int] | None) -> None:
        assert isinstance(odd.head, h11.Request)
        facts = self.exchanges.begin(odd.head, tunnel)
        await self.exchanges.refuse(side, facts, Refused(400, f"the request is odd: {odd}"))

    async def _open_tunnel(self, side: Side, request: h11.Request) -> tuple[str, int] | None:
        facts = self.exchanges.begin(request)
        try:
            host, port = connect_target(request.target, request.headers)
        except Refused as refused:
            await self.exchanges.refuse(side, facts, refused)
            return None
        facts.host, facts.port, facts.url = host, port, f"https://{host}:{port}/"
        facts.tunnel = (host, port)
        try:
            context = self.authority.context(host)
            await side.send(h11.Response(status_code=200, headers=[], reason=b"Witnessed"))
            await side.start_tls(context, self._idle_s)
        except (OSError, ValueError, TimeoutError) as error:
            await self.no_handshake(facts, f"no TLS for {host} inside the tunnel: {error}")
            raise ConnectionResetError(facts.error) from error
        return host, port

    async def no_handshake(self, facts: Facts, why: str) -> None:
        """Records that a client and the proxy did not come to speak. Raises Unavailable."""
        facts.decision = Decision(allowed=False, rule="handshake")
        facts.error = why
        await self.exchanges.keep(facts)


def _by_url(request: h11.Request) -> Target:
    return plain_target(request.method, request.target, request.headers)


def _through_tunnel(host: str, port: int) -> Find:
    return lambda request: tunnel_target(
        host, port, request.method, request.target, request.headers
    )
