"""The log's attestations and denials, verified beside its sessions (armitage.audit.verify)."""

from __future__ import annotations

from collections.abc import Iterable

from armitage.attest.archived import Shelf, bundle_from
from armitage.attest.entries import Kind, parse_denial_record, parse_digest, parse_entry
from armitage.attest.errors import MalformedAttestation
from armitage.attest.verify import Known, verify_bundle


class AttestationEntries:
    """The EntryAudit of attestations and denials.

    An attestation is taken through every step (armitage.attest.verify). A denial must name an
    action and documents that are there, and the module that is here must not approve them.
    """

    kinds = frozenset(kind.value for kind in Kind)

    def __init__(self, shelf: Shelf, known: Known) -> None:
        self._shelf = shelf
        self._known = known

    async def verify(self, index: int, data: bytes) -> None:
        """See EntryAudit."""
        entry = parse_entry(data)
        if entry.kind is Kind.ATTESTATION:
            verify_bundle(await bundle_from(self._shelf, index, data), self._known)
            return
        told = parse_denial_record(await self._shelf.get(entry.record))
        if (told["action"], told["instance"]) != (str(entry.action), entry.instance):
            raise MalformedAttestation("its record is of another action")
        names = ("declaration", "evidence")
        documents = [await self._shelf.get(parse_digest(told[name])) for name in names]
        check = self._known.checkers.get(told["module"])
        if check is not None and check(*documents).approved:
            raise MalformedAttestation("its checker approves what it is said to have denied")

    def faults(self) -> Iterable[str]:
        """See EntryAudit; each entry stands for itself."""
        return ()
