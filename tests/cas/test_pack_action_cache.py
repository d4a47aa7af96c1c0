"""What the action cache in the log promises beyond the contract of all caches."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.packs import open_storage

from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull, StoreUnavailable
from cas.keys import key_of
from cas.log import FOLDER
from cas.pack_action_cache import CacheOptions, PackActionCache, prefix_of
from cas.records import HEADER_BYTES
from cas.volume import DiskFile

RESULT = b"result of an action"

Open = Callable[..., Awaitable[PackActionCache]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def open_cache(directory: Path) -> AsyncIterator[Open]:
    opened: list[PackActionCache] = []

    async def open_one(**options: int) -> PackActionCache:
        for cache in opened:
            await cache.close()
        made = CacheOptions(**options)
        opened.append((await open_storage(directory, FakeClock(), cache_options=made)).cache)
        return opened[-1]

    yield open_one
    for cache in opened:
        await cache.close()


def action(seed: int) -> Digest:
    return DigestFunction.SHA256.digest(b"action %d" % seed)


async def test_results_survive_a_restart(open_cache: Open) -> None:
    cache = await open_cache()
    await cache.put("a/b", action(1), RESULT)
    await cache.put("a/b", action(2), RESULT)
    await cache.put("a/b", action(3), b"old")
    await cache.put("a/b", action(3), b"new")
    await cache.remove("a/b", action(2))

    cache = await open_cache()

    assert await cache.get("a/b", action(1)) == RESULT
    assert await cache.get("a/b", action(2)) is None
    assert await cache.get("a/b", action(3)) == b"new"
    assert cache.stats().results == 2


@pytest.mark.slow
async def test_no_flipped_byte_of_a_result_is_answered(open_cache: Open, directory: Path) -> None:
    cache = await open_cache(memory_bytes=0)
    await cache.put("main", action(1), RESULT)
    content = prefix_of("main") + key_of(action(1)) + RESULT
    size_bytes = HEADER_BYTES + len(content)

    for at in range(size_bytes):
        path = max((directory / FOLDER).iterdir())
        data = bytearray(path.read_bytes())
        data[data.rfind(content) - HEADER_BYTES + at] ^= 1
        path.write_bytes(data)
        result = await cache.get("main", action(1))
        assert result is None, at
        await cache.put("main", action(1), RESULT)

    assert cache.stats().damaged_results == size_bytes
    assert await cache.get("main", action(1)) == RESULT


async def test_vanished_segment_reads_as_absent(open_cache: Open, directory: Path) -> None:
    cache = await open_cache()
    await cache.put("main", action(1), RESULT)
    cache = await open_cache(memory_bytes=0)
    for path in (directory / FOLDER).iterdir():
        path.unlink()
    cache._log._files.clear()

    assert await cache.get("main", action(1)) is None
    assert cache.stats().results == 0


async def test_limits_hold_for_what_is_found_at_the_start(open_cache: Open) -> None:
    cache = await open_cache()
    for seed in range(10):
        await cache.put("", action(seed), RESULT)

    for _ in range(2):
        cache = await open_cache(max_results=3)
        assert cache.stats().results == 3
        assert await cache.get("", action(9)) == RESULT


async def test_evicted_results_stay_away_after_a_restart(open_cache: Open) -> None:
    cache = await open_cache(max_results=3)
    for seed in range(10):
        await cache.put("", action(seed), RESULT)

    cache = await open_cache()

    assert cache.stats().results == 3


async def test_memory_for_results_is_bounded(open_cache: Open) -> None:
    cache = await open_cache(memory_bytes=10_000)
    for seed in range(10):
        await cache.put("", action(seed), bytes(3000))

    assert cache._recent_bytes == sum(map(len, cache._recent.values())) <= 10_000
    assert [await cache.get("", action(seed)) for seed in range(10)] == [bytes(3000)] * 10
    assert cache._recent_bytes == sum(map(len, cache._recent.values())) <= 10_000


@pytest.mark.parametrize("step", ["write", "sync"])
async def test_old_result_stays_when_its_replacement_fails(
    open_cache: Open, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = await open_cache()
    await cache.put("", action(1), b"old")
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, step, fail)
        with pytest.raises(StoreFull, match="the disk is full"):
            await cache.put("", action(1), b"new")
        with pytest.raises(StoreFull, match="the disk is full"):
            await cache.remove("", action(1))

    assert await cache.get("", action(1)) == b"old"
    await cache.put("", action(1), b"newer")
    cache = await open_cache()
    assert await cache.get("", action(1)) == b"newer"


async def test_recalled_at_once_is_what_is_at_hand_and_nothing_else(open_cache: Open) -> None:
    cache = await open_cache()
    await cache.put("a", action(1), RESULT)

    assert cache.recall("a", key_of(action(1))) == RESULT
    assert cache.recall("b", key_of(action(1))) is None
    assert cache.recall("a", key_of(action(2))) is None

    cache = await open_cache()
    assert cache.recall("a", key_of(action(1))) is None
    await cache.get("a", action(1))
    assert cache.recall("a", key_of(action(1))) == RESULT
    await cache.remove("a", action(1))
    assert cache.recall("a", key_of(action(1))) is None


async def test_cancelled_change_is_made_before_later_ones(open_cache: Open) -> None:
    cache = await open_cache()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(cache.put("", action(1), b"first"))
        await asyncio.sleep(0)
        first.cancel()
        group.create_task(cache.put("", action(1), b"second"))
        group.create_task(cache.remove("", action(1)))
        group.create_task(cache.put("", action(1), b"last"))

    assert await cache.get("", action(1)) == b"last"
    cache = await open_cache()
    assert await cache.get("", action(1)) == b"last"


def test_prefixes_of_instances_never_meet() -> None:
    names = ["", "a", "1:a", "a:", "10:", "x" * 300, "x" * 301, "\0", "R0:"]

    keys = {prefix_of(name) + b"key" for name in names}

    assert len(keys) == len(names)
    assert not any(a != b and a.startswith(b) for a in keys for b in keys)


async def test_closed_cache_is_unavailable(open_cache: Open) -> None:
    cache = await open_cache()
    await cache.put("", action(1), RESULT)
    await cache.close()
    await cache.close()

    assert cache.recall("", key_of(action(1))) is None
    for call in (
        cache.get("", action(1)),
        cache.put("", action(1), RESULT),
        cache.remove("", action(1)),
    ):
        with pytest.raises(StoreUnavailable):
            await call
