"""Pack stores and their caches for tests."""

from pathlib import Path

from support.clock import FakeClock

from cas.pack_action_cache import CacheOptions
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackOptions

TINY_SEGMENTS = 1 << 18
"""So that a test has many."""


async def open_storage(
    directory: Path,
    clock: FakeClock,
    options: PackOptions | None = None,
    cache_options: CacheOptions | None = None,
) -> PackStorage:
    made = StorageOptions(options or PackOptions(), cache_options or CacheOptions(), TINY_SEGMENTS)
    return await PackStorage.open(directory, made, Clocks(clock.monotonic, clock.wall))
