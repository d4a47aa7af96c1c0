"""Whether a record is still what was signed.

Two parts, and a verification does both at once. The log: the checkpoint's signature, and every
entry against every tile and the signed root (armitage.log.verify). What the entries name: that each
record is there with the hash that the entry names and says the same, that each session is complete,
and that each body that was stored whole is there with its hash. Every hash is computed here again;
nothing that the source says of itself counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple, Protocol

from armitage.audit.rows import Named, read_json
from armitage.audit.source import Source
from armitage.errors import ArmitageError
from armitage.log.checkpoint import Checkpoint, open_checkpoint
from armitage.log.errors import LogError
from armitage.log.note import PublicKey
from armitage.log.succession import SuccessionEntries
from armitage.log.verify import verified_entries
from armitage.witness.evidence import (
    Entry,
    Kind,
    MalformedEvidence,
    kind_of,
    name_of,
    parse_entry,
    parse_record,
)
from armitage.witness.sessions import SessionAudit
from cas.errors import BlobNotFound

_BUNDLES_AT_ONCE = 4
_MOST_FAULTS = 1000
_MOST_REMEMBERED = 1_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SESSION_KINDS = {kind.value for kind in Kind}

Bundle = tuple[int, list[bytes]]


@dataclass(slots=True)
class Findings:
    """What a verification came to. No faults: all is as it was signed."""

    checkpoint: Checkpoint
    entries: int = 0
    exchanges: int = 0
    bodies: int = 0
    body_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Entries of other kinds than a session's, by kind."""
    faults: list[str] = field(default_factory=list)
    """One line each, of the first thousand."""
    more_faults: int = 0
    before: tuple[PublicKey, Checkpoint] | None = None
    """Whose log it follows, and how that ended."""
    next: PublicKey | None = None
    """Whose log follows it."""

    def blame(self, fault: str) -> None:
        """Adds a fault."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)
        else:
            self.more_faults += 1


class EntryAudit(Protocol):
    """Knows what entries of some kinds must be like."""

    @property
    def kinds(self) -> frozenset[str]:
        """Which."""

    async def verify(self, index: int, data: bytes) -> None:
        """Takes an entry, in the order of the log. Raises ArmitageError or BlobNotFound, saying
        what is wrong with it.
        """

    def session_record(self, index: int, record: Mapping[str, Any]) -> None:
        """Takes a session's record, in the order of the log, once it was verified."""

    def faults(self) -> Iterable[str]:
        """What is wrong with them together, once all are in."""


async def verify(
    source: Source,
    key: PublicKey | None = None,
    others: Sequence[EntryAudit] = (),
    *,
    bodies: bool = True,
    witnesses: tuple[PublicKey, ...] = (),
) -> AsyncGenerator[Findings, None]:
    """Verifies a record, and answers what was found so far every so often, at least at the end.

    `key` is the log's as the auditor knows it; without one, what the source says its key is.
    `others` know the kinds of entries that are no session's; one that nobody knows is a fault,
    since nobody could say what it means. Without `bodies` these are not read. Raises LogError when
    there is no checkpoint that the key signed and all of the witnesses cosigned, and OSError when
    the source cannot be read.
    """
    known = await source.key() if key is None else key
    signed = open_checkpoint(await source.checkpoint(), known, witnesses, quorum=len(witnesses))
    checkpoint = signed.checkpoint
    succession = SuccessionEntries(checkpoint.size)
    others = (*others, succession)
    run = _Run(source, Findings(checkpoint), others, bodies=bodies)
    try:
        async with aclosing(_ahead(verified_entries(checkpoint, source.tile))) as parts:
            async for bundles in parts:
                for first, entries in bundles:
                    await run.check(first, entries)
                yield run.findings
    except LogError as error:
        run.findings.blame(f"log: {error}")
    for fault in (*run.sessions.faults(), *(f for other in others for f in other.faults())):
        run.findings.blame(fault)
    run.findings.before, run.findings.next = succession.before, succession.next
    yield run.findings


async def _ahead(bundles: Iterator[Bundle]) -> AsyncGenerator[list[Bundle], None]:
    """The bundles, some at a time, the next ones being read and hashed meanwhile."""

    def take() -> list[Bundle]:
        return list(islice(bundles, _BUNDLES_AT_ONCE))

    loop = asyncio.get_running_loop()
    coming = loop.run_in_executor(None, take)
    try:
        while part := await coming:
            coming = loop.run_in_executor(None, take)
            yield part
    finally:
        await asyncio.wait([coming])
        coming.cancelled() or coming.exception()


