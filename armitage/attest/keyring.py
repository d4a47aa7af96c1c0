"""A daemon's own keys for attestations: the one it signs with, and those it signed with before.

    attestation.key       the private key (none where a command holds it)
    attestation.key.next  the next one, while a rotation is under way
    attestation.keys      public: every key so far, the last one current, as JSON

A rotation writes the next key, then the public list, and then lets the next key take the place of
the one before, whose seed is gone with that. Opening finishes a rotation that was interrupted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from armitage.attest.canonical import canonical, list_at, parse_canonical, text_at
from armitage.attest.errors import MalformedAttestation
from armitage.attest.keys import (
    SEED_BYTES,
    AgentSigner,
    PublicKey,
    Signer,
    parse_public_key,
    read_key,
    write_key,
)
from armitage.attest.statement import parse_time, time_text
from armitage.errors import ConfigError
from armitage.private_file import rename_file, replace_file

KEY: Final = "attestation.key"
NEXT: Final = "attestation.key.next"
RING: Final = "attestation.keys"


@dataclass(frozen=True, slots=True)
class AttestOptions:
    """How this daemon attests what it executed (docs/attestation.md)."""

    builder: str = ""
    """A URI that names this daemon (SLSA's `builder.id`, with the kind of sandbox behind it);
    empty: one made of the name of its log.
    """
    agent: tuple[str, ...] = ()
    """A command that holds the key: it gets what is to be signed on stdin and answers the 64 bytes
    of an ed25519 signature on stdout. Empty: a key in data_dir/record.
    """
    agent_public: str = ""
    """The public key of what the command holds, as base64 of its SubjectPublicKeyInfo."""
    git: bool = True
    """Whether new attestations are also carried into a git repository, data_dir/record/git, twice a
    minute and at the end (`armitage attest`).
    """

    def __post_init__(self) -> None:
        if bool(self.agent) is not bool(self.agent_public):
            raise ValueError("agent and agent_public go together; set both, or none")
        if self.agent_public:
            parse_public_key(self.agent_public)


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key of this daemon's, and when what it signed counts."""

    public: PublicKey
    not_before_s: float
    not_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Own:
    """What a daemon signs with, and all its keys so far; the last is the current one."""

    signer: Signer
    keys: tuple[OwnKey, ...]


class TimedSigner:
    """A key until it expires. The time is asked for at every signature."""

    def __init__(self, signer: Signer, expires_s: float | None, now: Callable[[], float]) -> None:
        self._signer = signer
        self._expires_s = expires_s
        self._now = now

    @property
    def public(self) -> PublicKey:
        """The key's other half."""
        return self._signer.public

    def sign(self, data: bytes) -> bytes:
        """Signs. Raises ConfigError once the key has expired: nobody would believe it."""
        if self._expires_s is not None and self._now() >= self._expires_s:
            raise ConfigError(
                f"the key for attestations expired at {time_text(self._expires_s)}; stop the daemon"
                " and run `armitage key rotate`"
            )
        return self._signer.sign(data)


def open_own(directory: Path, options: AttestOptions, now: Callable[[], float]) -> Own:
    """Opens the keys of a record, making one where there is none.

    For whoever holds the record. Blocks. Raises ConfigError.
    """
    ring = read_ring(directory)
    if options.agent:
        signer: Signer = AgentSigner(options.agent, parse_public_key(options.agent_public))
    else:
        signer = _open_key(directory, ring)
    if not ring or (options.agent and ring[-1].public != signer.public):
        ring = _succeed(ring, signer.public, now(), None)
        _write_ring(directory, ring)
    if ring[-1].public != signer.public:
        raise ConfigError(
            f"{directory / KEY}: is not the key that {RING} beside it ends with; put that key back,"
            " or run `armitage key rotate`"
        )
    return Own(TimedSigner(signer, ring[-1].not_after_s, now), ring)


def rotate(directory: Path, now_s: float, valid_s: float | None) -> tuple[OwnKey, ...]:
    """Makes a new key the current one. What the one before signed until now goes on counting.

    For whoever holds the record, with nobody signing. Raises ConfigError, OSError.
    """
    _finish_rotation(directory, read_ring(directory))
    (directory / NEXT).unlink(missing_ok=True)
    signer = write_key(directory / NEXT, secrets.token_bytes(SEED_BYTES))
    until_s = None if valid_s is None else now_s + valid_s
    ring = _succeed(read_ring(directory), signer.public, now_s, until_s)
    _write_ring(directory, ring)
    _finish_rotation(directory, ring)
    return ring


def read_ring(directory: Path) -> tuple[OwnKey, ...]:
    """Answers all keys so far; none where there is no list. Raises ConfigError."""
    path = directory / RING
    try:
        return parse_ring(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (MalformedAttestation, ValueError) as error:
        raise ConfigError(f"{path}: is not a list of keys: {error}; restore it") from None


def parse_ring(data: bytes) -> tuple[OwnKey, ...]:
    """Reads the public list. Raises MalformedAttestation, ValueError, ConfigError."""
    return tuple(_parse_key(each) for each in list_at(parse_canonical(data), "keys"))


def _open_key(directory: Path, ring: Sequence[OwnKey]) -> Signer:
    _finish_rotation(directory, ring)
    path = directory / KEY
    if path.exists() or ring:
        # Where others once had the public key, a new one must not come about by itself.
        return read_key(path)
    return write_key(path, secrets.token_bytes(SEED_BYTES))


def _finish_rotation(directory: Path, ring: Sequence[OwnKey]) -> None:
    following = directory / NEXT
    if ring and following.exists() and read_key(following).public == ring[-1].public:
        rename_file(following, directory / KEY)


def _succeed(
    ring: Sequence[OwnKey], public: PublicKey, now_s: float, until_s: float | None
) -> tuple[OwnKey, ...]:
    if any(key.public == public for key in ring):
        raise ConfigError(f"the key {public.key_id[:16]} was used before; take a new one")
    now_s = parse_time(time_text(now_s))
    before = [*ring]
    if before:
        ends_s = min(now_s, before[-1].not_after_s or now_s)
        before[-1] = replace(before[-1], not_after_s=ends_s)
    return (*before, OwnKey(public, now_s, until_s))


def _parse_key(table: dict[str, Any]) -> OwnKey:
    until = text_at(table, "not_after")
    return OwnKey(
        parse_public_key(text_at(table, "public")),
        parse_time(text_at(table, "not_before")),
        parse_time(until) if until else None,
    )


def _write_ring(directory: Path, ring: Sequence[OwnKey]) -> None:
    keys = [
        {
            "public": str(key.public),
            "not_before": time_text(key.not_before_s),
            "not_after": "" if key.not_after_s is None else time_text(key.not_after_s),
        }
        for key in ring
    ]
    replace_file(directory / RING, canonical({"v": 1, "keys": keys}))
