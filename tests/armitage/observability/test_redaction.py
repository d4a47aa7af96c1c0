from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.observability.redaction import _PATTERNS, REDACTED, Redactor

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("authorization: Bearer abc.def-123", "abc.def-123"),
        ("Authorization=Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("headers {'authorization': 'Bearer s3cret'}", "s3cret"),
        ("metadata (('authorization', 'Bearer s3cret'), ('x', 'y'))", "s3cret"),
        ('{"x-api-key": "s3cret"}', "s3cret"),
        ("cookie: session=s3cret; other", "s3cret"),
        ("password=s3cret", "s3cret"),
        ("AWS_SECRET_ACCESS_KEY=s3cret", "s3cret"),
        ("BUILD_TOKEN=s3cret", "s3cret"),
        ("client_secret: s3cret", "s3cret"),
        ("sent Bearer abcdef123456 along", "abcdef123456"),
        ("fetching https://user:s3cret@example.com/x", "s3cret"),
        (f"got {JWT} from the client", JWT),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789abcdefghijABCDEFGHIJ"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----",
            "MHcCAQ",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQ", "MHcCAQ"),
        ("known plain words", "plain"),
    ],
)
def test_secrets_do_not_pass(text: str, secret: str) -> None:
    redacted = Redactor(["plain"]).text(text)

    assert secret not in redacted
    assert REDACTED in redacted


@pytest.mark.parametrize(
    "text",
    [
        "blobs/6e3402a5e2d3f4c97f3e1b7d1f0f4a5c/12 stored",
        "listen address 127.0.0.1:8980: is already in use",
        "basic authentication is not supported",
        "the token bucket is empty",
        "grpc://127.0.0.1:8980 and http://localhost:8982/metrics",
        "page_token of ListOperations",
        "/usr/bin/env python3 -m password_store",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Redactor().text(text) == text


@given(st.text("0123456789abcdef.:-", max_size=200))
def test_what_is_not_searched_has_no_pattern(text: str) -> None:
    assert not any(pattern.search(text) for pattern in _PATTERNS)


@pytest.mark.parametrize("secret", ["1234", "dead-beef"])
def test_a_known_secret_that_looks_plain_does_not_pass(secret: str) -> None:
    assert Redactor([secret]).text(f"00{secret}00") == f"00{REDACTED}00"


def test_field_with_a_secret_name_is_redacted() -> None:
    redactor = Redactor()

    assert redactor.field("authorization", "whatever") == REDACTED
    assert redactor.field("bucket_password", "whatever") == REDACTED
    assert redactor.field("invocation", "whatever") == "whatever"


def test_empty_secrets_redact_nothing() -> None:
    assert Redactor(["", "abc", "abcdef"]).text("x abcdef y") == f"x {REDACTED} y"


@pytest.mark.parametrize(
    "piece", ["password", "a-", "://a:", "token=", "bearer ", "eyJ", "-----BEGIN"]
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """A generous bound: quadratic search would take minutes."""
    redactor = Redactor()
    began = time.process_time()
    redactor.text(piece * (200_000 // len(piece)))

    assert time.process_time() - began < 5
