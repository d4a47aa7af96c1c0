"""Trees that are laid out once: how many there are, who has them, and when they go."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from support.executing import SHA256, JsonCodec, put_tree

from cas.digest import Digest
from cas.memory import MemoryStore
from executor.concurrency import Threads
from executor.errors import InputsMissing, WorkerFailure
from executor.scratch import Scratch
from executor.spec import Work
from executor.staging import InputTrees, Layout, TreeLimits
from executor.tree_cache import Overlay, Tree, TreeCache, TreeCacheOptions

OPTIONS = TreeCacheOptions(from_entries=2, max_entries=10, max_bytes=1000)


class Forgetful(MemoryStore):
    """Loses what it is told to lose."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[Digest] = set()

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        digests = list(digests)
        missing = await super().find_missing(digests)
        return [one for one in digests if one in self.lost or one in missing]


class Stuck:
    """Lays out a part of a tree, and then never ends."""

    def __init__(self, trees: InputTrees) -> None:
        self.trees = trees
        self.begun = asyncio.Event()

    async def lay_out(self, layout: Layout, root: str) -> None:
        await self.trees.lay_out(layout, root)
        self.begun.set()
        await asyncio.Event().wait()


@dataclass
class Kept:
    cache: TreeCache
    store: Forgetful
    inputs: InputTrees
    scratch: Scratch

    async def plan(self, *names: str, content: bytes = b"x") -> tuple[Digest, Layout]:
        root = await put_tree(self.store, dict.fromkeys(names, content))
        return root, await self.inputs.plan(Work("w", SHA256, root, ("true",)))

    async def add(self, *names: str, content: bytes = b"x") -> tuple[Digest, Tree]:
        root, layout = await self.plan(*names, content=content)
        tree = await self.cache.add(root, layout)
        assert tree is not None
        return root, tree

    def on_disk(self) -> set[str]:
        return {str(path) for path in self.scratch.trees.iterdir()}


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    store, threads, scratch = Forgetful(), Threads(2), Scratch(tmp_path / "scratch")
    inputs = InputTrees(store, JsonCodec(), TreeLimits(), threads)
    yield Kept(TreeCache(store, inputs, scratch, OPTIONS, threads), store, inputs, scratch)
    threads.close()
    scratch.close()


async def test_tree_is_laid_out_once(kept: Kept) -> None:
    root, first = await kept.add("a", "b")

    assert await kept.cache.find(root) is first
    assert (await kept.add("a", "b"))[1] is first
    assert sorted(os.listdir(first.root)) == ["a", "b"]
    assert kept.on_disk() == {first.root}
    assert first.users == 3


async def test_two_that_want_a_new_tree_get_the_same(kept: Kept) -> None:
    root, layout = await kept.plan("a", "b")

    one, other = await asyncio.gather(kept.cache.add(root, layout), kept.cache.add(root, layout))

    assert one is other
    assert one is not None
    assert one.users == 2
    assert kept.cache.entries == 2


async def test_least_recently_used_tree_goes_first(kept: Kept) -> None:
    old, old_tree = await kept.add("a", "b", "c", "d")
    young, young_tree = await kept.add("e", "f", "g", "h")
    for tree in (old_tree, young_tree):
        kept.cache.give_back(tree)
    again = await kept.cache.find(old)
    assert again is not None
    kept.cache.give_back(again)

    await kept.add("i", "j", "k", "l")

    assert await kept.cache.find(young) is None
    assert await kept.cache.find(old) is old_tree
    assert young_tree.root not in kept.on_disk()
    assert kept.cache.entries == 8


async def test_bytes_are_bounded_as_entries_are(kept: Kept) -> None:
    root, tree = await kept.add("a", "b", content=b"x" * 300)
    kept.cache.give_back(tree)

    await kept.add("c", "d", content=b"y" * 300)

    assert await kept.cache.find(root) is None
    assert kept.cache.size_bytes == 600


