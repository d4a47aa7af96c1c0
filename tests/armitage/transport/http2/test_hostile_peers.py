"""Peers that mean harm: each is stopped or held off, counted, and costs little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hpack import Encoder
from support.peers import (
    BIDI,
    HEADERS,
    HELLO,
    UNARY,
    UP,
    Peer,
    block,
    data,
    frame,
    headers,
    message,
    unary,
)

from armitage.transport.http2 import frames
from armitage.transport.http2.codes import ErrorCode
from armitage.transport.http2.options import Http2Options
from armitage.transport.rpc.server import Opened, Requested

MIB = 1 << 20
DEEP = 1 << 20
"""More frames than any flood needs to be noticed."""


def flood(peer: Peer, make: Callable[[int], bytes]) -> int:
    """Sends until the connection ends, reading all that comes; answers after how many."""
    for number in range(DEEP):
        for event in peer.send(make(number)):
            if isinstance(event, Requested):
                event.call.respond(bytes(MIB))
        peer.core.take_output()
        if peer.core.closing:
            return number
    raise AssertionError("the flood was let through")


FLOODS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "rapid reset": (
        lambda n: headers(2 * n + 1, UP) + frames.rst_stream(2 * n + 1, 8),
        "reset_floods",
    ),
    "resets that we are made to send": (
        lambda n: headers(2 * n + 1, UP, ends=True) + data(2 * n + 1, b"x"),
        "reset_floods",
    ),
    "malformed requests": (
        lambda n: headers(2 * n + 1, UP, {b"connection": b"close"}),
        "reset_floods",
    ),
    "pings": (lambda _: frames.ping(bytes(8)), "ping_floods"),
    "answers to pings never sent": (lambda _: frames.ping(bytes(8), ack=True), "ping_floods"),
    "settings": (lambda _: frames.settings({}), "settings_floods"),
    "large settings": (
        lambda n: frames.settings({frames.INITIAL_WINDOW_SIZE: n}),
        "settings_floods",
    ),
    "goaways": (lambda _: frames.goaway(0, 0), "settings_floods"),
    "empty data": (
        lambda n: (headers(1, UP) if n == 0 else b"") + frame(frames.DATA, 0, 1),
        "empty_frame_floods",
    ),
    "data of padding": (
        lambda n: (
            (headers(1, UP) if n == 0 else b"")
            + frame(frames.DATA, frames.PADDED, 1, b"\xff" + bytes(255))
        ),
        "empty_frame_floods",
    ),
    "priorities": (lambda n: frame(frames.PRIORITY, 0, 2 * n + 1, bytes(5)), "priority_floods"),
    "unknown frames": (lambda _: frame(0x77, 0, 0, b"x"), "priority_floods"),
    "window updates": (lambda _: frames.window_update(0, 1), "window_update_floods"),
    "window updates of a stream": (
        lambda n: (headers(1, UP) if n == 0 else b"") + frames.window_update(1, 1),
        "window_update_floods",
    ),
    "answers drawn out in crumbs": (
        lambda n: (
            frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + unary(1, path=UNARY)
            if n == 0
            else frames.window_update(1, 1)
        ),
        "window_update_floods",
    ),
    "data after our reset": (
        lambda n: (headers(1, UP) + frames.window_update(1, 0) if n == 0 else b"") + data(1, b"x"),
        "late_frame_floods",
    ),
    "resets after the end": (
        lambda n: (unary(1, path="/none") if n == 0 else b"") + frames.rst_stream(1, 8),
        "late_frame_floods",
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_is_ended_and_counted(name: str) -> None:
    make, counter = FLOODS[name]
    peer = Peer()

    frames_borne = flood(peer, make)

    assert 50 <= frames_borne <= 2500
    assert peer.core.close_reason.startswith("ENHANCE_YOUR_CALM")
    assert peer.counters[counter] == 1
    assert peer.core.open_calls == 0


@pytest.mark.parametrize("name", FLOODS)
def test_what_is_a_flood_at_once_is_none_over_hours(name: str) -> None:
    make, counter = FLOODS[name]
    peer = Peer()

    for number in range(3000):
        peer.now += 1.0
        peer.send(make(number))
        peer.core.take_output()

    assert not peer.core.closing
    assert counter not in peer.counters


def test_continuations_without_end_are_ended() -> None:
    for piece in (b"", b"x", bytes(16_384)):
        peer = Peer(Http2Options(burst=10_000))
        peer.send(frame(frames.HEADERS, 0, 1, block(HEADERS)))

        more = frame(frames.CONTINUATION, 0, 1, piece)
        borne = flood(peer, lambda _: more)  # noqa: B023 - called before the next round

        assert borne <= 128
        assert peer.counters["continuation_floods"] == 1


def test_bombs_of_headers_cost_no_memory() -> None:
    encoder = Encoder()
    bomb = encoder.encode([*HEADERS.items(), (b"bomb", b"x" * 4000)])
    peer = Peer(greet=False)
    peer.send(HELLO)
    peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, bomb))
    reference = encoder.encode([(b"bomb", b"x" * 4000)])
    tracemalloc.start()

    peer.send(frame(frames.HEADERS, frames.END_HEADERS, 3, reference * 16_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(reference) == 1
    assert peer.counters["header_bombs"] == 1
    assert peer.core.closing
    assert peak < 4 * MIB


def test_table_that_is_set_to_nothing_holds_nothing() -> None:
    peer = Peer()

    peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x3f\xe1\x1f" + block(HEADERS)))

    assert peer.goodbye()[0] == ErrorCode.COMPRESSION_ERROR


@pytest.mark.slow
def test_new_headers_for_ever_fill_no_memory() -> None:
    peer = Peer(Http2Options(burst=1_000_000))

    for number in range(4200):
        for stream in (4 * number + 1, 4 * number + 3):
            peer.send(headers(stream, "/none", {b"key": b"%d" % number}, ends=True))
        peer.core.take_output()

    memory = peer.server.memory
    assert len(memory.heads) <= 2 * 512
    assert 4096 <= len(memory.fields) <= 2 * 4096


def test_unread_output_is_what_the_peer_asked_for_and_no_more() -> None:
    peer = Peer(Http2Options(burst=100_000))

    peer.send(frames.ping(bytes(8)) * 1000)

    assert peer.core.output_bytes == 17 * 1000


def test_huge_declared_message_costs_nothing_until_it_comes() -> None:
    peer = Peer(receive_limit_bytes=1 << 32)
    tracemalloc.start()

    for number in range(500):
        peer.send(headers(2 * number + 1, UP), data(2 * number + 1, b"\0\xff\xff\xff\xff12345"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 2 * MIB


def test_small_pieces_do_not_pin_the_large_chunks_that_they_came_in() -> None:
    peer = Peer(receive_limit_bytes=1 << 30)
    peer.send(*(headers(stream, UP) for stream in range(1, 400, 2)))
    tracemalloc.start()

    for stream in range(1, 400, 2):
        filler = frame(0x77, 0, 0, bytes(16_384)) * 15
        peer.send(data(stream, b"\0\x3f\0\0\0" + bytes(8192)) + filler)
        peer.core.take_output()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 200 * 8192 + MIB


def test_many_tiny_messages_hold_the_window_back() -> None:
    peer = Peer()
    peer.send(headers(1, UP))
    peer.take()
    window = peer.core.options.stream_window

    sent = 0
    while window >= 5000:
        peer.send(data(1, message(b"") * 1000))
        sent += 1000
        window -= 5000
        window += sum(
            int.from_bytes(each.payload, "big") for each in peer.take() if each.stream == 1
        )

    assert sent * 5 <= peer.core.options.stream_window


def test_peer_that_opens_no_window_holds_one_message_for_each_call() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    blob = memoryview(bytes(MIB))
    tracemalloc.start()

    for number in range(500):
        (event,) = peer.send(headers(2 * number + 1, BIDI))
        assert isinstance(event, Opened)
        assert not event.call.send((blob,))
        peer.core.take_output()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 2 * MIB


@pytest.mark.slow
def test_frame_in_single_bytes_is_put_together_in_little_memory() -> None:
    peer = Peer()
    wire = unary(1, b"x" * 20_000, path=UNARY)
    tracemalloc.start()

    events = [event for byte in wire for event in peer.send(bytes([byte]))]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [type(event).__name__ for event in events] == ["Opened", "Requested"]
    assert peak < 200_000


def test_streams_never_ended_are_limited() -> None:
    peer = Peer(Http2Options(max_streams=100))

    borne = flood(peer, lambda n: headers(2 * n + 1, UP))

    assert peer.counters["refused_streams"] >= 1000
    assert peer.counters["reset_floods"] == 1
    assert borne < 2500
