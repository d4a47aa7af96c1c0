"""Calls over a connection: what the shell is told, and what the client gets."""

from __future__ import annotations

import gzip

import pytest
from hpack import Decoder
from support.peers import (
    BIDI,
    DOWN,
    METHODS,
    UNARY,
    UP,
    Frame,
    Peer,
    block,
    data,
    frame,
    headers,
    message,
    unary,
)

from armitage.transport.http2 import frames
from armitage.transport.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM
from armitage.transport.http2.options import Http2Options
from armitage.transport.port import Code, Status, Unary
from armitage.transport.rpc.messages import Compressed
from armitage.transport.rpc.server import (
    Ended,
    Event,
    Opened,
    Readable,
    Requested,
    RpcServer,
    ServerCall,
)

OK = Status(Code.OK)
LIMIT = 1 << 20


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


def fields(each: Frame) -> dict[str, str]:
    assert each.kind == HEADERS
    return {str(name): str(value) for name, value in Decoder().decode(each.payload)}


def outcome(peer: Peer, stream: int = 1) -> tuple[bytes, dict[str, str]]:
    """The body and the last headers of a response that is complete."""
    mine = [each for each in peer.take() if each.stream == stream and each.kind in (DATA, HEADERS)]
    assert mine[-1].flags & END_STREAM
    assert sum(each.flags & END_STREAM for each in mine if each.kind in (DATA, HEADERS)) == 1
    return b"".join(each.payload for each in mine if each.kind == DATA), fields(mine[-1])


def call_of(events: list[Event]) -> ServerCall:
    event = events[0]
    assert isinstance(event, Opened | Requested)
    return event.call


def test_unary_call() -> None:
    peer = Peer()

    (event,) = peer.send(
        headers(1, UNARY, {b"grpc-timeout": b"2S", b"key": b"value"}),
        data(1, message(b"request"), ends=True),
    )

    assert isinstance(event, Requested)
    call = event.call
    assert event.message == b"request"
    assert (call.path, call.method.path, call.timeout_s) == (UNARY, UNARY, 2)
    assert call.metadata == {"key": "value"}
    assert call.half_closed
    assert call.respond(b"response")
    begin, body, end = peer.take()
    assert fields(begin) == {":status": "200", "content-type": "application/grpc"}
    assert body == (DATA, 0, 1, message(b"response"))
    assert fields(end) == {"grpc-status": "0"}
    assert end.flags == END_STREAM | END_HEADERS
    assert peer.core.open_calls == 0


def test_call_that_takes_one_request_is_opened_only_if_that_is_not_there_yet() -> None:
    peer = Peer()

    assert kinds(peer.send(headers(1))) == [Opened]
    assert peer.send(data(1, message(b"12345")[:7])) == []
    (event,) = peer.send(data(1, message(b"12345")[7:], ends=True))

    assert isinstance(event, Requested)
    assert event.message == b"12345"


def test_request_is_served_before_its_stream_ends() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1), data(1, message(b"x"))))

    call.respond(b"early")
    assert outcome(peer)[1]["grpc-status"] == "0"
    assert peer.send(data(1, b"", ends=True)) == []

    assert peer.core.open_calls == 0


def test_only_the_first_request_counts() -> None:
    peer = Peer()

    events = peer.send(headers(1), data(1, message(b"1") + message(b"2"), ends=True))

    assert kinds(events) == [Requested]
    assert events[0].message == b"1"  # type: ignore[union-attr]


def test_call_without_its_request_is_invalid() -> None:
    peer = Peer()

    assert peer.send(headers(1, ends=True)) == []

    assert outcome(peer) == (
        b"",
        {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-status": "3",
            "grpc-message": "the call ended before its request message",
        },
    )


def test_requests_are_read_one_by_one() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP)))
    assert call.read() is None

    assert kinds(peer.send(data(1, message(b"1") + message(b"2")))) == [Readable]
    assert peer.send(data(1, message(b"3"))) == []
    assert [call.read(), call.read(), call.read()] == [b"1", b"2", b"3"]
    assert call.read() is None
    assert not call.exhausted

    assert kinds(peer.send(data(1, b"", ends=True))) == [Readable]
    assert call.read() is None
    assert call.exhausted


