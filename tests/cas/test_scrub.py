"""Scrubbing: all damage is found, nothing else is touched; what another store has comes back."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.packs import open_storage, place_of

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.keys import key_of
from cas.log import FOLDER
from cas.memory import MemoryStore
from cas.pack_storage import PackStorage
from cas.scrub import Repair, Scrubbed, Scrubber, repair_from

SHA256 = DigestFunction.SHA256
SIZES = [10, 4096, 60_000, 300_000, 2_000_000] * 6


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def storage(tmp_path: Path, clock: FakeClock) -> AsyncIterator[PackStorage]:
    storage = await open_storage(tmp_path / "store", clock)
    yield storage
    await storage.close()


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZES[seed])


async def fill(storage: PackStorage) -> list[Digest]:
    datas = [content(seed) for seed in range(len(SIZES))]
    return [await storage.store.put([SHA256.digest(data)], data) for data in datas]


async def at_once(_: int) -> None:
    """No pause."""


async def scrub(storage: PackStorage, repair: Repair | None = None) -> list[Scrubbed]:
    return [now async for now in Scrubber(storage, at_once, repair).run()]


def damage(directory: Path, digest: Digest) -> None:
    path, offset, size_bytes = place_of(directory, digest)
    with path.open("r+b") as file:
        file.seek(offset + size_bytes // 2)
        byte = file.read(1)
        file.seek(offset + size_bytes // 2)
        file.write(bytes([byte[0] ^ 1]))


async def test_a_sound_store_is_read_whole_and_left_as_it_is(
    storage: PackStorage, clock: FakeClock
) -> None:
    blobs = await fill(storage)
    for digest in blobs[:7]:
        await storage.cache.put("", digest, b"a result")
    clock.advance(3 * 3600.0)
    before = [storage.store.lease_of(digest) for digest in blobs]

    progress = await scrub(storage)

    last = progress[-1]
    assert (last.blobs, last.results) == (len(blobs), 7)
    assert last.damaged == last.repaired == ()
    assert last.done_bytes == last.total_bytes >= sum(SIZES)
    steps = [now.done_bytes for now in progress]
    assert steps == sorted(steps)
    assert len(set(steps)) > 10
    assert [storage.store.lease_of(digest) for digest in blobs] == before, "leases were renewed"


async def test_damage_is_found_dropped_and_put_aside(storage: PackStorage, tmp_path: Path) -> None:
    blobs = await fill(storage)
    bad = [blobs[seed] for seed in (1, 2, 3, 14, 24)]
    for digest in bad:
        damage(tmp_path / "store", digest)

    last = (await scrub(storage))[-1]

    assert set(last.damaged) == set(bad)
    assert last.repaired == ()
    assert storage.store.stats().damaged_blobs == len(bad)
    assert set(await storage.store.find_missing(blobs)) == set(bad)
    assert (await scrub(storage))[-1].damaged == ()
    kept = os.listdir(tmp_path / "store" / "damaged")
    assert {name.split("-")[-2] for name in kept} == {digest.hash for digest in bad}


async def test_a_damaged_result_is_found(storage: PackStorage, tmp_path: Path) -> None:
    digest = SHA256.digest(b"an action")
    await storage.cache.put("", digest, b"one of a kind")
    await storage.log.close()
    [path] = (tmp_path / "store" / FOLDER).iterdir()
    path.write_bytes(path.read_bytes().replace(b"one of a kind", b"one of a find"))

    last = (await scrub(storage))[-1]

    assert (last.results, last.damaged_results) == (1, 1)


async def test_what_another_store_has_is_repaired(storage: PackStorage, tmp_path: Path) -> None:
    blobs = await fill(storage)
    remote = MemoryStore()
    for seed in (2, 4):
        await remote.put([blobs[seed]], content(seed))
    bad = [blobs[seed] for seed in (2, 4, 11)]
    for digest in bad:
        damage(tmp_path / "store", digest)

    last = (await scrub(storage, repair_from(remote, storage.store)))[-1]

    assert set(last.damaged) == set(bad)
    assert set(last.repaired) == {blobs[2], blobs[4]}
    for seed in (2, 4):
        assert await storage.store.get(blobs[seed]) == content(seed)
    with pytest.raises(BlobNotFound):
        await storage.store.get(blobs[11])


async def test_what_goes_while_a_scrub_runs_is_no_damage(storage: PackStorage) -> None:
    blobs = await fill(storage)
    scrubber = Scrubber(storage, at_once)

    seen: list[Scrubbed] = []
    async for now in scrubber.run():
        seen.append(now)
        if len(seen) == 1:
            storage.store._forget([key_of(digest) for digest in blobs[5:]])
            for segment in storage.log.segments()[1:]:
                if not segment.is_active:
                    await storage.compactor.compact(segment.number, at_once)
    assert seen[-1].damaged == ()
    assert await storage.store.find_missing(blobs[:5]) == []
