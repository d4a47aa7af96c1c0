"""Trees that are laid out once: how many there are, who has them, and when they go."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from support.executing import SHA256, JsonCodec, put_tree

from cas.digest import Digest
from cas.memory import MemoryStore
from cas.store import Lease
from executor.concurrency import Threads
from executor.errors import InputsMissing, WorkerFailure
from executor.input_overlay import Overlay
from executor.scratch import Scratch
from executor.spec import Work
from executor.staging import InputTrees, Layout, TreeLimits
from executor.tree_cache import Tree, TreeBudget, TreeCache

BUDGET = TreeBudget(max_bytes=1000, max_entries=10)


class Forgetful(MemoryStore):
    """Loses what it is told to lose."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[Digest] = set()
        self.asked = 0
        """How often it was asked what is missing, which renews leases."""

    def lease_of(self, digest: Digest) -> Lease | None:
        return None if digest in self.lost else super().lease_of(digest)

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        self.asked += 1
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

    async def put(self, *names: str, content: bytes = b"x") -> Digest:
        return await put_tree(self.store, dict.fromkeys(names, content))

    async def try_take(self, root: Digest) -> Tree | None:
        work = Work("w", SHA256, root, ("true",))
        return await self.cache.take(root, partial(self.inputs.plan, work))

    async def take(self, root: Digest) -> Tree:
        tree = await self.try_take(root)
        assert tree is not None
        return tree

    def on_disk(self) -> set[str]:
        return {str(path) for path in self.scratch.trees.iterdir()}


@asynccontextmanager
async def keeping(
    place: Path, budget: TreeBudget = BUDGET, *, waits: bool = False
) -> AsyncIterator[Kept]:
    store, threads, scratch = Forgetful(), Threads(2), Scratch(place)
    inputs = InputTrees(store, JsonCodec(), TreeLimits(), threads)
    cache = TreeCache(store, inputs, scratch, budget, threads, name="x", waits=waits)
    yield Kept(cache, store, inputs, scratch)
    threads.close()
    scratch.close()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    async with keeping(tmp_path / "scratch") as kept:
        yield kept


async def test_tree_is_laid_out_once(kept: Kept) -> None:
    root = await kept.put("a", "b")

    first = await kept.take(root)

    assert await kept.take(root) is first
    assert sorted(os.listdir(first.root)) == ["a", "b"]
    assert kept.on_disk() == {first.root}
    assert first.users == 2


async def test_two_that_want_a_new_tree_get_the_same(kept: Kept) -> None:
    root = await kept.put("a", "b")

    one, other = await asyncio.gather(kept.take(root), kept.take(root))

    assert one is other
    assert one.users == 2
    assert kept.cache.entries == 2


async def test_least_recently_used_tree_goes_first(kept: Kept) -> None:
    old, young = await kept.put(*"abcd"), await kept.put(*"efgh")
    tree = await kept.take(old)
    kept.cache.give_back(tree)
    for root in (young, old):
        kept.cache.give_back(await kept.take(root))

    await kept.take(await kept.put(*"ijkl"))

    assert await kept.take(old) is tree
    assert len(kept.on_disk()) == 2
    assert kept.cache.entries == 8


@pytest.mark.parametrize(
    "budget", [TreeBudget(1000), TreeBudget(9999, max_entries=3), TreeBudget(9999, max_trees=1)]
)
async def test_what_is_kept_is_bounded_by_each_measure(tmp_path: Path, budget: TreeBudget) -> None:
    async with keeping(tmp_path, budget) as kept:
        first = await kept.take(await kept.put("a", "b", content=b"x" * 300))
        kept.cache.give_back(first)

        second = await kept.take(await kept.put("a", "b", content=b"y" * 300))

        assert kept.on_disk() == {second.root}
        assert (kept.cache.trees, kept.cache.entries, kept.cache.size_bytes) == (1, 2, 600)


async def test_tree_in_use_stays_and_leaves_no_room(kept: Kept) -> None:
    root = await kept.put(*"abcdef")
    tree = await kept.take(root)

    assert await kept.try_take(await kept.put(*"ghijkl")) is None

    assert await kept.take(root) is tree
    assert len(os.listdir(tree.root)) == 6


@pytest.mark.parametrize("waits", [False, True])
async def test_there_is_never_room_for_what_is_over_the_budget(tmp_path: Path, waits: bool) -> None:
    async with keeping(tmp_path, waits=waits) as kept:
        assert await kept.try_take(await kept.put(*"abcdefghijk")) is None
        assert await kept.try_take(await kept.put("a", content=b"x" * 1001)) is None


async def test_who_waits_gets_room_once_it_is_given_back(tmp_path: Path) -> None:
    async with keeping(tmp_path, waits=True) as kept:
        first = await kept.take(await kept.put(*"abcdef"))
        async with asyncio.TaskGroup() as group:
            second = group.create_task(kept.take(await kept.put(*"ghijkl")))
            _, pending = await asyncio.wait([second], timeout=0.01)
            assert pending

            kept.cache.give_back(first)

        assert kept.on_disk() == {second.result().root}


