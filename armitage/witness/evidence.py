"""Evidence: what is kept of a session and of each exchange in it, as canonical JSON
(armitage.canonical).

A record is a blob; the log holds a small entry that names it. A session is

    open (number 0), one record for each exchange (1, 2, ...), close (the number after the last)

so whatever is missing leaves a gap, and what was never closed shows. Times are seconds since 1970
with milliseconds, as text; hashes are `sha256:HEX`; sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

from armitage.canonical import NotCanonical, canonical, parse_canonical
from armitage.errors import ArmitageError
from cas.digest import Digest, DigestFunction

VERSION = 1
_ENTRY_NAMES = {"v", "session", "number", "kind", "record", "size_bytes"}
_USUAL_ENTRY = re.compile(
    rb'\{"kind":"(open|exchange|close)","number":(0|[1-9][0-9]{0,14}),"record":"([a-z0-9:]+)",'
    rb'"session":"([A-Za-z0-9_.-]*)","size_bytes":(0|[1-9][0-9]{0,14}),"v":1\}'
)
"""What nearly all entries look like, in canonical form."""


class MalformedEvidence(ArmitageError):
    """These bytes are no evidence in canonical form."""


class Kind(StrEnum):
    """What a record tells of."""

    OPEN = "open"
    EXCHANGE = "exchange"
    CLOSE = "close"


_KINDS = {kind.value.encode(): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Subject:
    """On whose behalf a session fetches. What is not known is empty."""

    instance: str = ""
    action: str = ""
    """Digest of the REAPI Action."""
    operation: str = ""
    invocation: str = ""
    target: str = ""
    identity: str = ""
    """The proven name of the client."""


@dataclass(frozen=True, slots=True)
class Body:
    """One direction's payload, after transfer-decoding and before content-decoding. `complete`
    tells whether its end was seen, and not just the end of the connection.
    """

    sha256: str
    size_bytes: int
    complete: bool = True
    content_encoding: str = ""
    decoded_sha256: str = ""
    """Of the decoded content, where it was decoded: lock files may name either."""


def digest_of(body: Body) -> Digest:
    """What a body is stored as."""
    hashed = body.sha256.removeprefix("sha256:")
    return Digest(DigestFunction.SHA256, hashed, body.size_bytes)


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom the fetch reached: the three names that must agree, and where the connection went."""

    host: str
    port: int
    connect: str = ""
    """What CONNECT asked for; empty for plain HTTP."""
    sni: str = ""
    address: str = ""
    tls_version: str = ""
    certificate_spki_sha256: str = ""
    """Of the origin's leaf certificate."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, and what came of it. URL and headers are redacted already."""

    started_s: float
    ended_s: float
    method: str
    url: str
    url_tag: str
    """A keyed hash of the whole URL: equal for equal URLs."""
    peer: Peer
    allowed: bool
    rule: str
    request_headers: Sequence[Sequence[str]] = ()
    request_body: Body | None = None
    status: int | None = None
    response_headers: Sequence[Sequence[str]] = ()
    response_body: Body | None = None
    credentials: Sequence[str] = ()
    """Names of what the witness added; never the secrets."""
    private_tag: str = ""
    """A keyed hash of the secrets that the client sent itself; empty where it sent none."""
    replays: str = ""
    """The record of the exchange whose answer this repeats; empty where the origin was asked."""
    error: str = ""


def open_record(
    session: str, at_s: float, subject: Subject, declared: str, mode: str = ""
) -> bytes:
    """What a session begins with: for whom, what was declared (the coeffects), and how what is
    declared may be reached (armitage.witness.modes).
    """
    return _canonical(
        {
            **_head(session, 0, Kind.OPEN),
            "time": _time(at_s),
            "subject": {
                "instance": subject.instance,
                "action": subject.action,
                "operation": subject.operation,
                "invocation": subject.invocation,
                "target": subject.target,
                "identity": subject.identity,
            },
            "declared": declared,
            "mode": mode,
        }
    )