def test_end_with_unread_messages_is_found_after_them() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, BIDI), data(1, message(b"1"), ends=True)))

    assert not call.exhausted
    assert call.read() == b"1"
    assert call.exhausted


def test_bidi_call_sends_while_it_reads() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, BIDI)))

    call.send(b"a")
    begin, first = peer.take()
    peer.send(data(1, message(b"x"), ends=True))
    call.send((b"b", memoryview(b"c")))
    call.finish(OK)
    second, end = peer.take()

    assert (begin.kind, end.kind) == (HEADERS, HEADERS)
    assert (first.payload, second.payload) == (message(b"a"), message(b"bc"))


def test_large_response_is_whole() -> None:
    peer = Peer()
    peer.send(
        frames.window_update(0, 1 << 30), frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
    )
    call = call_of(peer.send(unary(1)))
    body = bytes(range(256)) * 1000

    assert not call.respond(body)
    assert outcome(peer) == (message(body), {"grpc-status": "0"})
    assert peer.core.take_drained() == [call]


@pytest.mark.parametrize("size", [0, 1, 16_378, 16_379, 16_380, 65_530])
def test_responses_around_the_size_of_a_frame(size: int) -> None:
    peer = Peer()
    call = call_of(peer.send(unary(1)))

    call.respond(bytes(size))

    assert outcome(peer) == (message(bytes(size)), {"grpc-status": "0"})


def test_status_with_everything() -> None:
    peer = Peer()
    call = call_of(peer.send(unary(1)))

    call.finish(Status(Code.NOT_FOUND, "no ä", b"\x01"))

    assert outcome(peer)[1] == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "5",
        "grpc-message": "no %C3%A4",
        "grpc-status-details-bin": "AQ",
    }


def test_failure_takes_back_a_message_of_which_nothing_left() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    call = call_of(peer.send(unary(1, path=DOWN)))
    call.send(b"stuck")

    call.finish(Status(Code.DEADLINE_EXCEEDED))

    assert outcome(peer) == (b"", {"grpc-status": "4"})


def test_failure_waits_for_a_message_of_which_part_left() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}))
    call = call_of(peer.send(unary(1, path=DOWN)))
    call.send(b"stuck")
    assert peer.take()[-1].kind == DATA

    call.finish(Status(Code.DEADLINE_EXCEEDED))
    assert peer.take() == []
    peer.send(frames.window_update(1, 100))

    assert outcome(peer) == (message(b"stuck")[3:], {"grpc-status": "4"})


def test_what_is_done_to_a_call_that_is_over_does_nothing() -> None:
    peer = Peer()
    call = call_of(peer.send(unary(1)))
    call.respond(b"")
    peer.take()

    assert call.respond(b"again")
    assert call.send(b"again")
    call.finish(OK)
    call.abandon()

    assert peer.take() == []


# Refusals


@pytest.mark.parametrize(
    ("extra", "status", "text"),
    [
        ({b":path": b"/t.T/Other"}, Code.UNIMPLEMENTED, "Method not found"),
        ({b"grpc-timeout": b"soon"}, Code.INTERNAL, "grpc-timeout"),
        ({b"grpc-encoding": b"snappy"}, Code.UNIMPLEMENTED, "snappy"),
        ({b"x-bin": b"!"}, Code.INTERNAL, "x-bin"),
        ({b"long": b"x" * 70_000}, Code.RESOURCE_EXHAUSTED, "metadata"),
    ],
)
def test_refused_call_gets_a_status_and_the_handler_nothing(
    extra: dict[bytes, bytes], status: Code, text: str
) -> None:
    peer = Peer()
    path = extra.get(b":path", UNARY.encode()).decode()
    whole = headers(1, path, extra)
    payload = whole[9:]
    parts = [payload[at : at + 16_384] for at in range(0, len(payload), 16_384)]

    events = peer.send(
        *(
            frame(
                frames.CONTINUATION if index else HEADERS,
                END_HEADERS if index == len(parts) - 1 else 0,
                1,
                part,
            )
            for index, part in enumerate(parts)
        ),
        data(1, message(b""), ends=True),
    )

    assert events == []
    _, trailers = outcome(peer)
    assert trailers["grpc-status"] == str(int(status))
    assert text in trailers["grpc-message"]
    assert peer.core.open_calls == 0


