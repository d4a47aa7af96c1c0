"""From an artefact to the checkpoint and to the policy, as rows that people and programs read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from armitage.attest.bundle import parse_bundle
from armitage.attest.claim import Claim
from armitage.attest.errors import AttestationError, MalformedAttestation, NotVerified
from armitage.attest.verified import Verified
from armitage.attest.verify import Known, Verification
from armitage.trust.evaluate import Asked
from armitage.trust.opening import Judges


@dataclass(frozen=True, slots=True)
class Artefact:
    """What is to be verified, by its hashes under every function that may name it."""

    name: str
    digests: Mapping[str, str]
    """Algorithm to lowercase hex."""

    def is_in(self, claim: Claim) -> bool:
        """Whether an attestation is about it: one of its subjects, or the action itself."""
        named = {pair for subject in claim.subjects for pair in subject.digests}
        named.add((claim.action.function.value, claim.action.hash))
        return not named.isdisjoint(self.digests.items())


@dataclass(frozen=True, slots=True)
class Row:
    """One step for one bundle (an empty name: for all of them)."""

    bundle: str
    step: str
    holds: bool
    told: str


@dataclass(slots=True)
class Report:
    """Every step that was taken. A bundle's steps end with the first that fails."""

    rows: list[Row] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    holds: bool = False
    """The policy does, over the bundles that were verified."""
    reasons: tuple[str, ...] = ()


def report(
    bundles: Sequence[tuple[str, bytes]],
    judges: Judges,
    now_s: float,
    artefact: Artefact | None = None,
    instance: str | None = None,
) -> Report:
    """Verifies every bundle, given by name, and asks the policy about the results that they attest,
    in that instance (None: the one that is attested).

    A bundle that does not hold is told and counts for nothing. The platform of the action is not
    known here, so every rule that could apply does.
    """
    made = Report()
    for name, data in bundles:
        for row in _verify(name, data, judges.known, artefact, made.verified):
            made.rows.append(row)
    if made.verified:
        _decide(made, judges, now_s, instance)
    else:
        made.reasons = ("no attestation holds",)
        made.rows.append(Row("", "policy", holds=False, told="there is nothing to decide about"))
    return made


def _verify(
    name: str, data: bytes, known: Known, artefact: Artefact | None, verified: list[Verified]
) -> Iterator[Row]:
    step = "form"
    try:
        verification = Verification(parse_bundle(data), known)
        yield Row(name, step, holds=True, told=f"{len(data)} bytes in the one form")
        for taken in verification.steps():
            yield Row(name, taken.name, holds=True, told=taken.found)
        yield Row(name, "network", holds=True, told=_network(verification.claim))
        step = "artefact"
        if artefact is not None:
            if not artefact.is_in(verification.claim):
                raise MalformedAttestation(f"{artefact.name} is not what it is about")
            yield Row(name, step, holds=True, told=f"it is about {artefact.name}")
        verified.append(verification.result())
    except NotVerified as error:
        yield Row(name, error.step, holds=False, told=error.why)
    except AttestationError as error:
        yield Row(name, step, holds=False, told=str(error))


def _network(claim: Claim) -> str:
    """What the attestation says of fetches in vain; whether that is good enough is for a policy."""
    if claim.refused is None:
        return "it does not say whether fetches were refused"
    if not claim.refused:
        return "no fetch was refused"
    first, more = claim.refused[0], len(claim.refused) - 1
    others = f", and {more} more" if more else ""
    return f"was refused {first.url} ({first.reason}){others}"


def _decide(made: Report, judges: Judges, now_s: float, instance: str | None) -> None:
    """One artefact may be the output of several actions: it is enough that one of them is believed.
    What the first lacks is told otherwise.
    """
    asked = dict.fromkeys(_asked(each.claim, instance) for each in made.verified)
    decisions = [judges.trust.decide(each, None, made.verified, now_s) for each in asked]
    decision = next((each for each in decisions if each.holds), decisions[0])
    made.holds, made.reasons = decision.holds, decision.reasons
    told = f"`{decision.policy}` holds" if decision.holds else decision.reasons[0]
    made.rows.append(Row("", "policy", decision.holds, told))


def _asked(claim: Claim, instance: str | None) -> Asked:
    return Asked(
        claim.instance if instance is None else instance,
        claim.action,
        claim.outputs.hash,
        claim.stdout,
        claim.stderr,
    )
