"""The rules of RFC 9113, each with the error that it demands, and windows."""

from __future__ import annotations

import pytest
from support.peers import (
    DOWN,
    HEADERS,
    HELLO,
    UP,
    Peer,
    block,
    data,
    frame,
    headers,
    message,
    parse_frames,
    unary,
)

from armitage.transport.http2 import frames
from armitage.transport.http2.codes import ErrorCode
from armitage.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    settings,
    window_update,
)
from armitage.transport.http2.frames import HEADERS as HEADERS_FRAME
from armitage.transport.http2.options import Http2Options
from armitage.transport.port import Code, Status
from armitage.transport.rpc.metadata import TRUE_BINARY
from armitage.transport.rpc.server import Opened, PingAcknowledged, Requested, ServerCall

E = ErrorCode
BLOCK = block(HEADERS)


def opened(peer: Peer, path: str = UP, stream: int = 1) -> ServerCall:
    """A call that has begun, for which nothing was said yet."""
    (event,) = peer.send(headers(stream, path))
    assert isinstance(event, Opened)
    return event.call


def requested(peer: Peer, path: str = DOWN, stream: int = 1) -> ServerCall:
    """A call whose request is there."""
    (event,) = peer.send(unary(stream, path=path))
    assert isinstance(event, Requested)
    return event.call


# The beginning


def test_says_its_settings_first_and_acknowledges_the_clients() -> None:
    peer = Peer(greet=False)
    assert peer.take_bytes() == b""

    first, window, ack = peer.ask(HELLO)

    assert first.kind == SETTINGS
    assert dict(frames.parse_settings(first.payload)) == {
        frames.HEADER_TABLE_SIZE: 0,
        frames.MAX_CONCURRENT_STREAMS: 1024,
        INITIAL_WINDOW_SIZE: 256 << 10,
        frames.MAX_HEADER_LIST_SIZE: 64 << 10,
        TRUE_BINARY: 1,
    }
    assert window == (WINDOW_UPDATE, 0, 0, (16 * (1 << 20) - 65535).to_bytes(4, "big"))
    assert ack == (SETTINGS, ACK, 0, b"")


@pytest.mark.parametrize(
    "first",
    [
        frame(PING, payload=bytes(8)),
        frames.SETTINGS_ACK,
        headers(1),
        frame(DATA, 0, 1, b"x"),
        window_update(0, 1),
    ],
)
def test_anything_before_settings_is_an_error(first: bytes) -> None:
    peer = Peer(greet=False)

    peer.send(frames.PREFACE, first)

    assert peer.goodbye()[0] == E.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"PUT / HTTP/1.1"]
)
def test_http1_gets_a_readable_answer(request_line: bytes) -> None:
    peer = Peer(greet=False)

    for byte in request_line + b"\r\nHost: here\r\n\r\n":
        peer.send(bytes([byte]))

    assert peer.core.closing
    status, _, rest = peer.take_bytes().partition(b"\r\n")
    fields, _, body = rest.partition(b"\r\n\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert b"Content-Length: %d" % len(body) in fields
    assert b"HTTP/2" in body
    assert peer.counters == {"http1_requests": 1}


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00", b"\0" * 24, b"PRI * HTTP/2.0\r\n\r\nXX", b"HELLO THERE", b"PRXXXXXX"],
)
def test_junk_is_closed_without_a_word(junk: bytes) -> None:
    peer = Peer(greet=False)

    peer.send(junk)

    assert peer.core.closing
    assert peer.take_bytes() == b""
    assert peer.counters == {"bad_prefaces": 1}


# What breaks the connection