class _Body(NamedTuple):
    hash: str
    size_bytes: int
    url: str


class _Run:
    def __init__(
        self, source: Source, findings: Findings, others: Sequence[EntryAudit], *, bodies: bool
    ) -> None:
        self.findings = findings
        self.sessions = SessionAudit()
        self._source = source
        self._others = {kind: each for each in others for kind in each.kinds}
        self._hearing = others
        self._bodies = bodies
        self._verified: set[bytes] = set()

    async def check(self, first: int, entries: Sequence[bytes]) -> None:
        """Checks what entries name."""
        read = [_read(entry) for entry in entries]
        named = [_named(entry) if isinstance(entry, Entry) else None for entry in read]
        found = await self._source.records(first, named)
        told = zip(entries, read, found, strict=True)
        for index, (data, entry, record) in enumerate(told, first):
            self.findings.entries += 1
            try:
                if entry is None:
                    await self._check_other(index, data)
                    continue
                if isinstance(entry, MalformedEvidence):
                    raise entry
                body = self._check_entry(index, entry, record)
                if body is not None and self._bodies:
                    await self._check_body(body)
            except (ArmitageError, BlobNotFound) as error:
                self.findings.blame(f"entry {index}: {error}")

    async def _check_other(self, index: int, data: bytes) -> None:
        kind = kind_of(data)
        other = self._others.get(kind)
        if other is None:
            raise MalformedEvidence(f"is of a kind that is not known here, {kind!r}")
        self.findings.counts[kind] = self.findings.counts.get(kind, 0) + 1
        await other.verify(index, data)

    def _check_entry(self, index: int, entry: Entry, record: bytes | None) -> _Body | None:
        """Answers the body that is to be there. Raises MalformedEvidence."""
        self.sessions.add(index, entry)
        if record is None:
            raise MalformedEvidence(f"its record {entry.record} is gone or damaged")
        if len(record) != entry.size_bytes or name_of(record) != entry.record:
            raise MalformedEvidence(f"its record is not the one with the hash {entry.record}")
        told = parse_record(record)
        if (told.get("session"), told.get("number"), told.get("kind")) != (
            entry.session,
            entry.number,
            entry.kind,
        ):
            raise MalformedEvidence("its record is of another exchange")
        for other in self._hearing:
            other.session_record(index, told)
        if entry.kind is not Kind.EXCHANGE:
            return None
        self.findings.exchanges += 1
        return _body_of(told)

    async def _check_body(self, body: _Body) -> None:
        key = bytes.fromhex(body.hash)
        if key in self._verified:
            return
        hasher, size_bytes = sha256(), 0
        try:
            async for piece in self._source.read(Named(body.hash, body.size_bytes)):
                hasher.update(piece)
                size_bytes += len(piece)
        except BlobNotFound:
            raise MalformedEvidence(f"the body of {body.url} is gone or damaged") from None
        if hasher.digest() != key or size_bytes != body.size_bytes:
            raise MalformedEvidence(f"the body of {body.url} is not the one on record")
        if len(self._verified) >= _MOST_REMEMBERED:
            self._verified.clear()
        self._verified.add(key)
        self.findings.bodies += 1
        self.findings.body_bytes += size_bytes


def _read(data: bytes) -> Entry | MalformedEvidence | None:
    """A session's entry, or what is wrong with it; None for one of another kind."""
    try:
        return parse_entry(data)
    except MalformedEvidence as error:
        return error if read_json(data).get("kind") in _SESSION_KINDS else None


def _named(entry: Entry) -> Named | None:
    hashed = entry.record.removeprefix("sha256:")
    return Named(hashed, entry.size_bytes) if _SHA256.fullmatch(hashed) else None


def _body_of(told: dict[str, Any]) -> _Body | None:
    """The body of an exchange, if it was let through and came whole. Raises MalformedEvidence."""
    try:
        body, verdict = told["response"]["body"], told["decision"]["verdict"]
        if body is None or body["complete"] is not True or verdict != "allow":
            return None
        hashed = body["sha256"].removeprefix("sha256:")
        named = _Body(hashed, body["size_bytes"], str(told["url"]))
    except (KeyError, TypeError, AttributeError):
        raise MalformedEvidence("its record lacks what a record of an exchange has") from None
    if not _SHA256.fullmatch(named.hash) or type(named.size_bytes) is not int:
        raise MalformedEvidence("its record does not name its body by SHA-256 and size")
    return named
