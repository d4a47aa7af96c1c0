"""The Storage service over a memory store and a disk that says what it was asked for."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from support.clock import FakeClock
from support.wire import wire

from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
from armitage.errors import (
    Exhausted,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.request_metadata import HEADER
from armitage.reapi.storage import StorageService
from armitage.transport.port import Call
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryActionCache, MemoryOptions, MemoryStore
from cas.scrub import Repair, Scrubbed
from cas.upkeep import Collected

SHA256 = DigestFunction.SHA256
BLOB = b"a blob"
DIGEST = SHA256.digest(BLOB)
ABSENT = SHA256.digest(b"absent")
LEASE_S = 1200.0
IDLE_S = 600.0
HERE = Call("", peer="ipv4:127.0.0.1:1234")
THERE = Call("", peer="ipv4:192.0.2.1:1234")


class ScriptedDisk:
    """Scrubs as often as it is let, and finds one blob damaged."""

    def __init__(self) -> None:
        self.collected: list[tuple[int | None, float | None]] = []
        self.steps = asyncio.Semaphore(0)
        self.started = asyncio.Event()
        self.repair: Repair | None = None

    async def collect(
        self, most_bytes: int | None = None, garbage_share: float | None = None
    ) -> Collected:
        self.collected.append((most_bytes, garbage_share))
        return Collected(1, 2, 3)

    async def scrub(self, repair: Repair | None) -> AsyncIterator[Scrubbed]:
        self.repair = repair
        self.started.set()
        yield Scrubbed(done_bytes=1, total_bytes=2)
        await self.steps.acquire()
        yield Scrubbed(2, 2, 1, 1, damaged=(DIGEST,), repaired=(DIGEST,), damaged_results=1)

    def digests(self) -> Sequence[Digest]:
        return [DIGEST] * 5000


class World:
    """A service with all that it stands on."""

    def __init__(self, disk: ScriptedDisk | None = None, **options: object) -> None:
        self.clock = FakeClock()
        self.disk = disk
        self.store = MemoryStore(MemoryOptions(min_lease_s=LEASE_S), self.clock.monotonic)
        self.cache = MemoryActionCache()
        self.invocations = Invocations(self.store, self.clock.monotonic, idle_s=IDLE_S)
        self.service = StorageService(
            self.store,
            Instances([Instance("main")]),
            self.invocations,
            (self.store.stats, self.cache.stats),
            disk=disk,
            **options,  # type: ignore[arg-type]
        )

    async def stat(self, *digests: Digest, call: Call = HERE) -> list[pb.BlobStat]:
        request = pb.StatBlobsRequest(instance_name="main", digests=map(wire, digests))
        answer = await self.service.stat_blobs(request.SerializeToString(), call)
        return list(pb.StatBlobsResponse.FromString(answer).blobs)

    async def scrub(self, call: Call = HERE, *, repair: bool = False) -> list[pb.ScrubProgress]:
        request = pb.ScrubRequest(instance_name="main", repair=repair).SerializeToString()
        return [
            pb.ScrubProgress.FromString(answer)
            async for answer in self.service.scrub(request, call)
        ]


def build(name: str) -> Call:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

    metadata = reapi.RequestMetadata(tool_invocation_id=name)
    return Call("", {HEADER: metadata.SerializeToString()})


async def test_stat_tells_the_least_that_is_left_and_renews_nothing() -> None:
    world = World()
    await world.store.put([DIGEST], BLOB)
    world.invocations.hold(build("one"), [DIGEST])
    world.store.hold("operation:2", [DIGEST])
    world.clock.advance(LEASE_S / 3)

    await world.stat(DIGEST, ABSENT, SHA256.empty)
    [there, absent, empty] = await world.stat(DIGEST, ABSENT, SHA256.empty)

    assert there.presence == pb.BlobStat.PRESENT
    assert LEASE_S * 2 / 3 <= there.lease_left_s <= LEASE_S * 3 / 4
    assert {one.name: one.left_s for one in there.holders} == {
        "invocation:one": IDLE_S - LEASE_S / 3,
        "operation:2": -1,
    }
    assert absent == pb.BlobStat(digest=wire(ABSENT))
    assert empty.lease_left_s == float("inf")
    world.clock.advance(LEASE_S)
    [late] = await world.stat(DIGEST)
    assert late.lease_left_s == 0


async def test_strangers_are_not_told_who_holds_a_blob() -> None:
    world = World()
    await world.store.put([DIGEST], BLOB)
    world.invocations.hold(build("secret"), [DIGEST])

    [seen] = await world.stat(DIGEST, call=THERE)

    assert [one.name for one in seen.holders] == ["invocation"]


@pytest.mark.parametrize(
    ("operators", "call", "is_let"),
    [
        (("loopback",), HERE, True),
        (("loopback",), Call("", peer="ipv6:%5B::1%5D:77"), True),
        (("loopback",), Call("", peer="unix:"), True),
        (("loopback",), THERE, False),
        (("loopback",), Call("", peer="ipv6:%5B2001:db8::1%5D:77"), False),
        (("loopback",), Call("", peer=""), False),
        (("loopback",), Call("", peer="ipv4:192.0.2.1:1", identity="loopback"), False),
        ((), HERE, False),
        (("CN=ops",), Call("", peer="ipv4:192.0.2.1:1", identity="CN=ops"), True),
        (("CN=ops",), Call("", peer="ipv4:192.0.2.1:1", identity="CN=other"), False),
        (("CN=ops",), HERE, False),
    ],
)
async def test_only_operators_list_scrub_and_collect(
    operators: tuple[str, ...], call: Call, is_let: bool
) -> None:
    disk = ScriptedDisk()
    disk.steps.release()
    world = World(disk, operators=operators)
    request = pb.ListBlobsRequest(instance_name="main").SerializeToString()

    async def list_all() -> None:
        async for _ in world.service.list_blobs(request, call):
            pass

    for attempt in (
        list_all(),
        world.scrub(call),
        world.service.collect(request, call),
    ):
        if is_let:
            await attempt
        else:
            with pytest.raises(PermissionDenied):
                await attempt


async def test_collect_passes_on_what_is_asked_and_refuses_what_cannot_be() -> None:
    disk = ScriptedDisk()
    world = World(disk)

    for request in (
        pb.CollectRequest(instance_name="main"),
        pb.CollectRequest(instance_name="main", most_bytes=0, garbage_share=0.5),
    ):
        answer = await world.service.collect(request.SerializeToString(), HERE)
        assert pb.CollectResponse.FromString(answer).freed_bytes == 3
    assert disk.collected == [(None, None), (0, 0.5)]

    for wrong in (
        pb.CollectRequest(instance_name="main", most_bytes=-1),
        pb.CollectRequest(instance_name="main", garbage_share=0),
        pb.CollectRequest(instance_name="main", garbage_share=float("nan")),
    ):
        with pytest.raises(InvalidRequest):
            await world.service.collect(wrong.SerializeToString(), HERE)


async def test_a_scrub_tells_its_progress_and_in_the_end_what_it_found() -> None:
    disk = ScriptedDisk()
    disk.steps.release()

    async def repair(_: Digest) -> bool:
        return True

    world = World(disk, repair=repair)
    answers = await world.scrub(repair=True)

    assert [one.is_done for one in answers] == [False, False, True]
    assert [list(one.damaged) for one in answers] == [[], [], [str(DIGEST)]]
    assert list(answers[-1].repaired) == [str(DIGEST)]
    assert disk.repair is repair
    disk.steps.release()
    await world.scrub()
    assert disk.repair is None


async def test_one_scrub_runs_at_a_time_and_a_cancelled_one_makes_room() -> None:
    disk = ScriptedDisk()
    world = World(disk)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(world.scrub())
        await disk.started.wait()
        with pytest.raises(Exhausted):
            await world.scrub()
        first.cancel()
    disk.steps.release()

    assert (await world.scrub())[-1].is_done


async def test_all_blobs_are_listed_in_messages_of_bounded_size() -> None:
    world = World(ScriptedDisk())
    request = pb.ListBlobsRequest(instance_name="main").SerializeToString()

    parts = [
        pb.ListBlobsResponse.FromString(answer).digests
        async for answer in world.service.list_blobs(request, HERE)
    ]

    assert [len(part) for part in parts] == [4096, 904]
    assert set(parts[0]) == {str(DIGEST)}


async def test_without_a_disk_there_is_nothing_to_look_after() -> None:
    world = World()

    with pytest.raises(PreconditionFailed):
        await world.scrub()


async def test_an_unknown_instance_is_refused_by_every_call() -> None:
    world = World(ScriptedDisk())
    request = pb.ListBlobsRequest(instance_name="other").SerializeToString()

    for call in (world.service.stat_blobs, world.service.get_stats, world.service.collect):
        with pytest.raises(NotFound):
            await call(request, HERE)
    for stream in (world.service.list_blobs, world.service.scrub):
        with pytest.raises(NotFound):
            await anext(stream(request, HERE))
