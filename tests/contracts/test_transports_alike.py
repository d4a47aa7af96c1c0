"""Every transport against the grpcio adapter: the same calls, metadata and faults, and the same
messages, statuses, details and metadata to be seen at both ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from hpack import Decoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Frame,
    RawClient,
    header_block,
    message,
    raw_client,
    request_fields,
)
from support.transports import TRANSPORTS, Transport, echo

from armitage import errors
from armitage.transport.port import Bidi, Call, ClientStream, Method, ServerStream, Unary
from cas import errors as cas_errors
from cas.digest import DigestFunction

ORACLE = TRANSPORTS["grpcio"]
OTHERS = [transport for name, transport in TRANSPORTS.items() if name != ORACLE.name]
DIGEST = DigestFunction.SHA256.digest(b"gone")


@dataclass(frozen=True)
class Play:
    """One call: what the client sends, and what the handler does with it."""

    kind: type[Method]
    requests: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]
    responses: tuple[bytes, ...]
    error: Exception | None
    """Raised when the responses are sent (of a stream) or in their place."""
    reads: int
    """How many requests a streaming handler reads before it answers."""


@dataclass
class Seen:
    """What both ends saw of one call."""

    code: int = -1
    message: str = ""
    responses: list[bytes] = field(default_factory=list)
    initial: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


class Stage:
    """Handlers of each kind that act a play, and one client that starts it."""

    def __init__(self) -> None:
        self.play: Play
        self.seen: Seen

    def methods(self) -> list[Method]:
        return [
            Unary("/play/Unary", self._unary),
            ServerStream("/play/ServerStream", self._server_stream),
            ClientStream("/play/ClientStream", self._client_stream),
            Bidi("/play/Bidi", self._bidi),
        ]

    async def act(self, channel: grpc.aio.Channel, play: Play) -> Seen:
        self.play, self.seen = play, Seen()
        path = f"/play/{play.kind.__name__}"
        # One shape at the client for all: it sends what the play says and notes what comes.
        call = channel.stream_stream(path)(metadata=play.metadata)
        await asyncio.gather(self._send(call), self._receive(call))
        self.seen.initial = dict(await call.initial_metadata())
        self.seen.trailing = dict(await call.trailing_metadata())
        self.seen.code = (await call.code()).value[0]
        # Each incident has a number of its own.
        self.seen.message = re.sub("incident [0-9a-f]+", "incident", await call.details() or "")
        return self.seen

    async def _send(self, call: Any) -> None:
        try:
            for request in self.play.requests:
                await call.write(request)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # The server has ended the call.

    async def _receive(self, call: Any) -> None:
        try:
            async for response in call:
                self.seen.responses.append(response)
        except grpc.aio.AioRpcError:
            pass  # It is asked of the call itself afterwards.

    def _note(self, call: Call, *requests: bytes) -> None:
        self.seen.metadata = dict(call.metadata)
        self.seen.received += requests

    def _fail(self) -> None:
        if self.play.error is not None:
            raise self.play.error.with_traceback(None)

    async def _unary(self, request: bytes, call: Call) -> bytes:
        self._note(call, request)
        self._fail()
        return b"".join(self.play.responses)

    async def _server_stream(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        self._note(call, request)
        for response in self.play.responses:
            yield response
        self._fail()

    async def _read(self, requests: AsyncIterator[bytes], call: Call) -> None:
        self._note(call)
        while len(self.seen.received) < self.play.reads:
            try:
                self.seen.received.append(await anext(requests))
            except StopAsyncIteration:
                return

    async def _client_stream(self, requests: AsyncIterator[bytes], call: Call) -> bytes:
        await self._read(requests, call)
        self._fail()
        return b"".join(self.play.responses)

    async def _bidi(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        await self._read(requests, call)
        for response in self.play.responses:
            yield response
        # Only a ClientStream may answer early: grpcio resets the others, and clients lose sight.
        async for request in requests:
            self.seen.received.append(request)
        self._fail()


MESSAGES = st.one_of(
    st.binary(max_size=40), st.integers(0, 200_000).map(lambda size: bytes([size % 251]) * size)
)
KEYS = st.from_regex(r"x-[a-z0-9_.-]{0,12}[a-z0-9]", fullmatch=True)
# RFC 9113 section 8.2.1 refuses values that begin or end with a space; grpcio bears them.
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.strip)
METADATA = st.lists(
    st.one_of(
        st.tuples(KEYS, TEXTS),
        st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary(max_size=60)),
    ),
    max_size=5,
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FAILURES = st.one_of(
    WORDS.map(errors.InvalidRequest),
    WORDS.map(errors.NotFound),
    WORDS.map(errors.Cancelled),
    WORDS.map(RuntimeError),
    st.builds(errors.Unavailable, WORDS, st.sampled_from([0.25, 3.0])),
    st.builds(
        errors.PreconditionFailed, WORDS, st.lists(WORDS, max_size=3).map(lambda w: ["a", *w])
    ),
    st.just(cas_errors.BlobNotFound(DIGEST)),
)
PLAYS = st.builds(
    Play,
    kind=st.sampled_from([Unary, ServerStream, ClientStream, Bidi]),
    requests=st.lists(MESSAGES, min_size=1, max_size=4).map(tuple),
    metadata=METADATA.map(tuple),
    responses=st.lists(MESSAGES, max_size=4).map(tuple),
    error=st.none() | FAILURES,
    reads=st.integers(0, 5),
)


def _fitting(play: Play) -> Play:
    """The same play with the number of requests that its kind of method takes."""
    if play.kind in {Unary, ServerStream}:
        return Play(
            play.kind, play.requests[:1], play.metadata, play.responses, play.error, play.reads
        )
    return play


async def _act_all(transport: Transport, plays: Sequence[Play]) -> list[Seen]:
    stage = Stage()
    async with transport.serving(*stage.methods()) as subject:
        return [await stage.act(subject.channel, _fitting(play)) for play in plays]


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, ids=[other.name for other in OTHERS])
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(plays=st.lists(PLAYS, min_size=1, max_size=15))
def test_calls_look_the_same_from_both_ends(other: Transport, plays: list[Play]) -> None:
    wanted = asyncio.run(_act_all(ORACLE, plays))
    got = asyncio.run(_act_all(other, plays))

    for play, want, have in zip(plays, wanted, got, strict=True):
        assert have == want, play


# What no client library sends.


@dataclass(frozen=True)
class Answer:
    """How a call ended, as far as the two have to agree."""

    http: str | None
    grpc: str | None
    data: bytes
    reset: int | None


ECHO = "/play/Echo"


def _fields(*added: tuple[str, str], **pseudo: str) -> list[tuple[str, str]]:
    return [*request_fields(ECHO, **pseudo), *added]


def _typed(content_type: str) -> list[tuple[str, str]]:
    return [(name, content_type if name == "content-type" else value) for name, value in _fields()]


@dataclass(frozen=True)
class Odd:
    """A request that is odd but a request, and whole."""

    name: str
    fields: Sequence[tuple[str, str]] = field(default_factory=_fields)
    data: tuple[bytes, ...] = (message(b"hello"),)


ODD = [
    Odd("plain"),
    Odd("in-single-bytes", data=tuple(bytes([byte]) for byte in message(b"hello"))),
    Odd("content-type-with-codec", _typed("application/grpc+proto")),
    Odd("content-type-with-parameter", _typed("application/grpc;charset=utf-8")),
    Odd("user-agent", _fields(("user-agent", "someone/1"))),
    Odd("unknown-path", _fields(path="/play/Nothing")),
    Odd("path-without-slash", _fields(path="play")),
    Odd("two-messages", data=(message(b"one") + message(b"two"),)),
    Odd("empty-message", data=(message(b""),)),
    Odd("no-message", data=()),
    Odd("deadline-passed", _fields(("grpc-timeout", "0n"))),
    Odd("deadline-long", _fields(("grpc-timeout", "99999999H"))),
    Odd("deadline-in-each-unit", _fields(("grpc-timeout", "100S"))),
    Odd("encoding-identity", _fields(("grpc-encoding", "identity"))),
    Odd("binary-metadata-unpadded", _fields(("a-bin", "AAE"))),
    Odd("binary-metadata-padded", _fields(("a-bin", "AAE="))),
    Odd("cookies-apart", _fields(("cookie", "a=1"), ("cookie", "b=2"))),
    Odd("accepts-encodings", _fields(("grpc-accept-encoding", "identity,deflate,gzip"))),
]


async def _exchange(client: RawClient, odd: Odd) -> Answer:
    stream = client.open_stream("", header_block(odd.fields))
    for data in odd.data:
        client.send(DATA, 0, stream, data)
    client.send(DATA, END_STREAM, stream)
    return _answer(await asyncio.wait_for(client.until_end_of(stream), 10))


def _answer(frames: list[Frame]) -> Answer:
    decoder, data, reset = Decoder(), b"", None
    fields: dict[str, str] = {}
    for each in frames:
        if each.kind == HEADERS:
            decoded = decoder.decode(each.payload)
            fields |= {str(name): str(value) for name, value in decoded}
        elif each.kind == DATA:
            data += each.payload
        elif each.kind == RST_STREAM:
            reset = int.from_bytes(each.payload, "big")
    return Answer(fields.get(":status"), fields.get("grpc-status"), data, reset)


async def _exchange_all(transport: Transport) -> dict[str, Answer]:
    answers = {}
    async with transport.serving(Unary(ECHO, echo)) as subject:
        for odd in ODD:
            async with raw_client(subject.address) as client:
                answers[odd.name] = await _exchange(client, odd)
    return answers


@pytest.mark.parametrize("other", OTHERS, ids=[other.name for other in OTHERS])
async def test_odd_requests_end_alike(other: Transport) -> None:
    assert await _exchange_all(other) == await _exchange_all(ORACLE)
