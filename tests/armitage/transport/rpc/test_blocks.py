from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st
from support.peers import parse_frames

from armitage.transport.http2 import frames
from armitage.transport.port import Code, Status
from armitage.transport.rpc import blocks
from armitage.transport.rpc.metadata import decode_binary, decode_message


def decode(block: bytes) -> dict[str, str]:
    return {str(name): str(value) for name, value in Decoder(1 << 20).decode(block)}


def test_response_headers() -> None:
    assert decode(blocks.RESPONSE) == {":status": "200", "content-type": "application/grpc"}


@given(st.sampled_from(Code), st.text(max_size=400), st.binary(max_size=400))
def test_trailers_say_the_status(code: Code, message: str, details: bytes) -> None:
    fields = decode(blocks.trailers(Status(code, message, details)))

    assert int(fields.pop("grpc-status")) == code
    assert (
        decode_message(fields.pop("grpc-message", "").encode())
        == message.encode("utf-8", "replace").decode()
    )
    assert decode_binary(fields.pop("grpc-status-details-bin", "").encode()) == details
    assert not fields


def test_ok_is_said_the_same_way_each_time() -> None:
    assert blocks.trailers(Status(Code.OK)) is blocks.OK_TRAILERS


def test_response_without_messages_has_both() -> None:
    assert decode(blocks.trailers_only(Status(Code.NOT_FOUND, "no"))) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "5",
        "grpc-message": "no",
    }


def test_unimplemented_says_which_encodings_are_taken() -> None:
    assert decode(blocks.trailers_only(Status(Code.UNIMPLEMENTED)))["grpc-accept-encoding"] == (
        "identity,gzip"
    )


def test_wrong_method_is_told_the_right_one() -> None:
    assert decode(blocks.http_error(405, 7)) == {
        ":status": "405",
        "allow": "POST",
        "content-type": "text/plain; charset=utf-8",
        "content-length": "7",
    }


def test_large_blocks_go_on_in_continuations() -> None:
    block = blocks.literal(b"grpc-message", b"x" * 40_000)

    first, second, third = parse_frames(blocks.header_frames(b"\0\0\0\x05", block, ends=True))

    assert [each.kind for each in (first, second, third)] == [
        frames.HEADERS,
        frames.CONTINUATION,
        frames.CONTINUATION,
    ]
    assert [each.flags for each in (first, second, third)] == [
        frames.END_STREAM,
        0,
        frames.END_HEADERS,
    ]
    assert {each.stream for each in (first, second, third)} == {5}
    assert first.payload + second.payload + third.payload == block
