import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from armitage.canonical import NotCanonical, canonical, parse_canonical

NAMES = st.text(st.characters(max_codepoint=127), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
)
ANY_VALUES = st.recursive(
    SCALARS | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
)


@settings(max_examples=100)
@given(VALUES)
def test_it_is_what_rfc_8785_says(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@settings(max_examples=200)
@given(ANY_VALUES)
def test_what_would_be_written_otherwise_is_refused(value: Any) -> None:
    try:
        found = canonical(value)
    except NotCanonical:
        return
    assert found == rfc8785.dumps(value)


@pytest.mark.parametrize("character", [chr(number) for number in range(0x80)])
def test_every_ascii_character_is_written_as_rfc_8785_says(character: str) -> None:
    assert canonical({character: character}) == rfc8785.dumps({character: character})


@settings(max_examples=100)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    assert parse_canonical(canonical(value)) == value


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=3), ANY_VALUES, max_size=3), st.booleans())
def test_other_encoders_are_read_where_they_write_the_same(value: Any, ascii_only: bool) -> None:
    try:
        data = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only
        ).encode()
        found = parse_canonical(data)
    except (NotCanonical, UnicodeEncodeError):
        return
    assert rfc8785.dumps(found) == data


class Text(StrEnum):
    A = "a"


@dataclass
class Thing:
    a: int = 1


def test_text_by_another_name_is_text() -> None:
    assert canonical({"a": [Text.A], "b": ("c",)}) == b'{"a":["a"],"b":["c"]}'


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.5},
        {"a": [{"b": (2.0,)}]},
        {"a": float("nan")},
        {"a": 2**53},
        {"a": -(2**53)},
        {"\u00e4": 1},
        {"a": [{"\U0001f600": 1, "\uffff": 2}]},
        {"a": "\ud800"},
        {1: 2},
        {"a": b"b"},
        {"a": Thing()},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        {"a": {1, 2}},
    ],
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_what_lies_too_deep_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(NotCanonical):
        canonical(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"a"',
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1}\n',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":-0}',
        b'{"a":NaN}',
        b'{"a":9007199254740992}',
        b'{"a":100000000000000000000}',
        b'{"a":"\\u0061"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\/"}',
        b'{"a":"\xff"}',
        '{"\u00e4":1}'.encode(),
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_only_the_one_form_is_read(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse_canonical(data)
