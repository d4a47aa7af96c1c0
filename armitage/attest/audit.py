"""The log's attestations and denials, verified beside its sessions (armitage.witness.audit)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from armitage.attest.bundle import bundle_of
from armitage.attest.canonical import parse_canonical
from armitage.attest.claim import parse_statements
from armitage.attest.entries import (
    Entry,
    Kind,
    parse_attestation_record,
    parse_denial_record,
    parse_digest,
    parse_entry,
    record_digest,
)
from armitage.attest.errors import MalformedAttestation
from armitage.attest.sessions import WitnessedSessions
from armitage.attest.verify import Known, Verification
from armitage.log.receipt import Receipt
from cas.digest import Digest

Get = Callable[[Digest], Awaitable[bytes]]
"""Answers a blob of the record. Raises BlobNotFound. What it answers is hashed again."""

_NO_RECEIPT: Final = Receipt(0, (), b"")


class AttestationEntries:
    """The EntryAudit of attestations and denials, for a log that is verified as a whole.

    An attestation is taken through every step (armitage.attest.verify), and what it says of the
    network is held against the witness's records (armitage.attest.sessions). A denial must name an
    action and documents that are there, and the module that is here must not approve them.
    """

    kinds = frozenset(kind.value for kind in Kind)

    def __init__(self, get: Get, known: Known) -> None:
        self._get = get
        self._known = known
        self._sessions = WitnessedSessions()

    async def verify(self, index: int, data: bytes) -> None:  # noqa: ARG002 (EntryAudit's)
        """See EntryAudit."""
        entry = parse_entry(data)
        record = await self._blob(entry.record)
        if entry.kind is Kind.ATTESTATION:
            await self._verify_attestation(data, record)
        else:
            await self._verify_denial(entry, record)

    def session_record(self, index: int, record: Mapping[str, Any]) -> None:
        """See EntryAudit."""
        self._sessions.add(index, record)

    def faults(self) -> Iterable[str]:
        """See EntryAudit; each entry stands for itself."""
        return ()

    async def _verify_attestation(self, data: bytes, record: bytes) -> None:
        claim = parse_statements([each.payload for each in parse_attestation_record(record)])
        named = (claim.declaration, claim.evidence, claim.outputs)
        documents = [await self._blob(digest) for digest in named]
        bundle = bundle_of(record, data, _NO_RECEIPT, documents)
        for _ in Verification(bundle, self._known, in_log=True).steps():
            pass
        provenance = parse_canonical(parse_attestation_record(record)[0].payload)["predicate"]
        self._sessions.check(claim, provenance, documents[1])

    async def _verify_denial(self, entry: Entry, record: bytes) -> None:
        told = parse_denial_record(record)
        if (told["action"], told["instance"]) != (str(entry.action), entry.instance):
            raise MalformedAttestation("its record is of another action")
        names = ("declaration", "evidence")
        documents = [await self._blob(parse_digest(told[name])) for name in names]
        check = self._known.checkers.get(told["module"])
        if check is not None and check(*documents).approved:
            raise MalformedAttestation("its checker approves what it is said to have denied")

    async def _blob(self, digest: Digest) -> bytes:
        blob = await self._get(digest)
        if record_digest(blob) != digest:
            raise MalformedAttestation(f"what is kept as {digest} is something else")
        return blob
