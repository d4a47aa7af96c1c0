"""What segments are made of: bytes to values and back, with no byte taken on trust."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.digest import DigestFunction
from cas.keys import key_of
from cas.records import (
    ALIGNMENT,
    Damaged,
    Encoding,
    Kind,
    Record,
    Table,
    decode,
    decode_gone,
    decode_touched,
    encode,
    encode_gone,
    encode_touched,
    parse_trailer,
    salt_of,
    segment_header,
    trailer,
)

SALT = b"saltsalt"
KEYS = st.binary(min_size=0, max_size=300)


def blob_record(size: int, function: DigestFunction = DigestFunction.SHA256) -> Record:
    data = random.Random(size).randbytes(size)
    return Record(Kind.BLOB, key_of(function.digest(data)), data, 7)


@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 5000])
def test_blob_is_read_back(function: DigestFunction, size: int) -> None:
    record = blob_record(size, function)

    data = b"".join(encode(record, SALT))

    assert len(data) == record.size_bytes
    assert len(data) % ALIGNMENT == 0
    assert decode(data) == record


@given(KEYS, st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_any_result_is_read_back(key: bytes, body: bytes, time: int) -> None:
    record = Record(Kind.RESULT, key, body, time)

    assert decode(b"".join(encode(record, SALT))) == record


@pytest.mark.parametrize(
    "record",
    [
        blob_record(20),
        Record(Kind.RESULT, b"R1:xkey", b"result", 1),
        blob_record(20)._replace(encoding=Encoding.ZSTD, body=b"not looked into"),
    ],
)
def test_every_flipped_bit_and_truncation_is_damage(record: Record) -> None:
    intact = b"".join(encode(record, SALT))
    end = len(intact) - (-(24 + len(record.key) + len(record.body)) % ALIGNMENT)

    for at in range(end):
        for bit in range(8):
            flipped = intact[:at] + bytes([intact[at] ^ 1 << bit]) + intact[at + 1 :]
            with pytest.raises(Damaged):
                decode(flipped)
        with pytest.raises(Damaged):
            decode(intact[:at])


@given(st.binary(max_size=200))
def test_whatever_else_there_is_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode(data)


def test_segment_header_with_a_flipped_bit_has_no_salt() -> None:
    header = segment_header(SALT)

    assert salt_of(header) == SALT
    for at in range(len(header)):
        assert salt_of(header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :]) is None
        assert salt_of(header[:at]) is None


def test_trailer_with_a_flipped_bit_is_none() -> None:
    end = trailer(12345, SALT)

    assert parse_trailer(end) == (12345, SALT)
    for at in range(len(end)):
        assert parse_trailer(end[:at] + bytes([end[at] ^ 1]) + end[at + 1 :]) is None
    assert parse_trailer(b"") is None


@given(st.lists(KEYS, max_size=20))
def test_table_is_read_back(keys: list[bytes]) -> None:
    table = Table()
    offset = 32
    for number, key in enumerate(keys):
        record = Record(Kind.RESULT, key, bytes(number), number)
        table.add(record, offset)
        offset += record.size_bytes

    again = Table.decode(table.encode())

    assert list(again.rows()) == list(table.rows())
    assert [row[0] for row in again.rows()] == keys


def test_table_cut_short_is_damage() -> None:
    table = Table()
    table.add(blob_record(10), 32)
    body = table.encode()

    for end in range(len(body)):
        with pytest.raises(Damaged):
            Table.decode(body[:end])


@given(st.lists(st.tuples(st.integers(1, 2**48 - 1), KEYS)))
def test_places_of_what_is_gone_are_read_back(places: list[tuple[int, bytes]]) -> None:
    assert list(decode_gone(encode_gone(places))) == places


@given(st.lists(KEYS))
def test_keys_that_were_touched_are_read_back(keys: list[bytes]) -> None:
    assert list(decode_touched(encode_touched(keys))) == keys
