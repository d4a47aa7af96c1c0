"""What the log holds of attestations and denials: small canonical entries that name a record.

They stand in the same log as the witness's sessions, and `kind` tells them apart:

    attestation   the record is the three signed envelopes, one a line
    denied        the record says what was refused and why; the log's signature is the only one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from armitage.attest.canonical import canonical, number_at, parse_canonical, text_at, value_at
from armitage.attest.dsse import Envelope, parse_envelope
from armitage.attest.errors import MalformedAttestation
from armitage.attest.facts import Denial
from armitage.attest.statement import PREDICATES, time_text
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest

VERSION: Final = 1


class Kind(StrEnum):
    """What an entry tells of."""

    ATTESTATION = "attestation"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    kind: Kind
    instance: str
    action: Digest
    record: Digest
    """SHA-256 of what is kept in the store."""

    def encode(self) -> bytes:
        """As canonical JSON."""
        return canonical(
            {
                "v": VERSION,
                "kind": self.kind.value,
                "instance": self.instance,
                "action": str(self.action),
                "record": f"sha256:{self.record.hash}",
                "size_bytes": self.record.size_bytes,
            }
        )


def parse_entry(data: bytes) -> Entry:
    """Reads an entry exactly as `encode` writes it. Raises MalformedAttestation."""
    found = parse_canonical(data)
    try:
        record = Digest(
            DigestFunction.SHA256,
            text_at(found, "record").removeprefix("sha256:"),
            number_at(found, "size_bytes"),
        )
        action = parse_digest(text_at(found, "action"))
        entry = Entry(Kind(text_at(found, "kind")), text_at(found, "instance"), action, record)
    except (InvalidDigest, ValueError):
        entry = None
    if entry is None or entry.encode() != data:
        raise MalformedAttestation("this is no log entry of an attestation")
    return entry


def parse_digest(text: str) -> Digest:
    """Reads `FUNCTION:HASH/SIZE`. Raises MalformedAttestation."""
    function, _, rest = text.partition(":")
    hashed, _, size = rest.partition("/")
    try:
        digest = Digest(DigestFunction(function), hashed, int(size))
    except (InvalidDigest, ValueError):
        digest = None
    if digest is None or str(digest) != text:
        raise MalformedAttestation(f"{text!r} is no digest of the form FUNCTION:HASH/SIZE")
    return digest


def entry_of(kind: Kind, instance: str, action: Digest, record: bytes) -> Entry:
    """The entry that names a record."""
    return Entry(kind, instance, action, record_digest(record))


def record_digest(record: bytes) -> Digest:
    """How a record is named."""
    return Digest(DigestFunction.SHA256, sha256(record).hexdigest(), len(record))


def attestation_record(envelopes: Sequence[Envelope]) -> bytes:
    """The envelopes of one action, one a line: an in-toto bundle."""
    return b"".join(envelope.encode() + b"\n" for envelope in envelopes)


def parse_attestation_record(record: bytes) -> list[Envelope]:
    """Reads a record exactly as `attestation_record` writes it; nothing is verified.

    Raises MalformedAttestation.
    """
    lines = record.split(b"\n")
    if len(lines) != len(PREDICATES) + 1 or lines[-1]:
        raise MalformedAttestation(f"an attestation is {len(PREDICATES)} envelopes, a line each")
    envelopes = [parse_envelope(line) for line in lines[:-1]]
    if attestation_record(envelopes) != record:
        raise MalformedAttestation("the envelopes are not in canonical form")
    return envelopes


def denial_record(denial: Denial) -> bytes:
    """What is kept of a denial."""
    verdict = denial.verdict
    return canonical(
        {
            "v": VERSION,
            "kind": Kind.DENIED.value,
            "instance": denial.instance,
            "action": str(denial.action),
            "invocation": denial.invocation,
            "time": time_text(denial.at_s),
            "declaration": str(record_digest(denial.declaration)),
            "evidence": str(record_digest(denial.evidence)),
            "module": verdict.module_sha256,
            "reasons": [reason.text for reason in verdict.reasons],
            "explanation": list(denial.explanation),
        }
    )


def parse_denial_record(record: bytes) -> dict[str, Any]:
    """Reads what is kept of a denial. Raises MalformedAttestation."""
    found = parse_canonical(record)
    if (found.get("v"), found.get("kind")) != (VERSION, Kind.DENIED.value):
        raise MalformedAttestation("this is no record of a denial")
    for name in ("declaration", "evidence", "action"):
        parse_digest(text_at(found, name))
    if not isinstance(value_at(found, "reasons"), list):
        raise MalformedAttestation("a denial has reasons")
    return found
