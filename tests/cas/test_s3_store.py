import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.faults import Fault, FaultProxy, Kind, fault_proxy
from support.s3 import S3Server, open_bucket

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobNotFound, DigestMismatch, StoreDenied, StoreUnavailable
from cas.s3 import MIB
from cas.s3_store import S3Store, S3StoreOptions

_numbers = itertools.count()


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(s3.endpoint) as proxy:
        yield proxy


def now() -> float:
    return time.time()  # noqa: TID251 (the server's clock, too)


def open_store(url: str, spool: Path, **options: object) -> S3Store:
    made = S3StoreOptions(prefix=f"store/{next(_numbers)}", **options)  # type: ignore[arg-type]
    return S3Store(open_bucket(url), made, spool=spool, wall=now)


def blob(size: int) -> tuple[Digest, bytes]:
    data = os.urandom(size)
    return DigestFunction.SHA256.digest(data), data


async def read(store: S3Store, digest: Digest) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(digest)])


async def plant(store: S3Store, url: str, digest: Digest, data: bytes) -> None:
    """Puts other bytes where a blob belongs, past the store."""
    await open_bucket(url).put(store._layout.blob(digest), data)


SIZES = pytest.mark.parametrize("size", [10, 3 * MIB])


@SIZES
async def test_bytes_spoilt_on_the_way_are_fetched_again(
    proxy: FaultProxy, tmp_path: Path, size: int
) -> None:
    store = open_store(proxy.url, tmp_path)
    digest, data = blob(size)
    await store.put([digest], data)

    proxy.add(Fault(Kind.WRONG, after_bytes=size - 1, method="GET"))
    assert await read(store, digest) == data
    proxy.add(Fault(Kind.SHORT, after_bytes=size - 1, method="GET"))
    assert await store.get(digest) == data

    assert store.damaged == 0


@SIZES
@pytest.mark.parametrize("kind", [Kind.WRONG, Kind.SHORT])
async def test_wrong_bytes_are_never_read(
    proxy: FaultProxy, tmp_path: Path, size: int, kind: Kind
) -> None:
    store = open_store(proxy.url, tmp_path)
    digest, data = blob(size)
    await store.put([digest], data)
    proxy.always = Fault(kind, after_bytes=size // 2, method="GET")

    with pytest.raises(BlobNotFound):
        await read(store, digest)
    with pytest.raises(BlobNotFound):
        await store.get(digest)

    assert store.damaged == 1


@SIZES
async def test_damaged_blob_is_missing_until_it_is_written_again(
    s3: S3Server, tmp_path: Path, size: int
) -> None:
    store = open_store(s3.endpoint, tmp_path)
    digest, data = blob(size)
    await plant(store, s3.endpoint, digest, data[:-1] + bytes([data[-1] ^ 1]))
    assert await store.find_missing([digest]) == []  # Of equal size, so nobody can know yet.

    with pytest.raises(BlobNotFound):
        await store.get(digest)

    assert await store.find_missing([digest]) == [digest]
    await store.put([digest], data)
    assert await store.find_missing([digest]) == []
    assert await store.get(digest) == data


@pytest.mark.parametrize("stored", [b"", b"short", bytes(2000)])
async def test_object_of_another_size_is_missing(
    s3: S3Server, tmp_path: Path, stored: bytes
) -> None:
    store = open_store(s3.endpoint, tmp_path)
    digest, _ = blob(1000)
    await plant(store, s3.endpoint, digest, stored)

    assert await store.find_missing([digest]) == [digest]
    with pytest.raises(BlobNotFound):
        await store.get(digest)


async def test_blob_near_the_end_of_its_life_is_missing(s3: S3Server, tmp_path: Path) -> None:
    clock = FakeClock(now())
    options = S3StoreOptions(prefix=f"store/{next(_numbers)}", max_age_s=3600)
    store = S3Store(open_bucket(s3.endpoint), options, spool=tmp_path, wall=clock.wall)
    digest, data = blob(10)
    await store.put([digest], data)

    clock.advance(3500)
    assert await store.find_missing([digest]) == []
    clock.advance(200)
    assert await store.find_missing([digest]) == [digest]

    assert await store.get(digest) == data


async def test_large_blob_that_is_there_is_not_sent_again(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    store = open_store(proxy.url, tmp_path)
    digest, data = blob(2 * MIB)
    await store.put([digest], data)
    sent = proxy.count("PUT")

    await store.put([digest], data)

    assert proxy.count("PUT") == sent


async def test_source_of_other_bytes_is_not_the_buckets_fault(s3: S3Server, tmp_path: Path) -> None:
    """What the source finds wrong while it is read ends the upload."""
    store = open_store(s3.endpoint, tmp_path)
    digest, data = blob(2 * MIB)

    async def broken() -> AsyncIterator[Buffer]:
        yield data[:MIB]
        raise DigestMismatch([digest], "the file changed")

    with pytest.raises(DigestMismatch):
        await store.upload(digest, broken)
    assert await store.find_missing([digest]) == [digest]


async def test_each_distinct_digest_is_asked_for_once(proxy: FaultProxy, tmp_path: Path) -> None:
    store = open_store(proxy.url, tmp_path, find_at_once=8)
    proxy.always = Fault(Kind.DELAY, delay_s=0.002)
    digests = [blob(10)[0] for _ in range(50)]

    assert await store.find_missing(digests + digests) == digests + digests

    assert proxy.count("HEAD") == 50
    assert 1 < proxy.most_open <= 8


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(Kind.STATUS, status=503, code="SlowDown"), StoreUnavailable),
        (Fault(Kind.STATUS, status=403, code="AccessDenied"), StoreDenied),
    ],
    ids=["503", "403"],
)
async def test_failure_is_not_taken_for_missing(
    proxy: FaultProxy, tmp_path: Path, fault: Fault, error: type[Exception]
) -> None:
    store = open_store(proxy.url, tmp_path)
    digests = [blob(10)[0] for _ in range(5)]
    proxy.always = fault

    with pytest.raises(error):
        await store.find_missing(digests)
    with pytest.raises(error):
        await store.get(digests[0])
    with pytest.raises(error):
        await read(store, blob(2 * MIB)[0])


async def test_readers_that_leave_give_their_places_back(s3: S3Server, tmp_path: Path) -> None:
    options = S3StoreOptions(prefix=f"store/{next(_numbers)}")
    bucket = open_bucket(s3.endpoint, max_large=1)
    store = S3Store(bucket, options, spool=tmp_path, wall=now)
    digest, data = blob(3 * MIB)
    await store.put([digest], data)

    for _ in range(3):
        stream = store.read_unverified(digest)
        await anext(stream)
        await stream.aclose()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await store.get(digest)

    assert await store.get(digest) == data


async def test_nothing_is_left_in_the_spool(s3: S3Server, tmp_path: Path) -> None:
    store = open_store(s3.endpoint, tmp_path)
    digest, data = blob(3 * MIB)
    await store.put([digest], data)

    await read(store, digest)
    writer = await store.open_writer([digest])
    await writer.write(data[:100])
    await writer.abort()

    assert os.listdir(tmp_path) == []


async def test_unusable_spool_is_unavailable(s3: S3Server, tmp_path: Path) -> None:
    store = open_store(s3.endpoint, tmp_path / "none")

    with pytest.raises(StoreUnavailable, match="temporary file"):
        await store.open_writer([blob(10)[0]])


def test_prefix_is_checked_with_the_options() -> None:
    with pytest.raises(ValueError, match="prefix"):
        S3StoreOptions(prefix="/x")
