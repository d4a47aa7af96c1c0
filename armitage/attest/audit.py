"""The log's attestations and denials, verified beside its sessions (armitage.witness.audit)."""

from __future__ import annotations

from collections.abc import Iterable

from armitage.attest.archived import bundle_at
from armitage.attest.entries import Kind, parse_denial_record, parse_digest, parse_entry
from armitage.attest.errors import MalformedAttestation
from armitage.attest.verify import Known, verify_bundle
from armitage.witness.archive import Archive


class AttestationEntries:
    """The EntryAudit of attestations and denials.

    An attestation is taken through every step (armitage.attest.verify). A denial must name an
    action and documents that are there, and the module that is here must not approve them.
    """

    kinds = frozenset(kind.value for kind in Kind)

    def __init__(self, archive: Archive, known: Known) -> None:
        self._archive = archive
        self._known = known

    async def verify(self, index: int, data: bytes) -> None:
        """See EntryAudit."""
        entry = parse_entry(data)
        if entry.kind is Kind.ATTESTATION:
            verify_bundle(await bundle_at(self._archive, index), self._known)
            return
        told = parse_denial_record(await self._archive.store.get(entry.record))
        if (told["action"], told["instance"]) != (str(entry.action), entry.instance):
            raise MalformedAttestation("its record is of another action")
        names = ("declaration", "evidence")
        documents = [await self._archive.store.get(parse_digest(told[name])) for name in names]
        check = self._known.checkers.get(told["module"])
        if check is not None and check(*documents).approved:
            raise MalformedAttestation("its checker approves what it is said to have denied")

    def faults(self) -> Iterable[str]:
        """See EntryAudit; each entry stands for itself."""
        return ()