CONNECTION_ERRORS = [
    # Section 4.2
    pytest.param(frame(DATA, 0, 1, bytes(16_385)), E.FRAME_SIZE_ERROR, id="DATA over the size"),
    pytest.param(frame(99, 0, 1, bytes(16_385)), E.FRAME_SIZE_ERROR, id="unknown over the size"),
    pytest.param(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", E.FRAME_SIZE_ERROR, id="16 MiB"),
    # 5.1, 5.1.1
    pytest.param(frame(DATA, 0, 1, b"x"), E.PROTOCOL_ERROR, id="DATA on an idle stream"),
    pytest.param(frame(RST_STREAM, 0, 1, bytes(4)), E.PROTOCOL_ERROR, id="RST on an idle stream"),
    pytest.param(window_update(1, 1), E.PROTOCOL_ERROR, id="WINDOW_UPDATE on an idle stream"),
    pytest.param(headers(2), E.PROTOCOL_ERROR, id="even stream"),
    pytest.param(headers(5) + headers(3), E.PROTOCOL_ERROR, id="stream ids out of order"),
    # 6.1
    pytest.param(frame(DATA, 0, 0, b"x"), E.PROTOCOL_ERROR, id="DATA on stream 0"),
    pytest.param(
        headers(1) + frame(DATA, PADDED, 1, b"\x05abcd"), E.PROTOCOL_ERROR, id="DATA all padding"
    ),
    pytest.param(
        headers(1) + frame(DATA, PADDED, 1), E.FRAME_SIZE_ERROR, id="padded DATA without a length"
    ),
    # 6.2
    pytest.param(frame(HEADERS_FRAME, END_HEADERS, 0, BLOCK), E.PROTOCOL_ERROR, id="HEADERS on 0"),
    pytest.param(
        frame(HEADERS_FRAME, END_HEADERS | PADDED, 1, b"\x05abcd"),
        E.PROTOCOL_ERROR,
        id="HEADERS all padding",
    ),
    pytest.param(
        frame(HEADERS_FRAME, END_HEADERS | PADDED, 1),
        E.FRAME_SIZE_ERROR,
        id="padded HEADERS without a length",
    ),
    pytest.param(
        frame(HEADERS_FRAME, END_HEADERS | WITH_PRIORITY, 1, b"1234"),
        E.FRAME_SIZE_ERROR,
        id="HEADERS shorter than their priority",
    ),
    pytest.param(frame(HEADERS_FRAME, END_HEADERS, 1, b"\x80"), E.COMPRESSION_ERROR, id="no HPACK"),
    # 6.3
    pytest.param(frame(PRIORITY, 0, 0, bytes(5)), E.PROTOCOL_ERROR, id="PRIORITY on stream 0"),
    # 6.4
    pytest.param(
        headers(1) + frame(RST_STREAM, 0, 1, bytes(3)), E.FRAME_SIZE_ERROR, id="RST of 3 bytes"
    ),
    pytest.param(frame(RST_STREAM, 0, 0, bytes(4)), E.PROTOCOL_ERROR, id="RST on stream 0"),
    # 6.5
    pytest.param(frame(SETTINGS, 0, 1), E.PROTOCOL_ERROR, id="SETTINGS on a stream"),
    pytest.param(frame(SETTINGS, 0, 0, bytes(5)), E.FRAME_SIZE_ERROR, id="SETTINGS of 5 bytes"),
    pytest.param(frame(SETTINGS, ACK, 0, bytes(6)), E.FRAME_SIZE_ERROR, id="ACK with settings"),
    pytest.param(frames.SETTINGS_ACK, E.PROTOCOL_ERROR, id="ACK of nothing"),
    pytest.param(settings({frames.ENABLE_PUSH: 2}), E.PROTOCOL_ERROR, id="ENABLE_PUSH of 2"),
    pytest.param(
        settings({INITIAL_WINDOW_SIZE: 2**31}), E.FLOW_CONTROL_ERROR, id="window over 2^31-1"
    ),
    pytest.param(
        settings({frames.MAX_FRAME_SIZE: 16_383}), E.PROTOCOL_ERROR, id="frames too small"
    ),
    pytest.param(settings({frames.MAX_FRAME_SIZE: 1 << 24}), E.PROTOCOL_ERROR, id="frames too big"),
    # 6.6
    pytest.param(headers(1) + frame(PUSH_PROMISE, 4, 1, bytes(4)), E.PROTOCOL_ERROR, id="push"),
    # 6.7
    pytest.param(frame(PING, 0, 1, bytes(8)), E.PROTOCOL_ERROR, id="PING on a stream"),
    pytest.param(frame(PING, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR, id="PING of 7 bytes"),
    # 6.8
    pytest.param(frame(GOAWAY, 0, 1, bytes(8)), E.PROTOCOL_ERROR, id="GOAWAY on a stream"),
    pytest.param(frame(GOAWAY, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR, id="GOAWAY of 7 bytes"),
    # 6.9
    pytest.param(window_update(0, 0), E.PROTOCOL_ERROR, id="WINDOW_UPDATE by nothing"),
    pytest.param(
        frame(WINDOW_UPDATE, 0, 0, bytes(3)), E.FRAME_SIZE_ERROR, id="WINDOW_UPDATE of 3 bytes"
    ),
    pytest.param(window_update(0, 2**31 - 1), E.FLOW_CONTROL_ERROR, id="window overflow"),
    pytest.param(
        headers(1, UP) + window_update(1, 2**30) + settings({INITIAL_WINDOW_SIZE: 2**30 + 65_536}),
        E.FLOW_CONTROL_ERROR,
        id="window overflow by SETTINGS",
    ),
    # 6.10
    pytest.param(frame(CONTINUATION, 0, 1, b""), E.PROTOCOL_ERROR, id="CONTINUATION of nothing"),
    pytest.param(
        headers(1) + frame(CONTINUATION, END_HEADERS, 1, b""),
        E.PROTOCOL_ERROR,
        id="CONTINUATION of whole HEADERS",
    ),
    *[
        pytest.param(
            frame(HEADERS_FRAME, 0, 1, BLOCK[:9]) + between,
            E.PROTOCOL_ERROR,
            id=f"block then {name}",
        )
        for name, between in {
            "DATA": frame(DATA, 0, 1, b"x"),
            "HEADERS": headers(3),
            "PING": frame(PING, payload=bytes(8)),
            "SETTINGS": settings({}),
            "an unknown frame": frame(99),
            "CONTINUATION elsewhere": frame(CONTINUATION, END_HEADERS, 3, BLOCK[9:]),
        }.items()
    ],
]


@pytest.mark.parametrize(("wire", "code"), CONNECTION_ERRORS)
def test_violation_ends_the_connection(wire: bytes, code: ErrorCode) -> None:
    peer = Peer()

    peer.send(wire)

    said, reason = peer.goodbye()
    assert said == code, reason
    assert reason.startswith(code.name)
    assert peer.core.close_reason == reason
    assert peer.counters["connection_errors"] == 1


@pytest.mark.parametrize("late", [data(1, b"late"), headers(1)])
def test_frames_on_a_stream_that_is_over_end_the_connection(late: bytes) -> None:
    peer = Peer()
    requested(peer).finish(Status(Code.OK))

    peer.send(late)

    assert peer.goodbye()[0] == E.STREAM_CLOSED


def test_violation_ends_every_call() -> None:
    peer = Peer()
    calls = [requested(peer, stream=1), opened(peer, stream=3)]

    events = peer.send(window_update(0, 0))

    assert [event.call for event in events] == calls  # type: ignore[union-attr]
    assert all(call.ended for call in calls)
    assert peer.core.open_calls == 0


def test_goodbye_names_the_last_stream() -> None:
    peer = Peer()
    requested(peer, stream=7)

    peer.send(window_update(0, 0))

    assert peer.take()[-1].payload[:4] == b"\0\0\0\x07"


# What breaks a stream

OPEN = headers(1, UP)
STREAM_ERRORS = [
    pytest.param(headers(1, UP, ends=True) + data(1, b"x"), E.STREAM_CLOSED, id="DATA after end"),
    pytest.param(
        headers(1, UP, ends=True) + headers(1, UP), E.STREAM_CLOSED, id="HEADERS after end"
    ),
    pytest.param(
        OPEN + headers(1, UP, ends=True), E.PROTOCOL_ERROR, id="pseudo-headers in trailers"
    ),
    pytest.param(
        OPEN + frame(HEADERS_FRAME, END_HEADERS, 1, block({b"a": b"b"})),
        E.PROTOCOL_ERROR,
        id="trailers that do not end",
    ),
    pytest.param(headers(1, UP, {b"connection": b"close"}), E.PROTOCOL_ERROR, id="malformed"),
    pytest.param(OPEN + window_update(1, 0), E.PROTOCOL_ERROR, id="WINDOW_UPDATE by nothing"),
    pytest.param(OPEN + window_update(1, 2**31 - 1), E.FLOW_CONTROL_ERROR, id="window overflow"),
    pytest.param(OPEN + frame(PRIORITY, 0, 1, bytes(4)), E.FRAME_SIZE_ERROR, id="PRIORITY of 4"),
    pytest.param(
        headers(1, UP, {b"content-length": b"3"}, ends=True), E.PROTOCOL_ERROR, id="body missing"
    ),
    pytest.param(
        headers(1, UP, {b"content-length": b"3"}) + data(1, b"1234"),
        E.PROTOCOL_ERROR,
        id="body too long",
    ),
    pytest.param(
        headers(1, UP, {b"content-length": b"8"}) + data(1, message(b""), ends=True),
        E.PROTOCOL_ERROR,
        id="body too short",
    ),
]


@pytest.mark.parametrize(("wire", "code"), STREAM_ERRORS)
def test_violation_resets_the_stream_and_only_that(wire: bytes, code: ErrorCode) -> None:
    peer = Peer()

    said = peer.ask(wire)

    assert (RST_STREAM, 0, 1, int(code).to_bytes(4, "big")) in said
    assert peer.counters["stream_errors"] == 1
    assert requested(peer, stream=3)


def test_right_content_length_is_no_error() -> None:
    peer = Peer()

    events = peer.send(
        headers(1, DOWN, {b"content-length": b"8"}), data(1, message(b"abc"), ends=True)
    )

    assert isinstance(events[-1], Requested)
    assert events[-1].message == b"abc"


def test_what_was_under_way_when_we_reset_is_ignored() -> None:
    peer = Peer()
    peer.ask(OPEN, window_update(1, 0))

    said = peer.ask(
        data(1, b"late"),
        window_update(1, 5),
        frame(HEADERS_FRAME, END_HEADERS | END_STREAM, 1, block({b"a": b"b"})),
        frame(RST_STREAM, 0, 1, bytes(4)),
    )

    assert said == []
    assert not peer.core.closing


def test_streams_over_the_limit_are_refused_until_others_end() -> None:
    peer = Peer(Http2Options(max_streams=2))
    calls = [requested(peer, stream=1), requested(peer, stream=3)]

    assert peer.ask(unary(5)) == [(RST_STREAM, 0, 5, int(E.REFUSED_STREAM).to_bytes(4, "big"))]
    calls[0].finish(Status(Code.OK))

    assert requested(peer, stream=7)
    assert peer.counters == {"refused_streams": 1}


# Forms of frames


def test_padding_and_priority_change_nothing() -> None:
    peer = Peer()

    events = peer.send(
        frame(
            HEADERS_FRAME,
            END_HEADERS | PADDED | WITH_PRIORITY,
            1,
            b"\x03" + bytes(5) + block({**HEADERS, b":path": DOWN.encode()}) + bytes(3),
        ),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(PRIORITY, 0, 9, bytes(5)),
        frame(DATA, PADDED, 1, b"\x04" + message(b"abc")[:6] + bytes(4)),
        frame(DATA, PADDED | END_STREAM, 1, b"\x00" + message(b"abc")[6:]),
    )

    assert [type(event) for event in events] == [Requested]
    assert events[0].message == b"abc"  # type: ignore[union-attr]


def test_reserved_bits_and_unknown_things_are_ignored() -> None:
    peer = Peer()

    events = peer.send(
        frame(99, 0xFF, 0xFFFFFFFF, b"whatever"),
        settings({0x1234: 5}),
        frame(
            HEADERS_FRAME,
            END_HEADERS | 0x80,
            0x80000001,
            block({**HEADERS, b":path": DOWN.encode()}),
        ),
        frame(DATA, END_STREAM | 0x40, 0x80000001, message(b"abc")),
    )

    assert [type(event) for event in events] == [Requested]
    events[0].call.respond(b"")  # type: ignore[union-attr]
    assert {each.stream for each in peer.take() if each.kind != SETTINGS} == {1}


def test_header_block_may_be_split_anywhere() -> None:
    payload = block({**HEADERS, b":path": DOWN.encode()})
    peer = Peer()
    for index, cut in enumerate(range(len(payload) + 1)):
        stream = 2 * index + 1

        events = peer.send(
            frame(HEADERS_FRAME, END_STREAM, stream, payload[:cut]),
            frame(CONTINUATION, END_HEADERS, stream, payload[cut:]),
        )

        assert events == []
        assert peer.take()[0].stream == stream


def test_pings_are_answered_with_what_they_carry() -> None:
    assert Peer().ask(frame(PING, 0, 0, b"12345678")) == [(PING, ACK, 0, b"12345678")]


def test_answer_to_our_ping_is_told() -> None:
    peer = Peer()
    peer.core.ping()
    (ping,) = peer.take()

    assert ping.kind == PING
    assert peer.send(frame(PING, ACK, 0, ping.payload)) == [PingAcknowledged()]


def test_clients_goodbye_lets_calls_finish() -> None:
    peer = Peer()
    call = requested(peer)

    assert peer.send(frames.goaway(0, 0)) == []
    call.respond(b"still here")

    assert peer.take()[-1].flags & END_STREAM


# Sending within windows


def sent(peer: Peer) -> int:
    return sum(len(each.payload) for each in peer.take() if each.kind == DATA)


def test_nothing_is_sent_beyond_the_window_of_the_stream() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 100}))
    call = requested(peer)

    assert not call.send(bytes(1000))
    assert sent(peer) == 100
    peer.send(window_update(1, 50))
    assert sent(peer) == 50
    assert peer.core.take_drained() == []
    peer.send(window_update(1, 10_000))
    assert sent(peer) == 1005 - 150
    assert peer.core.take_drained() == [call]


