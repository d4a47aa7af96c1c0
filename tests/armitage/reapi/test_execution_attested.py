"""Executions whose results are judged and attested, over a scripted executor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.execution_world import SHA256, World, platform_of, serving
from support.notaries import Registry, registry
from support.scripted_executor import Run

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.claim import parse_statements
from armitage.attest.entries import Kind, parse_attestation_record
from armitage.reapi.attested import outputs_of_result, printed_of_result
from armitage.transport.port import Code
from cas.digest import Digest
from cas.keys import key_of
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Opened, Reached

BOX = SandboxKind.NAMESPACE


@dataclass
class Attesting:
    """An execution service with a notary."""

    world: World
    registry: Registry

    async def settle(self, action: reapi.Digest) -> Digest:
        digest = Digest(SHA256, action.hash, action.size_bytes)
        await self.registry.notary.settle(("", key_of(digest)))
        return digest

    async def is_cached(self, action: reapi.Digest) -> bool:
        return await self.world.cache.get("", await self.settle(action)) is not None


@pytest.fixture
async def attesting(tmp_path: Path) -> AsyncIterator[Attesting]:
    async with registry(tmp_path) as made, serving(notary=made.notary) as world:
        world.executor.evidence = Evidence(BOX)
        yield Attesting(world, made)


def using(evidence: Evidence, code: int = 0) -> object:
    async def script(run: Run) -> int:
        run.evidence = evidence
        await run.write("out", b"content")
        return code

    return script


async def test_result_is_attested_as_it_is_cached(attesting: Attesting) -> None:
    world, made = attesting.world, attesting.registry
    world.executor.scripts["cc"] = using(Evidence(BOX))  # type: ignore[assignment]
    action = await world.action("cc", action={"platform": platform_of(coeffects="pure")})

    response = await world.execute(action)
    digest = await attesting.settle(action)

    (kept,) = made.ledger.find(digest, Kind.ATTESTATION)
    envelopes = parse_attestation_record(await made.record.get(kept.entry.record))
    claim = parse_statements([envelope.payload for envelope in envelopes])
    assert response.status.code == Code.OK
    assert (claim.instance, claim.action) == ("", digest)
    assert claim.invocation == world.executor.runs[0].name
    assert [subject.name for subject in claim.subjects] == ["out"]
    cached = await world.cache.get("", digest)
    assert cached is not None
    result = reapi.ActionResult.FromString(cached)
    outputs = await outputs_of_result(result, SHA256, world.store)
    assert outputs.sha256() == claim.outputs.hash
    assert printed_of_result(result, SHA256) == (claim.stdout, claim.stderr)


async def test_second_execute_waits_for_the_attestation_and_is_a_hit(attesting: Attesting) -> None:
    action = await attesting.world.action("echo")

    first = await attesting.world.execute(action)
    second = await attesting.world.execute(action)

    assert (first.cached_result, second.cached_result) == (False, True)
    assert len(attesting.world.executor.runs) == 1


@pytest.mark.parametrize(
    ("coeffects", "evidence", "words"),
    [
        ("pure", Evidence(BOX, reached=(Reached("x.org", 443),)), "add `network:x.org:443`"),
        (
            "network:y.org",
            Evidence(BOX, reached=(Reached("x.org", 80),)),
            "the action declares `network:y.org`; add `network:x.org:80`",
        ),
        ("pure", Evidence(BOX, opened=(Opened("/etc/passwd", written=False),)), "/etc/passwd"),
        ("pure", Evidence(BOX, credentials=("npm",)), "add `auth:npm`"),
        ("network", Evidence(BOX, dropped=1), "records were dropped"),
        ("network", Evidence(None), "in which sandbox the action ran"),
        ("sandbox:wasm", Evidence(BOX), "add `sandbox:namespace`"),
    ],
)
async def test_lying_action_is_refused_and_never_cached(
    attesting: Attesting, coeffects: str, evidence: Evidence, words: str
) -> None:
    world, made = attesting.world, attesting.registry
    world.executor.scripts["liar"] = using(evidence)  # type: ignore[assignment]
    action = await world.action("liar", action={"platform": platform_of(coeffects=coeffects)})

    first = await world.execute(action)
    second = await world.execute(action)

    for response in (first, second):
        assert response.status.code == Code.FAILED_PRECONDITION
        assert words in response.status.message
        assert not response.HasField("result")
        assert not response.status.details  # Uploading blobs again would not help.
    assert len(world.executor.runs) == 2
    assert not await attesting.is_cached(action)
    digest = await attesting.settle(action)
    assert len(made.ledger.find(digest, Kind.DENIED)) == 2
    assert made.ledger.find(digest, Kind.ATTESTATION) == []


@pytest.mark.parametrize(
    ("coeffects", "evidence"),
    [
        ("network:*.org:443", Evidence(BOX, reached=(Reached("x.org", 443),))),
        ("auth:npm+network", Evidence(BOX, credentials=("npm",))),
        ("filesystem:/opt", Evidence(BOX, opened=(Opened("/opt/tool", written=False),))),
        ("sandbox:namespace", Evidence(BOX)),
    ],
)
async def test_honest_action_is_cached(
    attesting: Attesting, coeffects: str, evidence: Evidence
) -> None:
    world = attesting.world
    world.executor.scripts["honest"] = using(evidence)  # type: ignore[assignment]
    action = await world.action("honest", action={"platform": platform_of(coeffects=coeffects)})

    response = await world.execute(action)

    assert response.status.code == Code.OK
    assert await attesting.is_cached(action)


async def test_failed_command_is_judged_and_not_attested(attesting: Attesting) -> None:
    world, made = attesting.world, attesting.registry
    stolen = Evidence(BOX, credentials=("npm",))
    world.executor.scripts["thief"] = using(stolen, code=1)  # type: ignore[assignment]

    failed = await world.execute(await world.action("false"))
    refused = await world.execute(await world.action("thief"))

    assert (failed.status.code, failed.result.exit_code) == (Code.OK, 1)
    assert refused.status.code == Code.FAILED_PRECONDITION
    assert made.notary.stats().attested == 0


async def test_without_evidence_nothing_is_attested_and_all_goes_on(attesting: Attesting) -> None:
    attesting.world.executor.evidence = None
    action = await attesting.world.action("echo")

    response = await attesting.world.execute(action)

    assert response.status.code == Code.OK
    assert await attesting.is_cached(action)
    assert attesting.registry.notary.stats().approved == 0


async def test_do_not_cache_is_attested_and_not_cached(attesting: Attesting) -> None:
    action = await attesting.world.action("echo", action={"do_not_cache": True})

    await attesting.world.execute(action)

    assert not await attesting.is_cached(action)
    assert attesting.registry.notary.stats().attested == 1


async def test_failed_log_keeps_the_result_from_the_cache_not_from_the_client(
    attesting: Attesting,
) -> None:
    await attesting.registry.record.close()
    action = await attesting.world.action("echo")

    response = await attesting.world.execute(action)

    assert response.status.code == Code.OK
    assert not await attesting.is_cached(action)