def test_what_is_no_grpc_gets_an_http_answer() -> None:
    peer = Peer()

    peer.send(headers(1, extra={b":method": b"GET"}, ends=True))
    assert fields(peer.take()[0])[":status"] == "405"
    peer.send(headers(3, extra={b"content-type": b"text/html"}, ends=True))
    assert fields(peer.take()[0])[":status"] == "415"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"\x00\x00\x10\x00\x01", Code.RESOURCE_EXHAUSTED, id="over the limit"),
        pytest.param(b"\x07\x00\x00\x00\x00", Code.INTERNAL, id="flags"),
        pytest.param(b"\x01\x00\x00\x00\x00", Code.INTERNAL, id="compressed unannounced"),
    ],
)
@pytest.mark.parametrize("path", [UNARY, UP])
def test_bad_message_fails_the_call_at_once(path: str, body: bytes, code: Code) -> None:
    peer = Peer(receive_limit_bytes=LIMIT)
    call = call_of(peer.send(headers(1, path)))

    (event,) = peer.send(data(1, body))

    assert event == Ended(call, event.reason)  # type: ignore[union-attr]
    assert outcome(peer)[1]["grpc-status"] == str(int(code))
    assert peer.send(data(1, bytes(1000), ends=True)) == []
    assert peer.core.open_calls == 0


def test_whole_message_over_the_limit_fails_the_call() -> None:
    peer = Peer(receive_limit_bytes=10)

    peer.send(headers(1), data(1, message(bytes(11)), ends=True))

    assert outcome(peer)[1]["grpc-status"] == str(int(Code.RESOURCE_EXHAUSTED))


def test_message_of_exactly_the_limit_is_taken() -> None:
    peer = Peer(receive_limit_bytes=10)

    assert kinds(peer.send(headers(1), data(1, message(bytes(10)), ends=True))) == [Requested]


def test_end_within_a_message_fails_the_call() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP)))

    events = peer.send(data(1, message(b"12345")[:6], ends=True))

    assert events == [Ended(call, "the request ended within a message")]
    assert outcome(peer)[1]["grpc-status"] == str(int(Code.INTERNAL))


def test_gzip_comes_as_it_is() -> None:
    peer = Peer()

    (event,) = peer.send(
        headers(1, extra={b"grpc-encoding": b"gzip"}),
        data(1, message(gzip.compress(b"text"), compressed=True), ends=True),
    )

    assert isinstance(event, Requested)
    assert isinstance(event.message, Compressed)
    assert event.message.expand() == b"text"


# Ends


def reset(stream: int = 1) -> bytes:
    return frames.rst_stream(stream, 8)


def test_reset_ends_the_call() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP)))

    (event,) = peer.send(reset())

    assert event == Ended(call, "the client reset the stream: CANCEL")
    assert call.ended
    assert peer.core.open_calls == 0


def test_reset_in_the_turn_of_the_request_is_seen_before_the_handler_starts() -> None:
    peer = Peer()

    events = peer.send(unary(1), reset())

    assert kinds(events) == [Requested, Ended]
    assert events[0].call.ended  # type: ignore[union-attr]


def test_reset_of_a_call_nobody_was_told_of_says_nothing() -> None:
    assert Peer().send(headers(1), reset()) == []


