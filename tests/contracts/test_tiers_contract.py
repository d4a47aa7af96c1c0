"""What every BlobStore and ActionCache promises, of two tiers: all of the same tests, collected
here once more.

Those of limits and leases go to packs before an empty mirror, since a slow tier gives back what the
fast one evicts; the others to packs before a bucket that every write goes through to.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from contracts import test_action_cache as caches
from contracts import test_blob_store as stores
from support.clock import FakeClock
from support.packs import open_storage
from support.s3 import S3Server, open_bucket

from cas.memory import MemoryActionCache, MemoryOptions, MemoryStore
from cas.pack_action_cache import CacheOptions
from cas.pack_store import PackOptions
from cas.pending import DiskPending
from cas.s3_action_cache import S3ActionCache
from cas.s3_store import S3Store, S3StoreOptions
from cas.tiered import TierOptions, WriteMode
from cas.tiers import Elsewhere, Here, Tiers

_numbers = itertools.count()

pytestmark = pytest.mark.slow

for _suite in (stores, caches):
    globals().update({name: it for name, it in vars(_suite).items() if name.startswith("test_")})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class World:
    """Where tiers are opened, and closed in the end."""

    def __init__(self, directory: Path, clock: FakeClock, stack: AsyncExitStack) -> None:
        self.clock = clock
        self._directory = directory
        self._stack = stack

    def place(self) -> Path:
        return self._directory / f"store{next(_numbers)}"

    async def open(
        self,
        elsewhere: Elsewhere,
        mode: WriteMode,
        store: PackOptions | None = None,
        cache: CacheOptions | None = None,
    ) -> Tiers:
        place = self.place()
        here = await open_storage(place, self.clock, store, cache)
        self._stack.push_async_callback(here.close)
        tiers = Tiers(
            Here(here.store, here.cache),
            elsewhere,
            TierOptions(mode=mode),
            await DiskPending.open(place / "pending"),
            monotonic=self.clock.monotonic,
            chance=lambda: 0.0,
        )
        await self._stack.enter_async_context(tiers)
        cast("Any", tiers.store).close = here.close
        cast("Any", tiers.cache).close = here.close
        return tiers


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(tmp_path, clock, stack)


def mirror() -> Elsewhere:
    return Elsewhere(MemoryStore(MemoryOptions()), MemoryActionCache())


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> Elsewhere:
    made, prefix = open_bucket(s3.endpoint), f"tiers/{next(_numbers)}"
    options = S3StoreOptions(prefix=prefix)
    store = S3Store(made, options, spool=tmp_path, wall=lambda: 0.0)
    return Elsewhere(store, S3ActionCache(made, prefix))


@pytest.fixture
async def open_store(world: World) -> stores.Open:
    async def open_one(**options: float) -> stores.Store:
        packs = PackOptions(**options)  # type: ignore[arg-type]
        return cast("stores.Store", (await world.open(mirror(), WriteMode.READ_ONLY, packs)).store)

    return open_one


@pytest.fixture
async def store(world: World, bucket: Elsewhere) -> stores.Store:
    return cast("stores.Store", (await world.open(bucket, WriteMode.WRITE_THROUGH)).store)


@pytest.fixture
async def open_cache(world: World) -> caches.Open:
    async def open_one(**options: int) -> caches.Cache:
        made = CacheOptions(**options)
        tiers = await world.open(mirror(), WriteMode.READ_ONLY, cache=made)
        return cast("caches.Cache", tiers.cache)

    return open_one


@pytest.fixture
async def cache(world: World, bucket: Elsewhere) -> caches.Cache:
    return cast("caches.Cache", (await world.open(bucket, WriteMode.WRITE_THROUGH)).cache)
