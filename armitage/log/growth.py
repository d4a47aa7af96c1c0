"""Whether a log that gave a receipt still begins with what it signed then."""

from __future__ import annotations

from collections.abc import Callable

from armitage.log.checkpoint import Checkpoint, open_checkpoint
from armitage.log.errors import InvalidProof
from armitage.log.merkle import consistency_proof, verify_consistency
from armitage.log.note import PublicKey
from armitage.log.tiles import Tile, subtrees_of


def verify_growth(
    then: bytes, now: bytes, key: PublicKey, read: Callable[[Tile], bytes]
) -> Checkpoint:
    """Answers what the log signs now, once its tree is proven to begin with the one that it signed
    then: neither set back nor forked since. Both are signed checkpoints; `read` answers tiles as
    the log publishes them, and is not believed.

    Raises InvalidProof, InvalidSignature, MalformedNote, and what `read` raises.
    """
    before, after = (open_checkpoint(signed, key).checkpoint for signed in (then, now))
    if after.size < before.size:
        raise InvalidProof(
            f"{key.name} has {after.size} entries now and had {before.size}: it was set back"
        )
    proof = consistency_proof(before.size, after.size, subtrees_of(after.size, read))
    verify_consistency(before.size, after.size, proof, before.root, after.root)
    return after
