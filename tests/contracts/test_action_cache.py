"""What every ActionCache promises (cas.action_cache). A new cache joins by one line in CACHES."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from support.clock import FakeClock
from support.packs import open_storage

from cas.action_cache import ActionCache, CacheStats
from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull
from cas.memory import MemoryActionCache, MemoryCacheOptions
from cas.pack_action_cache import CacheOptions


class Cache(ActionCache, Protocol):
    def stats(self) -> CacheStats: ...

    async def close(self) -> None: ...


Open = Callable[..., Awaitable[Cache]]


async def open_memory(_: Path, **options: int) -> Cache:
    return MemoryActionCache(MemoryCacheOptions(**options))


async def open_packs(directory: Path, **options: int) -> Cache:
    made = CacheOptions(**options)
    return (await open_storage(directory, FakeClock(), cache_options=made)).cache


async def open_packs_alone(directory: Path, **options: int) -> Cache:
    return await open_packs(directory, memory_bytes=0, **options)


CACHES: dict[str, Open] = {
    "packs": open_packs,
    "packs without memory": open_packs_alone,
    "memory": open_memory,
}


@pytest.fixture(params=CACHES)
async def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[Cache] = []

    async def open_one(**options: int) -> Cache:
        cache = await CACHES[request.param](tmp_path / f"cache{len(opened)}", **options)
        opened.append(cache)
        return cache

    yield open_one
    for cache in opened:
        await cache.close()


@pytest.fixture
async def cache(open_cache: Open) -> Cache:
    return await open_cache()


def action(seed: int) -> Digest:
    return DigestFunction.SHA256.digest(b"action %d" % seed)


@pytest.mark.parametrize("result", [b"", b"result", os.urandom(300_000)])
async def test_result_is_remembered(cache: Cache, result: bytes) -> None:
    await cache.put("main", action(1), result)

    assert await cache.get("main", action(1)) == result
    assert await cache.get("main", action(1)) == result


async def test_unknown_action_has_no_result(cache: Cache) -> None:
    assert await cache.get("", action(1)) is None


async def test_new_result_replaces_the_old(cache: Cache) -> None:
    await cache.put("", action(1), b"old")
    await cache.put("", action(1), b"new")

    assert await cache.get("", action(1)) == b"new"
    assert cache.stats().results == 1


async def test_removed_result_is_gone(cache: Cache) -> None:
    await cache.put("", action(1), b"result")

    await cache.remove("", action(1))
    await cache.remove("", action(1))

    assert await cache.get("", action(1)) is None
    assert (cache.stats().results, cache.stats().bytes) == (0, 0)


INSTANCES = ["", "a", "a/b", "a/b/c", "..", "../a", "a/../b", "a\n", "1:a", "/", "ä", "A", "\0"]


async def test_instances_never_share_results(cache: Cache) -> None:
    for instance in INSTANCES:
        await cache.put(instance, action(1), instance.encode())

    for instance in INSTANCES:
        assert await cache.get(instance, action(1)) == instance.encode()
    await cache.remove("a", action(1))
    assert await cache.get("a/b", action(1)) == b"a/b"
    assert await cache.get("a", action(1)) is None


async def test_function_and_size_are_part_of_the_key(cache: Cache) -> None:
    digest = action(1)
    await cache.put("", digest, b"result")

    assert await cache.get("", Digest(DigestFunction.BLAKE3, digest.hash, 8)) is None
    assert await cache.get("", Digest(DigestFunction.SHA256, digest.hash, 9)) is None


async def test_least_recently_used_result_goes_first(open_cache: Open) -> None:
    cache = await open_cache(max_results=2)
    await cache.put("", action(1), b"one")
    await cache.put("", action(2), b"two")

    await cache.get("", action(1))
    await cache.put("", action(3), b"three")

    results = [await cache.get("", action(seed)) for seed in (1, 2, 3)]
    assert results == [b"one", None, b"three"]
    assert cache.stats().evicted_results == 1


async def test_cache_keeps_within_its_bytes(open_cache: Open) -> None:
    cache = await open_cache(max_bytes=10_000)
    for seed in range(10):
        await cache.put("", action(seed), bytes(3000))

    assert 0 < cache.stats().bytes <= 10_000
    assert await cache.get("", action(9)) == bytes(3000)
    assert await cache.get("", action(0)) is None


async def test_result_larger_than_the_cache_is_refused(open_cache: Open) -> None:
    cache = await open_cache(max_bytes=1000)

    with pytest.raises(StoreFull):
        await cache.put("", action(1), bytes(1001))

    assert await cache.get("", action(1)) is None


async def test_last_of_concurrent_puts_wins(cache: Cache) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(cache.put("", action(number % 3), b"%d" % number))

    results = [await cache.get("", action(seed)) for seed in range(3)]
    assert results == [b"297", b"298", b"299"]
    assert cache.stats().results == 3


async def test_remove_after_a_running_put_removes(cache: Cache) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(cache.put("", action(1), b"result"))
        group.create_task(cache.remove("", action(1)))

    assert await cache.get("", action(1)) is None
