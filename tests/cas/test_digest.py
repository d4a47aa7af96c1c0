"""Digests (cas/digest.py)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import InvalidDigest

functions = st.sampled_from(DigestFunction)


@given(functions, st.binary(max_size=100))
def test_a_function_names_what_it_hashes(function: DigestFunction, data: bytes) -> None:
    digest = function.digest(data)

    assert digest == Digest(function, digest.hash, len(data))
    assert len(digest.hash) == function.hex_length
    assert digest.is_empty == (not data)


@given(
    functions,
    st.data(),
    st.sampled_from("0123456789abcdefABCDEFg +-_\n\0é\ud800"),
)
def test_only_lowercase_hex_of_the_right_length_is_a_hash(
    function: DigestFunction, data: st.DataObject, odd: str
) -> None:
    length = function.hex_length + data.draw(st.integers(-1, 1))
    at = data.draw(st.integers(0, length - 1))
    text = "a" * at + odd + "a" * (length - at - 1)

    if length == function.hex_length and re.fullmatch("[0-9a-f]", odd):
        assert Digest(function, text, 1).hash == text
    else:
        with pytest.raises(InvalidDigest):
            Digest(function, text, 1)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidDigest, match="negative"):
        Digest(DigestFunction.SHA1, "a" * 40, -1)


def test_a_zero_size_with_another_hash_is_not_the_empty_blob() -> None:
    assert not Digest(DigestFunction.SHA1, "a" * 40, 0).is_empty


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4096, 16_376, 16_377, 100_000])
@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_a_whole_blob_is_hashed_as_in_pieces(
    size: int, function: DigestFunction, form: Callable[[bytes], Buffer]
) -> None:
    data = random.Random(size).randbytes(size)
    hasher = function.hasher()
    hasher.update(data)

    assert function.hex_of(form(data)) == hasher.hexdigest()
