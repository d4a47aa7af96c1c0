from __future__ import annotations

import pytest
from support.peers import HEADERS

from armitage.transport.http2.codes import ErrorCode, StreamFault
from armitage.transport.port import Code
from armitage.transport.rpc.head import Head, RequestRules

Pair = tuple[bytes, bytes]


def read(fields: list[Pair]) -> Head:
    rules = RequestRules()
    return rules.assemble([rules.classify(name, value) for name, value in fields])


def having(*extra: Pair, without: bytes = b"", **changed: bytes) -> list[Pair]:
    """The usual headers, some of them different. `_` in a name stands for `:` in front."""
    values = {**HEADERS, **{name.replace("_", ":").encode(): v for name, v in changed.items()}}
    return [(name, value) for name, value in values.items() if name != without] + list(extra)


def test_request_is_read() -> None:
    head = read(
        having(
            (b"grpc-timeout", b"5S"),
            (b"user-agent", b"test"),
            (b"x-bin", b"YQ"),
            (b"repeated", b"1"),
            (b"repeated", b"2"),
        )
    )

    assert head.path == "/t.T/Unary"
    assert head.timeout_s == 5
    assert head.metadata == {"user-agent": "test", "x-bin": b"a", "repeated": "2"}
    assert head.refusal is None
    assert head.http_status == 0


MALFORMED = [
    pytest.param(having(without=b":method"), id="no method"),
    pytest.param(having(without=b":scheme"), id="no scheme"),
    pytest.param(having(without=b":path"), id="no path"),
    pytest.param(having(_path=b""), id="empty path"),
    pytest.param([*having(), (b":path", b"/again")], id="pseudo-header after others"),
    pytest.param([(b":path", b"/first"), *having()], id="pseudo-header twice"),
    pytest.param([(b":protocol", b"websocket"), *having()], id="unknown pseudo-header"),
    pytest.param([(b":status", b"200"), *having()], id="pseudo-header of responses"),
    pytest.param([(b":", b"x"), *having()], id="pseudo-header without a name"),
    pytest.param(having((b"X-Upper", b"1")), id="upper case"),
    pytest.param(having((b"", b"1")), id="empty name"),
    pytest.param(having((b"a b", b"1")), id="space in a name"),
    pytest.param(having((b"a:b", b"1")), id="colon in a name"),
    pytest.param(having((b"\xc3\xb6", b"1")), id="name that is not ASCII"),
    pytest.param(having((b"a\n", b"1")), id="line end in a name"),
    pytest.param(having((b"a", b"1\r\nb: 2")), id="line end in a value"),
    pytest.param(having((b"a", b"1\n")), id="line end after a value"),
    pytest.param(having((b"a", b"\x00")), id="NUL in a value"),
    pytest.param(having((b"a", b" 1")), id="space before a value"),
    pytest.param(having((b"a", b"1\t")), id="tab after a value"),
    pytest.param(having((b"connection", b"close")), id="connection"),
    pytest.param(having((b"transfer-encoding", b"chunked")), id="transfer-encoding"),
    pytest.param(having((b"keep-alive", b"1")), id="keep-alive"),
    pytest.param(having((b"proxy-connection", b"1")), id="proxy-connection"),
    pytest.param(having((b"upgrade", b"h2c")), id="upgrade"),
    pytest.param(having(te=b"gzip"), id="te other than trailers"),
    pytest.param(having((b"host", b"elsewhere")), id="host against authority"),
    pytest.param(having((b"content-length", b"-1")), id="negative length"),
    pytest.param(having((b"content-length", b"1e3")), id="length that is no number"),
    pytest.param(having((b"content-length", b"9" * 19)), id="huge length"),
    pytest.param(having((b"content-length", b"1"), (b"content-length", b"2")), id="two lengths"),
    pytest.param(having(_method=b"CONNECT"), id="CONNECT with a path"),
]


@pytest.mark.parametrize("fields", MALFORMED)
def test_malformed_request_is_a_stream_error(fields: list[Pair]) -> None:
    with pytest.raises(StreamFault) as caught:
        read(fields)

    assert caught.value.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (having(_method=b"GET"), 405),
        ([(b":method", b"CONNECT"), (b":authority", b"elsewhere:1")], 405),
        (having(without=b"content-type"), 415),
        ([*having(without=b"content-type"), (b"content-type", b"application/grpc-web")], 415),
        ([*having(without=b"content-type"), (b"content-type", b"text/html")], 415),
    ],
)
def test_what_is_no_grpc_gets_an_http_status(fields: list[Pair], status: int) -> None:
    assert read(fields).http_status == status


@pytest.mark.parametrize(
    "kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/gRPC"]
)
def test_kinds_of_grpc_are_taken(kind: bytes) -> None:
    assert read([*having(without=b"content-type"), (b"content-type", kind)]).http_status == 0


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ((b"grpc-timeout", b"soon"), Code.INTERNAL),
        ((b"grpc-encoding", b"snappy"), Code.UNIMPLEMENTED),
        ((b"x-bin", b"!"), Code.INTERNAL),
    ],
)
def test_what_is_no_valid_grpc_gets_a_status(field: Pair, code: Code) -> None:
    refusal = read(having(field)).refusal

    assert refusal is not None
    assert refusal.code == code
    assert field[0].decode() in refusal.message


def test_binary_metadata_may_come_as_it_is() -> None:
    assert read(having((b"x-bin", b"\0 \r\n\0"))).metadata == {"x-bin": b" \r\n\0"}
    with pytest.raises(StreamFault):
        read(having((b"x-bin", b"\r\n")))
    with pytest.raises(StreamFault):
        read(having((b"x-text", b"\0 \r\n")))


def test_encodings_that_we_know() -> None:
    assert read(having((b"grpc-encoding", b"gzip"))).gzip
    assert not read(having((b"grpc-encoding", b"identity"))).gzip


def test_te_may_be_missing() -> None:
    assert read(having(without=b"te")).refusal is None


def test_trailers_must_be_well_formed_and_without_pseudo_headers() -> None:
    rules = RequestRules()

    rules.check_trailers([rules.classify(b"checksum", b"1")])
    for name, value in [(b":path", b"/"), (b"Upper", b"1")]:
        with pytest.raises(StreamFault):
            rules.check_trailers([rules.classify(name, value)])
