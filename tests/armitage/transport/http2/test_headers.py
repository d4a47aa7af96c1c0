"""Header blocks, against the library that encodes them."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from armitage.transport.http2.codes import ConnectionFault, ErrorCode
from armitage.transport.http2.headers import HeaderMemory, HeaderReader, HeadersTooLarge

Pair = tuple[bytes, bytes]


class Plain:
    """Rules that leave everything as it is."""

    def __init__(self) -> None:
        self.classified = 0

    def classify(self, name: bytes, value: bytes) -> Pair:
        self.classified += 1
        return name, value

    def assemble(self, fields: list[Pair]) -> tuple[Pair, ...]:
        return tuple(fields)

    def check_trailers(self, fields: list[Pair]) -> None:
        pass


def reader(*, stateless: bool = True, limit: int = 1 << 16) -> HeaderReader[Pair, tuple[Pair, ...]]:
    made = HeaderReader(HeaderMemory(Plain(), limit))
    if stateless:
        made.forget_table()
    return made


def stateless_encoder() -> Encoder:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder


names = st.sampled_from(
    [b":path", b":method", b":status", b"content-type", b"x", b"grpc-timeout", b"a" * 200]
) | st.binary(min_size=1, max_size=20)
values = st.sampled_from([b"POST", b"/", b"200", b"", b"v" * 300]) | st.binary(max_size=40)
lists = st.lists(st.tuples(names, values, st.booleans()), max_size=12)


@pytest.mark.slow
@given(lists, st.booleans())
def test_reads_what_the_library_writes_without_a_table(
    fields: list[tuple[bytes, bytes, bool]], huffman: bool
) -> None:
    block = stateless_encoder().encode(fields, huffman=huffman)
    subject = reader()

    expected = tuple((name, value) for name, value, _ in fields)
    assert subject.head(block) == expected
    assert subject.head(block) == expected, "the memory gives the same"


@pytest.mark.slow
@given(st.lists(lists, max_size=4), st.booleans())
def test_reads_what_the_library_writes_with_a_table(
    blocks: list[list[tuple[bytes, bytes, bool]]], huffman: bool
) -> None:
    encoder = Encoder()
    subject = reader(stateless=False)

    for fields in blocks:
        block = encoder.encode(fields, huffman=huffman)
        assert subject.head(block) == tuple((name, value) for name, value, _ in fields)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.binary(max_size=60))
def test_agrees_with_the_library_on_anything(block: bytes) -> None:
    decoder = Decoder()
    decoder.header_table_size = 0
    decoder.max_allowed_table_size = 0
    try:
        expected = tuple((bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True))
    except HPACKError:
        with pytest.raises(ConnectionFault) as caught:
            reader().head(block)
        assert caught.value.code == ErrorCode.COMPRESSION_ERROR
    else:
        assert reader().head(block) == expected


@pytest.mark.slow
@given(lists.filter(bool), st.data())
def test_truncated_block_is_no_block(
    fields: list[tuple[bytes, bytes, bool]], choice: st.DataObject
) -> None:
    encoder = stateless_encoder()
    encoder.encode([])
    whole = encoder.encode(fields)
    cut = choice.draw(st.integers(0, len(whole) - 1))
    ends = [len(stateless_encoder().encode(fields[:count])) for count in range(len(fields))]
    if cut + len(stateless_encoder().encode([])) in ends:
        return

    with pytest.raises(ConnectionFault):
        reader().head(whole[:cut])


def test_fields_are_looked_at_once_for_all_connections() -> None:
    rules = Plain()
    memory = HeaderMemory(rules, 1 << 16)
    encoder = stateless_encoder()
    first = encoder.encode([(b"a", b"1"), (b"b", b"2")])
    second = encoder.encode([(b"b", b"2"), (b"c", b"3")])
    looked = rules.classified

    for block in [first, second, first, second]:
        subject = HeaderReader(memory)
        subject.forget_table()
        subject.head(block)

    assert rules.classified - looked == 3


def test_blocks_are_remembered_when_all_their_fields_are_known() -> None:
    memory = HeaderMemory(Plain(), 1 << 16)
    subject = HeaderReader(memory)
    subject.forget_table()
    encoder = stateless_encoder()
    common, unique = [(b"a", b"1"), (b"b", b"2")], [(b"a", b"1"), (b"c", b"3")]

    for fields in (common, unique):
        subject.head(encoder.encode(fields))
    assert len(memory.heads) == 0
    first = subject.head(encoder.encode(common))

    assert len(memory.heads) == 1
    assert subject.head(encoder.encode(common)) is first


def test_dynamic_entries_are_refused_once_the_table_is_gone() -> None:
    encoder = Encoder()
    subject = reader(stateless=False)
    subject.head(encoder.encode([(b"a", b"1")]))
    indexed = encoder.encode([(b"a", b"1")])
    assert subject.head(indexed) == ((b"a", b"1"),)

    subject.forget_table()

    with pytest.raises(ConnectionFault) as caught:
        subject.head(indexed)
    assert caught.value.code == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("stateless", [True, False])
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="index 62"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff\x7f", id="index beyond 64 bits"),
        pytest.param(b"\x7e\x01a", id="name 62"),
        pytest.param(b"\x3f\xe2\x1f", id="table size 4097"),
        pytest.param(b"\x82\x20", id="table size after a field"),
        pytest.param(b"\x00\x05ab", id="name past the end"),
        pytest.param(b"\x00\x01a\x05bc", id="value past the end"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\x7f", id="length beyond 32 bits"),
        pytest.param(b"\x00\x01a\x81\x00", id="Huffman padding of zeros"),
    ],
)
def test_what_is_no_hpack_ends_the_connection(block: bytes, stateless: bool) -> None:
    with pytest.raises(ConnectionFault) as caught:
        reader(stateless=stateless).head(block)

    assert caught.value.code == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("stateless", [True, False])
def test_list_over_the_limit_is_told_apart_from_what_is_wrong(stateless: bool) -> None:
    subject = reader(stateless=stateless, limit=100)
    block = stateless_encoder().encode([(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")])

    with pytest.raises(HeadersTooLarge):
        subject.head(block)
    assert subject.head(stateless_encoder().encode([(b"a", b"1")])) == ((b"a", b"1"),)


def test_bomb_of_references_to_the_table_ends_the_connection() -> None:
    encoder = Encoder()
    subject = reader(stateless=False, limit=1 << 14)
    subject.head(encoder.encode([(b"bomb", b"x" * 4000)]))
    reference = encoder.encode([(b"bomb", b"x" * 4000)])
    assert len(reference) == 1

    with pytest.raises(ConnectionFault) as caught:
        subject.head(reference * 10_000)

    assert caught.value.counter == "header_bombs"


def test_peer_that_never_acknowledges_is_not_read_for_ever() -> None:
    encoder = Encoder()
    subject = reader(stateless=False)
    block = encoder.encode([(b"long", b"x" * 4000)], huffman=False)

    for _ in range((512 << 10) // len(block)):
        subject.head(block)
    with pytest.raises(ConnectionFault) as caught:
        subject.head(block)

    assert caught.value.code == ErrorCode.SETTINGS_TIMEOUT


def test_trailers_and_skipped_blocks_keep_the_table_right() -> None:
    encoder = Encoder()
    subject = reader(stateless=False)

    subject.trailers(encoder.encode([(b"one", b"1")]))
    subject.skip(encoder.encode([(b"two", b"2")]))

    assert subject.head(encoder.encode([(b"one", b"1"), (b"two", b"2")])) == (
        (b"one", b"1"),
        (b"two", b"2"),
    )
