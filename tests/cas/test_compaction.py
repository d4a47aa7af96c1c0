"""Compaction: what is current stays, what is not goes, whatever happens meanwhile."""

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.packs import open_storage, place_of

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, StoreFull
from cas.keys import key_of
from cas.log import FOLDER, Log
from cas.pack_storage import PackStorage
from cas.pack_store import PackOptions
from cas.volume import DiskFile

SHA256 = DigestFunction.SHA256
LEASE_S = 12 * 3600.0

Open = Callable[..., Awaitable[PackStorage]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def open_one(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Open]:
    opened: list[PackStorage] = []

    async def open_one(**options: float) -> PackStorage:
        for storage in opened:
            await storage.close()
        made = PackOptions(**options)  # type: ignore[arg-type]
        opened.append(await open_storage(tmp_path / "store", clock, made))
        return opened[-1]

    yield open_one
    for storage in opened:
        await storage.close()


def blob(size: int, seed: int) -> tuple[Digest, bytes]:
    data = random.Random(seed).randbytes(size)
    return SHA256.digest(data), data


BLOBS = [blob(20_000, seed) for seed in range(40)]
"""Together some three segments."""


async def at_once(_: int) -> None:
    """No pause."""


async def fill(storage: PackStorage) -> None:
    for digest, data in BLOBS:
        await storage.store.put([digest], data)


async def compact_all(storage: PackStorage) -> int:
    sealed = [segment for segment in storage.log.segments() if not segment.is_active]
    freed = 0
    for segment in sealed:
        freed += await storage.compactor.compact(segment.number, at_once)
    return freed


def forget(storage: PackStorage, *digests: Digest) -> None:
    storage.store._forget([key_of(digest) for digest in digests])


async def read_all(storage: PackStorage) -> list[int]:
    """Answers which blobs are there, each with its bytes."""
    there = []
    for number, (digest, data) in enumerate(BLOBS):
        if not await storage.store.find_missing([digest]):
            assert await storage.store.get(digest) == data
            there.append(number)
    return there


@pytest.mark.parametrize("restart", [True, False])
async def test_current_blobs_stay_and_the_others_bytes_come_free(
    open_one: Open, tmp_path: Path, restart: bool
) -> None:
    storage = await open_one()
    await fill(storage)
    forget(storage, *(digest for digest, _ in BLOBS[::2]))
    before = {path.name for path in (tmp_path / "store" / FOLDER).iterdir()}

    freed = await compact_all(storage)

    if restart:
        storage = await open_one()
    assert freed > 10 * 20_000
    assert await read_all(storage) == list(range(1, 40, 2))
    assert len(before & {path.name for path in (tmp_path / "store" / FOLDER).iterdir()}) <= 1
    live = sum(segment.live_bytes for segment in storage.log.segments())
    assert live == pytest.approx(20 * 20_100, rel=0.01)


@pytest.mark.slow
async def test_blobs_that_are_gone_stay_gone_however_often_they_came(open_one: Open) -> None:
    storage = await open_one()
    digest, data = BLOBS[0]
    for _ in range(3):
        await storage.store.put([digest], data)
        forget(storage, digest)
        await fill_but(storage, 0)
        forget(storage, *(other for other, _ in BLOBS[1:]))

    for number in [segment.number for segment in storage.log.segments()][-2::-1]:
        await storage.compactor.compact(number, at_once)
        storage = await open_one()
        assert await storage.store.find_missing([digest]) == [digest]
        assert storage.store.stats().blobs == 0


async def fill_but(storage: PackStorage, number: int) -> None:
    for digest, data in BLOBS[:number] + BLOBS[number + 1 :]:
        await storage.store.put([digest], data)


@pytest.mark.slow
async def test_results_stay_and_old_ones_never_come_back(open_one: Open) -> None:
    storage = await open_one()
    for version in range(3):
        for number in range(10):
            await storage.cache.put("main", BLOBS[number][0], b"%d %d" % (number, version))
        await fill(storage)
        forget(storage, *(digest for digest, _ in BLOBS))
    await storage.cache.remove("main", BLOBS[0][0])

    for number in [segment.number for segment in storage.log.segments()][-2::-1]:
        await storage.compactor.compact(number, at_once)
        storage = await open_one()
        results = [await storage.cache.get("main", digest) for digest, _ in BLOBS[:10]]
        assert results == [None, *(b"%d 2" % n for n in range(1, 10))]


async def test_leases_go_on_over_compaction_and_restart(open_one: Open, clock: FakeClock) -> None:
    storage = await open_one()
    await fill(storage)
    clock.advance(LEASE_S - 100)
    await storage.store.find_missing([digest for digest, _ in BLOBS[:5]])
    await fill(storage)
    clock.advance(LEASE_S / 2)
    await compact_all(storage)

    storage = await open_one()

    expired = set(storage.store.index.expired(clock.wall()))
    assert expired.isdisjoint(key_of(digest) for digest, _ in BLOBS[:5])


async def test_blob_that_goes_while_it_is_copied_is_gone(open_one: Open) -> None:
    storage = await open_one()
    await fill(storage)
    first = storage.log.segments()[0].number

    async def forget_all(_: int) -> None:
        asyncio.get_running_loop().call_soon(
            lambda: forget(storage, *(digest for digest, _ in BLOBS if is_there(digest)))
        )

    def is_there(digest: Digest) -> bool:
        return key_of(digest) in storage.store.index

    await storage.compactor.compact(first, forget_all)

    assert await read_all(storage) == []
    storage = await open_one()
    assert await read_all(storage) == []


@pytest.mark.slow
async def test_reads_and_writes_go_on_meanwhile(open_one: Open) -> None:
    storage = await open_one()
    await fill(storage)
    more = [blob(20_000, seed) for seed in range(100, 120)]

    async def read_on() -> None:
        for _ in range(10):
            assert await read_all(storage) == list(range(40))

    async def write_on() -> None:
        for digest, data in more:
            await storage.store.put([digest], data)

    async with asyncio.TaskGroup() as group:
        group.create_task(read_on())
        group.create_task(write_on())
        group.create_task(compact_all(storage))

    storage = await open_one()
    assert await read_all(storage) == list(range(40))
    assert await storage.store.find_missing([digest for digest, _ in more]) == []


async def test_damage_is_dropped_and_the_rest_kept(open_one: Open, tmp_path: Path) -> None:
    storage = await open_one()
    await fill(storage)
    bad = place_of(tmp_path / "store", BLOBS[0][0])
    with bad.path.open("r+b") as file:
        file.seek(bad.offset)
        file.write(b"???")

    await storage.compactor.compact(storage.log.segments()[0].number, at_once)

    with pytest.raises(BlobNotFound):
        await storage.store.get(BLOBS[0][0])
    assert storage.store.stats().damaged_blobs == 1
    assert await read_all(storage) == list(range(1, 40))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write", "sync"])
async def test_failure_leaves_all_as_it_was(
    open_one: Open, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage = await open_one()
    await fill(storage)
    first = storage.log.segments()[0].number
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, step, fail)
        with pytest.raises(StoreFull):
            await storage.compactor.compact(first, at_once)

    assert storage.log.has(first)
    assert await read_all(storage) == list(range(40))
    await storage.compactor.compact(first, at_once)
    storage = await open_one()
    assert await read_all(storage) == list(range(40))


@pytest.mark.slow
async def test_segment_that_cannot_be_deleted_harms_nothing(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    storage = await open_one()
    await fill(storage)
    await storage.cache.put("", BLOBS[0][0], b"result")
    with monkeypatch.context() as patch:
        patch.setattr(Log, "drop", fail)
        with pytest.raises(OSError, match="Input/output"):
            await storage.compactor.compact(storage.log.segments()[0].number, at_once)

    for _ in range(2):
        storage = await open_one()
        assert await read_all(storage) == list(range(40))
        assert storage.store.stats().blobs == 40
        assert await storage.cache.get("", BLOBS[0][0]) == b"result"
