"""However the bytes of a client are split, the same comes of them. And whatever bytes come, the
core neither fails nor says what is no HTTP/2.

By hand, for longer: `pytest --hypothesis-profile=fuzz` on this file and its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.peers import (
    BIDI,
    DOWN,
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
    parse_frames,
    unary,
)

from armitage.transport.http2 import frames
from armitage.transport.rpc.messages import Compressed
from armitage.transport.rpc.server import Ended, Event, Opened, Readable, Requested, ServerCall

pytestmark = pytest.mark.slow

SPLITS_KEPT = 40

streams = st.sampled_from([1, 3, 5, 7, 9])
paths = st.sampled_from([UNARY, DOWN, UP, BIDI, "/none"])
bodies = st.lists(st.binary(max_size=30).map(message), max_size=3).map(b"".join)
junk = st.binary(max_size=12)


@st.composite
def padded(draw: st.DrawFn) -> bytes:
    payload = draw(bodies)
    padding = draw(st.integers(0, 20))
    flags = frames.PADDED | draw(st.sampled_from([0, frames.END_STREAM]))
    return frame(frames.DATA, flags, draw(streams), bytes([padding]) + payload + bytes(padding))


@st.composite
def continued(draw: st.DrawFn) -> bytes:
    payload = block({**HEADERS, b":path": draw(paths).encode()})
    cut = draw(st.integers(0, len(payload)))
    stream = draw(streams)
    ends = draw(st.sampled_from([0, frames.END_STREAM]))
    return frame(frames.HEADERS, ends, stream, payload[:cut]) + frame(
        frames.CONTINUATION, frames.END_HEADERS, stream, payload[cut:]
    )


moves = st.one_of(
    st.builds(headers, streams, paths, ends=st.booleans()),
    st.builds(data, streams, bodies, ends=st.booleans()),
    st.builds(data, streams, st.binary(max_size=40)),
    st.builds(unary, streams, st.binary(max_size=30), paths),
    padded(),
    continued(),
    st.builds(frames.rst_stream, streams, st.integers(0, 14)),
    st.builds(frames.window_update, st.just(0) | streams, st.integers(1, 1000)),
    st.builds(frame, st.just(frames.PRIORITY), st.just(0), streams, st.just(bytes(5))),
    st.builds(frames.ping, st.just(b"12345678")),
    st.just(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20, 0x99: 1})),
    st.just(frames.SETTINGS_ACK),
    st.just(frame(0x55, 3, 1, b"unknown")),
)
anything = st.one_of(
    moves,
    st.builds(
        frame, st.integers(0, 11), st.integers(0, 255), st.just(0) | streams, st.binary(max_size=20)
    ),
    junk,
)


def splits(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length), max_size=SPLITS_KEPT).map(
        lambda cuts: sorted({0, *cuts, length})
    )


class Outcome:
    """What a client's bytes led to, less what depends on the turns they came in."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        peer = Peer(greet=False)
        self.told: list[tuple[Any, ...]] = []
        calls: dict[int, ServerCall] = {}
        for part in parts:
            for event in peer.send(part):
                self._note(event, calls)
        self.read = {stream: list(iter(call.read, None)) for stream, call in calls.items()}
        self.ends = {stream: (call.ended, call.exhausted) for stream, call in calls.items()}
        self.reason = peer.core.close_reason
        self.counters = peer.counters
        self.windows = peer.core.send_window, peer.core.peer_window, peer.core.last_stream
        # When windows are opened again does depend on it.
        said = peer.take_bytes()
        self.said = (
            said
            if said.startswith(b"HTTP/1")
            else [each for each in parse_frames(said) if each.kind != frames.WINDOW_UPDATE]
        )

    def _note(self, event: Event, calls: dict[int, ServerCall]) -> None:
        match event:
            case Opened(call) if call.streams:
                calls[call.id] = call
                self.told.append(("opened", call.id, call.path, call.metadata))
            case Opened() | Readable():
                pass  # Only when the rest comes in another turn.
            case Requested(call, request):
                body = request.data if isinstance(request, Compressed) else request
                self.told.append(("requested", call.id, call.path, body))
            case Ended(call, reason):
                # A call that was opened in an earlier turn only.
                if call.streams or call.requested:
                    self.told.append(("ended", call.id, reason))


def cut(wire: bytes, bounds: Sequence[int]) -> list[bytes]:
    return [wire[start:stop] for start, stop in itertools.pairwise(bounds)]


@given(st.data(), st.lists(moves, max_size=15).map(b"".join))
def test_what_is_right_means_the_same_however_it_is_split(
    choice: st.DataObject, wire: bytes
) -> None:
    wire = HELLO + wire
    bounds = choice.draw(splits(len(wire)))

    assert vars(Outcome(cut(wire, bounds))) == vars(Outcome([wire]))


@given(st.data(), st.lists(anything, max_size=15).map(b"".join))
def test_what_is_wrong_means_the_same_however_it_is_split(
    choice: st.DataObject, wire: bytes
) -> None:
    wire = choice.draw(st.sampled_from([HELLO, HELLO, b"", b"GET / HTTP/1.1\r\n\r\n"])) + wire
    bounds = choice.draw(splits(len(wire)))

    assert vars(Outcome(cut(wire, bounds))) == vars(Outcome([wire]))


def test_single_bytes_mean_the_same() -> None:
    wire = (
        HELLO
        + frames.SETTINGS_ACK
        + unary(1, b"one")
        + headers(3, UP)
        + data(3, message(b"a") + message(b"bc")[:4])
        + frames.ping(bytes(8))
        + frame(frames.DATA, frames.PADDED, 3, b"\x03" + message(b"bc")[4:] + bytes(3))
        + frames.rst_stream(1, 8)
        + data(3, message(b""), ends=True)
        + headers(5, "/none", ends=True)
    )

    whole = Outcome([wire])
    assert vars(Outcome([bytes([byte]) for byte in wire])) == vars(whole)
    assert whole.read == {3: [b"a", b"bc", b""]}

    for at in range(len(wire)):
        assert vars(Outcome([wire[:at], wire[at:]])) == vars(whole)


@given(st.lists(anything, max_size=30), st.booleans())
def test_whatever_comes_the_core_stays_sound(parts: list[bytes], greet: bool) -> None:
    peer = Peer(greet=greet)
    said = b""

    for part in parts:
        for event in peer.send(part):
            if isinstance(event, Requested):
                event.call.respond(b"x" * 100)
            elif isinstance(event, Opened) and event.call.streams:
                event.call.send(b"y")
        for call in list(peer.core.calls):
            while call.read() is not None:
                pass
        said += peer.take_bytes()

    if peer.core.close_reason != "the client speaks HTTP/1":
        parse_frames(said)
    assert peer.core.unread == sum(call.unread for call in peer.core.calls)
    assert peer.core._assembled_bytes == sum(call.assembling for call in peer.core.calls)
    assert all(call.gone is False for call in peer.core.calls)
    peer.core.lost()
    assert peer.core.open_calls == 0
    assert peer.core.unread == 0
    assert peer.core._assembled_bytes == 0
    assert peer.core._grown == 0
