"""armitage.trust.evaluate: every rule, and every way in which an attestation is not what is asked
for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attested import NOW_S, facts, named

from armitage.attest.claim import Attempt, Claim, parse_statements
from armitage.attest.statement import statements
from armitage.attest.verified import Verified
from armitage.trust.evaluate import SKEW_S, Asked, Decision, Key, Keys, evaluate
from armitage.trust.policy import Who, parse_policy

CLAIM = parse_statements(statements(facts()))
ASKED = Asked(CLAIM.instance, CLAIM.action, CLAIM.outputs.hash, CLAIM.stdout, CLAIM.stderr)
LOG = "log.example/x+00000000+AAAA"
OTHER_MODULE = "ab" * 32


def keys(**changes: dict[str, Any]) -> Keys:
    """Keys `me`, `a`, `b`, `c`, whose ids are their names; `changes` by name."""
    known = {
        name: replace(Key(name, name, LOG), **changes.get(name, {})) for name in ("me", *"abc")
    }
    groups = {Who("key", name): frozenset({name}) for name in "abc"}
    groups[Who("self")] = frozenset({"me"})
    groups[Who("org", "acme")] = frozenset("ab")
    return Keys(known, groups, CLAIM.module_sha256)


def by(key: str, invocation: str = "", log: str = LOG, **changes: Any) -> Verified:
    claim: Claim = replace(CLAIM, invocation=invocation or f"of {key}", **changes)
    record = named(f"{key}{invocation}{sorted(changes.items(), key=str)}")
    return Verified(claim, key, log, record, 0)


REFUSED = (Attempt("https://x.example/", "undeclared", 7),)


def decide(policy: str, *found: Verified, known: Keys | None = None, **options: Any) -> Decision:
    return evaluate(parse_policy(policy), ASKED, found, known or keys(), NOW_S, **options)


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("any", []),
        ("self", [by("me")]),
        ("key:a", [by("a")]),
        ("org:acme", [by("b")]),
        ("threshold(2, self, key:a)", [by("me"), by("a")]),
        ("threshold(1, org:acme)", [by("a")]),
        ("reproduced(2)", [by("a"), by("b")]),
        ("reproduced(2, org:acme)", [by("a"), by("b")]),
        ("reproduced(2, ignore-streams)", [by("a"), by("b", stdout=named("other words"))]),
        ("checker", [by("c")]),
        (f"checker({OTHER_MODULE})", [by("c", module_sha256=OTHER_MODULE)]),
        ("self and checker", [by("me")]),
        ("self and nothing-refused", [by("me", refused=REFUSED), by("me", "again")]),
        ("self and nothing-refused", [by("me", failed=REFUSED)]),
        ("self and key:a", [by("me"), by("a")]),
        ("self or key:a", [by("a")]),
        ("org:acme and not key:a", [by("a"), by("b")]),
        ("(self or key:a) and not key:c", [by("a"), by("c")]),
    ],
)
def test_a_policy_holds(policy: str, found: list[Verified]) -> None:
    assert decide(policy, *found) == Decision(holds=True, policy=policy)


@pytest.mark.parametrize(
    ("policy", "found", "why"),
    [
        ("self", [], "no attestation by self"),
        ("self", [by("a")], "no attestation by self"),
        ("key:a", [by("b")], "no attestation by key:a"),
        ("org:acme", [by("c")], "no attestation by org:acme"),
        (
            "threshold(2, org:acme)",
            [by("a", "1"), by("a", "2")],
            "attested by 1 of 2 distinct keys of org:acme (a)",
        ),
        (
            "threshold(2, key:a, org:acme)",
            [by("a"), by("c")],
            "attested by 1 of 2 distinct keys of key:a, org:acme (a)",
        ),
        (
            "reproduced(2)",
            [by("a", "1"), by("a", "2")],
            "reproduced by 1 of 2 independent executions (a)",
        ),
        (
            "reproduced(2)",
            [by("a", "same"), by("b", "same")],
            "reproduced by 1 of 2 independent executions (a, b)",
        ),
        ("reproduced(2, org:acme)", [by("a"), by("c")], "reproduced by 1 of 2"),
        ("reproduced(2)", [by("a"), by("b", stdout=named("other"))], "reproduced by 1 of 2"),
        (
            "reproduced(1, ignore-streams)",
            [by("a", stderr=named("other"))],
            "reproduced by 0 of 1 independent executions",
        ),
        (
            "reproduced(1, org:acme, ignore-streams)",
            [by("a", stdout=named("other")), by("c")],
            "reproduced by 0 of 1 independent executions",
        ),
        ("self", [by("me", stdout=named("other"))], "no attestation by self"),
        (
            "self and nothing-refused",
            [by("me", refused=REFUSED)],
            "no attestation of this result is left by `nothing-refused`",
        ),
        (
            # It does not say, as earlier versions did not.
            "self and nothing-refused",
            [by("me", refused=None)],
            "no attestation of this result is left by `nothing-refused`",
        ),
        ("checker", [by("a", module_sha256=OTHER_MODULE)], "no attestation of this result is left"),
        (
            f"self and checker({OTHER_MODULE})",
            [by("me"), by("a", module_sha256=OTHER_MODULE)],
            "no attestation by self",
        ),
        ("any and checker", [], "no attestation of this result is left by `checker`"),
        ("self and key:a", [by("me")], "no attestation by key:a"),
        ("self or key:a", [by("b")], "no attestation by self; or no attestation by key:a"),
        ("org:acme and not key:a", [by("a")], "no attestation by org:acme"),
    ],
)
def test_a_policy_does_not_hold(policy: str, found: list[Verified], why: str) -> None:
    decision = decide(policy, *found)

    assert not decision.holds
    assert decision.reasons[0].startswith(why)


@pytest.mark.parametrize(
    ("each", "known", "why"),
    [
        (by("x"), keys(), "its key x is not known"),
        (by("a"), keys(a={"revoked": True}), "its key a is revoked"),
        (by("a", log="another"), keys(), "it stands in another log than a's"),
        (
            by("a", log="ended"),
            keys(b={"past_logs": frozenset({"ended"})}),
            "it stands in another log than a's",
        ),
        (
            by("a", log="ended+00000000+AAAA"),
            replace(
                keys(a={"past_logs": frozenset({"ended+00000000+AAAA"})}),
                revoked_logs=frozenset({"ended+00000000+AAAA"}),
            ),
            "the log that it stands in is revoked, ended",
        ),
        (
            by("a"),
            replace(keys(), revoked_logs=frozenset({LOG})),
            "the log that it stands in is revoked, log.example/x",
        ),
        (by("a", instance="dev"), keys(), "it is about the instance 'dev' of a's"),
        (
            by("a"),
            keys(a={"instances": frozenset({"release"})}),
            "it is about the instance 'main' of a's",
        ),
        (by("a", action=named("b")), keys(), "it is about another action, sha256:"),
        (by("a", outputs=named("b")), keys(), "a attested other outputs, "),
        (
            by("a"),
            keys(a={"not_before_s": NOW_S}),
            "it is from before a became valid, 2026-09-21T14:13:20.000Z",
        ),
        (by("a"), keys(a={"not_after_s": NOW_S - 1}), "it is from after a expired, 2026-09-21T1"),
        (by("a", finished_s=NOW_S + SKEW_S + 1), keys(), "it is from the future, 2026-09-21T1"),
    ],
)
def test_what_does_not_count_is_explained(each: Verified, known: Keys, why: str) -> None:
    decision = decide("key:a or org:acme", each, known=known)

    assert not decision.holds
    assert decision.reasons[1].startswith(
        f"attestation {each.record.hash[:12]} does not count: {why}"
    )


def test_what_stands_in_a_log_of_the_key_that_has_ended_counts() -> None:
    known = keys(a={"past_logs": frozenset({"ended"})})

    assert decide("key:a", by("a", log="ended"), known=known).holds
    assert decide("key:a", by("a"), known=known).holds


def test_one_key_in_two_logs_is_one() -> None:
    known, log = keys(a={"past_logs": frozenset({"ended"})}), "ended"

    assert not decide("reproduced(2)", by("a"), by("a", log=log), known=known).holds
    assert not decide("threshold(2, org:acme)", by("a"), by("a", log=log), known=known).holds


def test_a_key_that_expired_later_still_counts_for_what_it_signed_before() -> None:
    assert decide("key:a", by("a"), known=keys(a={"not_after_s": NOW_S})).holds


def test_another_instance_counts_where_the_key_says_so() -> None:
    known = keys(a={"instances": frozenset({"theirs"})})

    assert decide("key:a", by("a", instance="theirs"), known=known).holds


def test_what_is_too_old_does_not_count() -> None:
    assert decide("key:a", by("a"), max_age_s=2).holds
    assert not decide("key:a", by("a"), max_age_s=0.5).holds


def test_the_same_attestation_twice_counts_once() -> None:
    assert not decide("threshold(2, org:acme)", by("a"), by("a")).holds


def test_a_stolen_key_does_not_count_for_others() -> None:
    known = keys(b={"revoked": True})

    assert not decide("threshold(2, org:acme)", by("a"), by("b"), known=known).holds
    assert decide("org:acme", by("a"), by("b"), known=known).holds


def test_executions_are_matched_with_keys_as_well_as_can_be() -> None:
    found = [by("a", "1"), by("a", "2"), by("b", "1"), by("c", "3")]

    assert decide("reproduced(3)", *found).holds
    assert not decide("reproduced(4)", *found).holds


WHO = st.sampled_from(["self", "key:a", "key:b", "key:c", "org:acme"])
LEAVES = (
    WHO
    | st.just("any")
    | st.just("checker")
    | st.just("nothing-refused")
    | st.builds("threshold({}, {}, {})".format, st.integers(1, 3), WHO, WHO)
    | st.builds("reproduced({})".format, st.integers(1, 3))
    | st.builds("reproduced({}, ignore-streams)".format, st.integers(1, 3))
)
POLICIES = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds("({} and {})".format, inner, inner)
        | st.builds("({} or {})".format, inner, inner)
        | st.builds("(threshold(1, org:acme, self) and {} and not {})".format, WHO, WHO)
    ),
    max_leaves=5,
)
FOUND = st.lists(
    st.builds(
        lambda key, invocation, stdout, module, refused: by(
            key, invocation, stdout=named(stdout), module_sha256=module, refused=refused
        ),
        st.sampled_from(["me", "a", "b", "c"]),
        st.sampled_from("12"),
        st.sampled_from(["said", "else"]),
        st.sampled_from([CLAIM.module_sha256, OTHER_MODULE]),
        st.sampled_from([None, (), REFUSED]),
    ),
    max_size=5,
)


@given(POLICIES, FOUND, st.data())
def test_one_attestation_less_never_lets_more_through(
    policy: str, found: list[Verified], data: st.DataObject
) -> None:
    fewer = data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []

    if decide(policy, *fewer).holds:
        assert decide(policy, *found).holds
