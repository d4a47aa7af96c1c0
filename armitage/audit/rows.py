"""What is known of one log entry, flat, as the index keeps it and a list shows it.

Anything that an entry or its record does not say is empty. Entries of a kind that is not known here
are listed all the same, with what can be read of them: a log is never shown shorter than it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

_HASH = re.compile(r"(?:[a-z0-9]+:)?([0-9a-f]{40,128})(?:/[0-9]+)?")
UNKNOWN = "unknown"


class Link(NamedTuple):
    """That an entry names a blob, an action or an artefact, and as what."""

    role: str
    """body, decoded or sent (of an exchange); output, input or fetched (of an attestation); record
    or action.
    """
    hash: str


@dataclass(frozen=True, slots=True)
class Row:
    """One entry. Times are seconds since 1970, hashes are bare hex."""

    index: int
    """Of all entries of the record, those of logs that have ended included."""
    kind: str
    session: str = ""
    number: int = 0
    at_s: float | None = None
    action: str = ""
    identity: str = ""
    invocation: str = ""
    instance: str = ""
    target: str = ""
    host: str = ""
    method: str = ""
    url: str = ""
    status: int | None = None
    outcome: str = ""
    """fetched, refused or failed."""
    size_bytes: int = 0
    body: str = ""
    note: str = ""
    """The rule that refused it, or what went wrong."""
    links: tuple[Link, ...] = field(default=(), compare=False)
    log: str = ""
    """Which log has the entry."""
    log_index: int = 0
    """Where in that log."""
    is_past: bool = False
    """Whether that log has ended."""


class Named(NamedTuple):
    """The blob that an entry names."""

    hash: str
    size_bytes: int


def hash_of(text: object) -> str:
    """The bare hash in `[FUNCTION:]HASH[/SIZE]`; empty for anything else."""
    match = _HASH.fullmatch(text) if isinstance(text, str) else None
    return "" if match is None else match[1]


def read_json(data: bytes) -> dict[str, Any]:
    """An object, or an empty one for what is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def record_of(entry: Mapping[str, Any]) -> Named | None:
    """Which blob an entry names."""
    hashed, size_bytes = hash_of(entry.get("record")), entry.get("size_bytes")
    return Named(hashed, size_bytes) if hashed and isinstance(size_bytes, int) else None


def row_of(index: int, entry: bytes, record: bytes | None) -> Row:
    """Flattens an entry and the record that it names (None: it is not there)."""
    head = read_json(entry)
    told = {} if record is None else read_json(record)
    kind = _text(head, "kind") or UNKNOWN
    named = record_of(head)
    links = [] if named is None else [Link("record", named.hash)]
    match kind:
        case "exchange" if told:
            return _exchange(index, head, told, links)
        case "open":
            return _opened(index, head, told, links)
        case "close":
            return Row(
                index,
                kind,
                _text(head, "session"),
                _int(head, "number"),
                _seconds(told.get("time")),
                links=tuple(links),
            )
    return _decided(index, kind, head, record)


def _exchange(
    index: int, head: Mapping[str, Any], told: Mapping[str, Any], links: list[Link]
) -> Row:
    response, request = _table(told, "response"), _table(told, "request")
    body, decision = _table(response, "body"), _table(told, "decision")
    status, error = response.get("status"), _text(told, "error")
    refused = decision.get("verdict") != "allow"
    fetched = isinstance(status, int) and not error
    whole = body.get("complete") is True
    for role, value in (
        ("body", body.get("sha256") if whole else None),
        ("decoded", body.get("decoded_sha256") if whole else None),
        ("sent", _table(request, "body").get("sha256")),
    ):
        if hashed := hash_of(value):
            links.append(Link(role, hashed))
    return Row(
        index,
        "exchange",
        _text(head, "session"),
        _int(head, "number"),
        _seconds(told.get("ended")),
        host=_text(_table(told, "peer"), "host"),
        method=_text(told, "method"),
        url=_text(told, "url"),
        status=status if isinstance(status, int) else None,
        outcome="refused" if refused else "fetched" if fetched else "failed",
        size_bytes=_int(body, "size_bytes"),
        body=hash_of(body.get("sha256")),
        note=error or (_text(decision, "rule") if refused else ""),
        links=tuple(links),
    )