async def test_tree_in_use_stays_and_leaves_no_room(kept: Kept) -> None:
    root, tree = await kept.add(*"abcdef")
    other, layout = await kept.plan(*"ghijkl")

    assert await kept.cache.add(other, layout) is None

    assert await kept.cache.find(root) is tree
    assert len(os.listdir(tree.root)) == 6


async def test_small_and_huge_trees_are_not_kept(kept: Kept) -> None:
    sizes = {1: False, 2: True, 10: True, 11: False}
    for count, is_taken in sizes.items():
        _, layout = await kept.plan(*(str(number) for number in range(count)))
        assert kept.cache.takes(layout) is is_taken
    _, layout = await kept.plan("a", "b", content=b"x" * 501)
    assert not kept.cache.takes(layout)


async def test_tree_goes_when_the_store_has_lost_a_part(kept: Kept) -> None:
    root, tree = await kept.add("a", "b")
    kept.store.lost.add(SHA256.digest(b"x"))

    assert await kept.cache.find(root) is None

    assert kept.on_disk() == {tree.root}  # Its first user still sees it.
    kept.cache.give_back(tree)
    await kept.cache.clear()
    assert kept.on_disk() == set()


async def test_finding_a_tree_looks_up_directories_as_well(kept: Kept) -> None:
    root, _ = await kept.add("a", "b")
    kept.store.lost.add(root)

    assert await kept.cache.find(root) is None


async def test_tree_that_cannot_be_made_leaves_nothing(kept: Kept) -> None:
    root = await put_tree(kept.store, {"a": b"here", "b": b"\xff"}, leave_out=b"\xff")
    layout = await kept.inputs.plan(Work("w", SHA256, root, ("true",)))

    with pytest.raises(InputsMissing):
        await kept.cache.add(root, layout)

    assert kept.on_disk() == set()
    assert (kept.cache.entries, kept.cache.size_bytes) == (0, 0)
    assert await kept.cache.find(root) is None


async def test_cancelled_making_leaves_nothing_and_the_next_one_makes_it(kept: Kept) -> None:
    root, layout = await kept.plan(*"abcdefghij")
    stuck = Stuck(kept.inputs)
    kept.cache._inputs = cast("InputTrees", stuck)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.cache.add(root, layout))
        await stuck.begun.wait()
        task.cancel()

    assert task.cancelled()
    assert kept.on_disk() == set()
    assert kept.cache.entries == 0
    kept.cache._inputs = kept.inputs
    assert await kept.cache.add(root, layout) is not None


async def test_clearing_keeps_what_is_in_use(kept: Kept) -> None:
    _, used = await kept.add("a", "b")
    _, idle = await kept.add("c", "d")
    kept.cache.give_back(idle)

    await kept.cache.clear()

    assert kept.on_disk() == {used.root}
    assert kept.cache.entries == 2


async def test_what_a_predecessor_left_is_removed_unread(tmp_path: Path) -> None:
    left = tmp_path / "scratch" / "trees" / "0" / "d"
    left.mkdir(parents=True)
    left.joinpath("file").write_text("whatever")
    left.chmod(0)

    scratch = Scratch(tmp_path / "scratch")

    assert list(scratch.trees.iterdir()) == []
    scratch.close()


def test_overlay_without_a_view_is_a_failure() -> None:
    with pytest.raises(WorkerFailure, match="no view"):
        _ = Overlay("/lower", "/work", lambda: None).merged


def test_overlay_is_given_back_once() -> None:
    given: list[int] = []
    overlay = Overlay("/lower", "/work", lambda: given.append(1))

    overlay.close()
    overlay.close()

    assert given == [1]


def test_what_the_kernel_made_for_an_overlay_can_be_removed_afterwards(tmp_path: Path) -> None:
    (tmp_path / "work" / "work").mkdir(parents=True, mode=0)
    overlay = Overlay("/lower", str(tmp_path / "work"), lambda: None)
    overlay.take(os.open(tmp_path, os.O_PATH))

    overlay.close()

    assert (tmp_path / "work" / "work").stat().st_mode & 0o777 == 0o700
