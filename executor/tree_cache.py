"""Trees that are laid out once and then lent to every action that wants them.

No action can change one: it sees a part of its inputs as a lower layer of an overlay, and a root
filesystem through read-only mounts (docs/sandbox.md). Nothing here is trusted after a restart: the
directory is emptied when it is opened, and which trees are whole is known in memory alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from cas.digest import Digest
from cas.store import BlobStore, Leases
from executor.concurrency import Threads
from executor.scratch import Scratch, remove_tree
from executor.staging import InputTrees, Layout

_LOOKS = 20_000
"""How many blobs are looked up at least before the rest waits for the next time: some 20 ms."""
_LOOKS_AT_ONCE = 1_000
"""So many before others of the event loop have their turn."""


@dataclass(frozen=True, slots=True)
class TreeCacheOptions:
    """Which directories of input trees are kept laid out, and how many."""

    enabled: bool = True
    """False copies every tree for every action."""
    from_entries: int = 32
    """Files, directories and symlinks of a tree, or of a directory in it; smaller ones are made for
    each action, which takes no longer.
    """
    max_bytes: int = 8 << 30
    """Of all that is kept."""
    max_entries: int = 500_000
    """Files, directories and symlinks of all that is kept."""


@dataclass(frozen=True, slots=True)
class TreeBudget:
    """How much may be laid out at the same time."""

    max_bytes: int
    """Of files."""
    max_entries: int = sys.maxsize
    """Files, directories and symlinks."""
    max_trees: int = sys.maxsize


@dataclass(slots=True, eq=False)
class Tree:
    """A whole tree on disk."""

    root: str
    blobs: tuple[Digest, ...]
    """All that it was made of, each once."""
    entries: int
    size_bytes: int
    users: int = 0


@dataclass(slots=True)
class _Turn:
    """Whose turn it is to look for one tree, and to make it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class TreeCache:
    """Trees within one budget. Owned by the event loop.

    A tree goes when the store has lost a part of it (as is seen at its next use, or by drop_lost),
    or when room is needed: of those that nobody uses, the one that was used least recently.
    """

    def __init__(
        self,
        store: BlobStore,
        inputs: InputTrees,
        scratch: Scratch,
        budget: TreeBudget,
        in_thread: Threads,
        *,
        name: str,
        waits: bool = False,
    ) -> None:
        """`name` is what its directories are called, next to those of others; `waits` tells whether
        who wants a tree waits while what others use leaves no room for it.
        """
        self._name = name
        self._store = store
        self._inputs = inputs
        self._scratch = scratch
        self._budget = budget
        self._in_thread = in_thread
        self._waits = waits
        self._numbers = itertools.count()
        self._turns: dict[Hashable, _Turn] = {}
        self._trees: OrderedDict[Hashable, Tree] = OrderedDict()
        """Those that may be lent, the least recently used first."""
        self._doomed: list[Tree] = []
        """Those that must go once nobody uses them."""
        self._unlooked: list[Hashable] = []
        """Keys of those that drop_lost has yet to look at, the last first."""
        self._freed = asyncio.Event()
        """Set, and replaced, when there may be more room than before."""
        self.trees = 0
        self.entries = 0
        self.size_bytes = 0
        """Of all trees that are there or being made."""

    async def take(self, key: Hashable, plan: Callable[[], Awaitable[Layout]]) -> Tree | None:
        """Lends the tree of a key, laid out as planned where it is not there yet.

        Renews the leases of what it was made of; where the store has lost any of that, it is made
        anew. None when there is no room for it. Raises what the plan, InputTrees.lay_out and the
        store raise.
        """
        async with self._turn(key):
            return await self._find(key) or await self._add(key, await plan())

    def give_back(self, tree: Tree) -> None:
        """Ends one use of a tree that was lent."""
        tree.users -= 1
        self._tell_of_room()

    async def clear(self) -> None:
        """Removes all trees that nobody uses. Raises OSError."""
        for key in [key for key, tree in self._trees.items() if not tree.users]:
            self._doomed.append(self._trees.pop(key))
        await self._sweep()

    async def drop_lost(self) -> None:
        """Removes trees that nobody uses and that the store has lost a part of, where it can tell
        that without renewing leases. To be called now and then: each call looks at some of them,
        the least recently used first. Raises OSError.
        """
        if not hasattr(self._store, "lease_of"):
            return
        if not self._unlooked:
            self._unlooked = list(reversed(self._trees))
        left = _LOOKS
        while self._unlooked and left > 0:
            key = self._unlooked.pop()
            tree = self._trees.get(key)
            if tree is None or tree.users:
                continue
            left -= len(tree.blobs)
            is_lost = await self._has_lost(tree, cast("Leases", self._store))
            if is_lost and self._trees.get(key) is tree and not tree.users:
                self._doomed.append(self._trees.pop(key))
        await self._sweep()

    @staticmethod
    async def _has_lost(tree: Tree, leases: Leases) -> bool:
        for start in range(0, len(tree.blobs), _LOOKS_AT_ONCE):
            for digest in tree.blobs[start : start + _LOOKS_AT_ONCE]:
                if not digest.is_empty and leases.lease_of(digest) is None:
                    return True
            await asyncio.sleep(0)
        return False

    @asynccontextmanager
    async def _turn(self, key: Hashable) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[key]

    async def _find(self, key: Hashable) -> Tree | None:
        tree = self._trees.get(key)
        if tree is None:
            return None
        self._trees.move_to_end(key)
        tree.users += 1
        try:
            missing = await self._store.find_missing(tree.blobs)
        except BaseException:
            self.give_back(tree)
            raise
        if not missing:
            return tree
        self._doomed.append(self._trees.pop(key))
        self.give_back(tree)
        return None

    async def _add(self, key: Hashable, layout: Layout) -> Tree | None:
        size_bytes = sum(digest.size_bytes for digest, _, _ in layout.files)
        if not await self._make_room(layout.entries, size_bytes):
            return None
        root = str(self._scratch.trees / f"{self._name}.{next(self._numbers)}")
        blobs = dict.fromkeys((*layout.nodes, *(digest for digest, _, _ in layout.files)))
        tree = Tree(root, tuple(blobs), layout.entries, size_bytes, users=1)
        self._count(tree, 1)
        try:
            os.mkdir(root, 0o755)
            await self._inputs.lay_out(layout, root)
        except BaseException:
            self._doomed.append(tree)
            self.give_back(tree)
            await self._sweep()
            raise
        self._trees[key] = tree
        return tree

    async def _make_room(self, entries: int, size_bytes: int) -> bool:
        """Answers whether there is room now; it stays so until the next await."""
        budget = self._budget
        if entries > budget.max_entries or size_bytes > budget.max_bytes:
            return False
        while True:
            await self._sweep()
            if (
                self.trees < budget.max_trees
                and self.entries + entries <= budget.max_entries
                and self.size_bytes + size_bytes <= budget.max_bytes
            ):
                return True
            idle = next((key for key, tree in self._trees.items() if not tree.users), None)
            if idle is not None:
                self._doomed.append(self._trees.pop(idle))
            elif self._waits:
                await self._freed.wait()
            else:
                return False

    async def _sweep(self) -> None:
        while (tree := next((one for one in self._doomed if not one.users), None)) is not None:
            self._doomed.remove(tree)
            try:
                await self._in_thread(_remove, tree.root, self._scratch)
            except BaseException:
                self._doomed.append(tree)
                raise
            self._count(tree, -1)
            self._tell_of_room()

    def _count(self, tree: Tree, sign: int) -> None:
        self.trees += sign
        self.entries += sign * tree.entries
        self.size_bytes += sign * tree.size_bytes

    def _tell_of_room(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()


def _remove(root: str, scratch: Scratch) -> None:
    if os.path.lexists(root):
        remove_tree(scratch.trees / os.path.basename(root), scratch.trash)
