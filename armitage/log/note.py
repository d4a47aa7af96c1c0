"""Signed notes (C2SP signed-note): a text that people can read, and signature lines under it.

    text, ending in a newline
    <empty line>
    — NAME base64(KEY-ID || SIGNATURE)

Two kinds of key are understood, both ed25519: a log's (type 0x01) and a witness's, whose signature
carries the time (type 0x04, C2SP tlog-cosignature). Signatures of other keys are kept and ignored,
so that a note can be signed by those whom only others know.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from armitage.log.errors import InvalidSignature, MalformedNote

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
_DASH = "\u2014"
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_TIME_BYTES = 8
_SIGNATURE_LINE = re.compile(_DASH + r" ([^\s+]+) ([A-Za-z0-9+/=]+)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class KeyType(IntEnum):
    """What a key's signatures say (C2SP signed-note, "Signature types")."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. `data` is what follows the key id."""

    name: str
    key_id: bytes
    data: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"{_DASH} {self.name} {_base64(self.key_id + self.data)}\n"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whose signatures count: a vkey, as it is published."""

    name: str
    type: KeyType
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The first bytes of the hash over name, type and key."""
        named = self.name.encode() + b"\n" + bytes([self.type]) + self.key
        return sha256(named).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(bytes([self.type]) + self.key)}"

    def verify(self, text: str, signature: Signature) -> int | None:
        """Answers the time, in seconds since 1970, that a cosignature states. Raises
        InvalidSignature.
        """
        data, time = signature.data, None
        if self.type is KeyType.COSIGNATURE:
            time = int.from_bytes(data[:_TIME_BYTES], "big")
            data = data[_TIME_BYTES:]
        try:
            VerifyKey(self.key).verify(_signed_bytes(text, time), data)
        except (BadSignatureError, ValueError):
            raise InvalidSignature(
                f"the signature of {self.name} ({self.key_id.hex()}) does not fit the text"
            ) from None
        return time


def parse_public_key(vkey: str) -> PublicKey:
    """Reads `name+hex(key id)+base64(type || key)`. Raises MalformedNote."""
    name, _, rest = vkey.strip().partition("+")
    stated, _, encoded = rest.partition("+")
    data = _decode(encoded)
    if not _is_name(name) or data is None or len(data) != 1 + _KEY_BYTES:
        raise MalformedNote(f"{vkey!r} is not a public key of the form NAME+ID+BASE64")
    try:
        key = PublicKey(name, KeyType(data[0]), data[1:])
    except ValueError:
        raise MalformedNote(f"{name}: keys of type {data[0]:#04x} are not known") from None
    if key.key_id.hex() != stated:
        raise MalformedNote(f"{name}: the key id {stated!r} is not that of the key")
    return key


class Signer:
    """A private key. Its seed appears in no `repr`."""

    def __init__(self, name: str, kind: KeyType, seed: bytes) -> None:
        if not _is_name(name):
            raise MalformedNote(f"{name!r} is no key name; leave out spaces and '+'")
        self._key = SigningKey(seed)
        self.public = PublicKey(name, kind, bytes(self._key.verify_key))

    def sign(self, text: str, time: int | None = None) -> Signature:
        """Signs a text; a cosignature needs the `time`, in seconds since 1970, and no other key
        takes one.
        """
        if (time is None) is (self.public.type is KeyType.COSIGNATURE):
            raise ValueError("a cosignature states a time, and a log's signature does not")
        stated = b"" if time is None else time.to_bytes(_TIME_BYTES, "big")
        made = self._key.sign(_signed_bytes(text, time)).signature
        return Signature(self.public.name, self.public.key_id, stated + made)


class Reader(Signer):
    """A public key where a private one is expected: for logs that are only read."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public

    def sign(self, text: str, time: int | None = None) -> Signature:  # noqa: ARG002 (Signer's)
        """Raises ValueError, always."""
        raise ValueError(f"the private key of {self.public.name} is not here")


@dataclass(frozen=True, slots=True)
class Note:
    """A text and who signed it, as far as anybody says."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The whole note."""
        return (self.text + "\n" + "".join(each.line() for each in self.signatures)).encode()

    def verified(self, keys: Iterable[PublicKey]) -> dict[PublicKey, int | None]:
        """Answers which of the keys signed, with the time that a cosignature states.

        Raises InvalidSignature when a known key's signature does not fit, or none is of a known
        key.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[PublicKey, int | None] = {}
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is not None and key not in found:
                found[key] = key.verify(self.text, signature)
        if not found:
            names = ", ".join(sorted({key.name for key in known.values()})) or "nobody"
            raise InvalidSignature(f"the note is not signed by any known key (known: {names})")
        return found


def sign_note(text: str, signatures: Sequence[Signature]) -> Note:
    """Puts signatures under a text. Raises MalformedNote when no note can hold that text."""
    _check_text(text)
    return Note(text, tuple(signatures))


def parse_note(data: bytes) -> Note:
    """Splits a note; nothing is verified. Raises MalformedNote."""
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedNote(f"a note has at most {MAX_NOTE_BYTES} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise MalformedNote("a note is UTF-8 text") from None
    text, gap, lines = whole.rpartition("\n\n")
    text += "\n"
    if not gap or not lines.endswith("\n"):
        raise MalformedNote("a note is a text, an empty line and signature lines")
    _check_text(text)
    rows = lines[:-1].split("\n")
    if len(rows) > MAX_SIGNATURES:
        raise MalformedNote(f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(text, tuple(_parse_signature(row) for row in rows))


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Reads bare signature lines, as a witness answers them. Raises MalformedNote."""
    return parse_note(b"\n\n" + data).signatures


def _parse_signature(row: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(row)
    data = None if match is None else _decode(match[2])
    if match is None or data is None or len(data) <= _KEY_ID_BYTES:
        raise MalformedNote(f"{row[:100]!r} is not a signature line")
    return Signature(match[1], data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise MalformedNote("the text of a note ends in a newline")
    if _CONTROL.search(text):
        raise MalformedNote("the text of a note has no control characters")


def _signed_bytes(text: str, time: int | None) -> bytes:
    head = "" if time is None else f"cosignature/v1\ntime {time}\n"
    return (head + text).encode()


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(each.isspace() for each in name)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
