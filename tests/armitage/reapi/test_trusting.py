"""A cache that serves only what a policy lets through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.execution_world import CALL, SHA256, World, platform_of, serving
from support.notaries import Registry, registry
from support.scripted_executor import Run

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import NotFound, Unavailable
from armitage.reapi.action_cache import ActionCacheService
from armitage.reapi.completeness import Completeness
from armitage.reapi.digests import wire_digest
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.trusting import REFUSAL, TrustGate
from armitage.transport.port import Code, Trailers, said_trailers
from cas.digest import Digest
from cas.keys import key_of
from cas.memory import MemoryStore
from executor.coeffects import SandboxKind
from executor.evidence import Evidence

BOX = SandboxKind.NAMESPACE


@dataclass
class Gated:
    """An execution service and a cache service under one policy."""

    world: World
    registry: Registry
    gate: TrustGate
    cache: ActionCacheService

    async def executed(self, action: reapi.Digest) -> Digest:
        """Executes an action and answers its digest, once what came of it is settled."""
        response = await self.world.execute(action)
        assert response.status.code == Code.OK
        digest = Digest(SHA256, action.hash, action.size_bytes)
        await self.registry.notary.settle(("", key_of(digest)))
        self.world.clock.advance(1)  # Who asks later shares no run.
        return digest

    async def get(self, action: reapi.Digest) -> reapi.ActionResult:
        request = reapi.GetActionResultRequest(action_digest=action)
        return reapi.ActionResult.FromString(
            await self.cache.get_action_result(request.SerializeToString(), CALL)
        )

    async def update(self, action: reapi.Digest, result: reapi.ActionResult) -> None:
        request = reapi.UpdateActionResultRequest(action_digest=action, action_result=result)
        await self.cache.update_action_result(request.SerializeToString(), CALL)


class Gates:
    """Opens gated services."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[TrustGate] = []

    async def open(self, policy: str, *, explains: bool = False) -> AsyncIterator[Gated]:
        async with registry(self.path) as made:
            made.explains = explains

            def gate(store: MemoryStore, clock: FakeClock) -> TrustGate:
                self.made.append(made.gate(policy, store, clock))
                return self.made[-1]

            async with serving(notary=made.notary, gate=gate) as world:
                world.executor.evidence = Evidence(BOX)
                cache = ActionCacheService(
                    world.cache,
                    world.store,
                    Instances([Instance()]),
                    world.invocations,
                    Completeness(world.store),
                    notary=made.notary,
                    gate=self.made[-1],
                )
                yield Gated(world, made, self.made[-1], cache)


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[Gated]:
    async for made in Gates(tmp_path).open("self"):
        yield made


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Gated]:
    """Two must agree, and there is one."""
    async for made in Gates(tmp_path).open("reproduced(2)"):
        yield made


async def test_attested_result_is_served(gated: Gated) -> None:
    action = await gated.world.action("echo")
    first = await gated.executed(action)

    again = await gated.world.execute(action)
    got = await gated.get(action)

    assert again.cached_result
    assert got == again.result
    assert gated.gate.stats().believed == 2
    assert gated.registry.ledger.actions(first.hash) == [first]


async def test_unattested_result_is_a_miss_and_is_executed(gated: Gated) -> None:
    gated.world.executor.evidence = None
    action = await gated.world.action("echo")
    await gated.executed(action)

    with pytest.raises(NotFound, match="policy `self` does not hold: no attestation by self"):
        await gated.get(action)
    again = await gated.world.execute(action)

    assert not again.cached_result
    assert len(gated.world.executor.runs) == 2
    assert gated.gate.stats().refused == 2


@pytest.mark.parametrize("explains", [True, False])
async def test_reason_is_said_in_a_field_of_its_own_where_that_is_wanted(
    tmp_path: Path, explains: bool
) -> None:
    asked: Trailers = ()
    async for gated in Gates(tmp_path).open("self", explains=explains):
        gated.world.executor.evidence = None
        action = await gated.world.action("echo")
        await gated.executed(action)
        assert said_trailers() == ()

        with pytest.raises(NotFound, match="one is there, but the policy `self` does not hold"):
            await gated.get(action)
        asked = said_trailers()
        await gated.world.execute(action)

    reason = "the policy `self` does not hold: no attestation by self"
    assert asked == (((REFUSAL, reason),) if explains else ())
    assert said_trailers() == asked * 2


async def test_threshold_that_is_not_reached_is_a_miss(strict: Gated) -> None:
    action = await strict.world.action("echo")
    await strict.executed(action)
    await strict.executed(action)

    with pytest.raises(NotFound, match="reproduced by 1 of 2 independent executions"):
        await strict.get(action)
    assert len(strict.world.executor.runs) == 2


async def test_uploaded_result_is_not_believed_nor_displaces_an_attested_one(gated: Gated) -> None:
    forged = reapi.ActionResult(
        output_files=[{"path": "out", "digest": await gated.world.put(b"forged")}]
    )
    action, other = await gated.world.action("echo"), await gated.world.action("echo", "other")
    await gated.executed(action)

    await gated.update(action, forged)
    await gated.update(other, forged)

    assert not (await gated.get(action)).output_files
    with pytest.raises(NotFound, match="no attestation by self"):
        await gated.get(other)


