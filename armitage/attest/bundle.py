"""Bundles: one attestation with all that verifies it offline, as one `.intoto.jsonl` file.

    envelope      three lines, each a signed statement
    ...
    material      one line: the log's entry, its receipt, and the documents that the statements name

Tools that know in-toto bundles read the envelopes and pass over the material, as the format tells
them to (in-toto attestation, bundle layer). Which keys to believe is in no bundle.

A bundle has one form: what can be changed without changing what it says is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from armitage.attest.canonical import canonical, parse_canonical, text_at, value_at
from armitage.attest.errors import MalformedAttestation
from armitage.log.errors import MalformedNote
from armitage.log.note import parse_note
from armitage.log.receipt import Receipt, parse_receipt

MATERIAL: Final = "application/vnd.armitage.verification-material.v1+json"
MAX_BUNDLE_BYTES: Final = 64 << 20
SUFFIX: Final = ".intoto.jsonl"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Nothing in here is verified yet."""

    record: bytes
    """The signed envelopes (armitage.attest.entries)."""
    entry: bytes
    """The log's entry that names the record."""
    receipt: Receipt
    documents: tuple[bytes, ...]

    def encode(self) -> bytes:
        """As a file."""
        material = {
            "mediaType": MATERIAL,
            "entry": self.entry.decode(),
            "receipt": self.receipt.encode().decode(),
            "documents": [base64.b64encode(each).decode() for each in self.documents],
        }
        return self.record + canonical(material) + b"\n"

    def document(self, hashed: str) -> bytes | None:
        """Answers the document with that SHA-256, if it is there."""
        for each in self.documents:
            if sha256(each).hexdigest() == hashed:
                return each
        return None


def bundle_of(record: bytes, entry: bytes, receipt: Receipt, documents: Iterable[bytes]) -> Bundle:
    """Puts a bundle together; documents come in the order of their names."""
    ordered = sorted(set(documents), key=lambda each: sha256(each).digest())
    return Bundle(record, entry, receipt, tuple(ordered))


def parse_bundle(data: bytes) -> Bundle:
    """Reads a bundle exactly as `encode` writes it. Raises MalformedAttestation."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedAttestation(f"a bundle has at most {MAX_BUNDLE_BYTES} bytes")
    end = data.rfind(b"\n", 0, -1) + 1
    if not data.endswith(b"\n") or not end:
        raise MalformedAttestation("a bundle is the lines of its envelopes and one of material")
    material = parse_canonical(data[end:-1])
    if material.get("mediaType") != MATERIAL:
        raise MalformedAttestation("the last line of a bundle is its verification material")
    entry, receipt = text_at(material, "entry").encode(), _receipt(text_at(material, "receipt"))
    bundle = bundle_of(data[:end], entry, receipt, _documents(material))
    if bundle.encode() != data:
        raise MalformedAttestation("the bundle is not in its one form")
    return bundle


def _receipt(text: str) -> Receipt:
    """Base64 has spare bits and a note may be signed twice, so the receipt must be as we write
    it.
    """
    try:
        receipt = parse_receipt(text.encode())
        if parse_note(receipt.checkpoint).encode() == receipt.checkpoint:
            return receipt
    except MalformedNote as error:
        raise MalformedAttestation(f"receipt: {error}") from None
    raise MalformedAttestation("the receipt is not in its one form")


def _documents(material: dict[str, Any]) -> list[bytes]:
    found = value_at(material, "documents")
    if not isinstance(found, list):
        raise MalformedAttestation("the documents of a bundle are a list")
    try:
        return [base64.b64decode(each, validate=True) for each in found]
    except (binascii.Error, TypeError, ValueError):
        raise MalformedAttestation("a document of a bundle is base64") from None
