from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hpack import Decoder, Encoder

from armitage.observability.context import bound_fields
from armitage.observability.logs import LogFormat, LogLevel, LogOptions, open_logs
from armitage.observability.redaction import REDACTED, Redactor

log = logging.getLogger("armitage.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def opened(stream: io.StringIO, **options: Any) -> io.StringIO:
    open_logs(LogOptions(**options), stream, Redactor(["hunter2"]))
    return stream


def lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_are_json_where_no_terminal_is() -> None:
    stream = opened(io.StringIO())
    with bound_fields(invocation="inv", action="act", client="bazel"):
        log.info("stored %d blobs", 3, extra={"digest": "ab/2"})

    [line] = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "armitage.test",
        "message": "stored 3 blobs",
        "invocation": "inv",
        "action": "act",
        "client": "bazel",
        "digest": "ab/2",
    }


def test_lines_are_text_on_a_terminal() -> None:
    stream = opened(Terminal())
    with bound_fields(invocation="inv", client="a b"):
        log.warning("careful")

    assert stream.getvalue().endswith(' warning careful  [invocation=inv client="a b"]\n')


def test_format_can_be_chosen() -> None:
    json_on_terminal = opened(Terminal(), format=LogFormat.JSON)
    log.info("one")
    text_in_file = opened(io.StringIO(), format=LogFormat.TEXT)
    log.info("two")

    assert lines(json_on_terminal)[0]["message"] == "one"
    assert text_in_file.getvalue().endswith("info    two\n")


def test_level_decides_what_is_written() -> None:
    stream = opened(io.StringIO(), level=LogLevel.WARNING)
    log.info("quiet")
    log.warning("loud")

    assert [line["message"] for line in lines(stream)] == ["loud"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_no_secret_is_written(stream: io.StringIO) -> None:
    opened(stream)
    try:
        raise ValueError("hunter2 is the password")
    except ValueError:
        with bound_fields(authorization="Bearer abc123", note="hunter2"):
            log.exception("authorization: Bearer abc123 and hunter2", extra={"api_key": "abc123"})

    assert "hunter2" not in stream.getvalue()
    assert "abc123" not in stream.getvalue()
    assert REDACTED in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_client_text_cannot_forge_lines_or_drive_the_terminal() -> None:
    stream = opened(Terminal())
    with bound_fields(client="evil\n12:00:00 error forged\x1b[2J"):
        log.info("named \x1b]0;title\x07 by\r\nthe client\u2028")

    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()


def test_endless_message_is_cut() -> None:
    stream = opened(io.StringIO())
    log.info("x" * 1_000_000)

    assert len(stream.getvalue()) < 10_000
    assert "(1000000 characters)" in lines(stream)[0]["message"]


def test_headers_of_requests_are_not_logged_at_level_debug() -> None:
    stream = io.StringIO()
    open_logs(LogOptions(LogLevel.DEBUG), stream, Redactor())
    block = Encoder().encode([("x-session", "a-secret-that-no-rule-knows")])

    assert Decoder().decode(block)
    assert "a-secret" not in stream.getvalue()
