"""Reading an archive back: what was fetched, and whether all of it is still what was signed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import LogError
from armitage.log.verify import verified_entries
from armitage.witness.archive import Archive
from armitage.witness.evidence import Entry, Kind, MalformedEvidence, parse_entry, parse_record
from armitage.witness.sessions import SessionAudit
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry of the log, with its record."""

    index: int
    entry: Entry
    record: dict[str, Any]


@dataclass(slots=True)
class Findings:
    """What a verification came to. `faults` are one line each; none: all is as it was signed."""

    entries: int = 0
    exchanges: int = 0
    bodies: int = 0
    body_bytes: int = 0
    faults: list[str] = field(default_factory=list)


async def logged(archive: Archive, first: int = 0) -> AsyncIterator[Logged]:
    """Answers what was logged, from an index on, in order. Raises LogError, BlobNotFound and
    MalformedEvidence for what is not as it was kept.
    """
    store = archive.log.store
    for index in range(first, store.checkpoint.size):
        entry = parse_entry(store.entry(index))
        yield Logged(index, entry, parse_record(await archive.record(entry)))


async def verify(archive: Archive) -> AsyncIterator[Findings]:
    """Verifies an archive, and answers what was found so far after each entry.

    Checks the checkpoint's signature, every entry against every tile and the signed root, each
    session for gaps and its close, each record against its entry, and each body that was stored
    whole: that it is there, with the hash that the record names.
    """
    findings, sessions = Findings(), SessionAudit()
    store = archive.log.store
    try:
        signed = open_checkpoint(store.signed_checkpoint, store.key)
        for first, entries in verified_entries(signed.checkpoint, store.read):
            for index, data in enumerate(entries, first):
                findings.entries += 1
                await _verify_entry(archive, index, data, findings, sessions)
                yield findings
    except LogError as error:
        findings.faults.append(f"log: {error}")
    findings.faults += sessions.faults()
    yield findings


async def _verify_entry(
    archive: Archive, index: int, data: bytes, findings: Findings, sessions: SessionAudit
) -> None:
    try:
        entry = parse_entry(data)
        sessions.add(index, entry)
        record = parse_record(await archive.record(entry))
    except (MalformedEvidence, BlobNotFound) as error:
        findings.faults.append(f"entry {index}: {error}")
        return
    told = (record.get("session"), record.get("number"), record.get("kind"))
    if told != (entry.session, entry.number, entry.kind.value):
        findings.faults.append(f"entry {index}: its record is of another exchange")
    if entry.kind is not Kind.EXCHANGE:
        return
    findings.exchanges += 1
    body = record["response"]["body"]
    if body is None or not body["complete"] or record["decision"]["verdict"] != "allow":
        return
    hashed = body["sha256"].removeprefix("sha256:")
    digest = Digest(DigestFunction.SHA256, hashed, body["size_bytes"])
    try:
        async for _ in archive.store.read(digest):
            pass
        findings.bodies += 1
        findings.body_bytes += digest.size_bytes
    except BlobNotFound:
        findings.faults.append(f"entry {index}: the body of {record['url']} is gone or damaged")
