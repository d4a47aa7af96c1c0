"""Keys that attestations are signed with: ed25519, named by the SHA-256 of their public form.

A private key is a PKCS#8 PEM file that only its owner can read, or is held by a command that signs
for us (an agent, a security module). The log signs with a key in a form of its own, git with
another, so that none can stand in for the others by mistake.
"""

from __future__ import annotations

import base64
import binascii
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from armitage.attest.errors import BadSignature
from armitage.errors import ConfigError
from armitage.private_file import read_private, write_private

SIGNATURE_BYTES: Final = 64
SEED_BYTES: Final = 32
_SPKI: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an ed25519 key in SubjectPublicKeyInfo (RFC 8410)."""
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of the seed in PKCS#8 (RFC 8410, section 7)."""
_BEGIN: Final = "-----BEGIN PRIVATE KEY-----"
_END: Final = "-----END PRIVATE KEY-----"
_AGENT_S: Final = 30.0


@dataclass(frozen=True)
class PublicKey:
    """Whose signatures count."""

    raw: bytes

    @cached_property
    def key_id(self) -> str:
        """Hex SHA-256 of the key as SubjectPublicKeyInfo."""
        return sha256(_SPKI + self.raw).hexdigest()

    def __str__(self) -> str:
        return base64.b64encode(_SPKI + self.raw).decode()

    def pem(self) -> str:
        """As openssl, cosign and others read it."""
        return f"-----BEGIN PUBLIC KEY-----\n{self}\n-----END PUBLIC KEY-----\n"

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Raises BadSignature."""
        try:
            self._verifier.verify(signed, signature)
        except (BadSignatureError, ValueError):
            raise BadSignature(f"the signature is not of the key {self.key_id[:16]}") from None

    @cached_property
    def _verifier(self) -> VerifyKey:
        return VerifyKey(self.raw)


def parse_public_key(text: str) -> PublicKey:
    """Reads the base64 of a SubjectPublicKeyInfo: what stands between the lines of a PEM file, or
    the whole of it. Raises ValueError.
    """
    lines = [line for line in text.strip().splitlines() if not line.startswith("-----")]
    try:
        data = base64.b64decode("".join(lines), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    raw = data[len(_SPKI) :]
    if data[: len(_SPKI)] != _SPKI or len(raw) != SEED_BYTES:
        raise ValueError(
            f"{text[:80]!r} is no ed25519 public key; give what `armitage key show` prints"
        )
    return PublicKey(raw)


class Signer(Protocol):
    """Whoever holds a private key."""

    @property
    def public(self) -> PublicKey:
        """Its other half."""

    def sign(self, data: bytes) -> bytes:
        """Answers the signature. May block; for any thread. Raises BadSignature when what came back
        is none of the key's, and ConfigError when whoever holds the key does not answer.
        """


class SeedSigner:
    """A key in memory. Its seed appears in no `repr`."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public: PublicKey = PublicKey(bytes(self._key.verify_key))

    def sign(self, data: bytes) -> bytes:
        """Answers the signature."""
        return self._key.sign(data).signature


class AgentSigner:
    """A key that a command holds: it is given the bytes to sign on stdin, and answers the 64 bytes
    of the signature on stdout.
    """

    def __init__(self, command: Sequence[str], public: PublicKey) -> None:
        self._command = list(command)
        self.public: PublicKey = public

    def sign(self, data: bytes) -> bytes:
        """Asks the command, and verifies what it answers."""
        try:
            done = subprocess.run(
                self._command, input=data, capture_output=True, check=False, timeout=_AGENT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"attest.agent: {self._command[0]}: {error}") from None
        if done.returncode:
            said = done.stderr[-200:].decode(errors="replace").strip()
            raise ConfigError(
                f"attest.agent: {self._command[0]} left with {done.returncode}: {said}"
            )
        self.public.verify(data, done.stdout)
        return done.stdout


def write_key(path: Path, seed: bytes) -> SeedSigner:
    """Makes the file, which must not be there yet, with mode 0600, durably. Raises OSError."""
    encoded = base64.b64encode(_PKCS8 + seed).decode()
    write_private(path, f"{_BEGIN}\n{encoded}\n{_END}\n".encode())
    return SeedSigner(seed)


def read_key(path: Path) -> SeedSigner:
    """Raises ConfigError when there is no such file, when others than its owner can read it, and
    when it holds no ed25519 key. What it holds is in no message.
    """
    lines = read_private(path).decode("ascii", "replace").strip().splitlines()
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    is_key = data[: len(_PKCS8)] == _PKCS8 and len(data) == len(_PKCS8) + SEED_BYTES
    if not is_key or (lines[0], lines[-1]) != (_BEGIN, _END):
        raise ConfigError(
            f"{path}: holds no private key for attestations; armitage key new --attestation"
            " makes one"
        )
    return SeedSigner(data[len(_PKCS8) :])
