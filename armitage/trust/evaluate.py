"""Decides whether a result is to be believed: a pure function of a policy, of attestations that
were verified, of what is asked for and of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from armitage.attest.statement import time_text
from armitage.attest.verified import Verified
from armitage.trust.policy import (
    All,
    Checked,
    Either,
    Narrowing,
    NothingRefused,
    Policy,
    Reproduced,
    Signed,
    Threshold,
    Unattested,
    Who,
    Without,
)
from cas.digest import Digest

SKEW_S: Final = 300.0
"""How far another daemon's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may count, and when."""

    name: str
    key_id: str
    log: str
    """The public key (vkey) of the log that its attestations stand in."""
    not_before_s: float | None = None
    not_after_s: float | None = None
    revoked: bool = False
    """Nothing that it ever signed counts: whoever stole it can write any date."""
    past_logs: frozenset[str] = frozenset()
    """Of its daemon: those that have ended, each followed by the next one up to `log`."""
    instances: frozenset[str] = frozenset()
    """Of its daemon, which may attest for ours; empty: only the one of the same name."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key that is known, by its id, and who is meant by the words of a policy."""

    by_id: Mapping[str, Key]
    groups: Mapping[Who, frozenset[str]]
    module_sha256: str
    """Of this daemon's checker."""
    revoked_logs: frozenset[str] = frozenset()
    """Nothing that stands in them counts, whoever signed it."""

    def ids_of(self, who: Iterable[Who]) -> frozenset[str]:
        """The ids of everybody named."""
        return frozenset().union(*(self.groups[each] for each in who))