async def test_result_that_was_attested_earlier_displaces_a_later_one_only_when_that_is_lost(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def build(run: Run) -> int:
        await run.write("out", f"run {len(gated.world.executor.runs)}".encode())
        return 0

    gated.world.executor.scripts["build"] = build
    action = await gated.world.action("build")
    digest = await gated.executed(action)
    earlier = await gated.get(action)
    await gated.world.cache.remove("", digest)
    await gated.executed(action)
    later = await gated.get(action)
    assert earlier.output_files != later.output_files

    await gated.update(action, earlier)

    assert await gated.get(action) == later
    lost = {Digest(SHA256, file.digest.hash, file.digest.size_bytes) for file in later.output_files}
    find_missing = gated.world.store.find_missing

    async def find(digests: Iterable[Digest]) -> list[Digest]:
        asked = list(digests)
        return [*await find_missing(asked), *lost.intersection(asked)]

    monkeypatch.setattr(gated.world.store, "find_missing", find)
    await gated.update(action, earlier)
    assert await gated.get(action) == earlier


async def test_uploaded_copy_of_an_attested_result_is_believed(gated: Gated) -> None:
    action = await gated.world.action("echo")
    digest = await gated.executed(action)
    result = await gated.get(action)
    await gated.world.cache.remove("", digest)

    await gated.update(action, result)

    assert await gated.get(action) == result


def _print(result: reapi.ActionResult) -> None:
    result.stdout_raw = b"forged"


def _fill(result: reapi.ActionResult) -> None:
    result.output_files[0].contents = b"forged"


def _mark(result: reapi.ActionResult) -> None:
    result.output_files[0].is_executable = True


def _rename(result: reapi.ActionResult) -> None:
    result.output_files[0].path = "other"


def _link(result: reapi.ActionResult) -> None:
    result.output_symlinks.add(path="link", target="/etc/passwd")


def _say(result: reapi.ActionResult) -> None:
    result.stderr_digest.CopyFrom(result.output_files[0].digest)


def _swap(result: reapi.ActionResult) -> None:
    result.output_files[0].digest.CopyFrom(result.stdout_digest)


@pytest.mark.parametrize("change", [_print, _fill, _mark, _rename, _link, _say, _swap])
async def test_result_that_differs_from_what_was_attested_is_refused(
    gated: Gated, change: Callable[[reapi.ActionResult], None]
) -> None:
    async def build(run: Run) -> int:
        await run.write("out", b"content")
        run.print("done\n")
        return 0

    gated.world.executor.scripts["build"] = build
    action = await gated.world.action("build")
    digest = await gated.executed(action)
    result = await gated.get(action)
    change(result)
    await gated.world.cache.put("", digest, result.SerializeToString())

    with pytest.raises(NotFound, match="one is there, but "):
        await gated.get(action)


async def test_attestation_of_another_action_does_not_count(gated: Gated) -> None:
    action, other = await gated.world.action("echo"), await gated.world.action("true")
    await gated.executed(action)
    result = await gated.get(action)

    await gated.update(other, result)

    with pytest.raises(NotFound, match="no attestation by self"):
        await gated.get(other)


async def test_damaged_record_does_not_count(gated: Gated) -> None:
    action = await gated.world.action("echo")
    await gated.executed(action)
    await gated.registry.record.close()

    with pytest.raises(NotFound):
        await gated.get(action)


async def test_trouble_with_the_index_is_a_refusal(gated: Gated) -> None:
    action = await gated.world.action("echo")
    digest = await gated.executed(action)
    result = await gated.world.cache.get("", digest)
    assert result is not None
    gated.registry.ledger.close()

    why = await gated.gate.refusal("", digest, result)

    assert why is not None
    assert "the index of attestations fails" in why
    with pytest.raises(Unavailable):
        await gated.gate.decide("", digest, result)


async def test_open_instance_asks_nobody(tmp_path: Path) -> None:
    async for made in Gates(tmp_path).open("any"):
        assert made.gate.is_open("")
        action = await made.world.action("echo", action={"platform": platform_of()})
        digest = await made.executed(action)
        made.registry.ledger.close()

        assert await made.gate.refusal("", digest, b"anything") is None
        assert made.gate.stats().believed == 0


async def test_platform_is_that_of_the_action_else_of_the_command(gated: Gated) -> None:
    world = gated.world
    own = await world.action(
        "true", action={"platform": platform_of(pool="a")}, platform=platform_of(pool="b")
    )
    command = await world.action("true", platform=platform_of(pool="b"))
    twice = reapi.Platform(
        properties=[{"name": "pool", "value": "a"}, {"name": "pool", "value": "b"}]
    )
    doubtful = await world.action("true", action={"platform": twice})
    gone = wire_digest(SHA256.digest(b"gone"))

    platforms = [
        await gated.gate._platform(Digest(SHA256, each.hash, each.size_bytes))
        for each in (own, command, doubtful, gone)
    ]

    assert platforms == [{"pool": "a"}, {"pool": "b"}, None, None]
