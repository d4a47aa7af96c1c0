import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from armitage.attest.canonical import canonical, parse_canonical
from armitage.attest.errors import MalformedAttestation

NAMES = st.text(st.characters(max_codepoint=127), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
)


@settings(max_examples=50)
@given(VALUES)
def test_it_is_what_rfc_8785_says(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    assert parse_canonical(canonical(value)) == value


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
        b'{"a":NaN}',
        b'{"a":9007199254740992}',
        b'{"a":"\\u0061"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        '{"ä":1}'.encode(),
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_only_the_one_form_is_read(data: bytes) -> None:
    with pytest.raises(MalformedAttestation):
        parse_canonical(data)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(MalformedAttestation):
        canonical({"a": json.loads('"\\ud800"')})
