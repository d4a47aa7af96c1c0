"""The configuration's `[trust]`, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from armitage.attest.keys import parse_public_key
from armitage.attest.verified import Verified
from armitage.errors import ConfigError
from armitage.log.errors import MalformedNote
from armitage.log.note import parse_public_key as parse_log_key
from armitage.trust.evaluate import Asked, Decision, Key, Keys, evaluate
from armitage.trust.policy import Policy, Who, is_open, parse_policy, who_of

SELF: Final = Who("self")


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One key of another daemon."""

    name: str
    """What policies call it."""
    public: str
    """As `armitage key show` prints it."""
    log: str
    """The public key of that daemon's log, as its operator gives it: NAME+ID+BASE64. An attestation
    in no log, or in another, does not count.
    """
    not_before: str = ""
    """From when on what it signed counts, such as 2026-01-31T00:00:00Z; empty: from ever."""
    not_after: str = ""
    """Until when; empty: for ever."""
    revoked: bool = False
    """Nothing that it ever signed counts."""
    instances: tuple[str, ...] = ()
    """Of that daemon, whose attestations count for any of ours; empty: only the one that has the
    same name as ours.
    """

    def __post_init__(self) -> None:
        parse_public_key(self.public)
        try:
            parse_log_key(self.log)
        except MalformedNote as error:
            raise ValueError(f"log: {error}") from None
        _seconds(self.not_before)
        _seconds(self.not_after)


@dataclass(frozen=True, slots=True)
class TrustRule:
    """A policy for some actions. Every rule that applies must hold, so that one more never lets
    more through.
    """

    policy: str
    instance: str | None = None
    """Left out: every instance."""
    platform: Mapping[str, str] = field(default_factory=dict)
    """Platform properties that an action must all have for the rule to apply. Clients choose them:
    keep the strict rules for those without. Where they are not known any more, the rule applies.
    """

    def __post_init__(self) -> None:
        parse_policy(self.policy)

    def applies(self, instance: str, platform: Mapping[str, str] | None) -> bool:
        """Whether it does for an action. None: its platform is not known."""
        if self.instance not in {None, instance}:
            return False
        return platform is None or self.platform.items() <= platform.items()


@dataclass(frozen=True, slots=True)
class TrustOptions:
    """Which results are served from the cache, and whose word counts (docs/trust.md)."""

    policy: str = "any"
    """Where no rule applies. `any`: every result, attested or not."""
    max_age_s: float | None = None
    """Attestations of earlier executions do not count."""
    rules: tuple[TrustRule, ...] = ()
    keys: tuple[TrustedKey, ...] = ()
    orgs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of keys by organisation."""
    revoked: tuple[str, ...] = ()
    """Ids of keys (hex SHA-256) that count no more, whoever lists them; also of this daemon's
    own.
    """
    explain_refusals: bool = False
    """Whether an answer that lacks a cached result for the policy's sake says why in its trailing
    metadata, as `armitage-refusal`. A reason names keys and policies.
    """
    revoked_logs: tuple[str, ...] = ()
    """Public keys (vkeys) of logs in which nothing counts any more, such as one of this daemon's
    that ended because its key was stolen. No fetch is answered from them either.
    """
    modules: tuple[Path, ...] = ()
    """Checkers beside this version's own, for attestations whose verdict is by them."""

    def __post_init__(self) -> None:
        parse_policy(self.policy)
        for vkey in self.revoked_logs:
            try:
                parse_log_key(vkey)
            except MalformedNote as error:
                raise ValueError(f"revoked_logs: {error}") from None
        names = [key.name for key in self.keys]
        publics = [parse_public_key(key.public).key_id for key in self.keys]
        for found, what in ((names, "name"), (publics, "public")):
            if len(set(found)) < len(found):
                raise ValueError(f"keys: two have the same {what}; a key counts once: keep one")
        for org, members in self.orgs.items():
            for member in members:
                if member not in names:
                    raise ValueError(f"orgs.{org}: {member!r} is the name of no key in trust.keys")
        known = {*(Who("key", name) for name in names), *(Who("org", o) for o in self.orgs), SELF}
        for text in (self.policy, *(rule.policy for rule in self.rules)):
            for who in who_of(parse_policy(text)):
                if who not in known:
                    raise ValueError(f"policy {text!r}: {who} is not in trust.{who.kind}s")


