"""armitage.witness.heads."""

from __future__ import annotations

import pytest

from armitage.witness.heads import (
    Refused,
    Target,
    check_response_framing,
    connect_target,
    downstream_headers,
    head_fault,
    parse_authority,
    plain_target,
    tunnel_target,
    upstream_headers,
)
from armitage.witness.policy import Fetch

HOST = (b"Host", b"h.example")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("h.example:443", ("h.example", 443)),
        ("H.Example.:1", ("h.example", 1)),
        ("h.example", ("h.example", 80)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:DB8::1]:443", ("2001:db8::1", 443)),
        ("[::1]", ("::1", 80)),
    ],
)
def test_an_authority_is_a_host_and_a_port(text: str, found: tuple[str, int]) -> None:
    assert parse_authority(text, 80) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "h.example:",
        "h.example:0",
        "h.example:65536",
        "h.example:a",
        "h:1:2",
        "::1",
        "[h.example]:1",
        "[192.0.2.1]:1",
        "[::1",
        "u@h.example:1",
        "h.example/a",
        "h..example",
        "h\t",
    ],
)
def test_what_is_no_authority_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_authority(text, 80)

    assert refused.value.status == 400


def test_connect_says_host_and_port() -> None:
    assert connect_target(b"h.example:443", [(b"Host", b"h.example:443")]) == ("h.example", 443)
    assert connect_target(b"h.example:443", [(b"Host", b"h.example")]) == ("h.example", 443)
    assert connect_target(b"h.example:443", []) == ("h.example", 443)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"h.example", []),
        (b"http://h.example/", []),
        (b"h.example:443", [(b"Host", b"other.example:443")]),
        (b"h.example:443", [(b"Host", b"h.example:80")]),
        (b"h.example:443", [(b"Content-Length", b"1")]),
        (b"h.example:443", [(b"Transfer-Encoding", b"chunked")]),
        (b"\xff:443", []),
    ],
)
def test_a_strange_connect_is_refused(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refused):
        connect_target(target, headers)


def test_a_plain_request_names_the_whole_url() -> None:
    target = plain_target(b"GET", b"http://h.example:81/a/b?c=d", [(b"Host", b"h.example:81")])

    assert target == Target("http", "h.example", 81, "/a/b?c=d", "GET", "/a/b")
    assert target.url == "http://h.example:81/a/b?c=d"
    assert target.fetch == Fetch("h.example", 81, "GET", "/a/b")
    assert plain_target(b"GET", b"http://h.example", [HOST]).target == "/"


@pytest.mark.parametrize(
    "target",
    [b"/", b"*", b"https://h.example/", b"ftp://h.example/", b"http:///a", b"http://[/", b"//h/a"],
)
def test_what_is_no_url_for_a_proxy_is_refused(target: bytes) -> None:
    with pytest.raises(Refused):
        plain_target(b"GET", target, [HOST])


def test_a_request_in_a_tunnel_goes_where_the_tunnel_leads() -> None:
    target = tunnel_target("h.example", 443, b"GET", b"/a?b", [HOST])

    assert target.url == "https://h.example/a?b"
    v6 = tunnel_target("2001:db8::1", 8443, b"GET", b"/", [(b"Host", b"[2001:db8::1]:8443")])
    assert v6.url == "https://[2001:db8::1]:8443/"


@pytest.mark.parametrize("host", [b"other.example", b"h.example:444", b"x.h.example"])
def test_fronting_is_refused(host: bytes) -> None:
    with pytest.raises(Refused) as refused:
        tunnel_target("h.example", 443, b"GET", b"/", [(b"Host", host)])

    assert (refused.value.status, refused.value.rule) == (421, "fronting")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [HOST, HOST],
        [HOST, (b"Content-Length", b"1"), (b"Content-Length", b"2")],
        [HOST, (b"Content-Length", b"1"), (b"Content-Length", b"1")],
        [HOST, (b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [HOST, (b"Transfer-Encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"Transfer-Encoding", b"gzip, chunked")],
        [HOST, (b"Transfer-Encoding", b"identity")],
        [HOST, (b"Upgrade", b"websocket"), (b"Connection", b"upgrade")],
    ],
)
def test_what_two_readers_may_understand_differently_is_refused(
    headers: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(Refused):
        tunnel_target("h.example", 443, b"POST", b"/", headers)


@pytest.mark.parametrize("target", [b"http://h.example/", b"/a/../b", b"/%2e%2e/b", b"*", b""])
def test_a_path_in_a_tunnel_is_plain(target: bytes) -> None:
    with pytest.raises(Refused):
        tunnel_target("h.example", 443, b"GET", target, [HOST])


def test_the_origin_gets_what_is_for_it() -> None:
    target = tunnel_target("h.example", 443, b"GET", b"/", [HOST])
    sent = [
        HOST,
        (b"Accept", b"*/*"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Connection", b"keep-alive, X-Private"),
        (b"X-Private", b"1"),
        (b"If-None-Match", b'"a"'),
        (b"TE", b"trailers"),
        (b"Content-Length", b"3"),
        (b"Authorization", b"mine"),
    ]

    assert upstream_headers(target, sent, [(b"authorization", b"Bearer theirs")]) == [
        (b"host", b"h.example"),
        (b"Accept", b"*/*"),
        (b"Content-Length", b"3"),
        (b"authorization", b"Bearer theirs"),
    ]


def test_a_chunked_upload_stays_one() -> None:
    target = tunnel_target("h.example", 443, b"PUT", b"/", [HOST])

    assert (b"Transfer-Encoding", b"chunked") in upstream_headers(
        target, [HOST, (b"Transfer-Encoding", b"chunked")]
    )


def test_the_client_gets_nothing_that_leads_round_the_proxy() -> None:
    sent = [
        (b"Content-Type", b"a/b"),
        (b"Alt-Svc", b'h3=":443"'),
        (b"Strict-Transport-Security", b"max-age=1"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Content-Length", b"3"),
    ]

    assert downstream_headers(sent) == [(b"Content-Type", b"a/b"), (b"Content-Length", b"3")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"1"), (b"Content-Length", b"2")],
        [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip")],
    ],
)
def test_an_answer_whose_end_is_in_doubt_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refused) as refused:
        check_response_framing(headers)

    assert refused.value.status == 502


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""),
        (b"GET / HTTP/1.1\r\n\r\n", ""),
        (b"GET / HTTP/1.1\n\n", "a line of its head ends in LF without CR"),
        (b"GET / HTTP/1.1\r\nA: b\n\r\n", "a line of its head ends in LF without CR"),
        (b"GET / HTTP/1.1\r\nA: b\r\n\n", "a line of its head ends in LF without CR"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n", "a header goes on in the next line"),
        (b"GET / HTTP/1.1\r\nA: b\r\n\t\r\n\r\n", "a header goes on in the next line"),
    ],
)
def test_a_head_is_read_in_one_way_or_not_at_all(head: bytes, fault: str) -> None:
    assert head_fault(head) == fault
