"""Laying out input trees: where the work is done, and what the files are like."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from support.executing import SHA256, JsonCodec, put_tree

from cas.memory import MemoryStore
from executor.concurrency import Threads
from executor.spec import Work
from executor.staging import FIXED_MTIME_S, InputTrees, TreeLimits

T = TypeVar("T")


class Counting(Threads):
    """Counts how often somebody leaves the event loop."""

    hops = 0

    async def __call__(self, function: Callable[..., T], /, *args: object) -> T:
        self.hops += 1
        return await super().__call__(function, *args)


@pytest.fixture
async def threads() -> AsyncIterator[Counting]:
    threads = Counting(2)
    yield threads
    threads.close()


@pytest.mark.parametrize(("count", "hops"), [(20, 0), (31, 0), (33, 2)])
async def test_only_trees_that_take_long_are_made_in_threads(
    threads: Counting, tmp_path: Path, count: int, hops: int
) -> None:
    store = MemoryStore()
    root = await put_tree(store, {str(number): b"x" for number in range(count)})
    trees = InputTrees(store, JsonCodec(), TreeLimits(), threads)

    layout = await trees.plan(Work("w", SHA256, root, ("true",)))
    await trees.lay_out(layout, str(tmp_path))

    assert threads.hops == hops
    times = [os.stat(f"{tmp_path}/{name}").st_mtime for name in os.listdir(tmp_path)]
    assert times == [FIXED_MTIME_S] * count