async def test_who_waits_gets_room_when_making_another_fails(tmp_path: Path) -> None:
    async with keeping(tmp_path, waits=True) as kept:
        stuck = Stuck(kept.inputs)
        kept.cache._inputs = cast("InputTrees", stuck)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(kept.take(await kept.put(*"abcdef")))
            await stuck.begun.wait()
            kept.cache._inputs = kept.inputs
            second = group.create_task(kept.take(await kept.put(*"ghijkl")))
            await asyncio.sleep(0)

            first.cancel()

        assert kept.on_disk() == {second.result().root}


class TestDroppingWhatIsLost:
    async def test_an_unused_tree_goes_when_the_store_has_lost_a_part(self, kept: Kept) -> None:
        whole, broken = await kept.put("a", "b"), await kept.put("c", content=b"y")
        for root in (whole, broken):
            kept.cache.give_back(await kept.take(root))
        kept.store.lost.add(SHA256.digest(b"y"))
        asked = kept.store.asked

        await kept.cache.drop_lost()

        assert kept.store.asked == asked
        assert kept.on_disk() == {(await kept.take(whole)).root}

    async def test_a_tree_that_is_used_stays(self, kept: Kept) -> None:
        tree = await kept.take(await kept.put("a"))
        kept.store.lost.add(SHA256.digest(b"x"))

        await kept.cache.drop_lost()

        assert kept.on_disk() == {tree.root}

    async def test_an_empty_file_is_never_lost(self, kept: Kept) -> None:
        tree = await kept.take(await kept.put("a", content=b""))
        kept.cache.give_back(tree)

        await kept.cache.drop_lost()

        assert kept.on_disk() == {tree.root}

    async def test_each_look_is_bounded_and_the_next_goes_on(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("executor.tree_cache._LOOKS", 1)
        for name in "ab":
            kept.cache.give_back(await kept.take(await kept.put(name)))
        kept.store.lost.add(SHA256.digest(b"x"))

        await kept.cache.drop_lost()
        assert len(kept.on_disk()) == 1

        await kept.cache.drop_lost()
        assert kept.on_disk() == set()


async def test_tree_is_made_anew_when_the_store_has_lost_a_part(kept: Kept) -> None:
    root = await kept.put("a", "b")
    tree = await kept.take(root)
    kept.store.lost.add(SHA256.digest(b"x"))

    again = await kept.take(root)

    assert kept.on_disk() == {tree.root, again.root}  # Its first user still sees it.
    kept.cache.give_back(tree)
    await kept.cache.clear()
    assert kept.on_disk() == {again.root}


async def test_tree_whose_directory_the_store_has_lost_is_not_lent(kept: Kept) -> None:
    root = await kept.put("a", "b")
    kept.cache.give_back(await kept.take(root))
    kept.store.lost.add(root)

    with pytest.raises(InputsMissing):
        await kept.take(root)


async def test_tree_that_cannot_be_made_leaves_nothing(kept: Kept) -> None:
    root = await put_tree(kept.store, {"a": b"here", "b": b"\xff"}, leave_out=b"\xff")

    for _ in range(2):
        with pytest.raises(InputsMissing):
            await kept.take(root)

    assert kept.on_disk() == set()
    assert (kept.cache.trees, kept.cache.entries, kept.cache.size_bytes) == (0, 0, 0)


async def test_cancelled_making_leaves_nothing_and_the_next_one_makes_it(kept: Kept) -> None:
    root = await kept.put(*"abcdefghij")
    stuck = Stuck(kept.inputs)
    kept.cache._inputs = cast("InputTrees", stuck)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.take(root))
        await stuck.begun.wait()
        task.cancel()

    assert task.cancelled()
    assert kept.on_disk() == set()
    assert kept.cache.entries == 0
    kept.cache._inputs = kept.inputs
    assert os.listdir((await kept.take(root)).root)


async def test_clearing_keeps_what_is_in_use(kept: Kept) -> None:
    used, idle = await kept.take(await kept.put("a", "b")), await kept.take(await kept.put("c"))
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
        _ = Overlay(["/lower"], "/work", lambda: None).merged


def test_overlay_is_given_back_once() -> None:
    given: list[int] = []
    overlay = Overlay(["/lower"], "/work", lambda: given.append(1))

    overlay.close()
    overlay.close()

    assert given == [1]


def test_what_the_kernel_made_for_an_overlay_can_be_removed_afterwards(tmp_path: Path) -> None:
    (tmp_path / "work" / "work").mkdir(parents=True, mode=0)
    overlay = Overlay(["/lower"], str(tmp_path / "work"), lambda: None)
    overlay.take(os.open(tmp_path, os.O_PATH))

    overlay.close()

    assert (tmp_path / "work" / "work").stat().st_mode & 0o777 == 0o700
