"""What to look for in a record, as a command line, a URL or a form says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from armitage.audit.rows import hash_of
from armitage.errors import InvalidRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
OUTCOMES = ("fetched", "refused", "failed")
_TEXTS = ("host", "session", "identity", "invocation", "instance", "log", "kind", "text")
_HASH_PREFIX = re.compile(r"[0-9a-f]{4,128}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_WORD = re.compile(r"[a-z][a-z-]{0,40}")
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Query:
    """All that is set must hold. Answers come newest first, unless `after` is set."""

    host: str = ""
    """A host, or `*.example.com` for it and all below it."""
    digest: str = ""
    """The beginning of the hash of a body, record, output or input."""
    action: str = ""
    session: str = ""
    identity: str = ""
    invocation: str = ""
    instance: str = ""
    log: str = ""
    """The name of one of the record's logs."""
    kind: str = ""
    outcome: str = ""
    text: str = ""
    """A part of the URL, or of why something was refused."""
    since_s: float | None = None
    until_s: float | None = None
    before: int | None = None
    """Only entries before this index."""
    after: int | None = None
    """Only entries after this index, oldest first."""
    limit: int = DEFAULT_LIMIT

    def parameters(self, **changed: object) -> str:
        """As the query part of a URL, with some parameters changed."""
        told = {name: getattr(self, name) for name in (*_TEXTS, "digest", "action", "outcome")}
        told |= {"since": self.since_s, "until": self.until_s}
        told |= {"before": self.before, "after": self.after}
        told["limit"] = None if self.limit == DEFAULT_LIMIT else self.limit
        told |= changed
        return urlencode({k: v for k, v in told.items() if v not in {None, ""}})


def parse_query(table: Mapping[str, str]) -> Query:
    """Reads parameters; empty ones count as not there. Raises InvalidRequest, naming the one at
    fault.
    """
    given = {name: value.strip() for name, value in table.items() if value.strip()}
    known = {*_TEXTS, "digest", "action", "outcome", "since", "until", "before", "after", "limit"}
    for name in given:
        if name not in known:
            raise InvalidRequest(f"{name}: unknown filter; there are {', '.join(sorted(known))}")
    for name, value in given.items():
        if len(value) > _MAX_TEXT:
            raise InvalidRequest(f"{name}: at most {_MAX_TEXT} characters")
    fields: dict[str, Any] = {name: given[name] for name in _TEXTS if name in given}
    if "digest" in given:
        fields["digest"] = parse_hash("digest", given["digest"])
    if "action" in given:
        fields["action"] = parse_action(given["action"])
    if "outcome" in given and given["outcome"] not in OUTCOMES:
        raise InvalidRequest(f"outcome: is one of {', '.join(OUTCOMES)}")
    if not _WORD.fullmatch(given.get("kind", "open")):
        raise InvalidRequest("kind: is one word, such as open, exchange, close or attestation")
    fields["outcome"] = given.get("outcome", "")
    for name in ("since", "until"):
        if name in given:
            fields[f"{name}_s"] = parse_time(name, given[name])
    for name in ("before", "after"):
        if name in given:
            fields[name] = parse_number(name, given[name])
    if "limit" in given:
        limit = parse_number("limit", given["limit"])
        fields["limit"] = max(1, min(MAX_LIMIT, limit))
    if "host" in fields:
        fields["host"] = fields["host"].lower()
    return replace(Query(), **fields)


def parse_hash(name: str, text: str) -> str:
    """The beginning of a hash, with or without function and size. Raises InvalidRequest."""
    bare = text.lower().rpartition(":")[2].partition("/")[0]
    if not _HASH_PREFIX.fullmatch(bare):
        raise InvalidRequest(f"{name}: {text!r} is no hash; give at least its first 4 hex digits")
    return bare


def parse_action(text: str) -> str:
    """The whole hash of an action. Raises InvalidRequest."""
    hashed = hash_of(text.lower())
    if not hashed:
        raise InvalidRequest(f"action: {text!r} is no digest; give HASH or HASH/SIZE")
    return hashed


def parse_number(name: str, text: str) -> int:
    """Raises InvalidRequest."""
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest(f"{name}: {text!r} is not a whole number")
    return int(text)


def parse_time(name: str, text: str) -> float:
    """Seconds since 1970, or an ISO 8601 date or time (UTC unless it says otherwise). Raises
    InvalidRequest.
    """
    try:
        return float(text) if re.fullmatch(r"[0-9]{1,11}(\.[0-9]+)?", text) else _iso(text)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name}: {text!r} is no time; write 2026-01-31, 2026-01-31T12:00 or seconds since 1970"
        ) from None


def _iso(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
