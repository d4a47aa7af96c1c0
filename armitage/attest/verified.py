"""An attestation whose every part was recomputed, from its signature to the log's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from armitage.attest.claim import Claim
from cas.digest import Digest


@dataclass(frozen=True, slots=True)
class Verified:
    """What was said, by which key, and in which log it stands. Whether that key is to be believed
    is for a policy to say.
    """

    claim: Claim
    key_id: str
    log: str
    """The public key (vkey) of the log whose checkpoint covers it."""
    record: Digest
    """Of the signed envelopes."""
    index: int
    """In that log."""