def test_nothing_is_sent_beyond_the_window_of_the_connection() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 1 << 20}))
    call = requested(peer)

    call.send(bytes(100_000))
    assert sent(peer) == 65_535
    peer.send(window_update(0, 5))
    assert sent(peer) == 5
    peer.send(window_update(0, 1 << 20))
    assert sent(peer) == 100_005 - 65_540


def test_settings_may_take_a_window_back_below_zero() -> None:
    peer = Peer()
    call = requested(peer)
    call.send(bytes(65_000))
    assert sent(peer) == 65_005

    peer.send(settings({INITIAL_WINDOW_SIZE: 5}), window_update(0, 1 << 20))
    call.send(b"x" * 100)
    assert sent(peer) == 0
    peer.send(window_update(1, 65_000))
    assert sent(peer) == 0
    peer.send(window_update(1, 1))
    assert sent(peer) == 1


def test_streams_take_turns() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20))
    calls = [requested(peer, stream=stream) for stream in (1, 3, 5)]
    peer.take()
    for call in calls:
        call.send(bytes(40_000))

    order = [each.stream for each in peer.take() if each.kind == DATA]

    assert order == [1, 3, 5, 1, 3, 5, 1, 3, 5]


def test_small_answer_does_not_wait_behind_a_large_one() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20))
    requested(peer, stream=1).send(bytes(1 << 19))
    peer.take_bytes(1 << 16)

    requested(peer, stream=3).respond(b"small")
    first = parse_frames(peer.take_bytes(1 << 14))

    assert first[0].stream == 3


