"""What every ZstdStore promises: a blob that came as zstd is kept so, and is the blob all the same.

A new store joins by one line in STORES.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from backports import zstd
from support.clock import FakeClock
from support.packs import open_storage

from cas.compression import Codec
from cas.digest import Digest, DigestFunction
from cas.errors import (
    BadCompressedData,
    BlobNotFound,
    BlobTooLarge,
    CasError,
    DigestMismatch,
    OffsetOutOfRange,
)
from cas.memory import MemoryOptions, MemoryStore
from cas.pack_store import PackOptions
from cas.store import (
    BatchPut,
    BatchStore,
    BlobExporter,
    BlobStore,
    FileExport,
    Measured,
    ZstdStore,
)

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
KIB, MIB = 1024, 1024 * 1024
SIZES = [1000, 60 * KIB, 100 * KIB, 1_300_007]
"""In a pack, and in a file of one piece or of several."""


class Store(BlobStore, BatchStore, ZstdStore, BlobExporter, Measured, Protocol):
    async def close(self) -> None: ...


Open = Callable[..., Awaitable[Store]]


async def open_memory(_: Path, clock: FakeClock, **options: float) -> Store:
    return MemoryStore(MemoryOptions(**options), clock.monotonic)  # type: ignore[arg-type]


async def open_packs(directory: Path, clock: FakeClock, **options: float) -> Store:
    made = PackOptions(**options)  # type: ignore[arg-type]
    return (await open_storage(directory, clock, made)).store


STORES: dict[str, Open] = {"memory": open_memory, "packs": open_packs}


@pytest.fixture(params=STORES)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[Store] = []

    async def open_one(**options: float) -> Store:
        store = await STORES[request.param](tmp_path / "store", FakeClock(), **options)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Open) -> Store:
    return await open_store()


def text(size: int, seed: int = 0) -> bytes:
    """Something that compresses to less than half, and where no two pieces are equal."""
    lines = range(seed, seed + size // 20 + 1)
    return b"".join(b"%019d\n" % (number * 7919) for number in lines)[:size]


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def frames(data: bytes, size: int) -> bytes:
    """As clients compress that do so piece by piece."""
    return b"".join(zstd.compress(data[at : at + size]) for at in range(0, len(data), size))


async def write(
    store: Store, digest: Digest, stream: bytes, piece: int = 300_000, *others: Digest
) -> Digest:
    writer = await store.open_zstd_writer([*others, digest])
    try:
        for at in range(0, len(stream), piece):
            await writer.write(stream[at : at + piece])
        return await writer.commit()
    finally:
        await writer.abort()


async def put(store: Store, digest: Digest, data: bytes, stream: bytes) -> Digest:
    (outcome,) = await store.put_many([BatchPut([digest], data, stream)])
    if isinstance(outcome, CasError):
        raise outcome
    return outcome


async def streamed(store: Store, digest: Digest) -> bytes | None:
    stream = await store.read_zstd(digest)
    return None if stream is None else b"".join([bytes(piece) async for piece in stream])


async def read(store: Store, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
    return b"".join([bytes(piece) async for piece in store.read(digest, offset, limit)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_a_stream_is_kept_as_it_was_sent(
    store: Store, size: int, function: DigestFunction
) -> None:
    data = text(size)
    digest, stream = function.digest(data), frames(data, 50_000)

    assert await write(store, digest, stream) == digest

    assert await store.get_zstd(digest) == stream
    assert await streamed(store, digest) == stream
    assert await store.get(digest) == data
    assert await read(store, digest) == data
    assert await store.find_missing([digest]) == []
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize("make", [text, noise])
@pytest.mark.parametrize("size", SIZES)
async def test_bytes_choose_among_the_candidates_of_a_stream(
    store: Store, size: int, make: Callable[[int], bytes]
) -> None:
    data = make(size)
    digest, stream = BLAKE3.digest(data), zstd.compress(data)
    other = Digest(SHA256, digest.hash, size)

    assert await write(store, digest, stream, 300_000, other) == digest
    with pytest.raises(DigestMismatch):
        await write(store, digest, zstd.compress(data[::-1]), 300_000, other)

    assert await store.get(digest) == data
    assert await store.find_missing([other, digest]) == [other]
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize("size", SIZES)
async def test_a_batch_keeps_streams_as_they_were_sent(store: Store, size: int) -> None:
    data = text(size)
    digest, stream = SHA256.digest(data), zstd.compress(data)

    assert await put(store, digest, data, stream) == digest

    assert await store.get_zstd(digest) == stream
    assert await store.get(digest) == data


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_that_came_plain_has_no_stream(store: Store, size: int) -> None:
    data = text(size)
    digest = await store.put([SHA256.digest(data)], data)

    assert await store.get_zstd(digest) is None
    assert await store.read_zstd(digest) is None


async def test_the_empty_blob_has_no_stream(store: Store) -> None:
    assert await store.get_zstd(SHA256.empty) is None
    assert await store.read_zstd(SHA256.empty) is None


@pytest.mark.parametrize("size", SIZES)
async def test_a_stream_no_shorter_than_its_blob_is_not_kept(store: Store, size: int) -> None:
    data = noise(size)
    digest, stream = SHA256.digest(data), zstd.compress(data)
    assert len(stream) > size

    await write(store, digest, stream)

    assert await store.get_zstd(digest) is None
    assert await store.get(digest) == data


async def test_a_stream_no_shorter_than_its_blob_is_not_kept_from_a_batch(store: Store) -> None:
    data = noise(5000)
    digest = SHA256.digest(data)

    await put(store, digest, data, zstd.compress(data))

    assert await store.get_zstd(digest) is None
    assert await store.get(digest) == data


@pytest.mark.parametrize("size", SIZES)
async def test_any_part_of_a_blob_can_be_read(store: Store, size: int) -> None:
    data = text(size)
    digest = SHA256.digest(data)
    await write(store, digest, zstd.compress(data))
    chance = random.Random(2)

    for offset, limit in [(0, 1), (size, None), (size - 1, 5), *_parts(chance, size)]:
        end = size if limit is None else offset + limit
        assert await read(store, digest, offset, limit) == data[offset:end]
    with pytest.raises(OffsetOutOfRange):
        await read(store, digest, size + 1)


def _parts(chance: random.Random, size: int) -> list[tuple[int, int]]:
    return [(chance.randrange(size), chance.randrange(1, size)) for _ in range(6)]


@pytest.mark.parametrize("size", SIZES)
async def test_the_stream_of_another_blob_is_refused(store: Store, size: int) -> None:
    wanted = SHA256.digest(text(size, seed=1))

    with pytest.raises(DigestMismatch):
        await write(store, wanted, zstd.compress(text(size, seed=2)))

    assert await store.find_missing([wanted]) == [wanted]
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("harm", ["cut", "garbage", "more", "less", "trailing", "empty"])
async def test_a_bad_stream_is_refused(store: Store, size: int, harm: str) -> None:
    data = text(size)
    stream = zstd.compress(data)
    harmed = {
        "cut": stream[:-3],
        "garbage": stream[:20] + b"garbage" + stream[27:],
        "more": frames(data + b"x", 50_000),
        "less": frames(data[:-1], 50_000),
        "trailing": stream + b"\0",
        "empty": b"",
    }[harm]
    digest = SHA256.digest(data)

    with pytest.raises((BadCompressedData, DigestMismatch)):
        await write(store, digest, harmed)

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0


async def test_a_stream_is_not_taken_without_end(store: Store) -> None:
    """Empty frames add nothing to what is announced, and would fill the disk."""
    digest = SHA256.digest(text(100 * KIB))
    skippable = b"\x50\x2a\x4d\x18" + (MIB).to_bytes(4, "little") + bytes(MIB)

    with pytest.raises((BadCompressedData, DigestMismatch)):
        await write(store, digest, skippable * 8)


async def test_a_blob_over_the_limit_is_refused(open_store: Open) -> None:
    store = await open_store(max_blob_bytes=MIB)

    with pytest.raises(BlobTooLarge):
        await store.open_zstd_writer([SHA256.digest(bytes(MIB + 1))])


async def test_an_absent_blob_has_no_stream(store: Store) -> None:
    absent = SHA256.digest(b"absent")

    with pytest.raises(BlobNotFound):
        await store.get_zstd(absent)
    with pytest.raises(BlobNotFound):
        await store.read_zstd(absent)


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_of_unknown_function_is_stored_under_the_one_that_matches(
    store: Store, size: int
) -> None:
    data = text(size)
    digest = BLAKE3.digest(data)
    unknown = [Digest(SHA256, digest.hash, digest.size_bytes), digest]
    writer = await store.open_zstd_writer(unknown)

    await writer.write(Codec.ZSTD.compress(data))

    assert await writer.commit() == digest
    assert await store.get(digest) == data


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_is_made_of_a_blob_that_is_kept_as_a_stream(
    store: Store, size: int, tmp_path: Path
) -> None:
    data = text(size)
    digest = SHA256.digest(data)
    await write(store, digest, zstd.compress(data))
    path = tmp_path / "file"

    assert await store.export_files([FileExport(digest, str(path), 0o640)]) == []

    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("size", SIZES)
async def test_an_aborted_stream_leaves_nothing(store: Store, size: int) -> None:
    data = text(size)
    digest = SHA256.digest(data)
    writer = await store.open_zstd_writer([digest])
    await writer.write(zstd.compress(data))

    await writer.abort()

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0
