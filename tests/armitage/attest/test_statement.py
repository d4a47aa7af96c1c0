"""armitage.attest.statement and .claim."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.attested import FETCH, NOW_S, facts, named

from armitage.attest.canonical import canonical
from armitage.attest.claim import Subject, parse_statements
from armitage.attest.errors import MalformedAttestation, NotAttestable
from armitage.attest.facts import Outputs
from armitage.attest.statement import parse_time, statements, time_text
from armitage.proofs.checker import declaration_of
from cas.digest import Digest, DigestFunction
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Leased, Opened, Reached

Json = dict[str, Any]


def tables(**changes: Any) -> list[Json]:
    return [json.loads(each) for each in statements(facts(**changes))]


def test_what_was_stated_is_what_is_claimed() -> None:
    told = facts("network:h.example")

    claim = parse_statements(statements(told))

    assert claim.instance == "main"
    assert (claim.action, claim.stdout, claim.stderr) == (told.action, told.stdout, told.stderr)
    assert claim.outputs.hash == told.outputs.sha256()
    assert claim.declaration == DigestFunction.SHA256.digest(told.declaration)
    assert claim.evidence == DigestFunction.SHA256.digest(told.evidence)
    assert claim.module_sha256 == told.verdict.module_sha256
    assert (claim.started_s, claim.finished_s) == (told.started_s, told.finished_s)
    assert claim.subjects == (Subject("out/a", (("sha256", named("a").hash),)),)


def test_equal_facts_give_equal_bytes() -> None:
    assert statements(facts()) == statements(facts())


def test_outputs_are_named_alike_in_any_order() -> None:
    files = (("a", named("a"), False), ("b", named("b"), True))

    assert Outputs(0, files).sha256() == Outputs(0, files[::-1]).sha256()


@pytest.mark.parametrize(
    "other",
    [
        Outputs(1),
        Outputs(0, files=(("a", named("a"), False),)),
        Outputs(0, files=(("a", named("a"), True),)),
        Outputs(0, files=(("b", named("a"), False),)),
        Outputs(0, directories=(("a", named("a")),)),
        Outputs(0, symlinks=(("a", "b"),)),
        Outputs(0, symlinks=(("a", "c"),)),
    ],
    ids=str,
)
def test_other_outputs_have_another_name(other: Outputs) -> None:
    assert other.sha256() != Outputs(0).sha256()


def test_an_action_without_outputs_is_its_own_subject() -> None:
    claim = parse_statements(statements(facts(outputs=Outputs(0), subjects=())))

    assert claim.subjects == (Subject("action", (("sha256", named("action").hash),)),)


def test_a_fetch_is_a_dependency_and_a_network_entry() -> None:
    provenance, trace, _ = tables(declared="network:h.example")

    (fetched,) = provenance["predicate"]["buildDefinition"]["resolvedDependencies"][3:]
    assert (fetched["uri"], fetched["digest"]) == (FETCH.url, {"sha256": FETCH.sha256})
    assert trace["predicate"]["monitorLog"]["network"] == [
        {
            "hostname": "h.example",
            "port": 443,
            "protocol": "tcp",
            "ip": "192.0.2.1",
            "url": FETCH.url,
            "sha256": FETCH.sha256,
            "logIndex": 1,
        }
    ]


def test_no_network_is_said_and_not_left_out() -> None:
    _, trace, _ = tables()

    assert trace["predicate"]["monitorLog"] == {"network": [], "fileAccess": []}


def test_what_was_held_and_opened_is_stated() -> None:
    used = Evidence(
        SandboxKind.MICROVM,
        profile=named("profile"),
        network_session="s",
        reached=(Reached("x.example", 22),),
        credentials=("npm",),
        opened=(Opened("/opt/tool", written=True),),
        gpus=(Leased("GPU-1", "H100", 81559, 90, "550"),),
    )

    provenance, trace, _ = tables(used=used)

    internal = provenance["predicate"]["buildDefinition"]["internalParameters"]
    assert internal == {
        "platform": [{"name": "OSFamily", "value": "linux"}],
        "sandbox": {"kind": "microvm", "profile": {"sha256": named("profile").hash}},
        "networkSession": "s",
        "credentials": ["npm"],
        "gpus": [{"uuid": "GPU-1", "name": "H100", "memoryMib": 81559, "sm": 90, "driver": "550"}],
    }
    log = trace["predicate"]["monitorLog"]
    assert log["network"] == [{"hostname": "x.example", "port": 22, "protocol": "tcp"}]
    assert log["fileAccess"] == [
        {"name": "/opt/tool", "uri": "file:///opt/tool", "annotations": {"access": "rw"}}
    ]


def test_nothing_is_stated_without_an_approval() -> None:
    told = facts()
    refused = replace(told.verdict, approved=False)

    with pytest.raises(NotAttestable):
        statements(replace(told, verdict=refused))


@pytest.mark.parametrize("document", ["declaration", "evidence"])
def test_an_approval_of_other_documents_is_none(document: str) -> None:
    changes: dict[str, Any] = {document: declaration_of("gpu")}

    with pytest.raises(NotAttestable):
        statements(facts(**changes))


def test_sha1_is_not_attested() -> None:
    with pytest.raises(NotAttestable, match="SHA-256"):
        statements(facts(action=DigestFunction.SHA1.digest(b"")))


def test_other_strong_functions_name_what_they_name() -> None:
    blake = DigestFunction.BLAKE3.digest(b"a")

    claim = parse_statements(statements(facts(action=blake, subjects=(("a", blake),))))

    assert claim.action == blake
    assert claim.subjects == (Subject("a", (("blake3", blake.hash),)),)


def change(path: str, value: object) -> Callable[[list[Json]], None]:
    def apply(found: list[Json]) -> None:
        number, *names, last = path.split("/")
        table: Any = found[int(number)]
        for name in names:
            table = table[int(name) if name.isdecimal() else name]
        if value is None:
            del table[last]
        else:
            table[last] = value

    return apply


CHANGES = [
    change("0/_type", "https://in-toto.io/Statement/v0.1"),
    change("0/predicateType", "https://slsa.dev/provenance/v0.2"),
    change("1/subject", [{"name": "b", "digest": {"sha256": named("b").hash}}]),
    change("0/predicate/buildDefinition/buildType", "urn:other"),
    change("0/predicate/buildDefinition/externalParameters/more", 1),
    change("0/predicate/buildDefinition/externalParameters/instance", None),
    change("0/predicate/buildDefinition/externalParameters/instance", 1),
    change("0/predicate/buildDefinition/externalParameters/action/sha256", named("b").hash),
    change("0/predicate/buildDefinition/externalParameters/action/sizeBytes", 1),
    change("0/predicate/buildDefinition/externalParameters/action/sha512", "0" * 128),
    change("0/predicate/buildDefinition/externalParameters/coeffects/sha256", named("b").hash),
    change("0/predicate/runDetails/metadata/finishedOn", time_text(NOW_S)),
    change("0/predicate/runDetails/metadata/finishedOn", "yesterday"),
    change("0/predicate/runDetails/byproducts/1/digest/sha256", named("b").hash),
    change("0/predicate/runDetails/byproducts/1/name", "outputs"),
    change("0/predicate/runDetails/byproducts", "none"),
    change("1/predicate/monitoredProcess/event", "another"),
    change("2/predicate/verifier/id", "urn:other"),
    change("2/predicate/verifier/policies/2/digest/sha256", named("b").hash),
    change("2/predicate/verifier/policies/1/digest/sha256", "x"),
    change("2/predicate/properties", []),
    change("2/predicate/timeCreated", time_text(NOW_S)),
    change("2/predicate", "none"),
]


@pytest.mark.parametrize("apply", CHANGES)
def test_statements_that_do_not_fit_together_are_refused(
    apply: Callable[[list[Json]], None],
) -> None:
    found = tables()
    apply(found)
    assert found != tables()

    with pytest.raises(MalformedAttestation):
        parse_statements([canonical(each) for each in found])


@pytest.mark.parametrize(
    "subject",
    [
        [],
        [{"name": "a"}],
        [{"name": "a", "digest": {"sha1": "0" * 40}}],
        [{"name": "a", "digest": {"sha256": named(text).hash}} for text in "ab"],
    ],
    ids=str,
)
def test_a_subject_needs_a_name_of_its_own_and_a_hash_that_is_accepted(subject: list[Json]) -> None:
    found = [{**each, "subject": subject} for each in tables()]

    with pytest.raises(MalformedAttestation):
        parse_statements([canonical(each) for each in found])


def test_statements_in_another_order_or_number_are_refused() -> None:
    made = statements(facts())

    for some in (made[:2], made[::-1], [*made, made[0]]):
        with pytest.raises(MalformedAttestation):
            parse_statements(some)


@pytest.mark.parametrize("seconds", [0.0, 1.5, NOW_S, 1_790_000_000.999])
def test_times_are_written_to_the_millisecond_and_read_back(seconds: float) -> None:
    assert parse_time(time_text(seconds)) == pytest.approx(seconds, abs=0.001)
    assert time_text(parse_time(time_text(seconds))) == time_text(seconds)


def test_a_size_is_part_of_a_name() -> None:
    told = facts()
    other = replace(told, action=Digest(DigestFunction.SHA256, told.action.hash, 7))

    assert parse_statements(statements(other)).action != told.action
