"""Who may read the record over HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from armitage.errors import InvalidRequest, NotFound
from armitage.transport.tls import subject_of

LOOPBACK = "loopback"
"""Among auditors: every program of this host."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Auditors:
    """Those who may read: subjects of client certificates, and `loopback`."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def admit(self, request: web.Request) -> bool:
        """Whether the request comes from one of them."""
        subject = identity_of(request)
        if subject is not None and subject in self._names - {LOOPBACK}:
            return True
        return LOOPBACK in self._names and _is_of_this_host(request)

    def only(self, handler: Handler) -> Handler:
        """The handler for auditors alone, whose errors become answers: 400, 403, 404."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if _is_of_another_page(request):
                return refusal(request, 403, "the record is not for pages of another site")
            if not self.admit(request):
                who = identity_of(request) or request.remote
                return refusal(request, 403, f"{who!r} is not among the server's `auditors`")
            try:
                return await handler(request)
            except InvalidRequest as error:
                return refusal(request, 400, str(error))
            except NotFound as error:
                return refusal(request, 404, str(error))

        return guarded


def identity_of(request: web.Request) -> str | None:
    """The subject of the client's certificate, where one was demanded."""
    transport = request.transport
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    certificate = None if tls is None else tls.getpeercert()
    return subject_of(certificate) if certificate else None


def refusal(request: web.Request, status: int, message: str) -> web.Response:
    """Says why not: as JSON to programs, as text to people."""
    if request.path.startswith("/api/"):
        return web.json_response({"error": message}, status=status)
    return web.Response(status=status, text=f"{message}\n")


def _is_of_another_page(request: web.Request) -> bool:
    """Whether a page of somebody else has an auditor's browser ask: it may lead here, and neither
    embed nor read nor set to work.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    leads_here = request.headers.get("Sec-Fetch-Mode") == "navigate" and (
        request.headers.get("Sec-Fetch-Dest") == "document"
    )
    return site not in {"none", "same-origin"} and not leads_here


def _is_of_this_host(request: web.Request) -> bool:
    """Of the connection itself: headers that name another client prove nothing."""
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return False
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
