"""Attestations as a daemon's archive holds them, put together as bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from armitage.attest.bundle import Bundle, bundle_of
from armitage.attest.claim import parse_statements
from armitage.attest.entries import Kind, parse_attestation_record, parse_entry
from armitage.attest.errors import MalformedAttestation
from armitage.attest.keyring import OwnKey
from armitage.attest.verify import Check, Known, KnownKey
from armitage.audit.source import ArchiveSource
from armitage.log.note import PublicKey as LogKey
from armitage.log.receipt import Receipt
from armitage.witness.archive import Archive
from cas.digest import Digest


class Shelf(Protocol):
    """Where attestations are found (armitage.audit.source)."""

    async def get(self, digest: Digest) -> bytes:
        """A small blob. Raises BlobNotFound."""

    async def receipt(self, index: int) -> Receipt:
        """An entry's. Raises LogError."""


async def bundle_at(archive: Archive, index: int) -> Bundle:
    """Puts together the bundle of the attestation that the log has at an index, with a receipt as
    of now. Nothing is verified.

    Raises MalformedAttestation for an entry of another kind, NotLogged, BlobNotFound.
    """
    return await bundle_from(ArchiveSource(archive), index, archive.log.store.entry(index))


async def bundle_from(shelf: Shelf, index: int, data: bytes) -> Bundle:
    """The same of the entry `data` at an index. Raises MalformedAttestation for an entry of another
    kind, LogError, BlobNotFound.
    """
    entry = parse_entry(data)
    if entry.kind is not Kind.ATTESTATION:
        raise MalformedAttestation(f"entry {index} of the log is no attestation")
    record = await shelf.get(entry.record)
    claim = parse_statements([each.payload for each in parse_attestation_record(record)])
    documents = [
        await shelf.get(digest) for digest in (claim.declaration, claim.evidence, claim.outputs)
    ]
    return bundle_of(record, data, await shelf.receipt(index), documents)


def known_own(keys: Iterable[OwnKey], log: LogKey, checkers: Mapping[str, Check]) -> Known:
    """With what a daemon's own attestations are verified."""
    return Known({key.public.key_id: KnownKey(key.public, log) for key in keys}, checkers)
