"""Reading an archive back: what was fetched, and whether all of it is still what was signed.

A log holds entries of several kinds. Each kind belongs to one EntryAudit; an entry of a kind that
belongs to none is a fault, since nobody could say what it means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from armitage.errors import ArmitageError
from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import LogError
from armitage.log.verify import verified_entries
from armitage.witness.archive import Archive
from armitage.witness.evidence import (
    Entry,
    Kind,
    MalformedEvidence,
    kind_of,
    parse_entry,
    parse_record,
)
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
    counts: dict[str, int] = field(default_factory=dict)
    """Entries of other kinds than a session's, by kind."""
    faults: list[str] = field(default_factory=list)


class EntryAudit(Protocol):
    """Knows what entries of some kinds must be like."""

    @property
    def kinds(self) -> frozenset[str]:
        """Which."""

    async def verify(self, index: int, data: bytes) -> None:
        """Takes an entry, in the order of the log. Raises ArmitageError or BlobNotFound, saying
        what is wrong with it.
        """

    def faults(self) -> Iterable[str]:
        """What is wrong with them together, once all are in."""


async def logged(archive: Archive, first: int = 0) -> AsyncIterator[Logged]:
    """Answers what sessions logged, from an index on, in order. Raises LogError, BlobNotFound and
    MalformedEvidence for what is not as it was kept.
    """
    store = archive.log.store
    for index in range(first, store.checkpoint.size):
        data = store.entry(index)
        if kind_of(data) in SessionEntries.kinds:
            entry = parse_entry(data)
            yield Logged(index, entry, parse_record(await archive.record(entry)))


async def verify(archive: Archive, others: Sequence[EntryAudit] = ()) -> AsyncIterator[Findings]:
    """Verifies an archive, and answers what was found so far after each entry.

    Checks the checkpoint's signature, every entry against every tile and the signed root, each
    session for gaps and its close, each record against its entry, and each body that was stored
    whole: that it is there, with the hash that the record names. `others` know the other kinds of
    entries.
    """
    findings, store = Findings(), archive.log.store
    audits: list[EntryAudit] = [SessionEntries(archive, findings), *others]
    by_kind = {kind: audit for audit in audits for kind in audit.kinds}
    try:
        signed = open_checkpoint(store.signed_checkpoint, store.key)
        for first, entries in verified_entries(signed.checkpoint, store.read):
            for index, data in enumerate(entries, first):
                findings.entries += 1
                try:
                    await _verify_entry(index, data, by_kind, findings)
                except (ArmitageError, BlobNotFound) as error:
                    findings.faults.append(f"entry {index}: {error}")
                yield findings
    except LogError as error:
        findings.faults.append(f"log: {error}")
    for audit in audits:
        findings.faults += audit.faults()
    yield findings


async def _verify_entry(
    index: int, data: bytes, by_kind: dict[str, EntryAudit], findings: Findings
) -> None:
    kind = kind_of(data)
    if kind not in by_kind:
        raise MalformedEvidence(f"is of a kind that is not known here, {kind!r}")
    if kind not in SessionEntries.kinds:
        findings.counts[kind] = findings.counts.get(kind, 0) + 1
    await by_kind[kind].verify(index, data)


class SessionEntries:
    """The EntryAudit of sessions."""

    kinds = frozenset(kind.value for kind in Kind)

    def __init__(self, archive: Archive, findings: Findings) -> None:
        self._archive = archive
        self._findings = findings
        self._sessions = SessionAudit()

    async def verify(self, index: int, data: bytes) -> None:
        """See EntryAudit."""
        entry = parse_entry(data)
        self._sessions.add(index, entry)
        record = parse_record(await self._archive.record(entry))
        if entry.kind is Kind.EXCHANGE:
            self._findings.exchanges += 1
            await self._verify_body(record)
        told = (record.get("session"), record.get("number"), record.get("kind"))
        if told != (entry.session, entry.number, entry.kind.value):
            raise MalformedEvidence("its record is of another exchange")

    def faults(self) -> Iterable[str]:
        """See EntryAudit."""
        return self._sessions.faults()

    async def _verify_body(self, record: dict[str, Any]) -> None:
        body = record["response"]["body"]
        if body is None or not body["complete"] or record["decision"]["verdict"] != "allow":
            return
        hashed = body["sha256"].removeprefix("sha256:")
        digest = Digest(DigestFunction.SHA256, hashed, body["size_bytes"])
        try:
            async for _ in self._archive.store.read(digest):
                pass
        except BlobNotFound:
            raise MalformedEvidence(f"the body of {record['url']} is gone or damaged") from None
        self._findings.bodies += 1
        self._findings.body_bytes += digest.size_bytes