@dataclass(frozen=True, slots=True)
class Asked:
    """The result that is to be served."""

    instance: str
    action: Digest
    outputs_sha256: str
    stdout: Digest
    stderr: Digest


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the policy holds; if not, `reasons` says what lacks and why what is there did not
    count, a line each.
    """

    holds: bool
    policy: str
    reasons: tuple[str, ...] = ()


def evaluate(
    policy: Policy,
    asked: Asked,
    attestations: Iterable[Verified],
    keys: Keys,
    now_s: float,
    *,
    max_age_s: float | None = None,
) -> Decision:
    """Decides. The same attestation given twice counts once."""
    counted: dict[Digest, Verified] = {}
    ignored = []
    for each in attestations:
        why = _objection(each, asked, keys, now_s, max_age_s)
        if why is None:
            counted[each.record] = each
        else:
            ignored.append(f"attestation {each.record.hash[:12]} does not count: {why}")
    lacks = _lacks(policy, list(counted.values()), asked, keys)
    if lacks is None:
        return Decision(holds=True, policy=str(policy))
    return Decision(holds=False, policy=str(policy), reasons=(lacks, *ignored))


def _objection(
    each: Verified, asked: Asked, keys: Keys, now_s: float, max_age_s: float | None
) -> str | None:
    """Why an attestation says nothing of what is asked for, or is not to be believed at all."""
    claim, key = each.claim, keys.by_id.get(each.key_id)
    if key is None:
        return f"its key {each.key_id[:16]} is not known"
    if key.revoked:
        return f"its key {key.name} is revoked"
    if each.log in keys.revoked_logs:
        return f"the log that it stands in is revoked, {each.log.partition('+')[0]}"
    if each.log != key.log and each.log not in key.past_logs:
        return f"it stands in another log than {key.name}'s"
    if claim.instance not in (key.instances or {asked.instance}):
        return f"it is about the instance {claim.instance!r} of {key.name}'s"
    if claim.action != asked.action:
        return f"it is about another action, {claim.action}"
    if claim.outputs.hash != asked.outputs_sha256:
        return f"{key.name} attested other outputs, {claim.outputs.hash[:12]}"
    return _objection_to_time(claim.finished_s, key, now_s, max_age_s)


def _objection_to_time(at_s: float, key: Key, now_s: float, max_age_s: float | None) -> str | None:
    if key.not_before_s is not None and at_s < key.not_before_s:
        return f"it is from before {key.name} became valid, {time_text(key.not_before_s)}"
    if key.not_after_s is not None and at_s >= key.not_after_s:
        return f"it is from after {key.name} expired, {time_text(key.not_after_s)}"
    if at_s > now_s + SKEW_S:
        return f"it is from the future, {time_text(at_s)}"
    if max_age_s is not None and now_s - at_s > max_age_s:
        return f"it is older than {max_age_s:g} s"
    return None


def _lacks(policy: Policy, found: Sequence[Verified], asked: Asked, keys: Keys) -> str | None:
    """What is missing for the policy to hold; None when it does."""
    match policy:
        case Unattested():
            return None
        case Signed(who):
            return _lacks_keys(1, (who,), _printing(found, asked), keys)
        case Threshold(count, several):
            return _lacks_keys(count, several, _printing(found, asked), keys)
        case Reproduced(count, several, ignore_streams):
            wanted = keys.ids_of(several) if several else frozenset(keys.by_id)
            found = [each for each in found if each.key_id in wanted]
            printing = _printing(found, asked)
            if not ignore_streams or not printing:
                # Whatever is ignored: one of them must have seen what is to be served.
                return _lacks_executions(count, printing, keys)
            return _lacks_executions(count, found, keys)
        case Either(parts):
            lacking = [_lacks(part, found, asked, keys) for part in parts]
            missing = [each for each in lacking if each is not None]
            return "; or ".join(missing) if len(missing) == len(parts) else None
        case All(parts):
            return _lacks_some(parts, found, asked, keys)
        case Checked() | NothingRefused() | Without():
            return _lacks_some((policy,), found, asked, keys)


def _lacks_some(
    parts: Sequence[Policy], found: Sequence[Verified], asked: Asked, keys: Keys
) -> str | None:
    needs_one = False
    for part in parts:
        match part:
            case Checked(modules):
                wanted = modules or (keys.module_sha256,)
                found = [each for each in found if each.claim.module_sha256 in wanted]
                needs_one = True
            case NothingRefused():
                # An empty list says so; a statement without one says nothing.
                found = [each for each in found if each.claim.refused == ()]
                needs_one = True
            case Without(who):
                unwanted = keys.ids_of((who,))
                found = [each for each in found if each.key_id not in unwanted]
    narrowing = [part for part in parts if isinstance(part, Narrowing)]
    if not _printing(found, asked) and (needs_one or len(narrowing) == len(parts)):
        told = " and ".join(map(str, narrowing))
        return f"no attestation of this result is left by `{told}`"
    for part in parts:
        if not isinstance(part, Narrowing):
            lacks = _lacks(part, found, asked, keys)
            if lacks is not None:
                return lacks
    return None


def _printing(found: Sequence[Verified], asked: Asked) -> list[Verified]:
    """Those of executions that printed what is to be served."""
    said = (asked.stdout, asked.stderr)
    return [each for each in found if (each.claim.stdout, each.claim.stderr) == said]


def _lacks_keys(
    count: int, who: Sequence[Who], found: Sequence[Verified], keys: Keys
) -> str | None:
    signed = {each.key_id for each in found} & keys.ids_of(who)
    if len(signed) >= count:
        return None
    told = ", ".join(map(str, who))
    if count == 1:
        return f"no attestation by {told}"
    return f"attested by {len(signed)} of {count} distinct keys of {told}{_names(signed, keys)}"


def _lacks_executions(count: int, found: Sequence[Verified], keys: Keys) -> str | None:
    by_key: dict[str, set[str]] = {}
    for each in found:
        by_key.setdefault(each.key_id, set()).add(each.claim.invocation)
    independent = _independent(by_key)
    if independent >= count:
        return None
    return f"reproduced by {independent} of {count} independent executions{_names(by_key, keys)}"


def _independent(by_key: Mapping[str, set[str]]) -> int:
    """How many pairs of a key and an invocation there are with neither twice: a matching."""
    taken: dict[str, str] = {}

    def place(key: str, tried: set[str]) -> bool:
        for invocation in sorted(by_key[key] - tried):
            tried.add(invocation)
            if invocation not in taken or place(taken[invocation], tried):
                taken[invocation] = key
                return True
        return False

    return sum(place(key, set()) for key in sorted(by_key))


def _names(ids: Iterable[str], keys: Keys) -> str:
    names = sorted(keys.by_id[each].name for each in ids)
    return f" ({', '.join(names)})" if names else ""
