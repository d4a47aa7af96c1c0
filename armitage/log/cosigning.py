"""Witnesses (C2SP tlog-witness): others who sign that a log only ever grew, so that it cannot show
different trees to different people. Both sides: cosigning others' logs, and asking for it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from armitage.log.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    open_checkpoint,
    parse_checkpoint,
)
from armitage.log.durable import FOLDER, Replacer, read_file
from armitage.log.errors import InvalidProof, InvalidSignature, MalformedNote
from armitage.log.merkle import EMPTY_ROOT, verify_consistency
from armitage.log.note import (
    KeyType,
    PublicKey,
    Signer,
    parse_note,
    parse_signatures,
    sign_note,
)
from cas.volume import Volume

NAMES = frozenset({"seen", FOLDER})
"""What a cosigner's directory may hold."""

MAX_REQUEST_BYTES = 1_000_000
_MAX_PROOF_LINES = 63
_SIZE_TYPE = "text/x.tlog.size"
_TEXT = "text/plain; charset=utf-8"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    body: str
    content_type: str = _TEXT


class Cosigner:
    """Remembers the last checkpoint of each log that it knows, and signs only what grows from
    there.

    Its methods block, and are for one thread at a time: checking and remembering are one step.
    """

    def __init__(
        self,
        volume: Volume,
        signer: Signer,
        logs: Mapping[str, PublicKey],
        now: Callable[[], float],
    ) -> None:
        """`logs` are the keys by origin; `now` answers seconds since 1970."""
        if signer.public.type is not KeyType.COSIGNATURE:
            raise ValueError("a cosigner signs with a witness's key, and never with a log's")
        self._volume = volume
        self._signer = signer
        self._logs = dict(logs)
        self._now = now
        self._replacer = Replacer(volume)
        volume.make_folder("seen")
        volume.sync_folder("")
        self._seen = {origin: self._load(origin) for origin in self._logs}

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answers a request of `POST add-checkpoint`. Raises OSError when it cannot remember."""
        try:
            old, proof, signed = _parse_request(body)
            checkpoint = parse_checkpoint(parse_note(signed).text)
        except MalformedNote as error:
            return Answer(400, f"{error}\n")
        key = self._logs.get(checkpoint.origin)
        if key is None:
            return Answer(404, f"the log {checkpoint.origin} is not known here\n")
        try:
            open_checkpoint(signed, key)
        except InvalidSignature as error:
            return Answer(403, f"{error}\n")
        if old > checkpoint.size:
            return Answer(400, f"a log of {checkpoint.size} entries never had {old}\n")
        seen = self._seen[checkpoint.origin]
        if old != seen.size or (old == checkpoint.size and seen.root != checkpoint.root):
            return Answer(409, f"{seen.size}\n", _SIZE_TYPE)
        try:
            verify_consistency(old, checkpoint.size, proof, seen.root, checkpoint.root)
        except InvalidProof as error:
            return Answer(422, f"{error}\n")
        return self._cosign(checkpoint, signed)

    def close(self) -> None:
        """Lets the directory go. Idempotent."""
        self._volume.close()

    def _cosign(self, checkpoint: Checkpoint, signed: bytes) -> Answer:
        self._replacer.replace(_name(checkpoint.origin), signed)
        self._volume.sync_folder("seen")
        self._seen[checkpoint.origin] = checkpoint
        return Answer(200, self._signer.sign(checkpoint.text(), int(self._now())).line())

    def _load(self, origin: str) -> Checkpoint:
        """Raises MalformedNote, InvalidSignature: whoever does not know what was signed before
        signs nothing.
        """
        try:
            signed = read_file(self._volume, _name(origin))
        except FileNotFoundError:
            return Checkpoint(origin, 0, EMPTY_ROOT)
        return open_checkpoint(signed, self._logs[origin]).checkpoint


def cosign_request(old: int, proof: Sequence[bytes], signed: bytes) -> bytes:
    """The body with which a log asks for a cosignature. The proof leads from `old` to the
    checkpoint.
    """
    lines = [f"old {old}", *(base64.b64encode(each).decode() for each in proof)]
    return ("\n".join(lines) + "\n\n").encode() + signed


def with_cosignatures(
    signed: bytes, answer: bytes, log: PublicKey, witness: PublicKey
) -> SignedCheckpoint:
    """Puts a witness's answer under the checkpoint that it was asked about.

    Signatures of anybody else in the answer are left out. Raises MalformedNote, InvalidSignature.
    """
    note = parse_note(signed)
    theirs = [
        each
        for each in parse_signatures(answer)
        if (each.name, each.key_id) == (witness.name, witness.key_id)
    ]
    ours = [
        each
        for each in note.signatures
        if (each.name, each.key_id) != (witness.name, witness.key_id)
    ]
    both = sign_note(note.text, [*ours, *theirs])
    return open_checkpoint(both.encode(), log, (witness,), quorum=1)


def _name(origin: str) -> str:
    return f"seen/{sha256(origin.encode()).hexdigest()}"


def _parse_request(body: bytes) -> tuple[int, list[bytes], bytes]:
    if len(body) > MAX_REQUEST_BYTES:
        raise MalformedNote(f"a request has at most {MAX_REQUEST_BYTES} bytes")
    head, gap, signed = body.partition(b"\n\n")
    first, *lines = head.decode("ascii", "replace").split("\n")
    old = _OLD.fullmatch(first)
    if old is None or not gap:
        raise MalformedNote("a request is 'old SIZE', a proof, an empty line and a checkpoint")
    if len(lines) > _MAX_PROOF_LINES:
        raise MalformedNote(f"a proof has at most {_MAX_PROOF_LINES} lines")
    try:
        proof = [base64.b64decode(line, validate=True) for line in lines]
    except binascii.Error:
        raise MalformedNote("a proof is a base64 hash a line") from None
    return int(old[1]), proof, signed