def exchange_record(session: str, number: int, exchange: Exchange) -> bytes:
    """One exchange."""
    peer = exchange.peer
    return _canonical(
        {
            **_head(session, number, Kind.EXCHANGE),
            "started": _time(exchange.started_s),
            "ended": _time(exchange.ended_s),
            "method": exchange.method,
            "url": exchange.url,
            "url_tag": exchange.url_tag,
            "peer": {
                "host": peer.host,
                "port": peer.port,
                "connect": peer.connect,
                "sni": peer.sni,
                "address": peer.address,
                "tls_version": peer.tls_version,
                "certificate_spki_sha256": peer.certificate_spki_sha256,
            },
            "decision": {
                "verdict": "allow" if exchange.allowed else "deny",
                "rule": exchange.rule,
            },
            "request": {
                "headers": [list(header) for header in exchange.request_headers],
                "body": _body(exchange.request_body),
                "private_tag": exchange.private_tag,
            },
            "response": {
                "status": exchange.status,
                "headers": [list(header) for header in exchange.response_headers],
                "body": _body(exchange.response_body),
            },
            "credentials": list(exchange.credentials),
            "replays": exchange.replays,
            "error": exchange.error,
        }
    )


def close_record(session: str, number: int, at_s: float, last: str, dropped: int) -> bytes:
    """What a session ends with: `number` is its own, so one more than there are exchanges; `last`
    names the record before; `dropped` are exchanges that could not be kept.
    """
    return _canonical(
        {
            **_head(session, number, Kind.CLOSE),
            "time": _time(at_s),
            "exchanges": number - 1,
            "last": last,
            "dropped": dropped,
        }
    )


class Entry(NamedTuple):
    """What the log holds of a record. A tuple, since a verification makes one of each entry."""

    session: str
    number: int
    kind: Kind
    record: str
    """`sha256:HEX` of the record's bytes, which are in the CAS."""
    size_bytes: int

    def encode(self) -> bytes:
        """As canonical JSON."""
        head = _head(self.session, self.number, self.kind)
        return _canonical({**head, "record": self.record, "size_bytes": self.size_bytes})


def entry_of(session: str, number: int, kind: Kind, record: bytes) -> Entry:
    """The entry that names a record."""
    return Entry(session, number, kind, name_of(record), len(record))


def kind_of(data: bytes) -> str:
    """What an entry of the log says that it tells of; sessions are not alone in a log. Raises
    MalformedEvidence.
    """
    kind = _parse(data).get("kind")
    if not isinstance(kind, str):
        raise MalformedEvidence("a log entry states its kind")
    return kind


def name_of(record: bytes) -> str:
    """How a record is named."""
    return f"sha256:{sha256(record).hexdigest()}"


def parse_entry(data: bytes) -> Entry:
    """Reads an entry exactly as `encode` writes it. Raises MalformedEvidence."""
    usual = _USUAL_ENTRY.fullmatch(data)
    if usual is not None:
        kind, number, record, session, size = usual.groups()
        return Entry(session.decode(), int(number), _KINDS[kind], record.decode(), int(size))
    found = _parse(data)
    try:
        size_bytes = found["size_bytes"]
        entry = Entry(
            found["session"], found["number"], Kind(found["kind"]), found["record"], size_bytes
        )
    except (KeyError, ValueError):
        entry = None
    if entry is None or not _is_well_typed(found):
        raise MalformedEvidence("this is no log entry of a session")
    return entry


def _is_well_typed(found: dict[str, Any]) -> bool:
    texts = all(isinstance(found[name], str) for name in ("session", "record"))
    numbers = (found["number"], found["size_bytes"])
    exact = found.keys() == _ENTRY_NAMES and type(found["v"]) is int and found["v"] == VERSION
    return exact and texts and all(type(number) is int and number >= 0 for number in numbers)


def parse_record(data: bytes) -> dict[str, Any]:
    """Reads a record. Raises MalformedEvidence for what is not canonical or of another version."""
    found = _parse(data)
    if found.get("v") != VERSION:
        raise MalformedEvidence(f"this is no record of version {VERSION}")
    return found


def _parse(data: bytes) -> dict[str, Any]:
    try:
        return parse_canonical(data)
    except NotCanonical as error:
        raise MalformedEvidence(str(error)) from None


def _head(session: str, number: int, kind: Kind) -> dict[str, Any]:
    return {"v": VERSION, "session": session, "number": number, "kind": kind.value}


def _body(body: Body | None) -> dict[str, Any] | None:
    if body is None:
        return None
    return {
        "sha256": body.sha256,
        "size_bytes": body.size_bytes,
        "complete": body.complete,
        "content_encoding": body.content_encoding,
        "decoded_sha256": body.decoded_sha256,
    }


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _canonical(value: Any) -> bytes:
    try:
        return canonical(value)
    except NotCanonical as error:
        raise MalformedEvidence(str(error)) from None
