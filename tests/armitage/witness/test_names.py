"""armitage.witness.names: what a resolver that knows only what was granted answers."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.witness.names import Names

A, AAAA, NO_SUCH_NAME, FORMAT_ERROR, NOT_IMPLEMENTED = 1, 28, 3, 1, 4


def query(name: str, kind: int = A, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, flags, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)


def names(network: str = "198.18.0.0/15") -> Names:
    return Names(lambda name: name.endswith("h.example"), IPv4Network(network))


def code_and_answers(message: bytes) -> tuple[int, int]:
    _, flags, _, answers, _, _ = struct.unpack_from(">6H", message)
    assert flags & 0x8000
    return flags & 0xF, answers


def test_a_granted_name_gets_a_placeholder_that_leads_back_to_it() -> None:
    known = names()
    answered = known.answer(query("H.Example"))

    assert answered is not None
    assert (answered.name, answered.granted) == ("h.example", True)
    assert code_and_answers(answered.message) == (0, 1)
    address = ".".join(map(str, answered.message[-4:]))
    assert address.startswith("198.18.")
    assert known.name_of(address) == "h.example"
    again = known.answer(query("h.example"))
    assert again is not None
    assert again.message[-4:] == answered.message[-4:]


def test_a_granted_name_has_no_ipv6_address() -> None:
    answered = names().answer(query("h.example", AAAA))

    assert answered is not None
    assert code_and_answers(answered.message) == (0, 0)


def test_other_names_do_not_exist() -> None:
    answered = names().answer(query("other.example"))

    assert answered is not None
    assert not answered.granted
    assert code_and_answers(answered.message) == (NO_SUCH_NAME, 0)


def test_placeholders_end_without_being_shared() -> None:
    known = names("198.18.0.0/30")
    messages = [known.answer(query(f"{n}.h.example")) for n in range(3)]

    assert [code_and_answers(m.message) for m in messages if m] == [(0, 1), (0, 1), (2, 0)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (query("h.example")[:-3], FORMAT_ERROR),
        (struct.pack(">6H", 7, 0, 2, 0, 0, 0) + query("h.example")[12:], FORMAT_ERROR),
        (struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", FORMAT_ERROR),
        (query("h.example", flags=0x2800), NOT_IMPLEMENTED),
    ],
)
def test_what_cannot_be_read_is_told_so(data: bytes, code: int) -> None:
    answered = names().answer(data)

    assert answered is not None
    assert code_and_answers(answered.message) == (code, 0)


def test_an_answer_is_no_query() -> None:
    assert names().answer(query("h.example", flags=0x8180)) is None


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    names().answer(data)
