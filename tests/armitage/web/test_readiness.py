from __future__ import annotations

from collections.abc import Sequence

import pytest

from armitage.web.readiness import store_refuses_writes
from cas.digest import Digest
from cas.errors import StoreFull
from cas.memory import MemoryOptions, MemoryStore
from cas.store import BlobWriter


class FullStore(MemoryStore):
    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        raise StoreFull("no space left")


class VanishedStore(MemoryStore):
    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        raise OSError(30, "Read-only file system")


async def test_store_that_takes_writes_is_ready_and_keeps_nothing() -> None:
    store = MemoryStore(MemoryOptions(), clock=lambda: 0.0)

    assert await store_refuses_writes(store) is None
    assert store.stats().blobs == 0
    assert store.stats().reserved_bytes == 0


@pytest.mark.parametrize(
    ("kind", "says"), [(FullStore, "no space left"), (VanishedStore, "Read-only")]
)
async def test_store_that_refuses_says_why(kind: type[MemoryStore], says: str) -> None:
    reason = await store_refuses_writes(kind(MemoryOptions(), clock=lambda: 0.0))

    assert reason is not None
    assert says in reason
