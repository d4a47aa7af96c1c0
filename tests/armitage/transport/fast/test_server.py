"""What the fast transport does of its own; what it shares with others is in tests/contracts."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from support.certificates import Authority
from support.http2 import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    RawClient,
    frame,
    raw_client,
)
from support.transports import TRANSPORTS, Subject, Transport, Waiting, echo

from armitage.errors import InvalidRequest
from armitage.reapi.gate import status_of
from armitage.transport.fast.calls import OpenCall
from armitage.transport.fast.connection import Connection
from armitage.transport.fast.server import FastServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Bidi, Call, ClientStream, Response, ServerStream, Unary
from armitage.transport.tls import TlsFiles

FAST: Transport = TRANSPORTS["fast"]
MIB = 1 << 20


async def until(client: RawClient, kind: int) -> Frame:
    """The next frame of that kind."""
    while received := await client.receive():
        if received.kind == kind:
            return received
    raise AssertionError("the server closed the connection")


async def connections(subject: Subject, count: int) -> None:
    """Waits until there are so many."""
    server = subject.server
    assert isinstance(server, FastServer)
    async with asyncio.timeout(5):
        while server.figures().connections != count:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.005)


async def no_calls(subject: Subject) -> None:
    """Waits until the last handler has ended."""
    async with asyncio.timeout(5):
        while subject.server.open_calls:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.005)


async def unused(request: bytes, call: Call) -> bytes:
    raise AssertionError


async def test_nothing_is_answered_at_once_while_draining() -> None:
    waiting = Waiting()
    async with (
        FAST.serving(
            Unary("/s/Now", unused, lambda request, call: b"now"),
            Unary("/s/Wait", waiting.unary),
            Unary("/grpc.health.v1.Health/Check", unused, lambda request, call: b"up"),
        ) as subject,
        asyncio.TaskGroup() as group,
    ):
        running = subject.unary("/s/Wait")(b"")
        await waiting.began.wait()
        drain = group.create_task(subject.server.drain(10))
        await asyncio.sleep(0)
        async with raw_client(subject.address) as client:
            stream = client.open_stream("/s/Now")
            client.send_message(stream, b"", last=True)
            [trailers] = await client.until_end_of(stream)
            assert b"grpc-status\x0214" in trailers.payload
            stream = client.open_stream("/grpc.health.v1.Health/Check")
            client.send_message(stream, b"", last=True)
            assert b"up" in (await client.until_end_of(stream))[1].payload
        waiting.release.set()
        assert await running == b"waited"
        await drain


async def test_request_that_came_after_its_headers_is_answered_at_once() -> None:
    def refuse(request: bytes, call: Call) -> bytes:
        raise InvalidRequest("not that")

    async with (
        FAST.serving(
            Unary("/s/Now", unused, lambda request, call: request * 2),
            Unary("/s/Refuse", unused, refuse),
            Unary("/s/Later", echo, lambda request, call: None),
        ) as subject,
        raw_client(subject.address) as client,
    ):
        for path, answer in (
            ("/s/Now", b"xx"),
            ("/s/Refuse", b"grpc-status\x013"),
            ("/s/Later", b"x"),
        ):
            stream = client.open_stream(path)
            await client.ping()  # By now the server has the headers.
            assert subject.server.open_calls == 1
            client.send_message(stream, b"x", last=True)
            frames = await client.until_end_of(stream)
            assert answer in b"".join(frame.payload for frame in frames)
            await no_calls(subject)


async def test_draining_goes_in_two_steps_and_spares_calls_under_way() -> None:
    waiting = Waiting()
    async with (
        FAST.serving(Unary("/s/Wait", waiting.unary)) as subject,
        raw_client(subject.address) as client,
        asyncio.TaskGroup() as group,
    ):
        stream = client.open_stream("/s/Wait")
        client.send_message(stream, b"", last=True)
        await waiting.began.wait()
        drain = group.create_task(subject.server.drain(10))

        first = await until(client, GOAWAY)
        assert int.from_bytes(first.payload[:4], "big") == 2**31 - 1
        client.send(PING, ACK, 0, (await until(client, PING)).payload)
        second = await until(client, GOAWAY)
        assert int.from_bytes(second.payload[:4], "big") == stream

        waiting.release.set()
        frames = await client.until_closed()
        assert [frame.kind for frame in frames if frame.stream == stream] == [
            HEADERS,
            DATA,
            HEADERS,
        ]
        client.close()
        await drain


@pytest.mark.slow
async def test_draining_does_not_wait_for_a_client_that_goes_on_sending() -> None:
    waiting = Waiting()

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return await waiting.unary(await anext(requests), call)

    async with (
        FAST.serving(ClientStream("/s/Consume", consume)) as subject,
        raw_client(subject.address) as client,
    ):
        stream = client.open_stream("/s/Consume")
        client.send_message(stream, b"some", last=False)
        await waiting.began.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(subject.server.drain(0.01))
            kinds = [frame.kind for frame in await client.until_closed() if frame.stream == stream]
            assert kinds == [HEADERS, RST_STREAM]
            client.close()
        assert waiting.cancelled.is_set()


async def test_client_that_never_speaks_is_let_go() -> None:
    async with (
        FAST.serving(Unary("/s/Echo", echo), handshake_timeout_s=0.05) as subject,
        raw_client(subject.address, opening=PREFACE[:10]) as client,
    ):
        assert await asyncio.wait_for(client.until_closed(), 5) == []


async def test_connection_without_calls_is_closed_when_its_time_is_up() -> None:
    async with (
        FAST.serving(Unary("/s/Echo", echo), connection_idle_s=0.05) as subject,
        raw_client(subject.address) as client,
    ):
        client.send(PING, ACK, 0, (await until(client, PING)).payload)
        assert GOAWAY in [frame.kind for frame in await client.until_closed()]


async def test_old_connection_ends_with_its_last_call() -> None:
    waiting = Waiting()
    async with (
        FAST.serving(Unary("/s/Wait", waiting.unary), connection_age_s=0.05) as subject,
        raw_client(subject.address) as client,
    ):
        stream = client.open_stream("/s/Wait")
        client.send_message(stream, b"", last=True)
        client.send(PING, ACK, 0, (await until(client, PING)).payload)
        await until(client, GOAWAY)
        waiting.release.set()
        assert DATA in [frame.kind for frame in await client.until_closed()]


async def test_old_connection_ends_without_its_last_call_after_the_grace() -> None:
    waiting = Waiting()
    async with (
        FAST.serving(
            Unary("/s/Wait", waiting.unary), connection_age_s=0.05, connection_age_grace_s=0.05
        ) as subject,
        raw_client(subject.address) as client,
    ):
        client.send_message(client.open_stream("/s/Wait"), b"", last=True)
        await asyncio.wait_for(client.until_closed(), 5)
        await waiting.cancelled.wait()


async def test_http_1_gets_an_answer_that_it_can_read() -> None:
    async with FAST.serving(Unary("/s/Echo", echo)) as subject:
        host, port = subject.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(10**5))
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/2" in answer


async def test_pieces_arrive_as_one_message() -> None:
    body = bytes(range(256)) * (3 * MIB // 256)

    async def produce(request: bytes, call: Call) -> AsyncIterator[Response]:
        yield b"head", memoryview(body), b"", bytearray(b"tail")
        yield b"", b""
        yield b"end"

    async with FAST.serving(ServerStream("/s/Produce", produce)) as subject:
        call = subject.channel.unary_stream("/s/Produce")(b"")
        assert [answer async for answer in call] == [b"head" + body + b"tail", b"", b"end"]


WIDE_OPEN = (
    PREFACE
    + frame(SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff")
    + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\x00\x00")
)
"""As one who takes 2 GiB before it must be asked again."""


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, MIB])
async def test_client_that_does_not_read_holds_back_the_handler(size: int) -> None:
    sent = 0

    async def endless(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += size
            yield bytes(size)

    async with FAST.serving(ServerStream("/s/Endless", endless)) as subject:
        host, port = subject.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        client = RawClient(reader, writer)
        client.write(WIDE_OPEN)
        client.send_message(client.open_stream("/s/Endless"), b"", last=True)
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.1)  # There is no event for nothing happening.
        writer.close()
        await subject.settled()

    assert sent < 24 * MIB  # The kernel's buffers are most of that.


async def test_heavy_stream_does_not_starve_a_light_call() -> None:
    async def endless(request: bytes, call: Call) -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    async with (
        FAST.serving(ServerStream("/s/Endless", endless), Unary("/s/Echo", echo)) as subject,
        raw_client(subject.address, opening=WIDE_OPEN) as heavy,
        raw_client(subject.address) as light,
        asyncio.TaskGroup() as group,
    ):
        heavy.send_message(heavy.open_stream("/s/Endless"), b"", last=True)
        reading = group.create_task(heavy.until_closed())
        for _ in range(20):
            stream = light.open_stream("/s/Echo")
            light.send_message(stream, b"light", last=True)
            await asyncio.wait_for(light.until_end_of(stream), 5)
        reading.cancel()


async def test_fault_of_ours_ends_one_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: FastServer, path: str) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(FastServer, "is_exempt", broken)
    async with (
        FAST.serving(Unary("/s/Echo", echo)) as subject,
        raw_client(subject.address) as poisoner,
        raw_client(subject.address) as other,
    ):
        await poisoner.ping()
        poisoner.open_stream("/s/Echo")
        await poisoner.until_closed()
        await other.ping()

    assert "ZeroDivisionError" in caplog.text


async def test_two_methods_with_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match="same path"):
        FastServer([Unary("/s/A", echo), Bidi("/s/A", unused)], status_of, GrpcOptions())  # type: ignore[arg-type]


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    authority = Authority()
    (tmp_path / "authority.crt").write_bytes(authority.certificate)
    return TlsFiles(*authority.issue("server").write(tmp_path, "server"))


@asynccontextmanager
async def tls_client(address: str, files: TlsFiles) -> AsyncIterator[RawClient]:
    context = ssl.create_default_context(cafile=files.certificate.parent / "authority.crt")
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    client = RawClient(reader, writer)
    client.write(PREFACE + frame(SETTINGS, 0, 0))
    try:
        yield client
    finally:
        writer.close()


async def test_tls_carries_large_messages_both_ways(tls: TlsFiles) -> None:
    async def double(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[Response]:
        async for request in requests:
            yield request, request

    authority = (tls.certificate.parent / "authority.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(authority)
    async with FAST.serving(Bidi("/s/Double", double), tls=tls, credentials=credentials) as subject:
        messages = [bytes([number]) * size for number, size in enumerate((1, 70_000, 3 * MIB))]
        answers = subject.channel.stream_stream("/s/Double")(iter(messages))
        assert [answer async for answer in answers] == [message * 2 for message in messages]


async def test_tls_says_goodbye_before_it_closes(tls: TlsFiles) -> None:
    async with (
        FAST.serving(Unary("/s/Echo", echo), tls=tls) as subject,
        tls_client(subject.address, tls) as client,
    ):
        await client.ping()
        async with asyncio.TaskGroup() as group:
            group.create_task(subject.server.drain(0))
            frames = await client.until_closed()  # A cut without a goodbye would raise.
            client.close()

    assert GOAWAY in [frame.kind for frame in frames]


@pytest.mark.parametrize("opening", [PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 100])
async def test_what_is_no_tls_is_closed(tls: TlsFiles, opening: bytes) -> None:
    async with FAST.serving(Unary("/s/Echo", echo), tls=tls, handshake_timeout_s=0.2) as subject:
        host, port = subject.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(opening)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        async with tls_client(subject.address, tls) as client:
            await client.ping()


async def test_handshake_that_is_not_gone_on_with_is_let_go(tls: TlsFiles) -> None:
    async with FAST.serving(Unary("/s/Echo", echo), tls=tls, handshake_timeout_s=0.05) as subject:
        host, port = subject.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_client_that_leaves_in_its_first_moment_leaves_nothing() -> None:
    async with FAST.serving(Unary("/s/Echo", echo)) as subject:
        host, port = subject.address.split(":")
        for _ in range(20):
            with socket.socket() as client:
                client.connect((host, int(port)))
                client.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0] + [0] * 4)
                )
        assert await subject.unary("/s/Echo")(b"still here") == b"still here"
        await connections(subject, 1)


def calls_and_connections() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, (OpenCall, Connection))]


async def test_nothing_of_a_call_or_connection_is_left_to_the_garbage_collector() -> None:
    async def count(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"1"

    async with FAST.serving(Unary("/s/Echo", echo), ServerStream("/s/Count", count)) as subject:
        gc.collect()
        before = calls_and_connections()  # What other tests left behind.
        gc.disable()
        try:
            for _ in range(5):
                async with raw_client(subject.address) as client:
                    for path in ("/s/Echo", "/s/Count"):
                        stream = client.open_stream(path)
                        client.send_message(stream, b"", last=True)
                        await client.until_end_of(stream)
            await connections(subject, 0)
            async with asyncio.timeout(5):  # The loop's last turn with the last one may be due.
                while len(calls_and_connections()) > len(before):  # noqa: ASYNC110 (no event)
                    await asyncio.sleep(0.005)
        finally:
            gc.enable()
