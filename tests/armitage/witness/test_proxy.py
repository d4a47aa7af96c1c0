"""armitage.witness.proxy, between real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.witnessed import Origin, Witness, answering, saying, witness

from armitage.clock import SystemClock
from armitage.witness.authority import SessionAuthority
from armitage.witness.policy import Grant, Rule, Verdict
from armitage.witness.terms import ProxyLimits
from cas.errors import BlobNotFound

HOST = "h.example"
SMUGGLED = b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def named(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Witness]:
    async with witness(tmp_path) as running:
        yield running


async def fetch(
    running: Witness, origin: Origin, path: str = "/a", *, tls: bool = True, **options: Any
) -> tuple[int, bytes, Any]:
    """Fetches as a client does that is told of the proxy and trusts its authority."""
    context = ssl.create_default_context(cadata=running.trusted.decode())
    url = f"{'https' if tls else 'http'}://{HOST}:{origin.port}{path}"
    method = options.pop("method", "GET")
    async with (
        aiohttp.ClientSession(auto_decompress=False) as client,
        client.request(
            method, url, proxy=f"http://127.0.0.1:{running.port}", ssl=context, **options
        ) as response,
    ):
        return response.status, await response.read(), response


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_000])
async def test_what_is_fetched_is_on_record_and_in_the_store(
    made: Witness, *, tls: bool, size: int
) -> None:
    body = b"x" * size
    context = made.origins.context(HOST) if tls else None
    async with Origin(answering(body, 'ETag: "1"')).listening(context) as origin:
        status, found, _ = await fetch(made, origin, "/a?token=s3cr3t", tls=tls)

    assert (status, found) == (200, body)
    [record] = await made.exchanges()
    assert record["decision"] == {"verdict": "allow", "rule": "loopback"}
    assert record["url"].startswith(f"http{'s' * tls}://{HOST}:{origin.port}/a?token=~")
    assert record["response"]["status"] == 200
    assert record["response"]["body"]["sha256"] == named(body)
    assert record["response"]["body"]["complete"] is True
    assert record["peer"]["address"] == "127.0.0.1"
    assert record["peer"]["certificate_spki_sha256"].startswith("sha256:") is tls
    assert await made.body(named(body), size) == body


async def test_a_chunked_answer_is_kept_without_its_chunks(made: Witness) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with Origin(saying(data)).listening() as origin:
        status, found, _ = await fetch(made, origin, tls=False)

    assert (status, found) == (200, b"abcde")
    [record] = await made.exchanges()
    assert record["response"]["body"]["sha256"] == named(b"abcde")


async def test_an_upload_is_described_and_not_stored(tmp_path: Path) -> None:
    rules = [Rule(Verdict.ALLOW, "up", methods=("PUT",), networks=("127.0.0.0/8",))]
    body = b"u" * 100_000

    async def script(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert b"content-length: 100000" in head.lower()
        assert await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with witness(tmp_path, rules=rules) as running:
        async with Origin(script).listening(running.origins.context(HOST)) as origin:
            status, _, _ = await fetch(running, origin, method="PUT", data=body)
        [record] = await running.exchanges()
        with pytest.raises(BlobNotFound):
            await running.body(named(body), len(body))

    assert status == 201, record["error"]
    assert record["request"]["body"]["sha256"] == named(body)


async def test_no_whole_answer_without_its_record(made: Witness) -> None:
    made.log.failure = OSError(28, "No space left on device")
    async with Origin(answering(b"abc")).listening() as origin:
        with pytest.raises(aiohttp.ClientError):
            await fetch(made, origin, tls=False)
    made.log.failure = None

    assert made.faults() == ["s1 was not closed: it runs still, or was cut off"]


async def refusal_of(running: Witness, origin: Origin, **options: Any) -> tuple[int, str, str]:
    status, body, response = await fetch(running, origin, **options)
    assert origin.heads == []
    return status, body.decode(), response.reason


async def test_what_was_not_declared_is_refused_in_words(tmp_path: Path) -> None:
    async with witness(tmp_path, grants=[Grant("other.example")]) as running:
        async with Origin(answering(b"")).listening(running.origins.context(HOST)) as origin:
            status, text, reason = await refusal_of(running, origin)
        [record] = await running.exchanges()

    expected = (
        f"the action does not declare {HOST}:{origin.port}; add network:{HOST}:{origin.port} to"
        " its coeffects"
    )
    assert (status, text, reason) == (403, f"armitage witness: {expected}\n", expected)
    assert record["decision"] == {"verdict": "deny", "rule": "undeclared"}
    assert record["error"] == expected
    assert record["response"]["status"] is None


async def test_what_would_send_data_out_is_refused(tmp_path: Path) -> None:
    async with (
        witness(tmp_path, rules=[]) as running,
        Origin(answering(b"")).listening() as origin,
    ):
        status, text, _ = await refusal_of(running, origin, method="POST", tls=False)

    assert status == 403
    assert "POST sends data out" in text


async def test_every_address_of_a_name_is_checked(tmp_path: Path) -> None:
    hosts = {HOST: ["127.0.0.1", "169.254.169.254"]}
    async with witness(tmp_path, hosts=hosts) as running:
        async with Origin(answering(b"")).listening() as origin:
            status, text, _ = await refusal_of(running, origin, tls=False)
        [record] = await running.exchanges()

    assert status == 403
    assert "169.254.169.254, which is link-local" in text
    assert record["decision"]["rule"] == "address"


async def test_loopback_is_out_of_reach_unless_a_rule_names_it(tmp_path: Path) -> None:
    async with (
        witness(tmp_path, rules=[]) as running,
        Origin(answering(b"")).listening() as origin,
    ):
        status, text, _ = await refusal_of(running, origin, tls=False)

    assert status == 403
    assert "127.0.0.1, which is loopback" in text


async def test_an_origin_without_a_valid_certificate_is_refused(made: Witness) -> None:
    stranger = SessionAuthority("stranger", SystemClock().wall())
    async with Origin(answering(b"")).listening(stranger.context(HOST)) as origin:
        status, text, _ = await refusal_of(made, origin)

    assert status == 502
    assert "shows no valid certificate" in text


async def test_an_origin_that_is_not_there_is_told(made: Witness) -> None:
    origin = Origin(answering(b""))
    async with origin.listening():
        pass

    status, text, _ = await refusal_of(made, origin)

    assert status == 502
    assert "cannot be reached" in text


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_a_truncated_answer_is_cut_off_and_marked(made: Witness, data: bytes) -> None:
    async with Origin(saying(data)).listening() as origin:
        with pytest.raises(aiohttp.ClientError):
            await fetch(made, origin, tls=False)

    [record] = await made.exchanges()
    assert record["response"]["status"] == 200
    assert record["error"] != ""


async def test_a_large_answer_ends_where_it_says(made: Witness) -> None:
    body, head = b"x" * 900_000, b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n"
    async with Origin(saying(head + body + b"more")).listening() as origin:
        status, found, _ = await fetch(made, origin, tls=False)
    async with Origin(saying(head + body[:-1])).listening() as origin:
        with pytest.raises(aiohttp.ClientError):
            await fetch(made, origin, tls=False)

    whole, cut = await made.exchanges()
    assert (status, found) == (200, body)
    assert whole["response"]["body"]["sha256"] == named(body)
    assert whole["response"]["body"]["complete"] is True
    assert "1 bytes before the end of the body" in cut["error"]


async def test_an_answer_beyond_the_limit_is_cut_off(tmp_path: Path) -> None:
    limits = ProxyLimits(idle_s=5, response_body_bytes=1000)
    async with witness(tmp_path, limits=limits) as running:
        async with Origin(answering(b"x" * 1001)).listening() as origin:
            status, text, _ = await fetch(running, origin, tls=False)
        [record] = await running.exchanges()

    assert status == 502
    assert b"larger than 1000 bytes" in text
    assert record["decision"]["rule"] == "size"
    assert record["response"]["body"]["complete"] is False


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "loopback",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "malformed answer",
        ),
        (b"no HTTP at all\r\n\r\n", "loopback"),
        (b"", "loopback"),
    ],
)
async def test_an_answer_that_is_none_is_not_passed_on(
    made: Witness, data: bytes, rule: str
) -> None:
    async with Origin(saying(data)).listening() as origin:
        status, _, _ = await fetch(made, origin, tls=False)

    [record] = await made.exchanges()
    assert status == 502
    assert record["decision"]["rule"] == rule
    assert record["error"]


async def test_credentials_are_added_and_never_seen(tmp_path: Path) -> None:
    def inject(_: Any) -> Any:
        return [(b"authorization", b"Bearer s3cr3t")], ["registry"]

    async with witness(tmp_path, inject=inject) as running:
        async with Origin(answering(b"abc")).listening(running.origins.context(HOST)) as origin:
            await fetch(running, origin, headers={"Authorization": "mine"})
        [record] = await running.exchanges()

    assert b"authorization: Bearer s3cr3t" in origin.heads[0]
    assert b"mine" not in origin.heads[0]
    assert record["credentials"] == ["registry"]
    assert "s3cr3t" not in str(record)


async def test_an_origin_is_always_asked_for_a_body(made: Witness) -> None:
    async with Origin(answering(b"abc")).listening() as origin:
        await fetch(made, origin, tls=False, headers={"If-None-Match": '"1"'})

    assert b"if-none-match" not in origin.heads[0].lower()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n",
        b"GET http://h.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        b"GET http://h.example/../a HTTP/1.1\r\nHost: h.example\r\n\r\n",
        b"POST http://h.example/ HTTP/1.1\r\nHost: h.example\r\n" + SMUGGLED,
        b"CONNECT h.example HTTP/1.1\r\nHost: h.example\r\n\r\n",
    ],
)
async def test_what_is_refused_is_on_record(made: Witness, request_bytes: bytes) -> None:
    answer = await made.ask(request_bytes)

    assert answer.startswith(b"HTTP/1.1 4")
    [record] = await made.exchanges()
    assert record["decision"]["verdict"] == "deny"


async def test_a_client_that_speaks_no_tls_in_its_tunnel_is_on_record(made: Witness) -> None:
    reader, writer = await made.connect()
    writer.write(b"CONNECT h.example:22 HTTP/1.1\r\nHost: h.example:22\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(b"SSH-2.0-client\r\n" * 10)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1000)
    writer.close()

    [record] = await made.exchanges()
    assert record["decision"] == {"verdict": "deny", "rule": "handshake"}
    assert (record["peer"]["host"], record["peer"]["port"]) == (HOST, 22)


async def test_several_requests_may_share_a_tunnel(made: Witness) -> None:
    context = ssl.create_default_context(cadata=made.trusted.decode())
    async with (
        Origin(answering(b"abc")).listening(made.origins.context(HOST)) as origin,
        aiohttp.ClientSession() as client,
    ):
        for _ in range(3):
            async with client.get(
                f"https://{HOST}:{origin.port}/",
                proxy=f"http://127.0.0.1:{made.port}",
                ssl=context,
            ) as response:
                assert await response.read() == b"abc"

    assert [record["number"] for record in await made.exchanges()] == [1, 2, 3]


async def test_what_is_under_way_at_the_end_is_on_record(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def stall(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()

    async with witness(tmp_path) as running:
        async with Origin(stall).listening() as origin, asyncio.TaskGroup() as group:
            task = group.create_task(running.ask(_plain(origin)))
            await begun.wait()
            await running.proxy.close()
        assert task.result() == b""
        records = await running.records()

    assert [record["kind"] for record in records] == ["open", "exchange", "close"]
    assert records[1]["error"] == "cut off"
    assert running.faults() == []


def _plain(origin: Origin) -> bytes:
    host = f"{HOST}:{origin.port}"
    return f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_a_body_that_ends_with_its_connection_is_flagged(made: Witness) -> None:
    async with Origin(saying(b"HTTP/1.1 200 OK\r\n\r\nabc")).listening() as origin:
        status, found, _ = await fetch(made, origin, tls=False)

    [record] = await made.exchanges()
    assert (status, found) == (200, b"abc")
    assert record["response"]["body"]["complete"] is False
    assert record["response"]["body"]["sha256"] == named(b"abc")


async def test_an_origin_cannot_promise_an_answer_for_ever(made: Witness) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" * 11 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with Origin(saying(data)).listening() as origin:
        status, text, _ = await fetch(made, origin, tls=False)

    assert (status, b"again and again" in text) == (502, True)


ODD = {
    "GET {url} HTTP/1.1\nHost: {host}\r\n\r\n": "LF without CR",
    "GET {url} HTTP/1.1\r\nHost: {host}\n\r\n": "LF without CR",
    "GET {url} HTTP/1.1\r\nHost: {host}\r\n\n": "LF without CR",
    "GET {url} HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n c\r\n\r\n": "goes on in the next line",
    "GET {url} HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n\tc\r\n\r\n": "goes on in the next line",
    "CONNECT {host} HTTP/1.1\nHost: {host}\n\n": "LF without CR",
}


@pytest.mark.parametrize("odd", ODD)
async def test_a_head_that_can_be_read_in_two_ways_is_refused(made: Witness, odd: str) -> None:
    async with Origin(answering(b"abc")).listening() as origin:
        host = f"{HOST}:{origin.port}"
        request = odd.format(host=host, url=f"http://{host}/a")
        answer = await made.ask(request.encode())

    assert answer.startswith(b"HTTP/1.1 400")
    assert ODD[odd].encode() in answer
    assert origin.heads == []
    [record] = await made.exchanges()
    assert record["decision"] == {"verdict": "deny", "rule": "malformed"}
    assert record["method"] == request.split(" ", 1)[0]
    assert ODD[odd] in record["error"]


async def test_heads_after_the_first_and_slow_ones_are_looked_at_as_well(made: Witness) -> None:
    async with Origin(answering(b"abc")).listening() as origin:
        host = f"{HOST}:{origin.port}"
        fine = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        reader, writer = await made.connect()
        writer.write(fine + fine.replace(b"\r\n\r\n", b"\n\n"))
        both = await reader.read()
        writer.close()
        reader, writer = await made.connect()
        for byte in fine.replace(b"\r\n\r\n", b"\r\n\n"):
            writer.write(bytes([byte]))
            await writer.drain()
        slow = await reader.read()
        writer.close()

    assert [both.count(b"HTTP/1.1 200"), both.count(b"HTTP/1.1 400")] == [1, 1]
    assert slow.startswith(b"HTTP/1.1 400")
    assert len(origin.heads) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "LF without CR"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", "LF without CR"),
        (
            b"HTTP/1.1 200 OK\r\nX-A: b\r\n Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
            "goes on in the next line",
        ),
        (
            b"HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "LF without CR",
        ),
    ],
)
async def test_an_answer_that_can_be_read_in_two_ways_is_refused(
    made: Witness, data: bytes, why: str
) -> None:
    async with Origin(saying(data)).listening() as origin:
        status, text, _ = await fetch(made, origin, tls=False)

    [record] = await made.exchanges()
    assert status == 502
    assert why in text.decode()
    assert record["decision"] == {"verdict": "deny", "rule": "malformed answer"}


async def test_what_goes_on_can_be_read_in_one_way_only(made: Witness) -> None:
    async with Origin(answering(b"abc")).listening() as origin:
        host = f"{HOST}:{origin.port}"
        odd = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nX-A:  b \r\n\r\n"
        await made.ask(odd.encode())

    [head] = origin.heads
    assert b"x-a: b" in head.lower().split(b"\r\n")


async def test_an_answer_that_something_has_not_changed_has_no_body_to_lack(made: Witness) -> None:
    async with Origin(saying(b"HTTP/1.1 304 Not Modified\r\n\r\n")).listening() as origin:
        status, _, _ = await fetch(made, origin, tls=False)

    [record] = await made.exchanges()
    assert (status, record["response"]["body"]["complete"]) == (304, True)


async def test_a_part_is_on_record_as_one(made: Witness) -> None:
    script = answering(b"bc", "Content-Range: bytes 1-2/3", status="206 Partial Content")
    async with Origin(script).listening() as origin:
        status, found, _ = await fetch(made, origin, tls=False, headers={"Range": "bytes=1-2"})

    [record] = await made.exchanges()
    assert (status, found) == (206, b"bc")
    assert ["content-range", "bytes 1-2/3"] in record["response"]["headers"]
    assert ["range", "bytes=1-2"] in record["request"]["headers"]
