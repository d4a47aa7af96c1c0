"""armitage.witness.redaction: what of an exchange may be written down."""

from __future__ import annotations

import pytest

from armitage.observability.redaction import Redactor
from armitage.witness.redaction import Redaction

SECRET = "hunter2hunter2"
REDACTION = Redaction(bytes(32), Redactor([SECRET]).text)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@h.example/a",
        f"https://{SECRET}@h.example/a",
        f"https://h.example/{SECRET}/a",
        f"https://h.example/a?X-Amz-Signature={SECRET}",
        f"https://h.example/a?sig={SECRET}&b=1",
        f"https://h.example/a?anything={SECRET}",
        f"https://h.example/a?version={SECRET}",
        f"https://h.example/a?{SECRET}=1",
        f"https://h.example/a?{SECRET}",
        f"https://h.example/a#access_token={SECRET}",
        "https://h.example/a?token=correct-horse",
        "https://h.example/a?q=correct-horse",
        "https://h.example/a?correct-horse",
        "https://correct-horse@h.example/a",
        "https://h.example/a#correct-horse",
    ],
)
def test_no_secret_of_a_url_is_kept(url: str) -> None:
    kept = REDACTION.url(url)

    assert SECRET not in kept
    assert "correct-horse" not in kept
    assert kept.startswith("https://h.example/")


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/a/b.tar.gz",
        "https://h.example:8443/x.git/info/refs?service=git-upload-pack",
        "http://h.example/pkg?go-get=1&version=1.2.3",
        "https://[2001:db8::1]:1/",
        "https://h.example/a%20b/%7Ec",
    ],
)
def test_what_is_harmless_is_kept_as_it_is(url: str) -> None:
    assert REDACTION.url(url) == url


def test_whether_two_fetches_asked_for_the_same_can_be_seen() -> None:
    first, same, other = (
        REDACTION.url(f"https://h/a?q={value}") for value in ("a%20b", "a+b", "c")
    )

    assert first == same != other


def test_a_hash_cannot_be_guessed_without_the_key() -> None:
    other = Redaction(b"\1" * 32, str)

    assert other.tag("x") != REDACTION.tag("x")


def test_only_known_headers_are_kept() -> None:
    sent = [
        ("Host", "h.example"),
        ("Authorization", "Basic abc"),
        ("Proxy-Authorization", "x"),
        ("Cookie", "a=b"),
        ("X-Api-Key", "k"),
        ("Private-Token", "t"),
        ("User-Agent", f"pip/24 ({SECRET})"),
    ]

    assert REDACTION.request_headers(sent) == [
        ["host", "h.example"],
        ["user-agent", "pip/24 ((redacted))"],
    ]


def test_a_redirects_target_is_kept_like_any_url() -> None:
    sent = [("Location", f"https://s3.example/a?X-Amz-Signature={SECRET}"), ("Set-Cookie", "a=b")]

    (kept,) = REDACTION.response_headers(sent)

    assert kept[0] == "location"
    assert kept[1].startswith("https://s3.example/a?X-Amz-Signature=~")
    assert SECRET not in kept[1]
