"""What every BlobStore promises (cas.store). A new store joins by one line in STORES."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from support.clock import FakeClock
from support.packs import open_storage

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import (
    BlobNotFound,
    BlobTooLarge,
    DigestMismatch,
    OffsetOutOfRange,
    StoreFull,
    StoreUnavailable,
)
from cas.memory import MemoryOptions, MemoryStore
from cas.pack_store import PackOptions
from cas.store import (
    BatchPut,
    BatchStore,
    BlobExporter,
    BlobImporter,
    BlobStore,
    FileExport,
    Measured,
    Retention,
)

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
MIB = 1024 * 1024
LEASE_S = 12 * 3600.0
PAST_LEASE_S = LEASE_S * 13 / 12 + 1


class Store(BlobStore, BatchStore, Retention, BlobExporter, BlobImporter, Measured, Protocol):
    async def close(self) -> None: ...


Open = Callable[..., Awaitable[Store]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def open_memory(_: Path, clock: FakeClock, **options: float) -> Store:
    return MemoryStore(MemoryOptions(**options), clock.monotonic)  # type: ignore[arg-type]


async def open_packs(directory: Path, clock: FakeClock, **options: float) -> Store:
    made = PackOptions(**options)  # type: ignore[arg-type]
    return (await open_storage(directory, clock, made)).store


STORES: dict[str, Open] = {"memory": open_memory, "packs": open_packs}


@pytest.fixture(params=STORES)
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Open]:
    opened: list[Store] = []

    async def open_one(**options: float) -> Store:
        store = await STORES[request.param](tmp_path / f"store{len(opened)}", clock, **options)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Open) -> Store:
    return await open_store()


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(seed).randbytes(size)
    return SHA256.digest(data), data


async def read(
    store: BlobStore, digest: Digest, offset: int = 0, limit: int | None = None
) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(digest, offset, limit)])


async def stream(store: BlobStore, candidates: list[Digest], *chunks: Buffer) -> Digest:
    writer = await store.open_writer(candidates)
    try:
        for chunk in chunks:
            await writer.write(chunk)
        return await writer.commit()
    finally:
        await writer.abort()


# Reading what was written


@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("size", [1, 4096, MIB, MIB + 1, 3 * MIB + 5])
async def test_what_is_put_is_read_back(store: Store, function: DigestFunction, size: int) -> None:
    data = os.urandom(size)
    digest = function.digest(data)

    assert await store.put([digest], data) == digest

    assert await store.find_missing([digest]) == []
    assert await store.get(digest) == data
    assert await read(store, digest) == data


async def test_each_blob_of_a_batch_is_stored_or_told_of(open_store: Open) -> None:
    store = await open_store(max_blob_bytes=2 * MIB)
    small, large, other = blob(100), blob(MIB, 1), blob(100, 2)
    huge = blob(2 * MIB + 1, 3)

    outcomes = await store.put_many(
        [
            BatchPut([small[0]], small[1]),
            BatchPut([other[0]], small[1]),
            BatchPut([large[0]], large[1]),
            BatchPut([huge[0]], huge[1]),
            BatchPut([small[0]], small[1]),
            BatchPut([SHA256.empty], b""),
        ]
    )

    assert outcomes[::2] == [small[0], large[0], small[0]]
    assert isinstance(outcomes[1], DigestMismatch)
    assert isinstance(outcomes[3], BlobTooLarge)
    assert outcomes[5] == SHA256.empty
    assert [await store.get(digest) for digest, _ in (small, large)] == [small[1], large[1]]
    assert await store.find_missing([other[0], huge[0]]) == [other[0], huge[0]]


async def test_a_batch_takes_what_has_room(open_store: Open) -> None:
    store = await open_store(max_bytes=3 * MIB)
    first, second, third = blob(2 * MIB), blob(2 * MIB, 1), blob(MIB // 2, 2)

    outcomes = await store.put_many([BatchPut([d], data) for d, data in (first, second, third)])

    stored = [outcome for outcome in outcomes if isinstance(outcome, Digest)]
    assert stored in ([first[0], third[0]], [second[0], third[0]])
    assert sum(isinstance(outcome, StoreFull) for outcome in outcomes) == 1
    assert store.stats().bytes == 2 * MIB + MIB // 2


async def test_an_empty_batch_is_no_work(store: Store) -> None:
    assert await store.put_many([]) == []


@pytest.mark.parametrize("size", [1, 4096, MIB, MIB + 1, 3 * MIB + 5])
@pytest.mark.parametrize("chunk", [1000 * 1000, 3 * MIB])
async def test_what_is_streamed_in_is_read_back(store: Store, size: int, chunk: int) -> None:
    data = os.urandom(size)
    digest = BLAKE3.digest(data)

    chunks = [data[start : start + chunk] for start in range(0, size, chunk)]
    assert await stream(store, [digest], *chunks) == digest

    assert await store.get(digest) == data


async def test_writer_keeps_what_it_was_given_though_the_buffer_changes(store: Store) -> None:
    digest, data = blob(2 * MIB)
    buffer = bytearray(data)
    writer = await store.open_writer([digest])

    await writer.write(memoryview(buffer)[: MIB + 1])
    await writer.write(memoryview(buffer)[MIB + 1 :])
    buffer[:] = bytes(len(buffer))
    await writer.commit()

    assert await store.get(digest) == data


@pytest.mark.parametrize("function", DigestFunction)
async def test_empty_blob_is_always_there(store: Store, function: DigestFunction) -> None:
    empty = function.empty

    assert await store.find_missing([empty]) == []
    assert await store.get(empty) == b""
    assert await read(store, empty) == b""
    assert await store.put([empty], b"") == empty
    assert await stream(store, [empty]) == empty
    assert store.stats().blobs == 0


async def test_size_zero_with_another_hash_is_missing(store: Store) -> None:
    strange = Digest(SHA256, "0" * 64, 0)

    assert await store.find_missing([strange]) == [strange]
    with pytest.raises(BlobNotFound):
        await store.get(strange)


async def test_chunks_have_at_most_a_mebibyte(store: Store) -> None:
    digest, data = blob(5 * MIB // 2)
    await store.put([digest], data)

    assert [len(chunk) async for chunk in store.read(digest)] == [MIB, MIB, MIB // 2]


@pytest.mark.parametrize(
    ("offset", "limit"),
    [(0, None), (0, 0), (1, 1), (MIB - 1, 2), (7, MIB + 7), (3 * MIB, None), (5, 10**9)],
)
async def test_part_of_a_blob_is_read(store: Store, offset: int, limit: int | None) -> None:
    digest, data = blob(3 * MIB)
    await store.put([digest], data)

    expected = data[offset:] if limit is None else data[offset : offset + limit]
    assert await read(store, digest, offset, limit) == expected


@pytest.mark.parametrize("offset", [-1, 11])
async def test_offset_outside_of_the_blob_is_refused(store: Store, offset: int) -> None:
    digest, data = blob(10)
    await store.put([digest], data)

    with pytest.raises(OffsetOutOfRange):
        await read(store, digest, offset)


async def test_unknown_blob_is_not_found(store: Store) -> None:
    digest, _ = blob(10)

    with pytest.raises(BlobNotFound):
        await store.get(digest)
    with pytest.raises(BlobNotFound):
        await read(store, digest)


async def test_same_hash_with_another_size_is_missing(store: Store) -> None:
    digest, data = blob(10)
    await store.put([digest], data)
    other = Digest(SHA256, digest.hash, 11)

    assert await store.find_missing([other]) == [other]
    with pytest.raises(BlobNotFound):
        await store.get(other)


async def test_missing_blobs_come_in_the_order_asked_with_duplicates(store: Store) -> None:
    there, data = blob(10)
    a, b = blob(20)[0], blob(30)[0]
    await store.put([there], data)

    assert await store.find_missing(iter([b, there, a, SHA256.empty, b])) == [b, a, b]


# Writing


async def test_put_of_other_bytes_stores_nothing(store: Store) -> None:
    digest, data = blob(10)

    for wrong in (data[:-1] + b"x", data[:-1], data + b"x", b""):
        with pytest.raises(DigestMismatch):
            await store.put([digest], wrong)

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_streaming_other_bytes_stores_nothing(store: Store, size: int) -> None:
    digest, data = blob(size)

    for chunks in ([data[:-1], b"x"], [data[:-1]], [data, b"x"], []):
        with pytest.raises(DigestMismatch):
            await stream(store, [digest], *chunks)

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0


async def test_too_many_bytes_are_refused_as_they_come(store: Store) -> None:
    digest, data = blob(10)
    writer = await store.open_writer([digest])
    await writer.write(data)

    with pytest.raises(DigestMismatch):
        await writer.write(b"x")
    await writer.abort()


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_bytes_choose_among_candidates(store: Store, size: int) -> None:
    sha, data = blob(size)
    unknown = Digest(BLAKE3, sha.hash, size)
    blake = BLAKE3.digest(data)
    wrong_sha = Digest(SHA256, blake.hash, size)

    assert await store.put([unknown, sha], data) == sha
    assert await stream(store, [wrong_sha, blake], data) == blake

    assert await store.find_missing([sha, unknown, blake, wrong_sha]) == [unknown, wrong_sha]
    assert await store.get(blake) == data


async def test_candidates_that_all_differ_are_refused(store: Store) -> None:
    digest, data = blob(10)

    with pytest.raises(DigestMismatch):
        await store.put([digest, Digest(BLAKE3, digest.hash, 10)], data[::-1])
    with pytest.raises(DigestMismatch):
        await stream(store, [digest, Digest(BLAKE3, digest.hash, 10)], b"0123456789")


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_uncommitted_blob_is_missing(store: Store, size: int) -> None:
    digest, data = blob(size)
    writer = await store.open_writer([digest])

    await writer.write(data)

    assert await store.find_missing([digest]) == [digest]
    with pytest.raises(BlobNotFound):
        await store.get(digest)
    await writer.commit()
    assert await store.find_missing([digest]) == []


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_aborted_writer_leaves_nothing(store: Store, size: int) -> None:
    digest, data = blob(size)
    writer = await store.open_writer([digest])
    await writer.write(data)

    await writer.abort()
    await writer.abort()

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0
    assert store.stats().bytes == 0


async def test_abort_after_commit_does_nothing(store: Store) -> None:
    digest, data = blob(3 * MIB)
    writer = await store.open_writer([digest])
    await writer.write(data)
    await writer.commit()

    await writer.abort()

    assert await store.get(digest) == data
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_blob_written_twice_is_stored_once(store: Store, size: int) -> None:
    digest, data = blob(size)

    await store.put([digest], data)
    await store.put([digest], data)
    await stream(store, [digest], data)

    stats = store.stats()
    assert (stats.blobs, stats.bytes, stats.reserved_bytes) == (1, size, 0)


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_concurrent_writers_of_one_blob_all_succeed(store: Store, size: int) -> None:
    digest, data = blob(size)

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(stream(store, [digest], data)) for _ in range(5)]
        puts = [group.create_task(store.put([digest], data)) for _ in range(5)]

    assert {task.result() for task in writers + puts} == {digest}
    stats = store.stats()
    assert (stats.blobs, stats.bytes, stats.reserved_bytes) == (1, size, 0)
    assert await store.get(digest) == data


async def test_concurrent_puts_of_many_blobs_are_all_stored(store: Store) -> None:
    blobs = [blob(100, seed) for seed in range(600)]

    async with asyncio.TaskGroup() as group:
        for digest, data in blobs:
            group.create_task(store.put([digest], data))

    assert await store.find_missing([digest for digest, _ in blobs]) == []
    assert [await store.get(digest) for digest, _ in blobs] == [data for _, data in blobs]


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_writers_cancelled_anywhere_leave_nothing(store: Store, size: int) -> None:
    digest, data = blob(size)
    for yields in range(12):
        task = asyncio.get_running_loop().create_task(stream(store, [digest], data[: size // 2]))
        for _ in range(yields):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, DigestMismatch)):
            await task

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0
    assert await stream(store, [digest], data) == digest


# Limits, leases and holders


async def test_blob_over_the_limit_for_one_blob_is_refused(open_store: Open) -> None:
    store = await open_store(max_blob_bytes=10)
    small, data = blob(10)
    large, more = blob(11)

    await store.put([small], data)
    with pytest.raises(BlobTooLarge) as caught:
        await store.put([large], more)
    with pytest.raises(BlobTooLarge):
        await store.open_writer([large])

    assert (caught.value.digest, caught.value.limit_bytes) == (large, 10)


async def test_blob_over_the_size_of_the_store_is_too_large(open_store: Open) -> None:
    store = await open_store(max_bytes=10)

    with pytest.raises(BlobTooLarge):
        await store.open_writer([blob(11)[0]])


async def test_least_recently_used_blob_goes_first(open_store: Open) -> None:
    store = await open_store(max_bytes=30, min_lease_s=0)
    (a, _), (b, _), (c, _), (d, x) = blobs = [blob(10, seed) for seed in range(4)]
    for digest, data in blobs[:3]:
        await store.put([digest], data)

    await store.find_missing([a])
    await store.put([d], x)

    assert await store.find_missing([a, b, c]) == [b]
    assert store.stats().evicted_blobs == 1
    assert store.stats().bytes == 30


@pytest.mark.parametrize("touch", ["get", "read", "put", "find"])
async def test_every_use_renews(open_store: Open, touch: str) -> None:
    store = await open_store(max_bytes=20, min_lease_s=0)
    (a, x), (b, y), (c, z) = [blob(10, seed) for seed in range(3)]
    await store.put([a], x)
    await store.put([b], y)

    match touch:
        case "get":
            await store.get(a)
        case "read":
            await read(store, a)
        case "put":
            await store.put([a], x)
        case _:
            await store.find_missing([a])
    await store.put([c], z)

    assert await store.find_missing([a, b, c]) == [b]


async def test_lease_wins_over_size(open_store: Open, clock: FakeClock) -> None:
    store = await open_store(max_bytes=20, min_lease_s=LEASE_S)
    (a, x), (b, y) = blob(15, 1), blob(10, 2)
    await store.put([a], x)

    clock.advance(LEASE_S - 1)
    with pytest.raises(StoreFull):
        await store.put([b], y)
    with pytest.raises(StoreFull):
        await store.open_writer([b])
    assert await store.get(a) == x  # Which renews the lease.
    clock.advance(LEASE_S - 1)
    with pytest.raises(StoreFull):
        await store.put([b], y)

    clock.advance(PAST_LEASE_S)
    await store.put([b], y)
    assert await store.find_missing([a, b]) == [a]


async def test_write_that_cannot_fit_evicts_nothing(open_store: Open, clock: FakeClock) -> None:
    store = await open_store(max_bytes=30, min_lease_s=LEASE_S)
    (old, x), (young, y), (large, z) = blob(10, 1), blob(10, 2), blob(25, 3)
    await store.put([old], x)
    clock.advance(PAST_LEASE_S)
    await store.put([young], y)

    with pytest.raises(StoreFull):
        await store.put([large], z)

    assert await store.find_missing([old, young]) == []


async def test_room_for_running_writes_is_reserved(open_store: Open) -> None:
    store = await open_store(max_bytes=30)
    (a, _), (b, y) = blob(20, 1), blob(20, 2)
    writer = await store.open_writer([a])

    with pytest.raises(StoreFull):
        await store.put([b], y)
    await writer.abort()
    await store.put([b], y)

    assert await store.get(b) == y


async def test_held_blob_is_not_evicted(open_store: Open, clock: FakeClock) -> None:
    store = await open_store(max_bytes=20, min_lease_s=LEASE_S)
    (a, x), (b, y) = blob(15, 1), blob(10, 2)
    store.hold("invocation:1", [a])  # Before it is there.
    await store.put([a], x)
    store.hold("operation:2", [a])
    clock.advance(10 * LEASE_S)

    for holder in ("invocation:1", "operation:2"):
        with pytest.raises(StoreFull):
            await store.put([b], y)
        clock.advance(10 * LEASE_S)
        store.release(holder)
    store.release("unknown")

    clock.advance(10 * LEASE_S)
    await store.put([b], y)
    assert await store.find_missing([a]) == [a]
    assert (store.stats().held, store.stats().holders) == (0, 0)


async def test_eviction_does_not_break_a_running_read(open_store: Open) -> None:
    store = await open_store(max_bytes=3 * MIB, min_lease_s=0)
    (a, x), (b, y) = blob(3 * MIB, 1), blob(3 * MIB, 2)
    await store.put([a], x)
    chunks = store.read(a)

    first = bytes(await anext(chunks))
    await store.put([b], y)

    assert await store.find_missing([a]) == [a]
    assert first + b"".join([bytes(chunk) async for chunk in chunks]) == x


async def test_evicted_blob_can_come_back(open_store: Open) -> None:
    store = await open_store(max_bytes=10, min_lease_s=0)
    (a, x), (b, y) = blob(10, 1), blob(10, 2)

    for _ in range(3):
        await store.put([a], x)
        await store.put([b], y)
        assert await store.find_missing([a, b]) == [a]
        await store.put([a], x)

    assert await store.get(a) == x


# Files


async def test_exported_files_have_bytes_and_mode(store: Store, tmp_path: Path) -> None:
    blobs = [blob(size, size) for size in (1, 100, 70_000, 3 * MIB)]
    for digest, data in blobs:
        await store.put([digest], data)
    blobs.append((SHA256.empty, b""))

    missing = await store.export_files(
        [
            FileExport(digest, str(tmp_path / f"{index}"), 0o755 if index % 2 else 0o666)
            for index, (digest, _) in enumerate(blobs)
        ]
    )

    assert missing == []
    for index, (_, data) in enumerate(blobs):
        path = tmp_path / f"{index}"
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == (0o755 if index % 2 else 0o666)


async def test_export_names_what_is_missing_and_makes_the_rest(
    store: Store, tmp_path: Path
) -> None:
    there, data = blob(10)
    a, b = blob(20)[0], blob(30)[0]
    await store.put([there], data)

    wanted = [b, there, a, b]
    missing = await store.export_files(
        [FileExport(digest, str(tmp_path / f"{i}"), 0o644) for i, digest in enumerate(wanted)]
    )

    assert missing == [b, a]
    assert sorted(os.listdir(tmp_path / "")) == sorted(
        {"1"} | {name for name in os.listdir(tmp_path) if name.startswith("store")}
    )


async def test_exported_file_is_independent_of_the_store(store: Store, tmp_path: Path) -> None:
    digest, data = blob(70_000)
    await store.put([digest], data)
    path = tmp_path / "file"

    await store.export_files([FileExport(digest, str(path), 0o644)])
    path.write_bytes(b"overwritten")

    assert await store.get(digest) == data


async def test_export_never_overwrites(store: Store, tmp_path: Path) -> None:
    digest, data = blob(10)
    await store.put([digest], data)
    path = tmp_path / "file"
    path.write_bytes(b"mine")

    with pytest.raises(FileExistsError, match="file"):
        await store.export_files([FileExport(digest, str(path), 0o644)])

    assert path.read_bytes() == b"mine"


async def test_many_files_are_exported(store: Store, tmp_path: Path) -> None:
    digest, data = blob(10)
    await store.put([digest], data)
    target = tmp_path / "target"
    target.mkdir()

    await store.export_files([FileExport(digest, str(target / f"{i}"), 0o644) for i in range(1000)])

    assert len(os.listdir(target)) == 1000


@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_imported_files_are_stored(
    store: Store, tmp_path: Path, function: DigestFunction
) -> None:
    contents = [b"", b"a", os.urandom(MIB), b"a", os.urandom(3 * MIB + 1), os.urandom(70_000)]
    paths = []
    for index, data in enumerate(contents):
        path = tmp_path / f"{index}"
        path.write_bytes(data)
        paths.append(str(path))

    digests = await store.import_files(function, paths)

    assert digests == [function.digest(data) for data in contents]
    assert [await store.get(digest) for digest in digests] == contents
    assert store.stats().reserved_bytes == 0
    assert await store.import_files(function, paths) == digests
    assert store.stats().blobs == 4


async def test_import_takes_regular_files_only(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo")

    for name in ("link", "fifo", "absent", "."):
        with pytest.raises(OSError, match=name if name != "." else str(tmp_path)):
            await store.import_files(SHA256, [f"{tmp_path}/{name}"])

    assert store.stats().blobs == 0


@pytest.mark.parametrize("size", [11, 3 * MIB])
async def test_import_of_a_file_over_the_limit_is_refused(
    open_store: Open, tmp_path: Path, size: int
) -> None:
    store = await open_store(max_blob_bytes=10)
    (tmp_path / "file").write_bytes(bytes(size))

    with pytest.raises(BlobTooLarge) as caught:
        await store.import_files(SHA256, [str(tmp_path / "file")])

    assert caught.value.digest == SHA256.digest(bytes(size))
    assert store.stats().reserved_bytes == 0


# The end


async def test_closed_store_is_unavailable(store: Store, tmp_path: Path) -> None:
    digest, data = blob(10)
    writer = await store.open_writer([digest])
    await writer.write(data)

    await store.close()
    await store.close()

    await writer.abort()
    for call in (
        store.find_missing([digest]),
        store.get(digest),
        store.put([digest], data),
        store.open_writer([digest]),
        store.import_files(SHA256, []),
        store.export_files([]),
        read(store, digest),
    ):
        with pytest.raises(StoreUnavailable):
            await call
