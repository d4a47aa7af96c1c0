from __future__ import annotations

from typing import Any

import pytest
from support.attested import LOG, NOW_S, SIGNER, bundle, checker, facts, named

from armitage.attest.facts import Outputs
from armitage.attest.keys import SeedSigner
from armitage.log.note import KeyType, Signer
from armitage.trust.opening import Judges, open_trust
from armitage.trust.options import TrustedKey, TrustOptions
from armitage.trust.report import Artefact, Report, report

OTHER = SeedSigner(bytes(32))
OTHER_LOG = Signer("log.example/other", KeyType.ED25519, bytes(32))
KEYS = (
    TrustedKey("a", str(SIGNER.public), str(LOG.public)),
    TrustedKey("b", str(OTHER.public), str(OTHER_LOG.public)),
)
OUT = Artefact("out/a", {"sha256": named("a").hash})
OURS = ("ours", bundle().encode())
THEIRS = ("theirs", bundle(facts(invocation="2"), OTHER, OTHER_LOG).encode())


def judges(policy: str) -> Judges:
    made = checker()
    options = TrustOptions(policy, keys=KEYS)
    return open_trust(options, (), None, {made.module_sha256: made.check}, made.module_sha256)


def asked(policy: str, *bundles: tuple[str, bytes], **options: Any) -> Report:
    return report(bundles, judges(policy), NOW_S, OUT, **options)


def failures(made: Report) -> list[tuple[str, str]]:
    return [(row.bundle, row.step) for row in made.rows if not row.holds]


def test_bundles_count_together() -> None:
    made = asked("threshold(2, key:a, key:b) and reproduced(2)", OURS, THEIRS)

    assert made.holds
    assert failures(made) == []
    assert len(made.verified) == 2


def test_a_bundle_that_does_not_hold_counts_for_nothing_and_spoils_nothing() -> None:
    broken = ("broken", THEIRS[1][:-2] + b"\n")

    assert asked("key:a", broken, OURS).holds
    made = asked("threshold(2, key:a, key:b)", broken, OURS)
    assert failures(made) == [("broken", "form"), ("", "policy")]


def test_a_bundle_about_something_else_counts_for_nothing() -> None:
    other = facts(
        outputs=Outputs(0, files=(("b", named("b"), True),)), subjects=(("b", named("b")),)
    )

    made = asked("key:b", ("other", bundle(other, OTHER, OTHER_LOG).encode()), OURS)

    assert failures(made) == [("other", "artefact"), ("", "policy")]


def test_it_is_enough_that_one_action_that_made_it_is_believed() -> None:
    another = facts(action=named("another action"))
    theirs = ("theirs", bundle(another, OTHER, OTHER_LOG).encode())

    assert asked("key:a", theirs, OURS).holds
    assert asked("key:b", OURS, theirs).holds
    assert not asked("key:a and key:b", OURS, theirs).holds


def test_another_instance_may_be_asked_for() -> None:
    assert asked("key:a", OURS, instance="main").holds
    assert not asked("key:a", OURS, instance="release").holds


@pytest.mark.parametrize("bundles", [[], [("x", b"")]])
def test_even_the_policy_any_needs_an_attestation_here(bundles: list[tuple[str, bytes]]) -> None:
    made = asked("any", *bundles)

    assert not made.holds
    assert made.reasons == ("no attestation holds",)


def test_an_action_may_stand_for_what_it_made() -> None:
    action = Artefact("action", {"sha256": named("action").hash})

    assert report([OURS], judges("key:a"), NOW_S, action).holds
