"""Receipts (C2SP tlog-proof): one entry's place in a log, provable without asking the log."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from armitage.log.checkpoint import SignedCheckpoint, open_checkpoint
from armitage.log.errors import MalformedNote
from armitage.log.merkle import verify_inclusion
from armitage.log.note import PublicKey

_HEAD = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
_EXTRA = re.compile(r"extra [A-Za-z0-9+/=]*")


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an entry stands, the proof from there to the root, and the checkpoint with that root,
    as it was signed.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """A `.tlog-proof` file."""
        hashes = (base64.b64encode(each).decode() for each in self.proof)
        head = "".join(f"{line}\n" for line in (_HEAD, f"index {self.index}", *hashes))
        return head.encode() + b"\n" + self.checkpoint

    def verify(
        self, leaf: bytes, log: PublicKey, witnesses: tuple[PublicKey, ...] = (), *, quorum: int = 0
    ) -> SignedCheckpoint:
        """Checks the checkpoint's signatures and that `leaf` (an entry's hash) is in its tree.

        Raises MalformedNote, InvalidSignature, InvalidProof.
        """
        signed = open_checkpoint(self.checkpoint, log, witnesses, quorum=quorum)
        tree = signed.checkpoint
        verify_inclusion(leaf, self.index, tree.size, self.proof, tree.root)
        return signed


def parse_receipt(data: bytes) -> Receipt:
    """Reads a `.tlog-proof` file; nothing is verified. Raises MalformedNote."""
    head, gap, checkpoint = data.partition(b"\n\n")
    try:
        first, *lines = head.decode().split("\n")
    except UnicodeDecodeError:
        raise MalformedNote("a receipt is UTF-8 text") from None
    if first != _HEAD or not gap:
        raise MalformedNote(f"a receipt starts with {_HEAD} and holds a checkpoint")
    if lines and _EXTRA.fullmatch(lines[0]):
        lines = lines[1:]
    index = _INDEX.fullmatch(lines[0]) if lines else None
    if index is None:
        raise MalformedNote("a receipt's second line is its index")
    try:
        proof = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
    except binascii.Error:
        raise MalformedNote("a receipt's proof is a base64 hash a line") from None
    return Receipt(int(index[1]), proof, checkpoint)
