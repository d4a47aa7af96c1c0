import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import cast

import pytest
from support.clock import FakeClock
from support.tiers import until, world

from cas.compression import Codec
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import (
    BlobNotFound,
    DigestMismatch,
    OffsetOutOfRange,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from cas.memory import MemoryStore
from cas.store import BatchPut, BlobStore, FileExport
from cas.tiered import WriteMode

MIB = 1024 * 1024
SIZES = pytest.mark.parametrize("size", [10, 3 * MIB])
MODES = pytest.mark.parametrize("mode", WriteMode)


def blob(size: int) -> tuple[Digest, bytes]:
    data = os.urandom(size)
    return DigestFunction.SHA256.digest(data), data


async def read(
    store: BlobStore, digest: Digest, offset: int = 0, limit: int | None = None
) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(digest, offset, limit)])


async def stream(store: BlobStore, digest: Digest, data: bytes) -> Digest:
    writer = await store.open_writer([digest])
    try:
        await writer.write(data)
        return await writer.commit()
    finally:
        await writer.abort()


# Reading


@SIZES
@MODES
async def test_blob_of_the_slow_tier_is_brought_over_once(size: int, mode: WriteMode) -> None:
    made = world(mode)
    digest, data = blob(size)
    await made.remote.put([digest], data)
    made.remote.trouble.calls.clear()

    async with made.tiers() as tiers:
        assert await tiers.store.get(digest) == data
        assert await read(tiers.store, digest) == data
        assert await tiers.store.get(digest) == data
        assert tiers.stats().downloads == 1
        assert tiers.stats().downloaded_bytes == size

    assert await made.fast.get(digest) == data
    assert made.remote.trouble.calls.total() == 1


@SIZES
async def test_a_thousand_readers_share_one_download(size: int) -> None:
    made = world()
    digest, data = blob(size)
    await made.remote.put([digest], data)
    made.remote.trouble.calls.clear()
    made.remote.trouble.gate.clear()

    async with made.tiers() as tiers:
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(read(tiers.store, digest, size - 9)) for _ in range(1000)]
            await until(lambda: tiers.stats().shared_downloads == 999)
            made.remote.trouble.gate.set()
        assert {task.result() for task in ends} == {data[-9:]}

    assert made.remote.trouble.calls.total() == 1


@SIZES
async def test_readers_that_leave_end_the_download(size: int) -> None:
    made = world()
    digest, data = blob(size)
    await made.remote.put([digest], data)
    made.remote.trouble.gate.clear()

    async with made.tiers() as tiers:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read(tiers.store, digest)
        await until(lambda: made.remote.trouble.waiting == 0)
        await until(lambda: made.fast.stats().reserved_bytes == 0)
        made.remote.trouble.gate.set()
        assert await read(tiers.store, digest) == data


async def test_part_of_a_blob_of_the_slow_tier_is_read() -> None:
    made = world()
    digest, data = blob(3 * MIB)
    await made.remote.put([digest], data)

    async with made.tiers() as tiers:
        assert await read(tiers.store, digest, MIB + 1, 17) == data[MIB + 1 : MIB + 18]
        with pytest.raises(OffsetOutOfRange):
            await read(tiers.store, digest, 3 * MIB + 1)


@SIZES
async def test_blob_that_no_tier_has_is_not_found(size: int) -> None:
    async with world().tiers() as tiers:
        digest, _ = blob(size)
        with pytest.raises(BlobNotFound):
            await tiers.store.get(digest)
        with pytest.raises(BlobNotFound):
            await read(tiers.store, digest)


@SIZES
@pytest.mark.parametrize("error", [StoreUnavailable("down"), StoreDenied("no", "AccessDenied")])
async def test_failing_slow_tier_is_not_taken_for_a_missing_blob(
    size: int, error: StoreUnavailable
) -> None:
    made = world()
    made.remote.trouble.error = error

    async with made.tiers() as tiers:
        digest, data = blob(size)
        with pytest.raises(type(error)):
            await read(tiers.store, digest)
        made.remote.trouble.error = None
        await made.remote.put([digest], data)
        assert await read(tiers.store, digest) == data