def _opened(index: int, head: Mapping[str, Any], told: Mapping[str, Any], links: list[Link]) -> Row:
    subject = _table(told, "subject")
    action = hash_of(subject.get("action"))
    return Row(
        index,
        "open",
        _text(head, "session"),
        _int(head, "number"),
        _seconds(told.get("time")),
        action=action,
        identity=_text(subject, "identity"),
        invocation=_text(subject, "invocation"),
        instance=_text(subject, "instance"),
        target=_text(subject, "target"),
        note=_text(told, "declared"),
        links=(*links, *([Link("action", action)] if action else [])),
    )


def _decided(index: int, kind: str, head: Mapping[str, Any], record: bytes | None) -> Row:
    """An attestation, a denial, or what this version does not know."""
    named = record_of(head)
    statements = [] if record is None else statements_in(record)
    told = statements[0] if statements else {} if record is None else read_json(record)
    action = hash_of(head.get("action")) or hash_of(told.get("action"))
    links = [] if named is None else [Link("record", named.hash)]
    links += [Link("action", action)] if action else []
    for statement in statements:
        links += _claimed(statement)
    metadata = _table(_table(_table(told, "predicate"), "runDetails"), "metadata")
    reasons = [*_list(told, "explanation"), *_list(told, "reasons")]
    return Row(
        index,
        kind,
        _text(head, "session"),
        _int(head, "number"),
        _moment(metadata.get("finishedOn") or told.get("time")),
        action=action,
        invocation=_text(metadata, "invocationId") or _text(told, "invocation"),
        instance=_text(head, "instance"),
        outcome="refused" if kind == "denied" else "",
        note="; ".join(each for each in reasons if isinstance(each, str)),
        links=tuple(dict.fromkeys(links)),
    )


def statements_in(record: bytes) -> list[dict[str, Any]]:
    """The in-toto Statements in the DSSE envelopes of a record, one a line; nothing is verified."""
    found = []
    for line in record.split(b"\n"):
        payload = read_json(line).get("payload") if line else None
        if isinstance(payload, str):
            with suppress(binascii.Error, ValueError):
                found.append(read_json(base64.b64decode(payload)))
    return found


def dependencies_in(statement: Mapping[str, Any]) -> Iterator[tuple[str, Named]]:
    """What an action was made of by name: action, command, inputRoot."""
    for each in _dependencies(statement):
        size_bytes = _int(_table(each, "annotations"), "sizeBytes")
        for hashed in _hashes(each):
            yield _text(each, "name"), Named(hashed, size_bytes)


def _claimed(statement: Mapping[str, Any]) -> Iterator[Link]:
    for subject in _tables(statement.get("subject")):
        for hashed in _hashes(subject):
            yield Link("output", hashed)
    for each in _dependencies(statement):
        role = "fetched" if each.get("uri") else "input"
        for hashed in _hashes(each):
            yield Link(role, hashed)


def _dependencies(statement: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    definition = _table(_table(statement, "predicate"), "buildDefinition")
    return _tables(definition.get("resolvedDependencies"))


def _hashes(described: Mapping[str, Any]) -> list[str]:
    return [hashed for text in _table(described, "digest").values() if (hashed := hash_of(text))]


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, Mapping) else {}


def _tables(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _text(table: Mapping[str, Any], name: str) -> str:
    found = table.get(name)
    return found if isinstance(found, str) else ""


def _list(table: Mapping[str, Any], name: str) -> list[Any]:
    found = table.get(name)
    return found if isinstance(found, list) else []


def _int(table: Mapping[str, Any], name: str) -> int:
    found = table.get(name)
    return found if isinstance(found, int) and 0 <= found < 1 << 62 else 0


def _seconds(value: object) -> float | None:
    try:
        found = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None
    return found if found is not None and 0 <= found < 1e11 else None


def _moment(value: object) -> float | None:
    """RFC 3339, as attestations have it."""
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return _seconds(value)