class Trust:
    """What the configuration says, ready to decide. Immutable."""

    def __init__(self, options: TrustOptions, own: Iterable[Key], module_sha256: str) -> None:
        """`own` are this daemon's keys, past ones too, by names of theirs; none where there is no
        record.
        """
        self._options = options
        self._default = parse_policy(options.policy)
        self._rules = [(rule, parse_policy(rule.policy)) for rule in options.rules]
        others = [_key(key) for key in options.keys]
        mine = [replace(key, revoked=key.revoked or key.key_id in options.revoked) for key in own]
        theirs = [
            replace(key, revoked=key.revoked or key.key_id in options.revoked) for key in others
        ]
        twice = {key.key_id for key in mine} & {key.key_id for key in theirs}
        if twice:
            raise ConfigError(
                f"trust.keys: {twice.pop()[:16]} is this daemon's own key; leave it out and write"
                " self"
            )
        by_name = {key.name: key.key_id for key in theirs}
        groups = {Who("key", name): frozenset({key_id}) for name, key_id in by_name.items()}
        for org, members in options.orgs.items():
            groups[Who("org", org)] = frozenset(by_name[name] for name in members)
        groups[SELF] = frozenset(key.key_id for key in mine)
        by_id = {key.key_id: key for key in (*mine, *theirs)}
        revoked_logs = frozenset(str(parse_log_key(vkey)) for vkey in options.revoked_logs)
        self.keys = Keys(by_id, groups, module_sha256, revoked_logs)

    @property
    def explains_refusals(self) -> bool:
        """Whether clients are told in a field of its own why a result was refused."""
        return self._options.explain_refusals

    def is_open(self, instance: str) -> bool:
        """Whether everything of the instance is served, whatever its platform: nobody need ask."""
        policies = [p for rule, p in self._rules if rule.applies(instance, None)]
        return all(map(is_open, policies)) and is_open(self._default)

    def policies_for(self, instance: str, platform: Mapping[str, str] | None) -> list[Policy]:
        """All that must hold for an action. None: its platform is not known; then every rule that
        could apply does, and the default too if perhaps none does.
        """
        applying = [(r, p) for r, p in self._rules if r.applies(instance, platform)]
        certain = [r for r, _ in applying if platform is not None or not r.platform]
        return [*(p for _, p in applying), *([] if certain else [self._default])]

    def describe(self, instance: str) -> list[tuple[str, str]]:
        """Which actions of the instance each policy is for, in words, and its text."""
        found = [
            (_platform_text(rule.platform), str(policy))
            for rule, policy in self._rules
            if rule.applies(instance, None)
        ]
        if all(rule.platform for rule, _ in self._rules if rule.applies(instance, None)):
            found.append(("others" if found else "all", str(self._default)))
        return found

    def decide(
        self,
        asked: Asked,
        platform: Mapping[str, str] | None,
        attestations: Iterable[Verified],
        now_s: float,
    ) -> Decision:
        """Decides by every policy that applies; the first that does not hold is answered."""
        found = list(attestations)
        policies = self.policies_for(asked.instance, platform)
        for policy in policies:
            decision = evaluate(
                policy, asked, found, self.keys, now_s, max_age_s=self._options.max_age_s
            )
            if not decision.holds:
                return decision
        several = len(policies) > 1
        told = " and ".join(f"({each})" if several else str(each) for each in policies)
        return Decision(holds=True, policy=told)


def _platform_text(platform: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in platform.items()) or "all"


def _key(key: TrustedKey) -> Key:
    return Key(
        name=key.name,
        key_id=parse_public_key(key.public).key_id,
        log=str(parse_log_key(key.log)),
        not_before_s=_seconds(key.not_before),
        not_after_s=_seconds(key.not_after),
        revoked=key.revoked,
        instances=frozenset(key.instances),
    )


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(f"{text!r} is no time with a zone, such as 2026-01-31T00:00:00Z")
    return at.timestamp()
