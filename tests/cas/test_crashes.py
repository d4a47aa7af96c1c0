"""The power fails before each operation in turn: what was acknowledged is there afterwards, and
what was not is whole or not at all.

`ARMITAGE_CRASH_SEEDS` is how many ways of losing a part are tried for each operation (default 1).
"""

import asyncio
import os
import random
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from support.clock import FakeClock
from support.fragile_volume import After, FragileFile, FragileVolume

from cas.compression import Codec
from cas.digest import Digest, DigestFunction
from cas.errors import CasError
from cas.keys import key_of
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.store import BatchPut

SHA256 = DigestFunction.SHA256
SEEDS = int(os.environ.get("ARMITAGE_CRASH_SEEDS", "1"))
WAYS = [(After.NOTHING, 0), (After.EVERYTHING, 0), *((After.A_PART, n) for n in range(SEEDS))]


def blob(seed: int, size: int) -> tuple[Digest, bytes]:
    data = random.Random(seed).randbytes(size)
    return SHA256.digest(data), data


SMALL = [blob(seed, 3000 + 1000 * seed) for seed in range(12)]
LARGE = [blob(100 + seed, 70_000 + seed) for seed in range(3)]
PACKED = [(SHA256.digest(data), data) for data in (b"small " * 1000, b"large " * 30_000)]
"""What comes as zstd streams."""
BLOBS = dict(SMALL + LARGE + PACKED)
GONE = {SMALL[1][0], SMALL[2][0], LARGE[1][0]}
ACTIONS = [SMALL[0][0], SMALL[5][0], SMALL[6][0]]


@dataclass
class Told:
    """What the program was told before the power failed."""

    stored: set[Digest] = field(default_factory=set)
    dropped: set[Digest] = field(default_factory=set)
    """Evicted, or about to be: they may be there or not."""
    results: dict[Digest, bytes | None] = field(default_factory=dict)
    """The last change that was acknowledged."""
    asked: dict[Digest, list[bytes | None]] = field(default_factory=dict)
    """Changes that were asked for after that."""


async def open_on(volume: FragileVolume) -> PackStorage:
    clock = FakeClock()
    options = StorageOptions(segment_bytes=1 << 15)
    return await PackStorage.open_on(volume, options, Clocks(clock.monotonic, clock.wall))


async def work(volume: FragileVolume, told: Told) -> None:
    """Uses a storage in every way that writes, until an error or the end."""
    storage = await open_on(volume)
    with suppress(CasError, OSError):
        await use(storage, told)
    with suppress(CasError, OSError):
        await storage.close()


async def use(storage: PackStorage, told: Told) -> None:
    store = storage.store

    async def put(digest: Digest) -> None:
        with suppress(CasError):
            await store.put([digest], BLOBS[digest])
            told.stored.add(digest)
            told.dropped.discard(digest)

    async def put_all(digests: list[Digest]) -> None:
        async with asyncio.TaskGroup() as group:
            for digest in digests:
                group.create_task(put(digest))

    async def change(action: Digest, result: bytes | None) -> None:
        told.asked.setdefault(action, []).append(result)
        asked: Awaitable[None] = (
            storage.cache.remove("main", action)
            if result is None
            else storage.cache.put("main", action, result)
        )
        await asked
        told.results[action] = result
        told.asked[action] = []

    await put_all([digest for digest, _ in SMALL[:6] + LARGE[:2]])
    for number, action in enumerate(ACTIONS):
        await change(action, b"old %d" % number)
    writer = await store.open_writer([LARGE[2][0]])
    await writer.write(LARGE[2][1])
    await writer.commit()
    told.stored.add(LARGE[2][0])
    [(small, data), (large, more)] = PACKED
    if await store.put_many([BatchPut([small], data, Codec.ZSTD.compress(data))]) == [small]:
        told.stored.add(small)
    writer = await store.open_zstd_writer([large])
    await writer.write(Codec.ZSTD.compress(more))
    told.stored.add(await writer.commit())
    await change(ACTIONS[0], b"new")
    await change(ACTIONS[1], None)
    told.dropped |= GONE
    store._forget([key_of(digest) for digest in GONE])
    await put_all([digest for digest, _ in SMALL[6:]])
    await store.find_missing([SMALL[0][0]])

    async def at_once(_: int) -> None:
        """No pause."""

    for segment in storage.log.segments():
        if not segment.is_active:
            await storage.compactor.compact(segment.number, at_once)
    await change(ACTIONS[2], b"newer")
    await put(SMALL[1][0])


async def check(volume: FragileVolume, told: Told, *, say: object) -> None:
    """Reads everything back, twice, and writes something."""
    for earlier in range(2):
        storage = await open_on(volume)
        missing = set(await storage.store.find_missing(BLOBS))
        assert not missing & (told.stored - told.dropped), say
        for digest in BLOBS.keys() - missing:
            assert await storage.store.get(digest) == BLOBS[digest], say
        for action in ACTIONS:
            allowed = [told.results.get(action), *told.asked.get(action, [])]
            assert await storage.cache.get("main", action) in allowed, say
        assert storage.store.stats().damaged_blobs == 0, say
        assert storage.store.stats().blobs == len(BLOBS.keys() - missing) + earlier, say
        digest, data = blob(999, 500)
        await storage.store.put([digest], data)
        assert await storage.store.get(digest) == data, say
        await storage.close()


async def fail_everywhere() -> tuple[int, int]:
    """Answers how many operations there were and how many blobs were acknowledged at most."""
    fatal = 0
    acknowledged = 0
    while True:
        volume, told = FragileVolume(fatal), Told()
        with suppress(CasError, OSError):
            await work(volume, told)
        acknowledged = max(acknowledged, len(told.stored))
        for after, seed in WAYS:
            await check(volume.after(after, 1000 * seed + fatal), told, say=(fatal, after, seed))
        if not volume.is_dead:
            return fatal, acknowledged
        fatal += 1


@pytest.mark.slow
async def test_power_failure_at_any_operation_loses_nothing_acknowledged() -> None:
    operations, acknowledged = await fail_everywhere()

    assert operations > 80
    assert acknowledged == len(BLOBS)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [(FragileFile, "sync"), (FragileVolume, "sync_folder")])
async def test_store_that_would_not_sync_is_found_out(
    monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    monkeypatch.setattr(kind, step, lambda *_: None)

    with pytest.raises(AssertionError):
        await fail_everywhere()


@pytest.mark.slow
@pytest.mark.parametrize("after", After)
async def test_power_failure_during_recovery_loses_nothing_acknowledged(after: After) -> None:
    volume, told = FragileVolume(), Told()
    await work(volume, told)
    last = volume.operations
    for first in range(20, last, 40 // SEEDS + 1):
        volume, told = FragileVolume(first), Told()
        await work(volume, told)
        again = volume.after(After.A_PART, first)
        fatal = 0
        while True:
            attempt = again.after(After.EVERYTHING)
            attempt.fatal = fatal
            with suppress(CasError, OSError):
                storage = await open_on(attempt)
                with suppress(CasError, OSError):
                    await storage.close()
            await check(attempt.after(after, fatal), told, say=(first, fatal, after))
            if not attempt.is_dead:
                break
            fatal += 1
