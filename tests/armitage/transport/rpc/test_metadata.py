import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.transport.rpc.metadata import (
    decode_binary,
    decode_message,
    decode_text,
    encode_binary,
    encode_message,
    parse_timeout,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0n", 0),
        (b"1H", 3600),
        (b"2M", 120),
        (b"10S", 10),
        (b"250m", 0.25),
        (b"99999999u", 99.999999),
        (b"1000n", 1e-6),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b"1.5S", b"123456789S", b"1SS", b" 1S", b"1S\n"],
)
def test_malformed_timeouts_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        parse_timeout(value)


@given(st.text())
def test_messages_survive_their_encoding(message: str) -> None:
    encoded = encode_message(message)

    assert encoded.isascii()
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert decode_message(encoded) == message.encode("utf-8", "replace").decode()


def test_only_what_must_be_encoded_is() -> None:
    assert encode_message("50% of ~ ö\n") == b"50%25 of ~ %C3%B6%0A"


@given(st.binary())
def test_binary_values_survive_their_encoding(value: bytes) -> None:
    assert decode_binary(encode_binary(value)) == value


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (b"YQ==", b"a"),
        (b"YQ", b"a"),
        (b"YWI=", b"ab"),
        (b"", b""),
        pytest.param(b"YQ,Yg", b"b", id="several values"),
        pytest.param(b"\0\r\n\0,", b"\r\n\0,", id="not encoded"),
        pytest.param(b"YQ==, Yg==", b"b", id="several padded values"),
    ],
)
def test_binary_values_with_and_without_padding(value: bytes, decoded: bytes) -> None:
    assert decode_binary(value) == decoded


@pytest.mark.parametrize("value", [b"Y", b"Y!==", b"YQ\x00", b"YW=I", b"Y Q"])
def test_what_is_no_base64_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_binary(value)


def test_text_that_is_not_utf8_is_kept() -> None:
    assert decode_text(b"\xc3\xb6") == "ö"
    assert decode_text(b"\xf6") == "ö"
