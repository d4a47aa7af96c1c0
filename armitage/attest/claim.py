"""What the statements of one action say together, as far as anything is decided by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from armitage.attest.canonical import list_at, number_at, parse_canonical, text_at, value_at
from armitage.attest.errors import MalformedAttestation
from armitage.attest.statement import (
    BUILD_TYPE,
    CHECKER,
    COVERED,
    PREDICATES,
    STATEMENT,
    parse_time,
)
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest

_EXTERNAL: Final = {"action", "coeffects", "instance"}
_ALGORITHMS: Final = {
    function.value: function for function in DigestFunction if function is not DigestFunction.SHA1
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """An artefact that the statements are about."""

    name: str
    digests: tuple[tuple[str, str], ...]
    """Algorithm and lowercase hex."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An exchange that the action got no answer to."""

    url: str
    reason: str
    log_index: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What was said of one execution of one action; by whom, and whether truly, is not in here."""

    instance: str
    action: Digest
    outputs: Digest
    """Of the document that lists them (armitage.attest.facts.Outputs)."""
    stdout: Digest
    stderr: Digest
    declaration: Digest
    evidence: Digest
    module_sha256: str
    builder: str
    invocation: str
    started_s: float
    finished_s: float
    subjects: tuple[Subject, ...]
    refused: tuple[Attempt, ...] | None = None
    """What the witness refused; None where the statements do not say, as earlier ones did not."""
    failed: tuple[Attempt, ...] | None = None
    """What it let through and what failed then; likewise."""


def parse_statements(payloads: Sequence[bytes]) -> Claim:
    """Reads the three statements of one action, in the order of PREDICATES. What is said twice must
    be said alike: three signed halves of different truths make none.

    Raises MalformedAttestation.
    """
    if len(payloads) != len(PREDICATES):
        raise MalformedAttestation(f"an attestation has {len(PREDICATES)} statements")
    tables = [parse_canonical(payload) for payload in payloads]
    for table, kind in zip(tables, PREDICATES, strict=True):
        if (table.get("_type"), table.get("predicateType")) != (STATEMENT, kind):
            raise MalformedAttestation(f"there is no statement of type {kind} where it should be")
        if table.get("subject") != tables[0].get("subject"):
            raise MalformedAttestation("the statements are about different subjects")
    provenance, trace, verdict = (value_at(table, "predicate") for table in tables)
    definition, run = value_at(provenance, "buildDefinition"), value_at(provenance, "runDetails")
    policies = _by_name(list_at(verdict, "verifier", "policies"))
    claim = _claim(_subjects(tables[0]), definition, run, policies, trace)
    if set(policies) != {"module", "declaration", "evidence"} or not all(
        _agreement(claim, definition, run, trace, verdict)
    ):
        raise MalformedAttestation("the statements contradict each other, or are of another kind")
    return claim


def parse_subjects(provenance: bytes) -> tuple[Digest, tuple[Subject, ...]]:
    """Reads of a provenance statement alone which action and which artefacts it is about. Raises
    MalformedAttestation.
    """
    table = parse_canonical(provenance)
    external = ("predicate", "buildDefinition", "externalParameters")
    return _sized(value_at(table, *external, "action")), _subjects(table)


def _claim(
    subjects: tuple[Subject, ...],
    definition: Json,
    run: Json,
    policies: dict[str, Json],
    trace: Json,
) -> Claim:
    external = value_at(definition, "externalParameters")
    products = _by_name(list_at(run, "byproducts"))
    if set(external) != _EXTERNAL:
        raise MalformedAttestation(
            f"external parameters are {', '.join(sorted(_EXTERNAL))}, not {', '.join(external)}"
        )
    return Claim(
        instance=text_at(external, "instance"),
        action=_sized(value_at(external, "action")),
        outputs=_described(products, "outputs"),
        stdout=_described(products, "stdout"),
        stderr=_described(products, "stderr"),
        declaration=_described(policies, "declaration"),
        evidence=_described(policies, "evidence"),
        module_sha256=text_at(policies, "module", "digest", "sha256"),
        builder=text_at(run, "builder", "id"),
        invocation=text_at(run, "metadata", "invocationId"),
        started_s=parse_time(text_at(run, "metadata", "startedOn")),
        finished_s=parse_time(text_at(run, "metadata", "finishedOn")),
        subjects=subjects,
        refused=_attempts(definition, trace, "refused"),
        failed=_attempts(definition, trace, "failed"),
    )


def _attempts(definition: Json, trace: Json, kind: str) -> tuple[Attempt, ...] | None:
    if kind in value_at(trace, "monitorLog"):
        return tuple(
            Attempt(text_at(each, "url"), text_at(each, "reason"), number_at(each, "logIndex"))
            for each in list_at(trace, "monitorLog", kind)
        )
    # Without a network there was nothing to refuse, and nothing is said of it.
    return None if "networkSession" in value_at(definition, "internalParameters") else ()


def _agreement(
    claim: Claim, definition: Json, run: Json, trace: Json, verdict: Json
) -> Iterator[bool]:
    inputs = [each for each in list_at(definition, "resolvedDependencies") if "name" in each]
    yield value_at(definition, "buildType") == BUILD_TYPE
    yield _described(_by_name(inputs), "action") == claim.action
    yield text_at(definition, "externalParameters", "coeffects", "sha256") == claim.declaration.hash
    yield _described(_by_name(list_at(run, "byproducts")), "evidence") == claim.evidence
    yield text_at(trace, "monitoredProcess", "event") == claim.invocation
    yield text_at(verdict, "verifier", "id") == CHECKER
    yield value_at(verdict, "properties") == [COVERED]
    yield parse_time(text_at(verdict, "timeCreated")) == claim.finished_s


def _subjects(table: Json) -> tuple[Subject, ...]:
    found = []
    for each in list_at(table, "subject"):
        digests = value_at(each, "digest")
        if not isinstance(digests, dict) or not digests:
            raise MalformedAttestation("a subject has a digest")
        for algorithm, hashed in digests.items():
            _digest(algorithm, hashed, 0)
        found.append(Subject(text_at(each, "name"), tuple(sorted(digests.items()))))
    if not found or len({subject.name for subject in found}) < len(found):
        raise MalformedAttestation("an attestation is about something, each with a name of its own")
    return tuple(found)


def _by_name(found: Sequence[Json]) -> dict[str, Json]:
    named = {text_at(each, "name"): each for each in found}
    if len(named) != len(found):
        raise MalformedAttestation("a name is there twice")
    return named


def _described(table: dict[str, Json], name: str) -> Digest:
    digests = value_at(table, name, "digest")
    return _only(digests, number_at(table, name, "annotations", "sizeBytes"))


def _sized(table: Json) -> Digest:
    digests = {name: value for name, value in table.items() if name != "sizeBytes"}
    return _only(digests, number_at(table, "sizeBytes"))


def _only(digests: Any, size_bytes: int) -> Digest:
    if not isinstance(digests, dict) or len(digests) != 1:
        raise MalformedAttestation("a blob is named by one hash")
    ((algorithm, hashed),) = digests.items()
    return _digest(algorithm, hashed, size_bytes)


def _digest(algorithm: str, hashed: object, size_bytes: int) -> Digest:
    try:
        if algorithm in _ALGORITHMS and isinstance(hashed, str):
            return Digest(_ALGORITHMS[algorithm], hashed, size_bytes)
    except InvalidDigest:
        pass
    raise MalformedAttestation(f"{algorithm}:{hashed} is no hash that is accepted")
