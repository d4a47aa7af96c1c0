import asyncio
import sqlite3
from pathlib import Path

import pytest

from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull, StoreUnavailable
from cas.pending import DiskPending, Entry


def digest(seed: int) -> Digest:
    return DigestFunction.SHA256.digest(b"%d" % seed)


def blobs(*seeds: int) -> list[Entry]:
    return [Entry(digest(seed)) for seed in seeds]


async def reopened(path: Path) -> list[Entry]:
    pending = await DiskPending.open(path)
    await pending.close()
    return pending.entries()


async def test_entries_are_there_again_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)
    assert pending.entries() == []

    await pending.add(blobs(3, 1, 2))
    await pending.add(blobs(1))
    pending.remove(blobs(1, 9))
    await pending.close()

    assert await reopened(path) == blobs(3, 2)


async def test_added_entries_are_there_without_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)

    await pending.add(blobs(1))

    other = await DiskPending.open(path)
    assert other.entries() == blobs(1)
    await other.close()
    await pending.close()


@pytest.mark.parametrize("instance", ["", "main", "a b/c", "ä\0\n", "\udcff"])
async def test_results_keep_their_instance(tmp_path: Path, instance: str) -> None:
    path = tmp_path / "pending"
    entries = [Entry(digest(1), instance), Entry(digest(1)), Entry(digest(1), instance + "x")]
    pending = await DiskPending.open(path)

    await pending.add(entries)
    await pending.close()

    assert await reopened(path) == entries


async def test_concurrent_adds_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)

    async with asyncio.TaskGroup() as group:
        for seed in range(300):
            group.create_task(pending.add(blobs(seed)))
    await pending.close()

    assert set(await reopened(path)) == set(blobs(*range(300)))


async def test_many_removals_are_written_without_an_add(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)
    await pending.add(blobs(*range(600)))

    for seed in range(600):
        pending.remove(blobs(seed))

    await pending.close()
    assert await reopened(path) == []


async def test_cancelled_add_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)

    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(pending.add(blobs(1)))
        group.create_task(pending.add(blobs(2)))
        await asyncio.sleep(0)
        cancelled.cancel()
    await pending.close()

    assert set(blobs(2)) <= set(await reopened(path))


async def test_file_that_is_no_list_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    path.write_text("something else entirely, and long enough to be looked at " * 20)

    with pytest.raises(StoreUnavailable, match="pending"):
        await DiskPending.open(path)


async def test_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)

    async def allow(pages: int) -> None:
        database = pending._database
        assert database is not None
        await pending._run(lambda: list(database.execute(f"PRAGMA max_page_count={pages}")))

    await allow(4)
    with pytest.raises(StoreFull):
        await pending.add(blobs(*range(1000)))
    await allow(100_000)
    await pending.add(blobs(5000))
    await pending.close()

    assert set(blobs(5000)) <= set(await reopened(path))


async def test_closed_list_refuses(tmp_path: Path) -> None:
    pending = await DiskPending.open(tmp_path / "pending")
    await pending.close()
    await pending.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        await pending.add(blobs(1))


async def test_strange_names_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "pending"
    pending = await DiskPending.open(path)
    await pending.add(blobs(1))
    await pending.close()
    with sqlite3.connect(path) as database:
        for name in (b"", b"md9:00/1", b"sha256:00/1", b"sha256:%b/x" % (b"0" * 64), b"\xff"):
            database.execute("INSERT INTO pending (name) VALUES (?)", (name,))
    database.close()

    assert await reopened(path) == blobs(1)
