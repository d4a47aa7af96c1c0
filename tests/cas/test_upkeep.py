"""Upkeep: what it chooses, when it evicts, and that disk use stays near what is stored."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.packs import open_storage

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.keys import key_of
from cas.large_files import LargeFiles
from cas.log import FOLDER, Segment
from cas.pack_storage import PackStorage
from cas.pack_store import PackOptions
from cas.upkeep import Upkeep, UpkeepOptions, choose
from cas.volume import DiskVolume, FileId

SHA256 = DigestFunction.SHA256
LEASE_S = 1200.0
MAX_BYTES = 2_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def storage(tmp_path: Path, clock: FakeClock) -> AsyncIterator[PackStorage]:
    options = PackOptions(max_bytes=MAX_BYTES, min_lease_s=LEASE_S)
    storage = await open_storage(tmp_path / "store", clock, options)
    yield storage
    await storage.close()


async def put(storage: PackStorage, seed: int, size: int = 20_000) -> Digest:
    data = random.Random(seed).randbytes(size)
    return await storage.store.put([SHA256.digest(data)], data)


async def fill(storage: PackStorage, blobs: int) -> list[Digest]:
    return [await put(storage, seed) for seed in range(blobs)]


class Slept:
    """A sleep that takes no time, and notes how long it should have been."""

    def __init__(self) -> None:
        self.total_s = 0.0

    async def __call__(self, seconds: float) -> None:
        self.total_s += seconds


def packs_bytes(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory / "store" / FOLDER))


def test_the_segment_with_the_greatest_share_of_garbage_is_chosen() -> None:
    full, half, most = (
        Segment(1, 1000, 1000, is_active=False),
        Segment(2, 1000, 500, is_active=False),
        Segment(3, 1000, 400, is_active=False),
    )
    active = Segment(4, 1000, 0, is_active=True)

    assert choose([full, half, most, active], 0.3) == most
    assert choose([full, half, active], 0.5) == half
    assert choose([full, half, active], 0.6) is None
    assert choose([], 0.1) is None


@pytest.mark.parametrize("field", ["high_watermark", "low_watermark", "garbage_share"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.01])
def test_parts_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        UpkeepOptions(**{field: value})  # type: ignore[arg-type]


async def test_above_the_high_watermark_old_blobs_go_down_to_the_low_one(
    storage: PackStorage, clock: FakeClock
) -> None:
    upkeep = Upkeep(storage, UpkeepOptions(), Slept())
    blobs = await fill(storage, 94)
    clock.advance(2 * LEASE_S)
    await upkeep.run()
    assert storage.store.stats().blobs == 94, "below the high watermark nothing goes"
    young = await put(storage, 1000)
    await put(storage, 1001)

    await upkeep.run()

    stats = storage.store.stats()
    assert stats.bytes <= 0.9 * MAX_BYTES
    assert stats.bytes > 0.9 * MAX_BYTES - 40_000, "more went than was to"
    missing = await storage.store.find_missing([*blobs, young])
    assert len(missing) == 96 - stats.blobs
    assert young not in missing


async def test_leases_and_holders_win_over_watermarks(
    storage: PackStorage, clock: FakeClock
) -> None:
    blobs = await fill(storage, 96)
    upkeep = Upkeep(storage, UpkeepOptions(), Slept())
    await upkeep.run()
    assert storage.store.stats().blobs == 96

    storage.store.hold("invocation:1", blobs[:50])
    clock.advance(2 * LEASE_S)
    await upkeep.collect(most_bytes=0)

    assert await storage.store.find_missing(blobs) == blobs[50:]


async def test_garbage_is_given_back_to_the_disk_and_what_stays_reads_right(
    storage: PackStorage, clock: FakeClock, tmp_path: Path
) -> None:
    slept = Slept()
    upkeep = Upkeep(storage, UpkeepOptions(rate_bytes=1000), slept)
    blobs = await fill(storage, 90)
    before = packs_bytes(tmp_path)
    storage.store.hold("operation:1", blobs[::9])
    clock.advance(2 * LEASE_S)

    collected = await upkeep.collect(most_bytes=0)

    after = packs_bytes(tmp_path)
    assert collected.evicted_bytes == 80 * 20_000
    assert collected.freed_bytes >= before - after - 10_000 > 0
    assert after < 10 * 20_000 + 2 * 256 * 1024
    assert slept.total_s >= 150, "copies keep to the rate"
    for seed in range(0, 90, 9):
        assert await storage.store.get(blobs[seed]) == random.Random(seed).randbytes(20_000)


async def test_churn_at_capacity_does_not_grow_on_disk(
    storage: PackStorage, clock: FakeClock, tmp_path: Path
) -> None:
    upkeep = Upkeep(storage, UpkeepOptions(), Slept())
    for seed in range(1000):
        await put(storage, seed)
        clock.advance(LEASE_S / 40)
        if seed % 10 == 0:
            await upkeep.run()

    await upkeep.run()
    assert storage.store.stats().bytes <= MAX_BYTES
    assert packs_bytes(tmp_path) <= MAX_BYTES / 0.7 + 2 * 256 * 1024


async def test_a_lease_that_touches_renewed_outlives_compaction_and_a_crash(
    tmp_path: Path, clock: FakeClock
) -> None:
    options = PackOptions(max_bytes=MAX_BYTES, min_lease_s=LEASE_S)
    storage = await open_storage(tmp_path / "store", clock, options)
    blobs = await fill(storage, 60)
    clock.advance(LEASE_S * 0.8)
    assert await storage.store.find_missing(blobs[::2]) == []
    clock.advance(LEASE_S * 0.4)
    await Upkeep(storage, UpkeepOptions(), Slept()).collect(0, 0.01)
    left = [storage.store.lease_of(digest) for digest in blobs[::2]]
    await storage.close()

    again = await open_storage(tmp_path / "store", clock, options)
    try:
        for digest, lease in zip(blobs[::2], left, strict=True):
            now = again.store.lease_of(digest)
            assert lease is not None
            assert now is not None
            assert now.left_s >= lease.left_s - LEASE_S / 12 > 0
            assert now.left_s >= LEASE_S * 0.6 - 1
        assert await again.store.find_missing(blobs) == blobs[1::2]
    finally:
        await again.close()


async def test_a_large_blob_that_goes_while_it_is_verified_reads_as_missing(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage(tmp_path / "store", clock, PackOptions(min_lease_s=0))
    digest = await put(storage, 1, 5_000_000)
    await storage.close()
    again = await open_storage(tmp_path / "store", clock, PackOptions(min_lease_s=0))
    index, loop = again.store.index, asyncio.get_running_loop()
    verify = LargeFiles.verify

    def verify_and_lose(files: LargeFiles, digest: Digest, known: FileId | None) -> object:
        loop.call_soon_threadsafe(index.remove, key_of(digest))
        return verify(files, digest, known)

    monkeypatch.setattr(LargeFiles, "verify", verify_and_lose)
    try:
        with pytest.raises(BlobNotFound):
            await again.store.get(digest)
    finally:
        await again.close()


async def test_watermarks_count_what_the_disk_has_left(
    storage: PackStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep = Upkeep(storage, UpkeepOptions(), Slept())
    await fill(storage, 50)
    clock.advance(2 * LEASE_S)
    monkeypatch.setattr(DiskVolume, "free_bytes", lambda _: 200_000)
    await upkeep.run()
    assert storage.store.stats().blobs == 50, "a fifth of it is free"

    monkeypatch.setattr(DiskVolume, "free_bytes", lambda _: 10_000)
    await upkeep.run()

    kept = storage.store.stats().bytes
    assert 0.85 * 1_000_000 < kept <= 0.91 * 1_010_000
