from __future__ import annotations

from typing import Any

import pytest
from support.attested import LOG, NOW_S, SIGNER, facts

from armitage import settings
from armitage.attest.claim import parse_statements
from armitage.attest.keys import SeedSigner
from armitage.attest.statement import statements
from armitage.attest.verified import Verified
from armitage.errors import ConfigError
from armitage.trust.evaluate import Asked, Key
from armitage.trust.options import Trust, TrustOptions
from cas.digest import DigestFunction

PUBLIC = str(SIGNER.public)
OTHER = str(SeedSigner(bytes(32)).public)
OWN = SeedSigner(bytes([1] * 32)).public
KEY = {"name": "a", "public": PUBLIC, "log": str(LOG.public)}
CLAIM = parse_statements(statements(facts()))
ASKED = Asked("main", CLAIM.action, CLAIM.outputs.hash, CLAIM.stdout, CLAIM.stderr)


def options(**table: Any) -> TrustOptions:
    return settings.build(TrustOptions, table, "trust")


def trust(**table: Any) -> Trust:
    own = Key("own", OWN.key_id, str(LOG.public))
    return Trust(options(**table), [own], CLAIM.module_sha256)


def by(key_id: str) -> Verified:
    record = DigestFunction.SHA256.digest(key_id.encode())
    return Verified(CLAIM, key_id, str(LOG.public), record, 0)


def rule(policy: str, **table: Any) -> dict[str, Any]:
    return {"policy": policy, **table}


def test_without_a_policy_everything_is_served() -> None:
    made = trust()

    assert made.is_open("main")
    assert made.decide(ASKED, None, [], NOW_S).holds


def test_a_named_key_and_its_organisation_count() -> None:
    for policy in ("key:a", "org:acme"):
        made = trust(policy=policy, keys=[KEY], orgs={"acme": ["a"]})

        assert made.decide(ASKED, None, [by(SIGNER.public.key_id)], NOW_S).holds
        assert not made.decide(ASKED, None, [by(OWN.key_id)], NOW_S).holds


def test_self_is_every_key_of_this_daemon() -> None:
    assert trust(policy="self").decide(ASKED, None, [by(OWN.key_id)], NOW_S).holds


@pytest.mark.parametrize("key_id", [SIGNER.public.key_id, OWN.key_id])
def test_a_revoked_key_counts_no_more_whoever_it_is(key_id: str) -> None:
    made = trust(policy="self or key:a", keys=[KEY], revoked=[key_id])

    decision = made.decide(ASKED, None, [by(key_id)], NOW_S)

    assert not decision.holds
    assert "is revoked" in decision.reasons[1]


@pytest.mark.parametrize("key_id", [SIGNER.public.key_id, OWN.key_id])
def test_nothing_in_a_revoked_log_counts_whoever_signed_it(key_id: str) -> None:
    made = trust(policy="self or key:a", keys=[KEY], revoked_logs=[str(LOG.public)])

    decision = made.decide(ASKED, None, [by(key_id)], NOW_S)

    assert not decision.holds
    assert "the log that it stands in is revoked" in decision.reasons[1]


def test_a_revoked_log_is_named_by_its_public_key() -> None:
    with pytest.raises(ConfigError, match=r"'log\.example' is not a public key"):
        options(revoked_logs=["log.example"])


def test_every_rule_that_applies_must_hold() -> None:
    made = trust(rules=[rule("self"), rule("key:a", instance="main")], keys=[KEY])
    both = [by(OWN.key_id), by(SIGNER.public.key_id)]

    assert made.decide(ASKED, {}, both, NOW_S).holds
    assert not made.decide(ASKED, {}, both[:1], NOW_S).holds
    assert not made.decide(ASKED, {}, both[1:], NOW_S).holds


def test_a_rule_for_another_instance_does_not_apply() -> None:
    made = trust(rules=[rule("self", instance="release")])

    assert made.is_open("main")
    assert not made.is_open("release")
    assert made.decide(ASKED, {}, [], NOW_S).holds


def test_a_rule_for_a_platform_applies_to_actions_that_have_all_of_it() -> None:
    made = trust(rules=[rule("self", platform={"pool": "prod", "os": "linux"})])

    assert made.decide(ASKED, {"pool": "prod"}, [], NOW_S).holds
    assert not made.decide(ASKED, {"pool": "prod", "os": "linux", "x": "y"}, [], NOW_S).holds


def test_a_platform_that_is_not_known_has_every_rule_and_the_default_apply() -> None:
    made = trust(policy="key:a", rules=[rule("self", platform={"pool": "prod"})], keys=[KEY])

    assert not made.decide(ASKED, None, [by(OWN.key_id)], NOW_S).holds
    assert not made.decide(ASKED, None, [by(SIGNER.public.key_id)], NOW_S).holds
    both = [by(OWN.key_id), by(SIGNER.public.key_id)]
    assert made.decide(ASKED, None, both, NOW_S).holds


def test_an_instance_with_a_rule_for_some_platform_is_not_open() -> None:
    assert not trust(rules=[rule("self", platform={"pool": "prod"})]).is_open("main")


def test_validity_is_read_from_the_configuration() -> None:
    until = {**KEY, "not_after": "2026-09-21T14:13:18Z"}
    from_then = {**KEY, "not_before": "2026-09-21T14:13:19Z", "not_after": "2026-09-21T15:00:00Z"}

    decisions = [
        trust(policy="key:a", keys=[key]).decide(ASKED, None, [by(SIGNER.public.key_id)], NOW_S)
        for key in (until, from_then)
    ]

    assert [decision.holds for decision in decisions] == [False, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"policy": "selv"}, "trust: policy 'selv': 'selv' is not known"),
        ({"rules": [rule("")]}, r"trust.rules\[0\]: policy '': it ends"),
        ({"policy": "key:a"}, "policy 'key:a': key:a is not in trust.keys"),
        ({"rules": [rule("org:x")]}, "org:x is not in trust.orgs"),
        ({"orgs": {"x": ["a"]}}, "trust: orgs.x: 'a' is the name of no key"),
        ({"keys": [{**KEY, "public": "x"}]}, r"trust.keys\[0\]: 'x' is no ed25519 public key"),
        ({"keys": [{**KEY, "log": "x"}]}, r"trust.keys\[0\]: log: 'x' is not a public key"),
        ({"keys": [{"name": "a", "public": PUBLIC}]}, "log: required setting is missing"),
        ({"keys": [{**KEY, "not_after": "2026"}]}, "no time with a zone"),
        ({"keys": [{**KEY, "not_before": "2026-01-31T00:00:00"}]}, "no time with a zone"),
        ({"keys": [KEY, KEY]}, "two have the same name"),
        ({"keys": [KEY, {**KEY, "name": "b"}]}, "two have the same public; a key counts once"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**table)


def test_the_daemons_own_key_is_no_other() -> None:
    with pytest.raises(ConfigError, match="is this daemon's own key"):
        trust(keys=[{**KEY, "public": str(OWN)}])