def test_output_is_given_in_about_the_size_that_was_asked_for() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20))
    requested(peer).send(bytes(1 << 19))
    parts = []

    while part := peer.take_bytes(1 << 16):
        parts.append(part)

    assert max(map(len, parts)) <= (1 << 16) + frames.FRAME_LIMIT + 100
    whole = parse_frames(b"".join(parts))
    assert b"".join(each.payload for each in whole if each.kind == DATA) == message(bytes(1 << 19))


def test_pieces_are_sent_as_they_are_and_not_copied() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20))
    blob = bytes(100_000)
    requested(peer).send((b"head", memoryview(blob)))

    views = [piece for piece in peer.core.take_output() if isinstance(piece, memoryview)]

    assert all(view.obj is blob for view in views)
    assert sum(map(len, views)) == 100_000


def test_status_comes_after_what_was_sent_before() -> None:
    peer = Peer()
    peer.send(settings({INITIAL_WINDOW_SIZE: 10}))
    call = requested(peer)
    call.send(b"x" * 20)
    call.finish(Status(Code.OK))

    assert peer.take()[-1].kind == DATA
    peer.send(window_update(1, 100))

    assert [(each.kind, each.flags & END_STREAM) for each in peer.take()] == [
        (DATA, 0),
        (HEADERS_FRAME, END_STREAM),
    ]
    assert peer.core.open_calls == 0


