"""Attestations as a daemon's archive holds them, put together as bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from armitage.attest.bundle import Bundle, bundle_of
from armitage.attest.claim import parse_statements
from armitage.attest.entries import Kind, parse_attestation_record, parse_entry
from armitage.attest.errors import MalformedAttestation
from armitage.attest.keyring import OwnKey
from armitage.attest.verify import Check, Known, KnownKey
from armitage.log.note import PublicKey as LogKey
from armitage.log.store import LogStore
from armitage.witness.archive import Archive


async def bundle_at(archive: Archive, index: int, log: LogStore | None = None) -> Bundle:
    """Puts together the bundle of the attestation that the log has at an index, with a receipt as
    of now. Nothing is verified. `log` is one of the archive's that has ended; without it, the one
    that goes on.

    Raises MalformedAttestation for an entry of another kind, NotLogged, BlobNotFound.
    """
    log = log or archive.log.store
    return await bundle_for(archive, index, log.entry(index), log)


async def bundle_for(
    archive: Archive, index: int, data: bytes, log: LogStore | None = None
) -> Bundle:
    """The same, for whoever has read the entry: each reading decodes 256 of them."""
    entry = parse_entry(data)
    if entry.kind is not Kind.ATTESTATION:
        raise MalformedAttestation(f"entry {index} of the log is no attestation")
    record = await archive.store.get(entry.record)
    claim = parse_statements([each.payload for each in parse_attestation_record(record)])
    documents = [
        await archive.store.get(digest)
        for digest in (claim.declaration, claim.evidence, claim.outputs)
    ]
    return bundle_of(record, data, (log or archive.log.store).receipt(index), documents)


def known_own(keys: Iterable[OwnKey], log: LogKey, checkers: Mapping[str, Check]) -> Known:
    """With what a daemon's own attestations are verified."""
    return Known({key.public.key_id: KnownKey(key.public, log) for key in keys}, checkers)