def test_reset_while_an_answer_waits_wakes_its_writer() -> None:
    peer = Peer()
    call = call_of(peer.send(unary(1)))
    assert not call.respond(bytes(1 << 20))
    peer.take()

    assert peer.send(reset()) == []

    assert peer.core.take_drained() == [call]
    assert peer.take() == []


def test_abandoned_call_is_cancelled() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP)))

    call.abandon()

    assert peer.take() == [(RST_STREAM, 0, 1, b"\0\0\0\x08")]
    assert peer.send(data(1, b"late")) == []
    assert not peer.core.closing


def test_early_answer_comes_at_once_and_the_rest_is_thrown_away() -> None:
    peer = Peer(Http2Options(discard_limit=1 << 20))
    call = call_of(peer.send(headers(1, UP)))
    call.respond(b"enough")
    assert outcome(peer)[0] == message(b"enough")

    said = b""
    for _ in range(64):
        assert peer.send(data(1, bytes(16_000))) == []
        said += peer.take_bytes()
    assert peer.send(data(1, b"", ends=True)) == []

    assert frames.rst_stream(1, 0) not in said
    assert peer.core.open_calls == 0
    assert peer.core.unread == 0


def test_client_that_never_stops_after_its_answer_is_reset_without_blame() -> None:
    peer = Peer(Http2Options(discard_limit=1 << 20))
    call_of(peer.send(headers(1, UP))).respond(b"enough")

    said = b""
    for _ in range(70):
        peer.send(data(1, bytes(16_000)))
        said += peer.take_bytes()

    assert said.count(frames.rst_stream(1, 0)) == 1
    assert peer.core.open_calls == 0


def test_client_that_never_stops_before_its_answer_loses_the_call() -> None:
    peer = Peer(Http2Options(discard_limit=1 << 20))
    call = call_of(peer.send(headers(1), data(1, message(b"the request"))))

    events: list[Event] = []
    while not events:
        events = peer.send(data(1, bytes(16_000)))
        peer.take()

    assert events == [Ended(call, "endless further requests")]
    assert call.respond(b"too late")
    assert peer.take() == []


def test_answered_streams_that_their_client_leaves_open_expire() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}))
    never_ends, takes_nothing, runs = (
        call_of(peer.send(headers(1, UP))),
        call_of(peer.send(unary(3, path=DOWN))),
        call_of(peer.send(headers(5, UP))),
    )
    takes_nothing.send(b"stuck")
    never_ends.finish(OK)
    takes_nothing.finish(OK)
    peer.take()

    for now in (0.0, 60.0):
        peer.core.expire(now, patience_s=60.0)
    assert peer.core.open_calls == 3
    peer.core.expire(60.1, patience_s=60.0)

    assert peer.take() == [
        (RST_STREAM, 0, 1, b"\0\0\0\x00"),
        (RST_STREAM, 0, 3, b"\0\0\0\x08"),
    ]
    assert list(peer.core.calls) == [runs]


def test_answer_that_is_taken_slowly_does_not_expire() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    call = call_of(peer.send(unary(1)))
    call.respond(bytes(100))

    for minute in range(104):
        peer.send(frames.window_update(1, 1))
        peer.take()
        peer.core.expire(60.0 * minute, patience_s=50.0)

    assert not call.gone


def test_unread_messages_of_an_answered_call_are_given_up() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP), *(data(1, message(bytes(9000))) for _ in range(20))))
    peer.send(data(1, message(bytes(9000))[:100]))
    assert peer.core.unread > 180_000

    call.finish(Status(Code.INVALID_ARGUMENT))

    assert peer.core.unread == 0
    assert peer.core._assembled_bytes == 0
    assert call.read() is None


def test_trailers_end_a_request() -> None:
    peer = Peer()
    call = call_of(peer.send(headers(1, UP)))
    call.read()

    events = peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block({b"checksum": b"1"})))

    assert kinds(events) == [Readable]
    assert call.exhausted


def test_two_methods_of_one_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="same path"):
        RpcServer([*METHODS, Unary(UNARY, lambda *_: NotImplemented)], receive_limit_bytes=1)