# Receiving within windows


def test_more_than_the_window_of_the_stream_resets_it() -> None:
    peer = Peer(Http2Options(stream_window=65_535))
    opened(peer)

    said = peer.ask(data(1, bytes(65_536)))

    assert said[-1] == (RST_STREAM, 0, 1, int(E.FLOW_CONTROL_ERROR).to_bytes(4, "big"))
    assert peer.counters["window_violations"] == 1


def test_more_than_the_window_of_the_connection_ends_it() -> None:
    peer = Peer(Http2Options(connection_window=1 << 20), receive_limit_bytes=1 << 30)
    for stream in (1, 3, 5, 7, 9):
        call = opened(peer, stream=stream)
        peer.send(data(stream, message(bytes((1 << 18) - 5))))
        if peer.core.closing:
            break
        assert call.connection.receive_window >= 0

    assert peer.goodbye()[0] == E.FLOW_CONTROL_ERROR


def test_window_opens_as_the_handler_reads() -> None:
    peer = Peer()
    call = opened(peer)
    peer.take()

    assert peer.ask(data(1, message(bytes(100_000))), data(1, message(bytes(100_000)))) == []
    call.read()
    call.read()

    (update,) = peer.take()
    assert (update.kind, update.stream) == (WINDOW_UPDATE, 1)


