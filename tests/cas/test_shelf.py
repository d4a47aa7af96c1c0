"""Durable named files, beneath the disk stores."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas.errors import StoreFull, StoreUnavailable
from cas.shelf import Shelf


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path / "shelf", "top", sync=True, threads=2)
    yield shelf
    await shelf.close()


def content_of(shelf: Shelf, name: str) -> bytes:
    return Path(shelf.path(name)).read_bytes()


async def test_concurrent_puts_share_directory_syncs(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await shelf.put("top/a/first", b"data")
    synced.clear()

    puts = [shelf.put(f"top/a/{number}", b"data") for number in range(200)]
    await asyncio.wait(puts)

    assert 1 <= len(synced) <= 3


async def test_folder_is_synced_into_its_parents(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    await shelf.put("top/a/b/file", b"data")

    root = shelf.path("")
    assert [path + "/" if path + "/" == root else path for path in synced] == [
        f"{root}top/a",
        f"{root}top",
        root,
        f"{root}top/a/b",
    ]


async def test_changes_to_one_name_happen_in_the_order_asked(shelf: Shelf) -> None:
    changes = [
        shelf.put("top/a", b"first"),
        shelf.remove("top/a"),
        shelf.put("top/a", b"second"),
        shelf.put("top/b", b"first"),
        shelf.remove("top/b"),
    ]
    await asyncio.wait(changes)

    assert all(change.exception() is None for change in changes)
    assert content_of(shelf, "top/a") == b"second"
    assert "b" not in os.listdir(shelf.path("top"))
    assert [found.name for found in shelf.scan()] == ["top/a"]


async def test_draft_that_was_overtaken_is_dropped(shelf: Shelf, tmp_path: Path) -> None:
    await shelf.put("top/x", b"under way, so that the next two wait together")
    draft = await shelf.run(shelf.make_draft)
    busy = shelf.put("top/y", b"data")

    changes = [shelf.put("top/a", draft), shelf.put("top/a", b"later"), busy]
    await asyncio.wait(changes)

    assert content_of(shelf, "top/a") == b"later"
    assert os.listdir(tmp_path / "shelf" / "drafts") == []


async def test_removing_what_is_not_there_succeeds(shelf: Shelf) -> None:
    assert await shelf.remove("top/a") is None


async def test_discarded_files_go_and_their_names_can_be_used_at_once(shelf: Shelf) -> None:
    names = [f"top/{number}" for number in range(300)]
    await asyncio.wait([shelf.put(name, b"old") for name in names])
    busy = shelf.put("top/x", b"data")

    discarding = shelf.discard(["top/never-there", *names])
    again = shelf.put("top/7", b"new")
    await asyncio.gather(busy, discarding, again)

    assert sorted(found.name for found in shelf.scan()) == ["top/7", "top/x"]
    assert content_of(shelf, "top/7") == b"new"


async def test_discard_that_fails_fails_nothing_else(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    await shelf.put("top/a", b"data")
    monkeypatch.setattr(os, "unlink", fail)

    await asyncio.gather(shelf.discard(["top/a"]), shelf.put("top/b", b"data"))

    assert sorted(found.name for found in shelf.scan()) == ["top/a", "top/b"]
    assert "cannot remove" in caplog.text


async def test_one_failure_does_not_fail_the_batch(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def writev(fd: int, buffers: list[memoryview]) -> int:
        if bytes(buffers[0]) == b"bad":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, buffers)

    monkeypatch.setattr(os, "writev", writev)
    busy = shelf.put("top/x", b"data")
    changes = [shelf.put(f"top/{word}", word.encode()) for word in ("good", "bad", "fine")]
    await asyncio.wait([busy, *changes])

    assert [type(change.exception()) for change in changes] == [type(None), StoreFull, type(None)]
    assert sorted(found.name for found in shelf.scan()) == ["top/fine", "top/good", "top/x"]


async def test_old_content_stays_when_its_replacement_fails(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await shelf.put("top/a", b"old")
    monkeypatch.setattr(os, "fdatasync", fail)

    with pytest.raises(StoreUnavailable, match="disk does not work"):
        await shelf.put("top/a", b"new")

    assert content_of(shelf, "top/a") == b"old"


async def test_closed_shelf_takes_no_more(shelf: Shelf) -> None:
    await shelf.close()

    with pytest.raises(StoreUnavailable):
        shelf.put("top/a", b"data")
    with pytest.raises(StoreUnavailable):
        shelf.submit(len, b"")


async def test_closed_shelf_can_be_opened_again(shelf: Shelf, tmp_path: Path) -> None:
    await shelf.close()

    again = Shelf(tmp_path / "shelf", "top", sync=True, threads=1)

    await again.close()