async def test_wrong_bytes_of_the_slow_tier_are_fetched_twice_and_condemned() -> None:
    made = world()
    digest, data = blob(3 * MIB)
    await made.remote.put([digest], data)
    made.remote.spoilt.add(digest)

    async with made.tiers() as tiers:
        with pytest.raises(BlobNotFound):
            await read(tiers.store, digest)

    assert made.remote.trouble.calls["stream"] == 2
    assert made.remote.condemned == [digest]
    assert await made.fast.find_missing([digest]) == [digest]


@SIZES
async def test_blob_that_does_not_fit_here_is_read_where_it_is(size: int) -> None:
    made = world(max_bytes=5)
    digest, data = blob(size)
    await made.remote.put([digest], data)

    async with made.tiers() as tiers:
        assert await read(tiers.store, digest) == data
        assert await tiers.store.get(digest) == data


async def test_evicted_blob_comes_back_from_the_slow_tier() -> None:
    made = world(max_bytes=25)
    blobs = [blob(10) for _ in range(10)]

    async with made.tiers() as tiers:
        for digest, data in blobs:
            await tiers.store.put([digest], data)
            await until(lambda: tiers.stats().pending == 0)
        assert await tiers.store.find_missing([digest for digest, _ in blobs]) == []
        assert [await tiers.store.get(digest) for digest, _ in blobs] == [d for _, d in blobs]

    assert made.fast.stats().blobs == 2


@pytest.mark.parametrize("way", ["get", "read"])
async def test_blob_damaged_here_is_healed_from_the_slow_tier(way: str) -> None:
    made = world(WriteMode.WRITE_THROUGH)
    digest, data = blob(10)
    async with made.tiers() as tiers:
        await tiers.store.put([digest], data)
        # What a local store does with what it finds damaged.
        made.fast._index.remove(digest)
        del made.fast._blobs[digest]

        found = tiers.store.get(digest) if way == "get" else read(tiers.store, digest)
        assert await found == data
        assert await made.fast.get(digest) == data


class Forgetful(MemoryStore):
    """Evicts what it is given at once, as one without leases may under pressure."""

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        return candidates[0]


async def test_blob_evicted_as_it_comes_is_read_where_it_is() -> None:
    made = world()
    made.fast = Forgetful()
    digest, data = blob(10)
    await made.remote.put([digest], data)

    async with made.tiers() as tiers:
        assert await tiers.store.get(digest) == data
        assert await read(tiers.store, digest) == data