def test_window_stays_shut_while_the_handler_does_not_read() -> None:
    peer = Peer()
    opened(peer)

    updates = peer.ask(*(data(1, message(bytes(1000))) for _ in range(255)))

    assert updates == []
    assert peer.core.unread >= 255_000


def test_padding_is_paid_back() -> None:
    peer = Peer()
    call = opened(peer)
    granted = taken = 0

    for _ in range(3000):
        payload = b"\xff" + message(b"abc") + bytes(255)
        taken += len(payload)
        for update in peer.ask(frame(DATA, PADDED, 1, payload)):
            assert update.kind == WINDOW_UPDATE
            if update.stream == 1:
                granted += int.from_bytes(update.payload, "big")
        call.read()

    assert taken - granted < call.window_target


def test_window_grows_on_a_stream_that_is_read_and_shrinks_for_nobody() -> None:
    peer = Peer()
    call = opened(peer)

    for _ in range(200):
        peer.send(data(1, message(bytes(100_000))))
        while call.read() is not None:
            pass
        peer.take()

    assert call.window_target == 4 << 20


def test_message_larger_than_the_window_gets_through() -> None:
    peer = Peer(receive_limit_bytes=8 << 20)
    call = opened(peer)
    wire = data(1, message(bytes(8 << 20)))

    window = 256 << 10
    at = 0
    while at < len(wire):
        assert window > 0, "stuck"
        step = min(window, len(wire) - at)
        peer.send(wire[at : at + step])
        at += step
        window += (
            sum(int.from_bytes(each.payload, "big") for each in peer.take() if each.stream == 1)
            - step
        )

    assert call.read() == bytes(8 << 20)


