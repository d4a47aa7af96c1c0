"""Checkpoints (C2SP tlog-checkpoint): what a log says of itself, as the text of a signed note."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from armitage.log.errors import InvalidSignature, MalformedNote
from armitage.log.merkle import HASH_BYTES
from armitage.log.note import KeyType, Note, PublicKey, parse_note

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of one log. `extensions` are further lines, which we read and never write."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """What is signed."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Reads a note's text. Raises MalformedNote."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise MalformedNote("a checkpoint is an origin, a size and a root, a line each")
    origin, size, encoded, *extensions = lines
    try:
        root = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        root = b""
    if not _SIZE.fullmatch(size) or len(root) != HASH_BYTES:
        raise MalformedNote(f"{origin}: a checkpoint's size is a number and its root a hash")
    return Checkpoint(origin, int(size), root, tuple(extensions))


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint whose log's signature was verified, and when each witness cosigned it."""

    checkpoint: Checkpoint
    note: Note
    cosigned: dict[str, int]
    """Witness name to seconds since 1970."""


def open_checkpoint(
    data: bytes, log: PublicKey, witnesses: tuple[PublicKey, ...] = (), *, quorum: int = 0
) -> SignedCheckpoint:
    """Reads and verifies a checkpoint: signed by the log, whose key's name is the origin, and
    cosigned by at least `quorum` of the witnesses.

    Raises MalformedNote, InvalidSignature.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != log.name:
        raise InvalidSignature(f"this is a checkpoint of {checkpoint.origin}, not of {log.name}")
    signed = note.verified([log, *witnesses])
    if log not in signed:
        raise InvalidSignature(f"the checkpoint is not signed by {log.name}")
    cosigned = {
        key.name: time
        for key, time in signed.items()
        if key.type is KeyType.COSIGNATURE and time is not None
    }
    if len(cosigned) < quorum:
        raise InvalidSignature(
            f"{len(cosigned)} of the known witnesses cosigned {log.name}, {quorum} are needed"
        )
    return SignedCheckpoint(checkpoint, note, cosigned)
