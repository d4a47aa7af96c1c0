"""The parts of a bundle as files, for tools that are not ours."""

from __future__ import annotations

from typing import Final

from armitage.attest.bundle import Bundle
from armitage.attest.claim import parse_statements
from armitage.attest.dsse import pae
from armitage.attest.entries import parse_attestation_record
from armitage.attest.errors import MalformedAttestation

_NAMES: Final = ("provenance", "runtime-trace", "verdict")


def unpacked(bundle: Bundle) -> dict[str, bytes]:
    """Content by name; nothing is verified. Raises MalformedAttestation."""
    envelopes = parse_attestation_record(bundle.record)
    claim = parse_statements([each.payload for each in envelopes])
    files = {"entry": bundle.entry, "receipt.tlog-proof": bundle.receipt.encode()}
    for name, envelope in zip(_NAMES, envelopes, strict=True):
        files[f"{name}.json"] = envelope.payload
        files[f"{name}.pae"] = pae(envelope.payload_type, envelope.payload)
        files[f"{name}.sig"] = envelope.signature
    for name, digest in (
        ("declaration", claim.declaration),
        ("evidence", claim.evidence),
        ("outputs.json", claim.outputs),
    ):
        document = bundle.document(digest.hash)
        if document is None:
            raise MalformedAttestation(f"the document {digest} is missing")
        files[name] = document
    return files
