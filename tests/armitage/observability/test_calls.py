from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client.registry import CollectorRegistry

from armitage.errors import Exhausted, NotFound
from armitage.observability.calls import CallObserver
from armitage.observability.context import current_fields
from armitage.reapi.gate import code_of
from armitage.transport.port import (
    Bidi,
    Call,
    ClientStream,
    Method,
    Response,
    ServerStream,
    Unary,
    join,
)

PATH = "/pkg.Service/Method"
CALL = Call(PATH, peer="ipv4:127.0.0.1:1")
LABELS = {"service": "pkg.Service", "method": "Method"}


class Ticking:
    """Time that each look moves on by one step."""

    def __init__(self, step_s: float) -> None:
        self._now = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        self._now += self._step_s
        return self._now


class Watched:
    def __init__(self, method: Method, step_s: float = 0.02) -> None:
        self.registry = CollectorRegistry()
        observer = CallObserver(code_of, Ticking(step_s))
        self.registry.register(observer)
        wrapped = observer.interceptor(method)
        self.handler: Any = wrapped.handler
        self.immediate: Any = getattr(wrapped, "immediate", None)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"armitage_rpc_{name}", {**LABELS, **labels})

    def calls(self, code: str) -> float | None:
        return self.value("calls_total", code=code)


async def messages(*data: bytes) -> AsyncIterator[bytes]:
    for message in data:
        yield message


async def test_unary_call_is_counted_and_timed() -> None:
    async def handler(request: bytes, call: Call) -> bytes:
        assert watched.value("open_calls") == 1
        return request * 2

    watched = Watched(Unary(PATH, handler))
    assert await watched.handler(b"abc", CALL) == b"abcabc"

    assert watched.calls("OK") == 1
    assert watched.value("open_calls") == 0
    assert watched.value("received_bytes_total") == 3
    assert watched.value("sent_bytes_total") == 6
    assert watched.value("duration_seconds_sum") == pytest.approx(0.02)
    assert watched.value("duration_seconds_count") == 1
    assert watched.value("duration_seconds_bucket", le="0.01") == 0
    assert watched.value("duration_seconds_bucket", le="0.025") == 1
    assert watched.value("duration_seconds_bucket", le="+Inf") == 1


async def unused(request: bytes, call: Call) -> bytes:
    raise AssertionError


def test_what_is_answered_at_once_is_counted_like_any_call() -> None:
    def immediate(request: bytes, call: Call) -> bytes:
        assert current_fields()["method"] == PATH
        return request * 2

    watched = Watched(Unary(PATH, unused, immediate))
    assert watched.immediate(b"abc", CALL) == b"abcabc"

    assert watched.calls("OK") == 1
    assert watched.value("open_calls") == 0
    assert watched.value("received_bytes_total") == 3
    assert watched.value("sent_bytes_total") == 6
    assert watched.value("duration_seconds_sum") == pytest.approx(0.02)
    assert current_fields() == {}


def test_error_raised_at_once_is_counted() -> None:
    def immediate(request: bytes, call: Call) -> bytes:
        raise NotFound("no")

    watched = Watched(Unary(PATH, unused, immediate))
    with pytest.raises(NotFound):
        watched.immediate(b"abc", CALL)

    assert watched.calls("NOT_FOUND") == 1
    assert watched.value("open_calls") == 0
    assert watched.value("received_bytes_total") == 3
    assert current_fields() == {}


async def test_what_is_left_to_the_handler_is_counted_once() -> None:
    async def handler(request: bytes, call: Call) -> bytes:
        return request

    watched = Watched(Unary(PATH, handler, lambda request, call: None))
    assert watched.immediate(b"abc", CALL) is None
    assert watched.calls("OK") is None
    assert watched.value("received_bytes_total") == 0

    await watched.handler(b"abc", CALL)
    assert watched.calls("OK") == 1
    assert watched.value("received_bytes_total") == 3


async def test_pieces_of_a_response_are_counted_together() -> None:
    async def many(request: bytes, call: Call) -> AsyncIterator[Response]:
        yield b"head", memoryview(b"body")

    watched = Watched(ServerStream(PATH, many))
    assert [join(answer) async for answer in watched.handler(b"", CALL)] == [b"headbody"]
    assert watched.value("sent_bytes_total") == 8


async def test_streams_are_counted_message_by_message() -> None:
    async def many(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    async def taken(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"".join([request async for request in requests])

    async def both(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    for method, argument, received, sent in (
        (ServerStream(PATH, many), b"request", 7, 3),
        (ClientStream(PATH, taken), messages(b"ab", b"c"), 3, 3),
        (Bidi(PATH, both), messages(b"ab", b"c"), 3, 3),
    ):
        watched = Watched(method)
        answer = watched.handler(argument, CALL)
        if isinstance(method, ClientStream):
            assert await answer == b"abc"
        else:
            assert [message async for message in answer] == [b"ab", b"c"]
        assert watched.value("received_bytes_total") == received
        assert watched.value("sent_bytes_total") == sent
        assert watched.calls("OK") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no"), "NOT_FOUND"),
        (RuntimeError("bug"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
async def test_code_is_the_gates_and_the_error_passes(error: BaseException, code: str) -> None:
    async def handler(request: bytes, call: Call) -> bytes:
        raise error

    watched = Watched(Unary(PATH, handler))
    with pytest.raises(type(error)):
        await watched.handler(b"", CALL)

    assert watched.calls(code) == 1
    assert watched.value("open_calls") == 0


async def test_stream_that_its_reader_leaves_is_closed_and_counts_as_cancelled() -> None:
    closed = False

    async def endless(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"x"
        finally:
            closed = True

    watched = Watched(ServerStream(PATH, endless))
    async with aclosing(watched.handler(b"", CALL)) as responses:
        await anext(responses)
        assert watched.value("open_calls") == 1

    assert closed
    assert watched.calls("CANCELLED") == 1
    assert watched.value("open_calls") == 0


async def test_call_is_known_while_it_runs() -> None:
    seen = {}

    async def handler(request: bytes, call: Call) -> bytes:
        seen.update(current_fields())
        return b""

    await Watched(Unary(PATH, handler)).handler(b"", CALL)

    assert seen == {"method": PATH, "peer": "ipv4:127.0.0.1:1"}


async def test_troubles_are_logged_and_daily_bread_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [NotFound("a miss"), Exhausted("the disk is full")]

    async def handler(request: bytes, call: Call) -> bytes:
        raise errors.pop(0)

    watched = Watched(Unary(PATH, handler))
    with caplog.at_level(logging.INFO):
        for kind in (NotFound, Exhausted):
            with pytest.raises(kind):
                await watched.handler(b"", CALL)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "RESOURCE_EXHAUSTED" in caplog.text
    assert "the disk is full" in caplog.text
