"""armitage.log.service: many callers, few checkpoints."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from armitage.log.errors import LogError
from armitage.log.note import KeyType, Signer
from armitage.log.service import Log, LogStats
from armitage.log.store import NAMES, LogStore
from cas.volume import DiskVolume

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))


class SlowStore(LogStore):
    """Appends when it is let, and tells how much at a time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(DiskVolume(directory, NAMES), LOG)
        self.may_append = threading.Event()
        self.may_append.set()
        self.batches: list[int] = []
        self.failure: Exception | None = None

    def append(self, entries: Sequence[bytes]) -> int:
        assert self.may_append.wait(10)
        self.batches.append(len(entries))
        if self.failure is not None:
            raise self.failure
        return super().append(entries)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlowStore]:
    made = SlowStore(tmp_path / "log")
    yield made
    made.may_append.set()
    made.close()


@pytest.fixture
def log(store: SlowStore) -> Iterator[Log]:
    with ThreadPoolExecutor(2) as threads:
        yield Log(store, threads)


async def test_entries_that_come_together_share_a_checkpoint(log: Log, store: SlowStore) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(log.append(b"%d" % number)) for number in range(3000)]

    assert [task.result() for task in tasks] == list(range(3000))
    assert [store.entry(number) for number in (0, 1, 2999)] == [b"0", b"1", b"2999"]
    assert store.batches == [1, 1024, 1024, 951]
    assert log.stats() == LogStats(entries=3000, appended=3000, checkpoints=4, failed=0)


async def test_entries_of_one_caller_stand_side_by_side(log: Log, store: SlowStore) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(log.append_all([b"%d %d" % (caller, n) for n in range(100)]))
            for caller in range(30)
        ]

    for caller, task in enumerate(tasks):
        first = task.result()
        assert store.entries(first, first + 100) == [b"%d %d" % (caller, n) for n in range(100)]
    assert max(store.batches) == 1000


async def test_an_entry_is_acknowledged_only_under_a_checkpoint(log: Log, store: SlowStore) -> None:
    index = await log.append(b"first")

    assert store.checkpoint.size == index + 1


async def test_whoever_leaves_takes_nobody_along(log: Log, store: SlowStore) -> None:
    store.may_append.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(log.append(b"first"))
        second = group.create_task(log.append(b"second"))
        third = group.create_task(log.append(b"third"))
        await asyncio.sleep(0)
        first.cancel()
        third.cancel()
        store.may_append.set()

    assert first.cancelled()
    assert third.cancelled()
    assert store.entry(second.result()) == b"second"


async def test_a_full_disk_fails_those_who_wait_and_nobody_later(
    log: Log, store: SlowStore
) -> None:
    store.failure = OSError(28, "No space left on device")
    results = await asyncio.gather(log.append(b"a"), log.append(b"b"), return_exceptions=True)
    store.failure = None

    assert all(isinstance(result, OSError) for result in results)
    assert await log.append(b"c") == 0
    assert log.stats() == LogStats(entries=1, appended=1, checkpoints=1, failed=2)


async def test_any_other_failure_is_an_error_of_the_logs(log: Log, store: SlowStore) -> None:
    store.failure = RuntimeError("odd")

    with pytest.raises(LogError, match="the log failed: odd"):
        await log.append(b"a")


async def test_an_entry_too_long_spoils_nobody_elses(log: Log) -> None:
    results = await asyncio.gather(
        log.append(b"a"), log.append(bytes(65_536)), log.append(b"b"), return_exceptions=True
    )

    assert (results[0], results[2]) == (0, 1)
    assert isinstance(results[1], ValueError)
