"""What the disk cache promises beyond the contract of all caches."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cas.digest import Digest, DigestFunction
from cas.disk_action_cache import DiskActionCache, DiskCacheOptions
from cas.errors import StoreFull, StoreUnavailable

RESULT = b"result of an action"

Open = Callable[..., Awaitable[DiskActionCache]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def open_cache(directory: Path) -> AsyncIterator[Open]:
    opened: list[DiskActionCache] = []

    async def open_one(**options: int) -> DiskActionCache:
        for cache in opened:
            await cache.close()
        made = DiskCacheOptions(**options)  # type: ignore[arg-type]
        cache = await DiskActionCache.open(directory, made)
        opened.append(cache)
        return cache

    yield open_one
    for cache in opened:
        await cache.close()


def action(seed: int) -> Digest:
    return DigestFunction.SHA256.digest(b"action %d" % seed)


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "results").rglob("*") if path.is_file())


async def test_results_survive_a_restart(open_cache: Open) -> None:
    cache = await open_cache()
    await cache.put("a/b", action(1), RESULT)
    await cache.put("a/b", action(2), RESULT)
    await cache.remove("a/b", action(2))

    cache = await open_cache()

    assert await cache.get("a/b", action(1)) == RESULT
    assert await cache.get("a/b", action(2)) is None
    assert cache.stats().results == 1


@pytest.mark.slow
async def test_every_flipped_byte_and_truncation_reads_as_absent(
    open_cache: Open, directory: Path
) -> None:
    cache = await open_cache(memory_bytes=0)
    await cache.put("main", action(1), RESULT)
    [path] = files_of(directory)
    intact = path.read_bytes()

    versions = [intact[:end] for end in range(len(intact))] + [intact + b"\0"]
    versions += [
        intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :] for at in range(len(intact))
    ]
    for version in versions:
        path.write_bytes(version)
        assert await cache.get("main", action(1)) is None, version
        await cache.put("main", action(1), RESULT)

    assert cache.stats().damaged_results == len(versions)
    assert await cache.get("main", action(1)) == RESULT


async def test_result_under_the_name_of_another_reads_as_absent(
    open_cache: Open, directory: Path
) -> None:
    cache = await open_cache(memory_bytes=0)
    await cache.put("main", action(1), RESULT)
    [first] = files_of(directory)
    await cache.put("main", action(2), b"another result")
    [second] = set(files_of(directory)) - {first}

    second.write_bytes(first.read_bytes())

    assert await cache.get("main", action(2)) is None
    assert await cache.get("main", action(1)) == RESULT


async def test_vanished_file_reads_as_absent(open_cache: Open, directory: Path) -> None:
    cache = await open_cache(memory_bytes=0)
    await cache.put("main", action(1), RESULT)
    os.unlink(files_of(directory)[0])

    assert await cache.get("main", action(1)) is None
    assert cache.stats().results == 0


async def test_second_cache_on_a_directory_is_refused(open_cache: Open, directory: Path) -> None:
    await open_cache()

    with pytest.raises(StoreUnavailable, match=f"in use by process {os.getpid()};"):
        await DiskActionCache.open(directory, DiskCacheOptions())


async def test_directory_of_a_blob_store_is_refused(open_cache: Open, directory: Path) -> None:
    (directory / "blobs").mkdir(parents=True)

    with pytest.raises(StoreUnavailable, match="'blobs', which is not"):
        await open_cache()


async def test_limits_hold_for_what_is_found_at_the_start(
    open_cache: Open, directory: Path
) -> None:
    cache = await open_cache()
    for seed in range(10):
        await cache.put("", action(seed), RESULT)

    cache = await open_cache(max_results=3)
    await cache.close()

    assert len(files_of(directory)) == 3


async def test_evicted_results_leave_no_files(open_cache: Open, directory: Path) -> None:
    cache = await open_cache(max_results=3)
    for seed in range(10):
        await cache.put("", action(seed), RESULT)
    await cache.close()

    assert len(files_of(directory)) == 3


async def test_memory_for_results_is_bounded(open_cache: Open) -> None:
    cache = await open_cache(memory_bytes=10_000)
    for seed in range(10):
        await cache.put("", action(seed), bytes(3000))

    assert cache._recent_bytes == sum(map(len, cache._recent.values())) <= 10_000
    assert [await cache.get("", action(seed)) for seed in range(10)] == [bytes(3000)] * 10
    assert cache._recent_bytes == sum(map(len, cache._recent.values())) <= 10_000


async def test_old_result_stays_when_its_replacement_fails(
    open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = await open_cache()
    await cache.put("", action(1), b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", fail)
        with pytest.raises(StoreFull, match="the disk is full"):
            await cache.put("", action(1), b"new")
    assert await cache.get("", action(1)) == b"old"

    cache = await open_cache()
    assert await cache.get("", action(1)) == b"old"


async def test_closed_cache_is_unavailable(open_cache: Open) -> None:
    cache = await open_cache()
    await cache.close()
    await cache.close()

    for call in (
        cache.get("", action(1)),
        cache.put("", action(1), RESULT),
        cache.remove("", action(1)),
    ):
        with pytest.raises(StoreUnavailable):
            await call
