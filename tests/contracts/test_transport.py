"""What every transport owes its handlers and its clients, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from support.certificates import Authority
from support.http2 import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, raw_client
from support.transports import MIB, UNLIMITED, Transport, Waiting, echo

from armitage.errors import ConfigError, InvalidRequest, NotFound, PreconditionFailed, Unavailable
from armitage.transport.port import (
    Bidi,
    Call,
    ClientStream,
    ServerStream,
    Unary,
    say_trailer,
)
from armitage.transport.tls import TlsFiles


def raising(error: Exception) -> Callable[[bytes, Call], Any]:
    async def handler(request: bytes, call: Call) -> bytes:
        raise error

    return handler


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


async def test_each_kind_of_method_carries_raw_bytes(transport: Transport) -> None:
    async def count(request: bytes, call: Call) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + b"%d" % number

    async def join(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"".join([request async for request in requests])

    async def double(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request * 2

    async with transport.serving(
        Unary("/s/Echo", echo),
        ServerStream("/s/Count", count),
        ClientStream("/s/Join", join),
        Bidi("/s/Double", double),
    ) as subject:
        channel = subject.channel
        assert await channel.unary_unary("/s/Echo")(b"\x00\xff") == b"\x00\xff"
        assert await channel.unary_unary("/s/Echo")(b"") == b""
        assert [m async for m in channel.unary_stream("/s/Count")(b"n")] == [b"n0", b"n1", b"n2"]
        assert await channel.stream_unary("/s/Join")(iter([b"a", b"", b"b"])) == b"ab"
        assert [m async for m in channel.stream_stream("/s/Double")(iter([b"a", b"b"]))] == [
            b"aa",
            b"bb",
        ]


async def unused(request: bytes, call: Call) -> bytes:
    raise AssertionError


async def test_what_can_be_answered_at_once_is(transport: Transport) -> None:
    method = Unary("/s/Now", unused, lambda request, call: request * 2)
    async with transport.serving(method) as subject:
        assert await subject.unary("/s/Now")(b"ab") == b"abab"


async def test_what_cannot_be_answered_at_once_goes_to_the_handler(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Now", echo, lambda request, call: None)) as subject:
        assert await subject.unary("/s/Now")(b"ab") == b"ab"


async def test_error_raised_at_once_becomes_a_status(transport: Transport) -> None:
    def refuse(request: bytes, call: Call) -> bytes:
        raise NotFound("no")

    async with transport.serving(Unary("/s/Now", unused, refuse)) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Now")(b"")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_what_a_handler_says_goes_out_beside_any_status(transport: Transport) -> None:
    def say() -> None:
        say_trailer("x-why", "naïve, 100% so")

    async def answer(request: bytes, call: Call) -> bytes:
        say()
        return request

    async def refuse(request: bytes, call: Call) -> bytes:
        say()
        raise NotFound("no")

    async def stream(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield request
        say()

    async def last(requests: AsyncIterator[bytes], call: Call) -> bytes:
        say()
        return b"".join([request async for request in requests])

    async def quiet(request: bytes, call: Call) -> bytes:
        return request

    async with transport.serving(
        Unary("/s/Answer", answer),
        Unary("/s/Refuse", refuse),
        Unary("/s/Quiet", quiet),
        ServerStream("/s/Stream", stream),
        ClientStream("/s/Last", last),
    ) as subject:
        channel = subject.channel
        unary, refused, silent = (
            subject.unary(f"/s/{n}")(b"a") for n in ("Answer", "Refuse", "Quiet")
        )
        streamed = channel.unary_stream("/s/Stream")(b"a")
        joined = channel.stream_unary("/s/Last")(iter([b"a"]))
        assert await unary == b"a"
        assert [each async for each in streamed] == [b"a"]
        assert await joined == b"a"
        assert await silent == b"a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        ended = [await each.trailing_metadata() for each in (unary, streamed, joined)]
        for trailers in (*ended, caught.value.trailing_metadata()):
            assert dict(trailers or ())["x-why"] == "na%C3%AFve, 100%25 so"
        assert "x-why" not in dict(await silent.trailing_metadata() or ())


async def test_what_a_handler_says_is_cut_to_what_clients_take(transport: Transport) -> None:
    async def refuse(request: bytes, call: Call) -> bytes:
        say_trailer("x-why", "\u0100" * 5000)
        say_trailer("x-more", "there is no room left")
        raise PreconditionFailed("\u0100" * 5000, missing=[f"blobs/{n}" for n in range(2000)])

    async with transport.serving(Unary("/s/Refuse", refuse)) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Refuse")(b"")

    trailers = dict(caught.value.trailing_metadata() or ())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert unquote(trailers["x-why"]).startswith("\u0100" * 500)
    assert unquote(trailers["x-why"]).endswith("...")
    assert "x-more" not in trailers


async def test_unknown_method_is_unimplemented(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Echo", echo)) as subject:
        for call in (
            subject.channel.unary_unary("/s/Nothing")(b""),
            subject.channel.stream_unary("/s/Nothing")(iter([b""])),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_two_methods_with_one_path_are_refused(transport: Transport) -> None:
    with pytest.raises(ValueError, match="same path"):
        transport.server(Unary("/s/A", echo), Unary("/s/A", echo))


async def test_call_knows_path_metadata_and_peer(transport: Transport) -> None:
    seen: list[Call] = []

    async def look(request: bytes, call: Call) -> bytes:
        seen.append(call)
        return b""

    async with transport.serving(Unary("/s/Look", look)) as subject:
        metadata = (("x-a", "1"), ("x-a", "2"), ("thing-bin", b"\x00\xff"))
        await subject.unary("/s/Look")(b"", metadata=metadata)

    [call] = seen
    assert call.path == "/s/Look"
    assert call.metadata["x-a"] == "2"
    assert call.metadata["thing-bin"] == b"\x00\xff"
    assert call.peer.startswith("ipv4:127.0.0.1:")
    assert call.identity is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("bad"), grpc.StatusCode.NOT_FOUND),
        (Unavailable("bad"), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_errors_become_statuses(
    transport: Transport, error: Exception, code: grpc.StatusCode
) -> None:
    async with transport.serving(Unary("/s/Fail", raising(error))) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Fail")(b"")

    assert (caught.value.code(), caught.value.details()) == (code, "bad")


async def test_unknown_error_is_internal_and_keeps_its_text_secret(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Fail", raising(RuntimeError("password1")))) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Fail")(b"")

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "password1" not in str(caught.value)


async def test_error_after_some_responses_ends_the_stream_with_its_status(
    transport: Transport,
) -> None:
    async def broken(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"one"
        raise NotFound("gone")

    async with transport.serving(ServerStream("/s/Broken", broken)) as subject:
        call = subject.channel.unary_stream("/s/Broken")(b"")
        assert await call.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_details_travel_in_the_trailers(transport: Transport) -> None:
    error = PreconditionFailed("incomplete", ["blobs/aa/1", "blobs/bb/2"])
    async with transport.serving(Unary("/s/Fail", raising(error))) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Fail")(b"")

    failure = error_details_pb2.PreconditionFailure()
    [detail] = details_of(caught.value).details
    assert detail.Unpack(failure)
    assert [v.subject for v in failure.violations] == ["blobs/aa/1", "blobs/bb/2"]


async def test_details_too_long_for_trailers_keep_their_first_violations(
    transport: Transport,
) -> None:
    subjects = [f"blobs/{number:064x}/{number}" for number in range(10_000)]
    error = PreconditionFailed("x" * 100_000, subjects)
    async with transport.serving(Unary("/s/Fail", raising(error))) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Fail")(b"")

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    failure = error_details_pb2.PreconditionFailure()
    [detail] = details_of(caught.value).details
    assert detail.Unpack(failure)
    told = [violation.subject for violation in failure.violations]
    assert len(told) > 10
    assert told == subjects[: len(told)]
    assert details_of(caught.value).message == caught.value.details()


async def test_details_that_cannot_be_shortened_are_left_out(transport: Transport) -> None:
    error = InvalidRequest("bad", [("field", "x" * 100_000)])
    async with transport.serving(Unary("/s/Fail", raising(error))) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Fail")(b"")

    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "bad",
    )


@pytest.mark.parametrize("path", ["/s/Wait", "/s/Stream"])
async def test_client_cancel_reaches_the_handler(transport: Transport, path: str) -> None:
    waiting = Waiting()
    async with transport.serving(
        Unary("/s/Wait", waiting.unary), ServerStream("/s/Stream", waiting.stream)
    ) as subject:
        call = subject.channel.unary_stream(path)(b"")
        await waiting.began.wait()
        call.cancel()
        await asyncio.wait_for(waiting.cancelled.wait(), 5)
        await subject.settled()


async def test_deadline_reaches_the_handler(transport: Transport) -> None:
    waiting = Waiting()
    async with transport.serving(Unary("/s/Wait", waiting.unary)) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Wait")(b"", timeout=0.1)
        await asyncio.wait_for(waiting.cancelled.wait(), 5)
        await subject.settled()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_vanished_client_leaves_no_handler(transport: Transport) -> None:
    waiting = Waiting()
    ended = asyncio.Event()

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        try:
            async for _ in requests:
                waiting.began.set()
        finally:
            ended.set()
        return b""

    async with transport.serving(
        Unary("/s/Wait", waiting.unary), ClientStream("/s/Consume", consume)
    ) as subject:
        async with grpc.aio.insecure_channel(subject.address, options=UNLIMITED) as other:
            call = other.stream_unary("/s/Consume")()
            await call.write(b"some")
            await waiting.began.wait()
        await asyncio.wait_for(ended.wait(), 5)
        await subject.settled()


@pytest.mark.slow
async def test_client_that_leaves_in_mid_answer_is_no_error_in_the_log(
    transport: Transport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def produce(_: bytes, call: Call) -> AsyncIterator[bytes]:
        for _piece in range(8):
            yield bytes(1 << 20)

    async with (
        transport.serving(ServerStream("/s/Produce", produce)) as subject,
        grpc.aio.insecure_channel(subject.address, options=UNLIMITED) as other,
    ):
        for attempt in range(40):
            call = other.unary_stream("/s/Produce")(b"")
            await call.read()
            await asyncio.sleep(attempt / 10_000)  # The failed write and the cancellation race.
            call.cancel()
        await subject.settled()

    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


class Relay:
    """A TCP relay in front of a server, for networks that fail."""

    def __init__(self, address: str) -> None:
        self._target = address.split(":")
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server
        self.address = ""
        self.silent = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(self._target[0], int(self._target[1]))
        self._writers += [writer, upstream[1]]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(reader, upstream[1]))
            group.create_task(self._pump(upstream[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.silent:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def open_streams(address: str, count: int) -> AsyncIterator[list[Any]]:
    """Client streams that have each sent a message and stay open."""
    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        calls = [channel.stream_unary("/s/Consume")() for _ in range(count)]
        for call in calls:
            await call.write(b"some")
        yield calls


async def test_cut_connections_leave_no_handler(transport: Transport) -> None:
    running = 0
    all_running = asyncio.Event()

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        nonlocal running
        async for _ in requests:
            running += 1
            if running == 20:
                all_running.set()
        return b""

    async with (
        transport.serving(ClientStream("/s/Consume", consume)) as subject,
        Relay(subject.address) as relay,
        open_streams(relay.address, 20) as calls,
    ):
        await all_running.wait()
        assert subject.server.open_calls == 20
        relay.cut()
        await subject.settled()
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError):
                await call


@pytest.mark.slow
async def test_client_behind_a_dead_network_is_noticed_by_pings(transport: Transport) -> None:
    began = asyncio.Event()
    ended = asyncio.Event()

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        try:
            async for _ in requests:
                began.set()
        finally:
            ended.set()
        return b""

    async with (
        transport.serving(
            ClientStream("/s/Consume", consume), keepalive_s=0.2, keepalive_timeout_s=0.2
        ) as subject,
        Relay(subject.address) as relay,
        open_streams(relay.address, 1) as [call],
    ):
        await began.wait()
        relay.silent = True
        await asyncio.wait_for(ended.wait(), 20)
        await subject.settled()
        call.cancel()


async def test_upload_cut_short_is_cancelled_and_not_ended(transport: Transport) -> None:
    endings: list[str] = []

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        try:
            async for _ in requests:
                pass
            endings.append("ended")
        except asyncio.CancelledError:
            endings.append("cancelled")
            raise
        return b""

    async with transport.serving(ClientStream("/s/Consume", consume)) as subject:
        for _ in range(20):
            async with open_streams(subject.address, 1) as [call]:
                call.cancel()
        async with asyncio.timeout(5):
            while len(endings) < 20:  # noqa: ASYNC110 (each of them ends in its own time)
                await asyncio.sleep(0.005)

    assert endings.count("cancelled") >= 18


@pytest.mark.slow
async def test_client_that_stops_reading_holds_back_the_stream(transport: Transport) -> None:
    sent = 0
    ended = asyncio.Event()

    async def endless(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal sent
        try:
            while True:
                sent += 1
                yield b"x" * MIB
        finally:
            ended.set()

    async with transport.serving(ServerStream("/s/Endless", endless)) as subject:
        call = subject.channel.unary_stream("/s/Endless")(b"")
        await call.read()
        await asyncio.sleep(0.2)
        assert sent < 64
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        await subject.settled()


@pytest.mark.slow
async def test_early_answer_survives_a_client_that_still_sends(transport: Transport) -> None:
    """Conformance case 41."""

    async def early(requests: AsyncIterator[bytes], call: Call) -> bytes:
        await anext(requests)
        return b"have it"

    sent = 0

    async def upload() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * MIB

    async with transport.serving(
        ClientStream("/s/Write", early), Unary("/s/Echo", echo)
    ) as subject:
        assert await subject.channel.stream_unary("/s/Write")(upload()) == b"have it"
        assert sent == 100
        assert await subject.unary("/s/Echo")(b"still here") == b"still here"
        await subject.settled()


async def test_early_error_survives_a_client_that_still_sends(transport: Transport) -> None:
    sent = 0

    async def refuse(requests: AsyncIterator[bytes], call: Call) -> bytes:
        raise InvalidRequest("no")

    async def upload() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(8):
            sent += 1
            yield b"x" * MIB

    async with transport.serving(ClientStream("/s/Write", refuse)) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.channel.stream_unary("/s/Write")(upload())

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sent == 8


async def test_discarding_ends_at_its_limit(transport: Transport) -> None:
    async def early(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"have it"

    async with transport.serving(
        ClientStream("/s/Write", early), discard_limit_bytes=MIB
    ) as subject:
        call = subject.channel.stream_unary("/s/Write")()
        await call.write(b"x" * MIB)
        await call.write(b"x")
        assert await call == b"have it"
        await subject.settled()


async def test_discarding_ends_in_time(transport: Transport) -> None:
    async def early(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"have it"

    async with transport.serving(ClientStream("/s/Write", early), discard_limit_s=0.05) as subject:
        call = subject.channel.stream_unary("/s/Write")()
        await call.write(b"x")
        assert await call == b"have it"


async def test_early_answer_reaches_a_client_that_waits_for_it(transport: Transport) -> None:
    async def early(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"have it"

    async with transport.serving(ClientStream("/s/Write", early), discard_idle_s=0.05) as subject:
        call = subject.channel.stream_unary("/s/Write")()
        await call.write(b"x")
        assert await asyncio.wait_for(call, 20) == b"have it"


async def test_message_over_the_limit_is_refused(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Echo", echo), receive_limit_bytes=MIB) as subject:
        assert len(await subject.unary("/s/Echo")(b"x" * MIB)) == MIB
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Echo")(b"x" * (MIB + 1))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.slow
async def test_default_limit_takes_16_mib_and_responses_have_none(transport: Transport) -> None:
    async def grow(request: bytes, call: Call) -> bytes:
        return request * 5

    async with transport.serving(Unary("/s/Grow", grow)) as subject:
        assert len(await subject.unary("/s/Grow")(b"x" * (16 * MIB))) == 80 * MIB


async def test_compressed_message_cannot_expand_past_the_limit(transport: Transport) -> None:
    seen: list[int] = []

    async def look(request: bytes, call: Call) -> bytes:
        seen.append(len(request))
        return b""

    async with transport.serving(Unary("/s/Look", look), receive_limit_bytes=MIB) as subject:
        with pytest.raises(grpc.aio.AioRpcError):
            await subject.unary("/s/Look")(b"\0" * (8 * MIB), compression=grpc.Compression.Gzip)

    assert seen == []


@pytest.mark.slow
async def test_idle_client_is_told_and_freed(transport: Transport) -> None:
    ended = asyncio.Event()

    async def consume(requests: AsyncIterator[bytes], call: Call) -> bytes:
        try:
            return b"".join([request async for request in requests])
        finally:
            ended.set()

    async with transport.serving(
        Unary("/s/Echo", echo), ClientStream("/s/Consume", consume), client_idle_s=0.2
    ) as subject:
        silent = subject.channel.stream_unary("/s/Echo")()
        stalled = subject.channel.stream_unary("/s/Consume")()
        await stalled.write(b"one")
        for call in (silent, stalled):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "idle" in (caught.value.details() or "")
        assert ended.is_set()
        await subject.settled()


@pytest.mark.slow
async def test_long_handler_is_not_an_idle_client(transport: Transport) -> None:
    waiting = Waiting()
    async with transport.serving(Unary("/s/Wait", waiting.unary), client_idle_s=0.05) as subject:
        call = subject.unary("/s/Wait")(b"")
        await waiting.began.wait()
        await asyncio.sleep(0.3)
        waiting.release.set()
        assert await call == b"waited"


async def test_half_closed_call_without_request_is_invalid(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Echo", echo)) as subject:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.channel.stream_unary("/s/Echo")(iter([]))
        await subject.settled()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_connections_that_say_nothing_cost_no_handler(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Echo", echo)) as subject:
        host, port = subject.address.split(":")
        writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(20)]
        writers[0].write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        writers[1].write(b"\x16garbage" * 100)
        assert await subject.unary("/s/Echo")(b"ok") == b"ok"
        assert subject.server.open_calls == 0
        for writer in writers:
            writer.close()


async def test_drain_refuses_new_calls_and_lets_running_ones_finish(transport: Transport) -> None:
    waiting = Waiting()
    async with (
        transport.serving(
            Unary("/s/Wait", waiting.unary),
            Unary("/s/Echo", echo),
            Unary("/grpc.health.v1.Health/Check", echo),
        ) as subject,
        asyncio.TaskGroup() as group,
    ):
        running = subject.unary("/s/Wait")(b"")
        await waiting.began.wait()
        drain = group.create_task(subject.server.drain(10))
        await asyncio.sleep(0)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await subject.unary("/s/Echo")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        retry = error_details_pb2.RetryInfo()
        assert details_of(caught.value).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1000
        assert await subject.unary("/grpc.health.v1.Health/Check")(b"up") == b"up"

        assert not drain.done()
        waiting.release.set()
        assert await running == b"waited"


async def test_drain_cancels_what_outlives_the_grace(transport: Transport) -> None:
    waiting = Waiting()
    async with transport.serving(ServerStream("/s/Stream", waiting.stream)) as subject:
        call = subject.channel.unary_stream("/s/Stream")(b"")
        await waiting.began.wait()
        await subject.server.drain(0.01)

        assert waiting.cancelled.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details_of(caught.value).details
        await subject.server.drain(0)


async def test_drained_address_can_be_bound_again(transport: Transport) -> None:
    async with transport.serving(Unary("/s/Echo", echo)) as subject:
        await subject.server.drain(0)
        again = transport.server(addresses=(subject.address,))
        assert await again.start() == [subject.address]
        await again.drain(0)


async def test_port_in_use_is_one_clear_error(transport: Transport) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = transport.server(addresses=("127.0.0.1:0", address))

        with pytest.raises(ConfigError, match=f"{address}: is already in use; stop .* choose"):
            await server.start()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("8980", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),
        ("0.0.0.0:0", "without TLS"),
        ("203.0.113.7:0", "without TLS"),
    ],
)
async def test_bad_address_is_one_clear_error(
    transport: Transport, address: str, says: str
) -> None:
    server = transport.server(addresses=(address,))

    with pytest.raises(ConfigError, match=says) as caught:
        await server.start()
    assert address in str(caught.value)


async def test_address_of_another_host_is_one_clear_error(transport: Transport) -> None:
    server = transport.server(addresses=("203.0.113.7:0",), plaintext_beyond_loopback=True)
    with pytest.raises(ConfigError, match="not an address of this host"):
        await server.start()


async def test_unix_socket_is_served(transport: Transport, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    server = transport.server(Unary("/s/Echo", echo), addresses=(address,))
    assert await server.start() == [address]
    async with grpc.aio.insecure_channel(address) as channel:
        assert await channel.unary_unary("/s/Echo")(b"hi") == b"hi"
    await server.drain(0)


class Tls:
    """A server certificate on disk, and what a client needs for it."""

    def __init__(self, directory: Path, *, mutual: bool = False) -> None:
        self.authority = Authority()
        certificate, key = self.authority.issue("server").write(directory, "server")
        clients = directory / "clients.crt"
        clients.write_bytes(self.authority.certificate)
        self.files = TlsFiles(certificate, key, clients if mutual else None)

    def client(self, name: str | None = None) -> Any:
        if name is None:
            return grpc.ssl_channel_credentials(self.authority.certificate)
        pair = self.authority.issue(name)
        return grpc.ssl_channel_credentials(self.authority.certificate, pair.key, pair.certificate)


async def identify(request: bytes, call: Call) -> bytes:
    return (call.identity or "nobody").encode()


async def test_tls_serves_clients_that_trust_it(transport: Transport, tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    async with transport.serving(
        Unary("/s/Who", identify), tls=tls.files, credentials=tls.client()
    ) as subject:
        assert await subject.unary("/s/Who")(b"") == b"nobody"

        stranger = grpc.ssl_channel_credentials(Authority().certificate)
        async with grpc.aio.secure_channel(subject.address, stranger) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/s/Who")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_proves_who_calls(transport: Transport, tmp_path: Path) -> None:
    tls = Tls(tmp_path, mutual=True)
    async with transport.serving(
        Unary("/s/Who", identify), tls=tls.files, credentials=tls.client("alice")
    ) as subject:
        assert b"alice" in await subject.unary("/s/Who")(b"")


async def test_mutual_tls_refuses_who_shows_nothing_or_another_authoritys(
    transport: Transport, tmp_path: Path
) -> None:
    tls = Tls(tmp_path, mutual=True)
    forged = Authority().issue("alice")
    async with transport.serving(Unary("/s/Who", identify), tls=tls.files) as subject:
        for credentials in (
            tls.client(),
            grpc.ssl_channel_credentials(tls.authority.certificate, forged.key, forged.certificate),
        ):
            async with grpc.aio.secure_channel(subject.address, credentials) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/s/Who")(b"")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_changed_certificate_serves_new_connections(
    transport: Transport, tmp_path: Path
) -> None:
    tls = Tls(tmp_path)
    renewed = Authority("renewed authority")
    async with transport.serving(Unary("/s/Who", identify), tls=tls.files) as subject:
        renewed.issue("server").write(tmp_path, "server")
        credentials = grpc.ssl_channel_credentials(renewed.certificate)
        async with grpc.aio.secure_channel(
            subject.address, credentials, options=UNLIMITED
        ) as channel:
            assert await channel.unary_unary("/s/Who")(b"") == b"nobody"


async def test_broken_new_certificate_leaves_the_old_one(
    transport: Transport, tmp_path: Path
) -> None:
    tls = Tls(tmp_path)
    async with transport.serving(
        Unary("/s/Who", identify), tls=tls.files, credentials=tls.client()
    ) as subject:
        tls.files.certificate.write_bytes(b"half a certifi")
        assert await subject.unary("/s/Who")(b"") == b"nobody"


async def test_bad_tls_files_are_one_clear_error(transport: Transport, tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    other, _ = Authority().issue("server").write(tmp_path, "other")
    broken = tmp_path / "broken.crt"
    broken.write_bytes(b"nonsense")
    for files, says in (
        (TlsFiles(tmp_path / "absent.crt", tls.files.key), "absent.crt: No such file"),
        (TlsFiles(other, tls.files.key), "belong together"),
        (TlsFiles(broken, tls.files.key), "must be PEM"),
        (TlsFiles(tls.files.certificate, tls.files.key, broken), "must hold PEM"),
    ):
        server = transport.server(addresses=("127.0.0.1:0",), tls=files)
        with pytest.raises(ConfigError, match=says):
            await server.start()


@pytest.mark.slow
async def test_many_open_streams_with_pings_see_no_goaway(transport: Transport) -> None:
    """Conformance case 101, with its ten minutes of pings sent in a row."""
    opened = 0
    all_open = asyncio.Event()
    release = asyncio.Event()

    async def execute(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal opened
        opened += 1
        if opened == 400:
            all_open.set()
        yield b"queued"
        await release.wait()
        yield b"done"

    async with (
        transport.serving(ServerStream("/s/Execute", execute)) as subject,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(raw_client(subject.address)) for _ in range(4)]
        for client in clients:
            for _ in range(100):
                client.send_message(client.open_stream("/s/Execute"), b"", last=True)
        await all_open.wait()

        for client in clients:
            for _ in range(60):
                frames = await client.ping()
                assert not [frame for frame in frames if frame.kind == RST_STREAM]

        assert subject.server.open_calls == 400
        release.set()
        for client in clients:
            last = await client.until_end_of(199)
            assert last[-1].kind == HEADERS
        await subject.settled()


async def test_pings_on_an_idle_connection_see_no_goaway(transport: Transport) -> None:
    """Buck2 keeps pinging with no call open."""
    async with (
        transport.serving(Unary("/s/Echo", echo)) as subject,
        raw_client(subject.address) as client,
    ):
        for _ in range(60):
            await client.ping()


async def test_early_answer_comes_when_the_client_is_done_and_without_a_reset(
    transport: Transport,
) -> None:
    async def early(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"have it"

    async with (
        transport.serving(ClientStream("/s/Write", early)) as subject,
        raw_client(subject.address) as client,
    ):
        stream = client.open_stream("/s/Write")
        for _ in range(3):
            client.send_message(stream, b"x" * 1000, last=False)
        assert stream not in {frame.stream for frame in await client.ping()}

        client.send_message(stream, b"x", last=True)
        kinds = [frame.kind for frame in await client.until_end_of(stream)]
        kinds += [frame.kind for frame in await client.ping() if frame.stream == stream]
        assert [kind for kind in kinds if kind != WINDOW_UPDATE] == [HEADERS, DATA, HEADERS]


@pytest.mark.slow
async def test_slow_loris_calls_are_freed(transport: Transport) -> None:
    async with (
        transport.serving(Unary("/s/Echo", echo), client_idle_s=0.2) as subject,
        raw_client(subject.address) as client,
    ):
        streams = [client.open_stream("/s/Echo") for _ in range(50)]
        for stream in streams:
            client.send(DATA, 0, stream, b"\x00\x00\x00\x10")
        ended = await client.until_end_of(streams[-1])
        [trailers] = [frame for frame in ended if frame.kind == HEADERS]
        assert b"idle" in trailers.payload
        await subject.settled()


async def test_streams_beyond_the_limit_are_refused(transport: Transport) -> None:
    async with (
        transport.serving(Unary("/s/Echo", echo), max_streams=10) as subject,
        raw_client(subject.address) as client,
    ):
        streams = [client.open_stream("/s/Echo") for _ in range(20)]
        ended = await client.until_end_of(streams[-1])
        assert [frame.kind for frame in ended] == [RST_STREAM]
        assert subject.server.open_calls <= 10
