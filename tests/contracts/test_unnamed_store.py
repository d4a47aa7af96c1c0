"""What every store promises that takes blobs in before their digests are known (UnnamedStore)."""

import random
from typing import Protocol, cast

import pytest
from contracts import test_blob_store as stores
from contracts.test_blob_store import (  # noqa: F401 (fixtures)
    BLAKE3,
    MIB,
    SHA256,
    clock,
    open_store,
)

from cas.digest import DigestFunction
from cas.errors import BlobTooLarge
from cas.store import UnnamedStore


class Store(stores.Store, UnnamedStore, Protocol):
    """A store that does both."""


@pytest.fixture
async def store(open_store: stores.Open) -> Store:  # noqa: F811 (a fixture)
    return cast("Store", await open_store())


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 3 * MIB])
@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_a_blob_may_come_before_its_digest_is_known(
    store: Store, size: int, function: DigestFunction
) -> None:
    data = random.Random(size).randbytes(size)
    writer = await store.open_unnamed_writer(function)
    for first in range(0, size, 200_000):
        await writer.write(data[first : first + 200_000])

    assert await writer.digest() == function.digest(data)
    assert await writer.commit() == function.digest(data)
    await writer.abort()
    assert await store.get(function.digest(data)) == data


async def test_what_came_without_a_digest_and_is_not_committed_is_not_there(store: Store) -> None:
    data = bytes(2 * MIB)
    writer = await store.open_unnamed_writer(SHA256)
    await writer.write(data)
    await writer.abort()

    assert await store.find_missing([SHA256.digest(data)]) == [SHA256.digest(data)]
    assert store.stats().bytes == 0


async def test_a_blob_that_comes_without_a_digest_is_not_larger_than_blobs_may_be(
    open_store: stores.Open,  # noqa: F811 (a fixture)
) -> None:
    store = cast("Store", await open_store(max_blob_bytes=100_000))
    writer = await store.open_unnamed_writer(SHA256)
    with pytest.raises(BlobTooLarge):
        await writer.write(bytes(100_001))
    await writer.abort()


async def test_a_blob_may_come_twice_without_a_digest(store: Store) -> None:
    data = bytes(range(256)) * 1000
    for _ in range(2):
        writer = await store.open_unnamed_writer(SHA256)
        await writer.write(data)
        await writer.commit()

    assert store.stats().bytes == len(data)
