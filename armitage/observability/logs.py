"""Structured logs: each line carries what `armitage.observability.context` knows of its call.

Text on a terminal, one JSON object a line otherwise. Nothing a client sends can break a line or
reach the terminal as a control character, and everything passes the redactor.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from armitage.observability.context import current_fields
from armitage.observability.redaction import Redactor

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MESSAGE_CHARS = 8192
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_LINE_BREAKS = {0x2028: "\\u2028", 0x2029: "\\u2029"}
_KEPT_IN_TRACES = {ord("\n"): "\n", ord("\t"): "\t"}


class LogFormat(StrEnum):
    """How lines are written."""

    AUTO = "auto"
    """Text if the stream is a terminal, JSON otherwise."""
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is logged, and how."""

    level: LogLevel = LogLevel.INFO
    """`debug` has a line for each call."""
    format: LogFormat = LogFormat.AUTO


_TELLTALES = ("hpack", "boto3", "botocore")
"""Loggers of libraries that at level debug write out all they see: every header with its value,
whatever secret it holds (botocore signs session tokens).
"""


def open_logs(options: LogOptions, stream: TextIO, redactor: Redactor) -> logging.Handler:
    """Sends all logging of the process to the stream, in place of where it went before."""
    is_text = options.format is LogFormat.TEXT or (
        options.format is LogFormat.AUTO and stream.isatty()
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(redactor) if is_text else JsonFormatter(redactor))
    handler.addFilter(_add_fields)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(options.level.upper())
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler


def _add_fields(record: logging.LogRecord) -> bool:
    """Notes what is known where the line was logged; the formatter may run elsewhere."""
    record.fields = current_fields()
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then whatever is known."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Answers the line, without its end."""
        line = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.text(_message(record)),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, self._redactor.field(name, value))
        trace = _trace(self, record)
        if trace:
            line["trace"] = self._redactor.text(trace)
        return json.dumps(line, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """For people: time, level, message, then what is known as name=value."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Answers the line, without its end; a traceback adds indented ones."""
        moment = _time(record).astimezone().strftime("%H:%M:%S")
        message = self._redactor.text(_message(record))
        line = f"{moment} {record.levelname.lower():<7} {_printable(message)}"
        known = [
            f"{name}={_quoted(self._redactor.field(name, value))}"
            for name, value in _fields(record).items()
        ]
        if known:
            line += f"  [{' '.join(known)}]"
        trace = _trace(self, record)
        if trace:
            safe = self._redactor.text(trace).translate(
                {**_CONTROL, **_LINE_BREAKS, **_KEPT_IN_TRACES}
            )
            line += "\n    " + safe.replace("\n", "\n    ")
        return line


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if len(message) <= _MESSAGE_CHARS:
        return message
    return f"{message[:_MESSAGE_CHARS]}... ({len(message)} characters)"


def _time(record: logging.LogRecord) -> dt.datetime:
    return dt.datetime.fromtimestamp(record.created, dt.UTC)


def _fields(record: logging.LogRecord) -> Mapping[str, str]:
    """What the context knows, and what the line was given as `extra`."""
    known = dict(getattr(record, "fields", None) or {})
    for name, value in vars(record).items():
        if name not in _STANDARD and name != "fields":
            known[name] = str(value)
    return known


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _printable(text: str) -> str:
    return text.translate({**_CONTROL, **_LINE_BREAKS})


def _quoted(value: str) -> str:
    safe = _printable(value)
    return json.dumps(safe, ensure_ascii=False) if set(safe) & set(' "[]=') else safe
