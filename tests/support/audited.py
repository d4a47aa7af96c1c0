"""A record behind an HTTP port, as a daemon serves it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.registry import CollectorRegistry
from support.records import Record

from armitage.audit.verifier import Verifier
from armitage.clock import SystemClock
from armitage.transport.tls import TlsFiles
from armitage.web.access import LOOPBACK, Auditors
from armitage.web.audit.pages import AuditPages
from armitage.web.audit_api import AuditApi
from armitage.web.log_tiles import LogTiles
from armitage.web.server import Part, WebOptions, WebServer


@dataclass
class Served:
    """What is served, and a client of it."""

    record: Record
    url: str
    http: aiohttp.ClientSession

    async def get(self, path: str, status: int = 200) -> Any:
        """Asks for JSON."""
        answer = await self.http.get(self.url + path)
        assert answer.status == status, await answer.text()
        return await answer.json()

    async def read(self, path: str, status: int = 200) -> bytes:
        """Asks for bytes."""
        answer = await self.http.get(self.url + path)
        assert answer.status == status, await answer.text()
        return await answer.read()


@asynccontextmanager
async def serving(
    kept: Record,
    auditors: Collection[str] = (LOOPBACK,),
    *,
    public: bool = False,
    tls: TlsFiles | None = None,
    client: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """Serves a record on a free port."""
    allowed, log = Auditors(auditors), kept.archive.log.store
    verifier = Verifier(kept.archive, lambda _: [], SystemClock())
    parts: list[Part] = [
        AuditApi(kept.auditor, allowed, verifier),
        AuditPages(kept.auditor, allowed, verifier),
        LogTiles(log, lambda: log.signed_checkpoint, allowed, public=public),
    ]
    options = WebOptions(addresses=("127.0.0.1:0",), tls=tls)
    server = WebServer(options, CollectorRegistry(), dict, [], parts)
    [address] = await server.start()
    connector = aiohttp.TCPConnector(ssl=client or True)
    try:
        async with aiohttp.ClientSession(connector=connector) as http:
            yield Served(kept, f"{'https' if tls else 'http'}://{address}", http)
    finally:
        await server.stop()