def test_unfinished_messages_share_a_budget_and_all_get_through() -> None:
    options = Http2Options(assembly_budget=300_000)
    size = 1_000_000
    peer = Peer(options, receive_limit_bytes=size)
    wires = {stream: message(bytes(size)) for stream in (1, 3, 5, 7)}
    windows = dict.fromkeys(wires, options.stream_window)
    for stream in wires:
        opened(peer, stream=stream)
    peer.take()

    held = 0
    while any(wires.values()):
        progress = False
        for stream, wire in wires.items():
            step = min(windows[stream], len(wire), 16_384)
            if step:
                progress = True
                peer.send(data(stream, wire[:step]))
                wires[stream] = wire[step:]
                windows[stream] -= step
            for each in peer.take():
                if each.stream:
                    windows[each.stream] += int.from_bytes(each.payload, "big")
        held = max(held, peer.core._assembled_bytes)
        assert progress, "stuck"

    assert all(call.read() == bytes(size) for call in peer.core.calls)
    assert held <= options.assembly_budget + 4 * options.stream_window + size


def test_discarded_data_keeps_the_connection_window_open() -> None:
    peer = Peer()
    opened(peer)
    peer.send(window_update(1, 0))

    for _ in range(3000):
        peer.send(data(1, bytes(16_384)))
        peer.take()

    assert not peer.core.closing


# The end


def test_drain_in_two_steps() -> None:
    peer = Peer()
    running = requested(peer, stream=1)

    peer.core.announce_drain()
    first, ping = peer.take()
    assert (first.kind, first.payload[:4]) == (GOAWAY, b"\x7f\xff\xff\xff")
    under_way = requested(peer, stream=3)
    (second,) = peer.ask(frame(PING, ACK, 0, ping.payload))
    assert (second.kind, second.payload) == (GOAWAY, b"\0\0\0\x03\0\0\0\0")

    assert peer.ask(unary(5), headers(7, UP), data(7, b"x"), window_update(7, 1)) == []
    assert peer.core.open_calls == 2
    running.respond(b"1")
    assert peer.core.close_reason == ""
    under_way.respond(b"3")

    assert peer.core.closing
    assert peer.core.close_reason == "drained"
    assert [each.stream for each in peer.take() if each.flags & END_STREAM] == [1, 3]


def test_drain_of_an_idle_connection_ends_it() -> None:
    peer = Peer()

    peer.core.announce_drain()
    peer.core.drain()

    assert peer.core.closing


def test_close_says_goodbye_and_ends_calls() -> None:
    peer = Peer()
    call = requested(peer)
    peer.take()

    (event,) = peer.core.close("stopping")

    assert event.call is call  # type: ignore[union-attr]
    assert peer.goodbye()[0] == E.NO_ERROR
    assert peer.core.close() == []


def test_lost_connection_ends_calls_without_a_word() -> None:
    peer = Peer()
    call = requested(peer)
    call.send(bytes(200_000))
    peer.take()

    (event,) = peer.core.lost()

    assert event.call is call  # type: ignore[union-attr]
    assert call.send(b"more"), "it goes nowhere, and nobody waits for it"
    assert peer.take() == []
    assert peer.core.lost() == []
    assert peer.core.take_drained() == [call], "its writer is woken"
