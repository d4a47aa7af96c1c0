"""Connections to origins that are used again (armitage.witness.pool), through the proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import h11
import pytest
from support.witnessed import LOOPBACK, Origin, Script, Witness, answering, saying, witness

from armitage.witness.origins import Reached
from armitage.witness.policy import Rule, Verdict
from armitage.witness.pool import Pool, Way
from armitage.witness.stream import Stream
from armitage.witness.wire import Side

HOST = "h.example"
POSTING = Rule(
    Verdict.ALLOW, "posting", paths=("/post",), methods=("POST",), networks=("127.0.0.0/8",)
)
WIDER = Rule(Verdict.ALLOW, "wider", paths=("/wide",), networks=("127.0.0.0/8", "10.0.0.0/8"))


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Witness]:
    async with witness(tmp_path, rules=[POSTING, WIDER, LOOPBACK]) as running:
        yield running


async def ask(running: Witness, origin: Origin, *extra: str, what: str = "GET /a") -> bytes:
    """One request over a connection of its own."""
    method, path = what.split()
    host = f"{HOST}:{origin.port}"
    lines = [f"{method} http://{host}{path} HTTP/1.1", f"Host: {host}", "Connection: close", *extra]
    return await running.ask("\r\n".join(lines).encode() + b"\r\n\r\n")


@pytest.mark.parametrize("length", [3, 1_000_000])
async def test_requests_of_one_session_share_a_connection(made: Witness, length: int) -> None:
    body = b"x" * length
    async with Origin(answering(body), keeps=True).listening() as origin:
        answers = [await ask(made, origin) for _ in range(3)]

    assert [answer.endswith(b"\r\n\r\n" + body) for answer in answers] == [True] * 3
    assert origin.connections == 1
    peers = [record["peer"] for record in await made.exchanges()]
    assert [peer["address"] for peer in peers] == ["127.0.0.1"] * 3


async def test_the_certificate_of_a_connection_is_on_record_for_each_request(made: Witness) -> None:
    tls = made.origins.context(HOST)
    async with Origin(answering(b"abc"), keeps=True).listening(tls) as origin:
        for _ in range(2):
            reader, writer = await made.connect()
            host = f"{HOST}:{origin.port}"
            writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(made.trusting, server_hostname=HOST)
            writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).endswith(b"abc")
            writer.close()

    first, second = [record["peer"] for record in await made.exchanges()]
    assert origin.connections == 1
    assert first["certificate_spki_sha256"].startswith("sha256:")
    assert first == second


@pytest.mark.parametrize(
    "other",
    [
        ["Authorization: Basic YTpi"],
        ["Cookie: a=b"],
    ],
)
async def test_who_bears_other_secrets_has_another_connection(
    made: Witness, other: Sequence[str]
) -> None:
    async with Origin(answering(b"abc"), keeps=True).listening() as origin:
        for headers in ([], other, [], other):
            await ask(made, origin, *headers)

    assert origin.connections == 2


async def test_a_rule_for_other_networks_has_another_connection(made: Witness) -> None:
    async with Origin(answering(b"abc"), keeps=True).listening() as origin:
        await ask(made, origin)
        await ask(made, origin, what="GET /wide")

    assert origin.connections == 2


async def test_what_is_not_to_be_repeated_goes_over_a_new_connection(made: Witness) -> None:
    async with Origin(answering(b"abc"), keeps=True).listening() as origin:
        await ask(made, origin)
        await ask(made, origin, "Content-Length: 0", what="POST /post")

    assert origin.connections == 2


@pytest.mark.parametrize(
    "script",
    [
        answering(b"abc", "Connection: close"),
        saying(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nx"),
    ],
)
async def test_only_a_clean_exchange_leaves_a_connection_to_use(
    made: Witness, script: Script
) -> None:
    async with Origin(script, keeps=True).listening() as origin:
        for _ in range(2):
            assert (await ask(made, origin)).startswith(b"HTTP/1.1 200")

    assert origin.connections == 2


async def test_what_only_reads_is_asked_again_where_a_connection_has_ended(made: Witness) -> None:
    async def once(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(origin.heads) == 2:  # Taken, and never answered.
            writer.close()
        else:
            await answering(b"abc")(b"", asyncio.StreamReader(), writer)

    origin = Origin(once, keeps=True)
    async with origin.listening():
        answers = [await ask(made, origin) for _ in range(2)]

    assert [answer.startswith(b"HTTP/1.1 200") for answer in answers] == [True] * 2
    assert (origin.connections, len(origin.heads)) == (2, 3)
    assert [record["error"] for record in await made.exchanges()] == ["", ""]


async def test_a_new_connection_that_ends_is_not_tried_again(made: Witness) -> None:
    async with Origin(saying(b"")).listening() as origin:
        answer = await ask(made, origin)

    assert answer.startswith(b"HTTP/1.1 502")
    assert origin.connections == 1


async def test_an_origin_that_closes_after_each_answer_is_asked_anew(made: Witness) -> None:
    async with Origin(answering(b"abc")).listening() as origin:
        answers = [await ask(made, origin) for _ in range(3)]

    assert [answer.startswith(b"HTTP/1.1 200") for answer in answers] == [True] * 3
    assert origin.connections == 3


WAY = Way("http", HOST, 80, (), (), "")


def used() -> tuple[Reached, socket.socket]:
    """A connection over which one exchange went."""
    near, far = socket.socketpair()
    side = Side(h11.CLIENT, Stream(near, idle_s=5))
    head = [("Host", HOST)]
    side.http.send(h11.Request(method="GET", target="/", headers=head))
    side.http.send(h11.EndOfMessage())
    side.http.receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    while side.http.next_event() is not h11.NEED_DATA and side.http.their_state is not h11.DONE:
        pass
    return Reached(side, "127.0.0.1", asyncio.get_running_loop().time()), far


async def test_a_connection_waits_no_longer_than_it_may() -> None:
    pool = Pool(idle_s=0.001)
    reached, far = used()
    pool.put(WAY, reached)

    far.setblocking(False)
    with far:
        assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
    assert pool.take(WAY) is None


@pytest.mark.parametrize(("old_s", "close"), [(0.0, False), (60.0, True)])
async def test_an_old_connection_or_a_closed_pool_keeps_nothing(
    old_s: float, *, close: bool
) -> None:
    pool = Pool(old_s=old_s)
    reached, far = used()
    if close:
        pool.close()
    pool.put(WAY, reached)

    with far:
        assert far.recv(1) == b""
    assert pool.take(WAY) is None
