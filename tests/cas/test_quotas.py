"""Quotas: who is charged, who must give up what, and what a kill leaves of it."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.packs import open_storage

from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull
from cas.keys import key_of
from cas.pack_storage import PackStorage
from cas.pack_store import PackOptions
from cas.quotas import Quotas

LEASE_S = 1200.0
SIZE = 1000
LIMITS = {"small": 10 * SIZE, "large": 100 * SIZE}


class World:
    """A store, its quotas and a clock."""

    def __init__(self, storage: PackStorage, clock: FakeClock, path: Path) -> None:
        self.store = storage.store
        self.clock = clock
        self.path = path
        self.open()

    def open(self) -> None:
        self.quotas = Quotas(LIMITS, self.store, self.store.index.__contains__, self.path)
        self.store.on_gone = self.quotas.gone

    async def put(self, account: str, seed: int) -> Digest:
        data = random.Random(seed).randbytes(SIZE)
        digest = DigestFunction.SHA256.digest(data)
        with self.quotas.reserve(account, SIZE):
            await self.store.put([digest], data)
        self.quotas.charge(account, [digest])
        return digest


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = FakeClock()
    storage = await open_storage(tmp_path / "store", clock, PackOptions(min_lease_s=LEASE_S))
    world = World(storage, clock, tmp_path / "quotas")
    yield world
    world.quotas.close()
    await storage.close()


async def test_an_account_over_its_quota_is_refused_and_others_are_not(world: World) -> None:
    for seed in range(10):
        await world.put("small", seed)

    with pytest.raises(StoreFull, match=r"instance 'small': of its quota of 10000"):
        await world.put("small", 10)
    await world.put("large", 11)
    await world.put("without a limit", 12)

    assert world.quotas.used_bytes("small") == 10 * SIZE
    assert world.quotas.used_bytes("large") == SIZE


async def test_room_is_made_of_the_accounts_own_blobs_when_leases_are_over(world: World) -> None:
    others = [await world.put("large", seed) for seed in range(20)]
    own = [await world.put("small", seed) for seed in range(100, 110)]
    world.store.hold("invocation:1", own[:1])
    world.clock.advance(2 * LEASE_S)
    assert await world.store.find_missing(own[1:3]) == []

    new = [await world.put("small", seed) for seed in range(200, 207)]
    with pytest.raises(StoreFull):
        await world.put("small", 300)

    assert set(await world.store.find_missing(own)) == set(own[3:])
    assert await world.store.find_missing([*new, *others]) == []


async def test_a_blob_is_charged_once_to_whoever_was_first(world: World) -> None:
    digest = await world.put("small", 1)
    await world.put("large", 1)
    world.quotas.charge("small", [digest, digest, DigestFunction.SHA256.empty])

    assert world.quotas.used_bytes("small") == SIZE
    assert world.quotas.used_bytes("large") == 0


async def test_what_goes_is_charged_no_more(world: World) -> None:
    for seed in range(10):
        await world.put("small", seed)
    world.clock.advance(2 * LEASE_S)

    world.store.shrink(3 * SIZE)

    assert world.quotas.used_bytes("small") == world.store.stats().bytes == 3 * SIZE


async def test_writes_under_way_count(world: World) -> None:
    with world.quotas.reserve("small", 6 * SIZE):
        with pytest.raises(StoreFull), world.quotas.reserve("small", 5 * SIZE):
            pass
        with world.quotas.reserve("small", 4 * SIZE):
            pass
    with world.quotas.reserve("small", 10 * SIZE):
        pass


async def test_charges_outlive_a_kill_and_what_has_gone_is_left_out(world: World) -> None:
    for seed in range(6):
        await world.put("small", seed)
    gone = await world.put("small", 6)
    world.store.on_gone = None  # As when it was found damaged at the start.
    world.store._forget([key_of(gone)])
    with world.path.open("ab") as file:
        file.write(b"not hex at all\n7365")

    world.quotas.close()
    world.open()

    assert world.quotas.used_bytes("small") == 6 * SIZE
    assert len(world.path.read_bytes().splitlines()) == 6


async def test_the_file_is_written_anew_when_most_of_it_has_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas.quotas._FEW_LINES", 5)
    for seed in range(40):
        await world.put("large", seed)
    await world.quotas.tidy()
    assert len(world.path.read_bytes().splitlines()) == 40, "nothing has gone yet"
    world.clock.advance(2 * LEASE_S)
    world.store.shrink(4 * SIZE)

    await world.quotas.tidy()
    await world.put("large", 100)

    assert len(world.path.read_bytes().splitlines()) == 5
    world.quotas.close()
    world.open()
    assert world.quotas.used_bytes("large") == 5 * SIZE
