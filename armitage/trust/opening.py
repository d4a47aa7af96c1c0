"""From the configuration to what verifies and decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from armitage.attest.keyring import OwnKey
from armitage.attest.keys import parse_public_key
from armitage.attest.verify import Check, EndedLog, Known, KnownKey
from armitage.log.note import PublicKey as LogKey
from armitage.log.note import parse_public_key as parse_log_key
from armitage.trust.evaluate import Key
from armitage.trust.options import Trust, TrustOptions


@dataclass(frozen=True, slots=True)
class Judges:
    """First `known` verifies an attestation (armitage.attest.verify), then `trust` decides whether
    it counts.
    """

    known: Known
    trust: Trust


def open_trust(
    options: TrustOptions,
    ring: Iterable[OwnKey],
    log: LogKey | None,
    checkers: Mapping[str, Check],
    module_sha256: str,
    *,
    past: Iterable[LogKey] = (),
    ended: Sequence[EndedLog] = (),
) -> Judges:
    """`ring` and `log` are this daemon's own: none where it has no record. `module_sha256` is the
    checker that policies call `checker`; `checkers` has it and perhaps others.
    `past` are this daemon's logs that have ended, which count; `ended` those of them that `known`
    shall verify, too. Raises ConfigError.
    """
    own = [] if log is None else list(ring)
    keys = {
        parse_public_key(key.public).key_id: KnownKey(
            parse_public_key(key.public), parse_log_key(key.log)
        )
        for key in options.keys
    }
    if log is not None:
        keys |= {key.public.key_id: KnownKey(key.public, log, tuple(ended)) for key in own}
    past_logs = frozenset(map(str, (*past, *(each.key for each in ended))))
    trust = Trust(options, [_own_key(key, str(log), past_logs) for key in own], module_sha256)
    return Judges(Known(keys, checkers), trust)


def _own_key(key: OwnKey, log: str, past_logs: frozenset[str]) -> Key:
    return Key(
        name=f"self {key.public.key_id[:8]}",
        key_id=key.public.key_id,
        log=log,
        past_logs=past_logs,
        not_before_s=key.not_before_s,
        not_after_s=key.not_after_s,
    )
