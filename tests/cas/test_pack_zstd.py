"""Blobs that are kept as zstd streams on disk: over restarts, and damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from support.clock import FakeClock
from support.packs import open_storage

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, CasError
from cas.pack_storage import PackStorage
from cas.store import BatchPut, FileExport

SIZES = [5000, 300_000]
"""In a pack and in a file."""


def text(size: int) -> bytes:
    return b"".join(b"%019d\n" % (number * 7919) for number in range(size // 20 + 1))[:size]


async def put(storage: PackStorage, data: bytes) -> tuple[Digest, bytes]:
    digest, stream = DigestFunction.SHA256.digest(data), zstd.compress(data)
    (outcome,) = await storage.store.put_many([BatchPut([digest], data, stream)])
    assert not isinstance(outcome, CasError)
    return digest, stream


def file_with(directory: Path, stream: bytes) -> tuple[Path, int]:
    """Where on disk the stream is."""
    for path in directory.rglob("*"):
        if path.is_file() and (at := path.read_bytes().find(stream)) >= 0:
            return path, at
    raise FileNotFoundError


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("size", SIZES)
async def test_streams_are_kept_over_a_restart(tmp_path: Path, size: int) -> None:
    storage = await open_storage(tmp_path / "store", FakeClock())
    digest, stream = await put(storage, data := text(size))
    bytes_before = storage.store.stats().bytes
    await storage.close()

    storage = await open_storage(tmp_path / "store", FakeClock())

    assert storage.store.stats().bytes == bytes_before == size
    assert await storage.store.get_zstd(digest) == stream
    assert await storage.store.get(digest) == data
    assert storage.store.stats().damaged_blobs == 0
    await storage.close()


async def test_disk_holds_the_stream_and_not_the_blob(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path / "store", FakeClock())
    _, stream = await put(storage, text(300_000))
    path, _ = file_with(tmp_path / "store", stream)

    assert path.stat().st_size == len(stream)
    await storage.close()


async def _get(storage: PackStorage, digest: Digest, _: Path) -> object:
    return await storage.store.get(digest)


async def _get_zstd(storage: PackStorage, digest: Digest, _: Path) -> object:
    return await storage.store.get_zstd(digest)


async def _export(storage: PackStorage, digest: Digest, path: Path) -> object:
    missing = await storage.store.export_files([FileExport(digest, str(path), 0o600)])
    raise BlobNotFound(missing[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("use", [_get, _get_zstd, _export])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_damaged_stream_reads_as_missing(
    tmp_path: Path, size: int, use: Callable[..., object], restarted: bool
) -> None:
    storage = await open_storage(tmp_path / "store", FakeClock())
    digest, stream = await put(storage, text(size))
    if restarted:
        await storage.close()
    path, at = file_with(tmp_path / "store", stream)
    flip(path, at + len(stream) // 2)
    if restarted:
        storage = await open_storage(tmp_path / "store", FakeClock())

    with pytest.raises(BlobNotFound):
        await use(storage, digest, tmp_path / "out")  # type: ignore[misc]

    assert await storage.store.find_missing([digest]) == [digest]
    assert storage.store.stats().damaged_blobs == 1
    await storage.close()


@pytest.mark.parametrize("left", [0, 3, 50])
async def test_a_stream_that_was_cut_short_reads_as_missing(tmp_path: Path, left: int) -> None:
    storage = await open_storage(tmp_path / "store", FakeClock())
    digest, stream = await put(storage, text(300_000))
    await storage.close()
    path, _ = file_with(tmp_path / "store", stream)
    path.write_bytes(stream[:left])
    storage = await open_storage(tmp_path / "store", FakeClock())

    with pytest.raises(BlobNotFound):
        await storage.store.get(digest)

    await storage.close()


async def test_a_stream_of_another_blob_in_its_place_reads_as_missing(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path / "store", FakeClock())
    digest, stream = await put(storage, data := text(300_000))
    other = zstd.compress(data[::-1])
    await storage.close()
    path, _ = file_with(tmp_path / "store", stream)
    path.write_bytes(other)
    storage = await open_storage(tmp_path / "store", FakeClock())

    with pytest.raises(BlobNotFound):
        await storage.store.get(digest)

    await storage.close()
