"""DSSE envelopes (secure-systems-lab/dsse v1): a payload of a stated type, and one ed25519
signature over both.

An envelope of ours has exactly one signature. Whoever verifies checks the signature over the
payload's type and bytes first, then the type, and only then parses, the very bytes that were
verified. `keyid` is no part of what is signed: it says which key to try, and proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from armitage.attest.canonical import canonical
from armitage.attest.errors import BadSignature, MalformedAttestation
from armitage.attest.keys import SIGNATURE_BYTES, PublicKey, Signer

IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 16 << 20
_FIELDS: Final = {"payload", "payloadType", "signatures"}
_URL_SAFE: Final = str.maketrans("-_", "+/")


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding, from which both parts can be read back in
    one way only.
    """
    named = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(named), named, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and its signature; nothing is verified yet."""

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes

    def encode(self) -> bytes:
        """As canonical JSON, with standard base64."""
        # In the order of names; base64 needs no escapes. What a general encoder would make of it.
        return b'{"payload":"%b","payloadType":%b,"signatures":[{"keyid":%b,"sig":"%b"}]}' % (
            base64.b64encode(self.payload),
            _text(self.payload_type),
            _text(self.key_id),
            base64.b64encode(self.signature),
        )

    def verified(self, key: PublicKey, payload_type: str = IN_TOTO) -> bytes:
        """Answers the payload, once the key signed it and it is of that type.

        Raises BadSignature.
        """
        key.verify(pae(self.payload_type, self.payload), self.signature)
        if self.payload_type != payload_type:
            raise BadSignature(f"a payload of type {self.payload_type!r} is not {payload_type!r}")
        return self.payload


def sign(signer: Signer, payload: bytes, payload_type: str = IN_TOTO) -> Envelope:
    """Signs a payload. Raises BadSignature when the signer answers what its key does not verify."""
    signature = signer.sign(pae(payload_type, payload))
    return Envelope(payload_type, payload, signer.public.key_id, signature)


def parse_envelope(data: bytes) -> Envelope:
    """Reads an envelope as any writer may have made it: base64 standard or URL-safe, fields in any
    order. Refused: a field twice or too many, other than one signature. Raises
    MalformedAttestation.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedAttestation(f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes")
    found = _object(data)
    signatures = found.get("signatures")
    if set(found) != _FIELDS or not isinstance(signatures, list):
        raise MalformedAttestation("an envelope has a payload, a payloadType and signatures")
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise MalformedAttestation("an envelope has exactly one signature")
    (only,) = signatures
    key_id, payload_type = only.get("keyid", ""), found["payloadType"]
    if not set(only) <= {"keyid", "sig"} or not isinstance(key_id, str):
        raise MalformedAttestation("a signature has a keyid and a sig")
    if not isinstance(payload_type, str) or not payload_type.isascii():
        raise MalformedAttestation("a payloadType is ASCII text")
    signature = _bytes(only.get("sig"))
    if len(signature) != SIGNATURE_BYTES:
        raise MalformedAttestation(f"an ed25519 signature has {SIGNATURE_BYTES} bytes")
    return Envelope(payload_type, _bytes(found["payload"]), key_id, signature)


@lru_cache(maxsize=64)  # A type, and few keys.
def _text(text: str) -> bytes:
    return canonical(text)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MalformedAttestation("an envelope is a JSON object, each of its fields there once")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedAttestation("an envelope's payload and signature are base64 text")
    try:
        return base64.b64decode(text.translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedAttestation("an envelope's payload and signature are base64") from None
