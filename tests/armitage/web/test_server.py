from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.certificates import Authority

from armitage.errors import ConfigError
from armitage.observability.figures import STORE, FiguresCollector, open_registry
from armitage.transport.tls import TlsFiles
from armitage.web.server import Check, WebOptions, WebServer
from cas.store import StoreStats


async def ready() -> str | None:
    return None


def no_status() -> Mapping[str, object]:
    return {}


@asynccontextmanager
async def serving(
    status: Callable[[], Mapping[str, object]] = no_status,
    checks: Sequence[Check] = (ready,),
    **options: Any,
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    registry = open_registry("1.2.3")
    registry.register(
        FiguresCollector(STORE, lambda: StoreStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
    )
    server = WebServer(WebOptions(addresses=("127.0.0.1:0",), **options), registry, status, checks)
    [address] = await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield address, session
    finally:
        await server.stop()


async def test_metrics_are_prometheus_text() -> None:
    async with serving() as (address, session):
        answer = await session.get(f"http://{address}/metrics")
        families = {f.name: f for f in text_string_to_metric_families(await answer.text())}

    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert families["armitage_cas_blobs"].samples[0].value == 1


async def test_liveness_does_not_depend_on_readiness() -> None:
    async def draining() -> str | None:
        return "draining"

    async def broken() -> str | None:
        raise RuntimeError("password1")

    async with serving(checks=(draining, ready, broken)) as (address, session):
        live = await session.get(f"http://{address}/healthz")
        readiness = await session.get(f"http://{address}/readyz")
        status = await session.get(f"http://{address}/status")
        text = await readiness.text()
        shown = await status.json()

    assert live.status == 200
    assert readiness.status == 503
    assert text == "draining\na readiness check failed; the log says how\n"
    assert status.status == 200
    assert shown["ready"] is False
    assert shown["reasons"] == text.splitlines()


async def test_ready_server_says_so() -> None:
    async with serving() as (address, session):
        answer = await session.get(f"http://{address}/readyz")
        assert (answer.status, await answer.text()) == (200, "ready\n")


async def test_status_is_json_of_plain_values() -> None:
    @dataclass
    class Stats:
        blobs: int
        where: Path

    def status() -> Mapping[str, object]:
        return {"version": "1", "store": Stats(3, Path("/data")), "addresses": ("a", "b")}

    async with serving(status) as (address, session):
        shown = await (await session.get(f"http://{address}/status")).json()

    assert shown == {
        "version": "1",
        "store": {"blobs": 3, "where": "/data"},
        "addresses": ["a", "b"],
        "ready": True,
        "reasons": [],
    }


async def test_page_is_html_with_the_status_in_it() -> None:
    async with serving(lambda: {"version": "1.2.3-test"}) as (address, session):
        answer = await session.get(f"http://{address}/")
        assert answer.content_type == "text/html"
        assert "1.2.3-test" in await answer.text()


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/healthz", "/readyz", "/nothing"])
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with serving() as (address, session):
        headers = (await session.get(f"http://{address}{path}")).headers

    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "armitage"


async def test_only_reading_is_possible() -> None:
    async with serving() as (address, session):
        assert (await session.post(f"http://{address}/status")).status == 405
        assert (await session.head(f"http://{address}/status")).status == 200
        assert (await session.get(f"http://{address}/../etc/passwd")).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8982", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8982", 200),
        ("build.example", 200),
        ("evil.example", 421),
        ("evil.example:8982", 421),
        ("", 421),
    ],
)
async def test_other_sites_names_are_refused(host: str, status: int) -> None:
    async with serving(hosts=("build.example",)) as (address, session):
        answer = await session.get(f"http://{address}/status", headers={"Host": host})
        assert answer.status == status


async def test_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = WebServer(WebOptions((address,)), open_registry("1"), no_status, ())
        with pytest.raises(ConfigError, match=f"{address}: is already in use"):
            await server.start()


async def test_beyond_loopback_needs_tls_or_consent() -> None:
    server = WebServer(WebOptions(("0.0.0.0:0",)), open_registry("1"), no_status, ())
    with pytest.raises(ConfigError, match="without TLS"):
        await server.start()

    options = WebOptions(("0.0.0.0:0",), plaintext_beyond_loopback=True)
    server = WebServer(options, open_registry("1"), no_status, ())
    assert len(await server.start()) == 1
    await server.stop()
    await server.stop()


async def test_mutual_tls_lets_in_who_shows_a_certificate(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue("server").write(tmp_path, "server")
    client = authority.issue("client").write(tmp_path, "client")
    clients = tmp_path / "clients.crt"
    clients.write_bytes(authority.certificate)
    context = ssl.create_default_context(cadata=authority.certificate.decode())

    async with serving(tls=TlsFiles(certificate, key, clients)) as (address, session):
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://{address}/healthz", ssl=context)
        context.load_cert_chain(*client)
        assert (await session.get(f"https://{address}/healthz", ssl=context)).status == 200


async def test_silent_connections_do_not_keep_others_out() -> None:
    async with serving() as (address, session):
        host, port = address.split(":")
        silent = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(50)]
        for writer in silent[:25]:
            writer.write(b"GET / HTTP/1.1\r\nHos")
        assert (await session.get(f"http://{address}/healthz")).status == 200
        for writer in silent:
            writer.close()