async def test_reader_that_leaves_in_the_middle_ends_the_stores_stream() -> None:
    made = world()
    digest, data = blob(3 * MIB)
    await made.fast.put([digest], data)
    ended: list[bool] = []

    async def watched(
        wanted: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        try:
            yield data[:MIB]
            yield data[MIB:]
        finally:
            ended.append(True)

    made.fast.read = watched  # type: ignore[assignment, method-assign]
    async with made.tiers() as tiers:
        stream = cast("AsyncGenerator[Buffer, None]", tiers.store.read(digest))
        await anext(stream)
        await stream.aclose()
        assert ended == [True]


# Finding


async def test_blob_of_either_tier_is_found() -> None:
    made = world(WriteMode.READ_ONLY)
    (here, x), (there, y), (nowhere, _) = blob(10), blob(11), blob(12)
    await made.fast.put([here], x)
    await made.remote.put([there], y)

    async with made.tiers() as tiers:
        asked = [nowhere, here, there, nowhere, DigestFunction.SHA256.empty]
        assert await tiers.store.find_missing(asked) == [nowhere, nowhere]

    assert sorted(made.remote.asked) == sorted([nowhere, there])


async def test_answers_of_the_slow_tier_are_remembered_for_a_while() -> None:
    clock, made = FakeClock(), world(present_s=100, missing_s=5)
    (there, data), (nowhere, _) = blob(10), blob(11)
    await made.remote.put([there], data)

    async with made.tiers(clock=clock.monotonic) as tiers:
        for _ in range(3):
            assert await tiers.store.find_missing([there, nowhere]) == [nowhere]
        with pytest.raises(BlobNotFound):
            await tiers.store.get(nowhere)
        assert len(made.remote.asked) == 2

        clock.advance(6)
        assert await tiers.store.find_missing([there, nowhere]) == [nowhere]
        assert made.remote.asked[2:] == [nowhere]

        clock.advance(100)
        await tiers.store.find_missing([there])
        assert made.remote.asked[3:] == [there]


async def test_own_blob_is_found_though_it_was_missing_a_moment_ago() -> None:
    async with world().tiers() as tiers:
        digest, data = blob(10)
        assert await tiers.store.find_missing([digest]) == [digest]

        await tiers.store.put([digest], data)

        assert await tiers.store.find_missing([digest]) == []
        assert await tiers.store.get(digest) == data


@pytest.mark.parametrize("error", [StoreUnavailable("down"), StoreDenied("no")])
async def test_what_a_failing_slow_tier_cannot_say_counts_as_missing(
    error: StoreUnavailable,
) -> None:
    made = world()
    (here, x), (there, y) = blob(10), blob(11)
    await made.fast.put([here], x)
    await made.remote.put([there], y)
    made.remote.trouble.error = error

    async with made.tiers() as tiers:
        assert await tiers.store.find_missing([here, there]) == [there]
        assert tiers.stats().unanswered == 1
        made.remote.trouble.error = None
        assert await tiers.store.find_missing([here, there]) == []


async def test_finding_keeps_to_its_budget() -> None:
    made = world(find_budget_s=0.01)
    digest, _ = blob(10)
    made.remote.trouble.gate.clear()

    async with made.tiers() as tiers:
        assert await tiers.store.find_missing([digest]) == [digest]
        assert await tiers.cache.get("", digest) is None
        assert tiers.stats().unanswered == 2


async def test_what_was_answered_in_time_counts() -> None:
    made = world(find_budget_s=0.1)
    digests = []
    for number in range(600):
        data = b"%d" % number
        digests.append(DigestFunction.SHA256.digest(data))
        await made.remote.put([digests[-1]], data)
    made.remote.trouble.patience = {"find": 2}

    async with made.tiers() as tiers:
        missing = await tiers.store.find_missing(digests)
        assert missing == digests[500:]
        made.remote.trouble.patience = {}
        assert await tiers.store.find_missing(digests) == []

    assert len(made.remote.asked) == 700


# Writing


@SIZES
@pytest.mark.parametrize("way", ["put", "put_many", "stream", "import"])
async def test_what_is_written_reaches_the_slow_tier(size: int, way: str, tmp_path: Path) -> None:
    made = world(WriteMode.WRITE_THROUGH)
    digest, data = blob(size)

    async with made.tiers() as tiers:
        match way:
            case "put":
                assert await tiers.store.put([digest], data) == digest
            case "put_many":
                assert await tiers.store.put_many([BatchPut([digest], data)]) == [digest]
            case "stream":
                assert await stream(tiers.store, digest, data) == digest
            case _:
                path = tmp_path / "file"
                path.write_bytes(data)
                paths = [str(path)]
                assert await tiers.store.import_files(digest.function, paths) == [digest]

        assert await made.remote.get(digest) == data
        assert tiers.stats().pending == 0
        assert (tiers.stats().uploaded, tiers.stats().uploaded_bytes) == (1, size)


@SIZES
async def test_write_back_does_not_wait_for_the_slow_tier(size: int) -> None:
    made = world(WriteMode.WRITE_BACK)
    made.remote.trouble.gate.clear()
    digest, data = blob(size)

    async with made.tiers() as tiers:
        await tiers.store.put([digest], data)
        assert tiers.stats().pending == 1
        assert tiers.stats().pending_bytes == size
        assert await tiers.store.get(digest) == data

        made.remote.trouble.gate.set()
        await until(lambda: tiers.stats().pending == 0)
        assert await made.remote.get(digest) == data


async def test_read_only_slow_tier_is_never_written() -> None:
    made = world(WriteMode.READ_ONLY)
    digest, data = blob(10)

    async with made.tiers() as tiers:
        await tiers.store.put([digest], data)
        await stream(tiers.store, *blob(3 * MIB))
        await tiers.cache.put("", digest, b"result")
        await tiers.cache.remove("", digest)

    assert made.remote.trouble.calls.total() == 0


async def test_write_through_fails_with_the_slow_tier_and_is_made_up_for() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    made.remote.trouble.error = StoreUnavailable("down")
    digest, data = blob(10)

    async with made.tiers() as tiers:
        with pytest.raises(StoreUnavailable, match="down"):
            await tiers.store.put([digest], data)
        other, more = blob(11)
        outcomes = await tiers.store.put_many([BatchPut([other], more)])
        assert isinstance(outcomes[0], StoreUnavailable)

        made.remote.trouble.error = None
        await until(lambda: tiers.stats().pending == 0)

    assert await made.remote.get(digest) == data
    assert await made.remote.get(other) == more


async def test_write_back_waits_when_too_much_is_pending() -> None:
    made = world(WriteMode.WRITE_BACK, max_pending=2)
    made.remote.trouble.gate.clear()

    async with made.tiers() as tiers:
        for _ in range(2):
            await tiers.store.put(*put_of(blob(10)))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(tiers.store.put(*put_of(blob(10))))
            await until(lambda: tiers.stats().pending == 3)
            assert not waiting.done()
            made.remote.trouble.gate.set()
        await until(lambda: tiers.stats().pending == 0)


def put_of(made: tuple[Digest, bytes]) -> tuple[list[Digest], bytes]:
    return [made[0]], made[1]


async def test_pending_blob_is_not_evicted() -> None:
    made = world(max_bytes=25)
    made.remote.trouble.gate.clear()
    blobs = [blob(10) for _ in range(3)]

    async with made.tiers() as tiers:
        for digest, data in blobs[:2]:
            await tiers.store.put([digest], data)
        with pytest.raises(StoreFull):
            await tiers.store.put(*put_of(blobs[2]))
        assert tiers.stats().pending == 2

        made.remote.trouble.gate.set()
        await until(lambda: tiers.stats().pending == 0)
        await tiers.store.put(*put_of(blobs[2]))


@pytest.mark.parametrize("way", ["put", "stream", "put_many"])
async def test_refused_write_leaves_nothing_pending(way: str) -> None:
    made = world(max_bytes=25)
    digest, data = blob(10)
    wrong = data[:-1] + bytes([data[-1] ^ 1])

    async with made.tiers() as tiers:
        match way:
            case "put":
                with pytest.raises(DigestMismatch):
                    await tiers.store.put([digest], wrong)
            case "stream":
                with pytest.raises(DigestMismatch):
                    await stream(tiers.store, digest, wrong)
            case _:
                [outcome] = await tiers.store.put_many([BatchPut([digest], wrong)])
                assert isinstance(outcome, DigestMismatch)
        assert tiers.stats().pending == 0

    assert made.remote.trouble.calls.total() == 0


async def test_only_the_matching_candidate_is_copied() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    digest, data = blob(10)
    other = Digest(DigestFunction.BLAKE3, digest.hash, 10)

    async with made.tiers() as tiers:
        await tiers.store.put([other, digest], data)
        assert tiers.stats().pending == 0

    assert await made.remote.find_missing([other, digest]) == [other]


async def test_empty_blob_is_nobodys_copy() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    async with made.tiers() as tiers:
        await tiers.store.put([DigestFunction.SHA256.empty], b"")

    assert made.remote.trouble.calls.total() == 0


async def test_blob_that_the_slow_tier_is_known_to_have_is_not_copied_again() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    digest, data = blob(10)

    async with made.tiers() as tiers:
        for _ in range(3):
            await tiers.store.put([digest], data)

    assert made.remote.trouble.calls["put"] == 1


# Files


async def test_files_of_either_tier_are_exported(tmp_path: Path) -> None:
    made = world()
    (here, x), (there, y), (nowhere, _) = blob(10), blob(3 * MIB), blob(12)
    await made.fast.put([here], x)
    await made.remote.put([there], y)

    async with made.tiers() as tiers:
        files = [
            FileExport(digest, str(tmp_path / f"{index}"), 0o644)
            for index, digest in enumerate([here, there, there, nowhere])
        ]
        assert await tiers.store.export_files(files) == [nowhere]

    assert contents(tmp_path, "012") == [x, y, y]


def contents(directory: Path, names: Collection[str]) -> list[bytes]:
    return [(directory / name).read_bytes() for name in names]


async def test_compressed_blobs_are_the_fast_tiers_business() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    data = b"compressible " * 10_000
    digest = DigestFunction.SHA256.digest(data)
    async with made.tiers() as tiers:
        writer = await tiers.store.open_zstd_writer([digest])
        compressed = Codec.ZSTD.compress(data)
        await writer.write(compressed)
        await writer.commit()

        assert await made.remote.get(digest) == data
        assert await tiers.store.get_zstd(digest) == compressed
        other, more = blob(10)
        await made.remote.put([other], more)
        assert await tiers.store.get_zstd(other) is None
        assert await made.fast.get(other) == more
