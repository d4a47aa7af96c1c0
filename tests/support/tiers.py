"""Tiers for tests: a store in memory before a remote that can be given trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from support.remote import RemoteCache, RemoteStore

from cas.memory import MemoryActionCache, MemoryOptions, MemoryStore
from cas.pending import MemoryPending, Pending
from cas.tiered import TierOptions, WriteMode
from cas.tiers import Elsewhere, Here, Tiers


async def until(condition: Callable[[], bool]) -> None:
    """Lets everything else run until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (of anything, so there is no event)
            await asyncio.sleep(0.001)


class World:
    """Two tiers and what they are made of."""

    def __init__(self, here: MemoryStore, mode: WriteMode, options: dict[str, Any]) -> None:
        self.fast = here
        self.fast_cache = MemoryActionCache()
        self.remote = RemoteStore()
        self.remote_cache = RemoteCache(self.remote.trouble)
        self.options = TierOptions(mode=mode, **options)

    def tiers(
        self, pending: Pending | None = None, clock: Callable[[], float] = time.monotonic
    ) -> Tiers:
        return Tiers(
            Here(self.fast, self.fast_cache),
            Elsewhere(self.remote, self.remote_cache),
            self.options,
            pending or MemoryPending(),
            monotonic=clock,
            chance=lambda: 0.0,
        )


def world(
    mode: WriteMode = WriteMode.WRITE_BACK, max_bytes: int = 1 << 30, **options: Any
) -> World:
    return World(MemoryStore(MemoryOptions(max_bytes=max_bytes, min_lease_s=0)), mode, options)
