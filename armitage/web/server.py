"""The HTTP port: metrics, health, readiness, status as JSON and as a page. It only ever reads."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from armitage.errors import ConfigError
from armitage.transport.addresses import bind_failure, is_loopback, join_address, split_address
from armitage.transport.tls import TlsFiles, load_tls
from armitage.web.page import CONTENT_SECURITY_POLICY, Plain, render_page

_log = logging.getLogger(__name__)

_CHECK_S = 5.0
"""A readiness check that takes longer counts as failed."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Part(Protocol):
    """Further things that the port serves."""

    @property
    def link(self) -> tuple[str, str] | None:
        """The path and name of its first page, if it has pages."""

    def add_to(self, application: web.Application) -> None:
        """Adds routes, and what is to be done at the end."""


Check = Callable[[], Awaitable[str | None]]
"""Answers why the daemon is not ready, None if nothing stands in the way."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Where the HTTP port listens."""

    addresses: tuple[str, ...] = ("127.0.0.1:8982",)
    """`HOST:PORT`; port 0: any free one; empty: no HTTP port at all."""
    tls: TlsFiles | None = None
    plaintext_beyond_loopback: bool = field(default=False, metadata={"setting": False})
    """Accepts that anybody on the network can read the pages."""
    hosts: tuple[str, ...] = ()
    """Names that the server is reached by, beside its addresses and localhost. A request for
    another name is refused, so that no web page can read from here by a name of its own.
    """


class WebServer:
    """Serves the pages.

    `status` answers what to show of the daemon, as plain values or dataclasses of them; it runs on
    each request and must be cheap. `checks` decide on readiness.
    """

    def __init__(
        self,
        options: WebOptions,
        registry: CollectorRegistry,
        status: Callable[[], Mapping[str, object]],
        checks: Sequence[Check],
        parts: Sequence[Part] = (),
    ) -> None:
        self._options = options
        self._registry = registry
        self._status = status
        self._checks = checks
        self._parts = parts
        self._links = [part.link for part in parts if part.link is not None]
        self._runner: web.AppRunner | None = None
        self._names = {"localhost", *map(str.lower, options.hosts)}

    async def start(self) -> list[str]:
        """Binds and serves. Answers the bound addresses, in the order of the options.

        Raises ConfigError, with nothing left bound, when an address or TLS file is unusable.
        """
        for address in self._options.addresses:
            self._check_address(address)
        context = _tls_context(self._options.tls) if self._options.tls else None
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/", self._page)
        application.router.add_get("/status", self._json)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._live)
        application.router.add_get("/readyz", self._ready)
        for part in self._parts:
            part.add_to(application)
        application.on_response_prepare.append(_secure)
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=15, shutdown_timeout=2
        )
        await self._runner.setup()
        try:
            for address in self._options.addresses:
                await self._bind(address, context)
        except ConfigError:
            await self.stop()
            raise
        return [join_address(str(where[0]), int(where[1])) for where in self._runner.addresses]

    async def stop(self) -> None:
        """Closes the port, after the requests that are being answered."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def _check_address(self, address: str) -> None:
        if is_loopback(address) or self._options.tls or self._options.plaintext_beyond_loopback:
            return
        raise ConfigError(
            f"HTTP address {address}: reaches beyond this host without TLS; configure TLS, listen "
            "on 127.0.0.1, or accept plaintext explicitly"
        )

    async def _bind(self, address: str, context: ssl.SSLContext | None) -> None:
        assert self._runner is not None
        host, port = split_address(address)
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=context).start()
        except OSError as error:
            raise bind_failure(address, error) from error

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if not self._is_ours(request.host):
            return web.Response(
                status=421, text="this server is not known by that name (web.hosts)\n"
            )
        return await handler(request)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names us: by address, which nobody else can claim, or by name."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return True

    async def _reasons(self) -> list[str]:
        async def ask(check: Check) -> str | None:
            try:
                async with asyncio.timeout(_CHECK_S):
                    return await check()
            except TimeoutError:
                return f"a readiness check took longer than {_CHECK_S:g} s"
            except Exception:  # noqa: BLE001 (whatever it is, it is no proof of being ready)
                _log.exception("a readiness check failed")
                return "a readiness check failed; the log says how"

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(check)) for check in self._checks]
        answers = [task.result() for task in asked]
        return [answer for answer in answers if answer is not None]

    async def _state(self) -> tuple[dict[str, Plain], list[str]]:
        reasons = await self._reasons()
        shown = {name: plain(value) for name, value in self._status().items()}
        return {**shown, "ready": not reasons, "reasons": list(reasons)}, reasons

    async def _page(self, _: web.Request) -> web.Response:
        status, reasons = await self._state()
        return web.Response(
            text=render_page(status, reasons, self._links), content_type="text/html"
        )

    async def _json(self, _: web.Request) -> web.Response:
        status, _reasons = await self._state()
        return web.json_response(status)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = await self._reasons()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")


def plain(value: Any) -> Plain:
    """Dataclasses, tuples and the like as JSON has them; anything else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    """Puts the strictest headers on what has not asked for others."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "armitage"


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    load_tls(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if files.client_authority is not None:
        context.load_verify_locations(files.client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
