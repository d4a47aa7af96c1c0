"""The decoder against the library's own."""

import pytest
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from armitage.transport.http2.huffman import InvalidHuffman, decode

_encode = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


@given(st.binary(max_size=200))
def test_decodes_what_the_library_encodes(text: bytes) -> None:
    assert decode(_encode(text)) == text


@given(st.binary(max_size=12).map(lambda junk: junk + b"\xff") | st.binary(max_size=12))
def test_agrees_with_the_library_on_anything(encoded: bytes) -> None:
    try:
        expected = bytes(decode_huffman(encoded))
    except HPACKError:
        with pytest.raises(InvalidHuffman):
            decode(encoded)
    else:
        assert decode(encoded) == expected


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(b"\xff\xff\xff\xff", id="end-of-string symbol"),
        pytest.param(_encode(b"a") + b"\xff", id="a whole byte of padding"),
        pytest.param(b"\x18", id="padding of zeros"),
    ],
)
def test_refuses_what_is_no_encoding(encoded: bytes) -> None:
    with pytest.raises(InvalidHuffman):
        decode(encoded)
