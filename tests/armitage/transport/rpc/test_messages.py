from __future__ import annotations

import gzip
import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.peers import message

from armitage.transport.port import Code
from armitage.transport.rpc.failure import RpcFailure
from armitage.transport.rpc.messages import Compressed, MessageReader

LIMIT = 10_000


@pytest.mark.slow
@given(
    st.lists(st.binary(max_size=40) | st.integers(0, LIMIT).map(bytes), max_size=6),
    st.lists(st.integers(0, 30_000), max_size=8),
)
def test_messages_are_the_same_however_they_are_split(
    messages: list[bytes], cuts: list[int]
) -> None:
    wire = b"".join(message(each) for each in messages)
    bounds = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    reader = MessageReader(LIMIT, gzip=False)

    found = []
    for start, stop in itertools.pairwise(bounds):
        found += reader.feed(wire[start:stop])

    assert found == messages
    assert all(type(each) is bytes for each in found)
    assert reader.is_between
    assert reader.size == 0


def test_every_split_of_two_messages() -> None:
    wire = message(b"first") + message(b"second")

    for cut in range(len(wire) + 1):
        reader = MessageReader(LIMIT, gzip=False)
        assert reader.feed(wire[:cut]) + reader.feed(wire[cut:]) == [b"first", b"second"]
        if 0 < cut < len(wire):
            partial = MessageReader(LIMIT, gzip=False)
            partial.feed(wire[:cut])
            assert partial.is_between == (cut == len(message(b"first")))


def test_message_in_crumbs_costs_little_more_than_its_bytes() -> None:
    reader = MessageReader(1 << 20, gzip=False)
    wire = message(bytes(1 << 17))

    for at in range(0, len(wire) - 1, 2):
        reader.feed(wire[at : at + 2])

    assert sum(sys.getsizeof(piece) for piece in reader._pieces) < 1.5 * len(wire)


def test_large_pieces_are_not_copied_before_the_message_is_whole() -> None:
    reader = MessageReader(1 << 20, gzip=False)
    chunk = message(bytes(100_000))[:60_000]

    reader.feed(memoryview(chunk))
    reader.let_go(len(chunk))

    assert [piece.obj for piece in reader._pieces if isinstance(piece, memoryview)] == [chunk]
    assert reader.feed(bytes(40_005)) == [bytes(100_000)]


def test_view_of_a_small_part_of_a_chunk_is_let_go() -> None:
    reader = MessageReader(1 << 20, gzip=False)
    wire = message(bytes(range(200)) * 500)

    reader.feed(memoryview(wire)[:5000])
    reader.let_go(1 << 18)
    reader.feed(memoryview(wire)[5000:10_000])
    reader.feed(memoryview(wire)[10_000:15_000])
    reader.let_go(1 << 18)

    assert not any(isinstance(piece, memoryview) for piece in reader._pieces)
    assert reader.feed(wire[15_000:]) == [bytes(range(200)) * 500]


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        pytest.param(b"\x00\x00\x00\x27\x11", Code.RESOURCE_EXHAUSTED, id="one over the limit"),
        pytest.param(b"\x00\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED, id="4 GiB"),
        pytest.param(b"\x02\x00\x00\x00\x00", Code.INTERNAL, id="unknown flag"),
        pytest.param(b"\x01\x00\x00\x00\x00", Code.INTERNAL, id="compressed, but not announced"),
    ],
)
def test_bad_prefix_is_refused_before_the_message_comes(prefix: bytes, code: Code) -> None:
    with pytest.raises(RpcFailure) as caught:
        MessageReader(LIMIT, gzip=False).feed(prefix)

    assert caught.value.status.code == code


def _compressed(data: bytes) -> Compressed:
    (found,) = MessageReader(LIMIT, gzip=True).feed(message(data, compressed=True))
    assert isinstance(found, Compressed)
    return found


def test_gzip_is_expanded() -> None:
    assert _compressed(gzip.compress(b"text" * 100)).expand() == b"text" * 100


def test_message_that_is_not_marked_is_not_expanded() -> None:
    assert MessageReader(LIMIT, gzip=True).feed(message(b"plain")) == [b"plain"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(gzip.compress(bytes(LIMIT + 1)), Code.RESOURCE_EXHAUSTED, id="bomb"),
        pytest.param(gzip.compress(b"text")[:-1], Code.INTERNAL, id="truncated"),
        pytest.param(gzip.compress(b"text") + b"x", Code.INTERNAL, id="trailing junk"),
        pytest.param(b"junk", Code.INTERNAL, id="junk"),
        pytest.param(b"", Code.INTERNAL, id="nothing"),
    ],
)
def test_bad_gzip_is_refused(data: bytes, code: Code) -> None:
    with pytest.raises(RpcFailure) as caught:
        _compressed(data).expand()

    assert caught.value.status.code == code


def test_gzip_of_exactly_the_limit_is_expanded() -> None:
    assert _compressed(gzip.compress(bytes(LIMIT))).expand() == bytes(LIMIT)
