"""Input trees that are laid out once and then lent to every action with the same root digest.

An action sees a tree as the lower layer of an overlay (docs/sandbox.md): what it changes goes into
its own scratch space, and the tree stays as it is. Nothing here is trusted after a restart: the
directory is emptied when it is opened, and which trees are whole is known in memory alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cas.digest import Digest
from cas.store import BlobStore
from executor.concurrency import Threads
from executor.errors import WorkerFailure
from executor.scratch import Scratch, remove_tree
from executor.staging import InputTrees, Layout


@dataclass(frozen=True, slots=True)
class TreeCacheOptions:
    """Which input trees are kept laid out, and how many."""

    enabled: bool = True
    """False copies every tree for every action."""
    from_entries: int = 32
    """Files, directories and symlinks of a tree; smaller ones are copied, which takes no longer."""
    max_bytes: int = 8 << 30
    """Of all trees that are kept."""
    max_entries: int = 500_000
    """Files, directories and symlinks of all trees that are kept."""


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
    """Whose turn it is to make one tree."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Overlay:
    """A lent tree as one action sees it, with a directory for the overlay's own use."""

    def __init__(self, lower: str, work: str, give_back: Callable[[], None]) -> None:
        """`give_back` is called once, when nothing uses the tree at `lower` any more."""
        self.lower = lower
        self.work = work
        self._give_back: Callable[[], None] | None = give_back
        self._view: int | None = None

    def take(self, view: int) -> None:
        """Takes over an open directory: the tree with all that the action changed."""
        if self._view is not None:
            os.close(self._view)
        self._view = view

    @property
    def merged(self) -> str:
        """A path of that directory, while this is open. Raises WorkerFailure without one."""
        if self._view is None:
            raise WorkerFailure("the launcher gave no view of the action's files")
        return f"/proc/self/fd/{self._view}/."

    def close(self) -> None:
        """Lets go of the view and gives the tree back. Idempotent."""
        if self._view is not None:
            os.close(self._view)
            self._view = None
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{self.work}/work", 0o700)  # The kernel's own, for nobody: to look into.
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class TreeCache:
    """The trees of one executor. Owned by the event loop."""

    def __init__(
        self,
        store: BlobStore,
        inputs: InputTrees,
        scratch: Scratch,
        options: TreeCacheOptions,
        in_thread: Threads,
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._scratch = scratch
        self._options = options
        self._in_thread = in_thread
        self._numbers = itertools.count()
        self._turns: dict[Digest, _Turn] = {}
        self._trees: OrderedDict[Digest, Tree] = OrderedDict()
        """Those that may be lent, the least recently used first."""
        self._doomed: list[Tree] = []
        """Those that must go once nobody uses them."""
        self.entries = 0
        self.size_bytes = 0
        """Of all trees that are there or being made."""

    async def find(self, digest: Digest) -> Tree | None:
        """Lends a tree that is there; None when it is not.

        Renews the leases of what it was made of. When the store has lost any of that, the tree
        goes as well. Raises what the store raises.
        """
        tree = self._trees.get(digest)
        if tree is None:
            return None
        self._trees.move_to_end(digest)
        tree.users += 1
        try:
            missing = await self._store.find_missing(tree.blobs)
        except BaseException:
            self.give_back(tree)
            raise
        if not missing:
            return tree
        if self._trees.get(digest) is tree:
            self._doomed.append(self._trees.pop(digest))
        self.give_back(tree)
        return None

    def takes(self, layout: Layout) -> bool:
        """Tells whether a tree is of a size to be kept."""
        options = self._options
        entries, size_bytes = _measure(layout)
        return (
            options.from_entries <= entries <= options.max_entries
            and size_bytes <= options.max_bytes
        )

    async def add(self, digest: Digest, layout: Layout) -> Tree | None:
        """Lays out a tree and lends it; None when those in use leave no room for it.

        Raises what InputTrees.lay_out raises.
        """
        async with self._turn(digest):
            tree = self._trees.get(digest)
            if tree is None:
                entries, size_bytes = _measure(layout)
                await self._make_room(entries, size_bytes)
                if not self._has_room(entries, size_bytes):
                    return None
                tree = await self._make(layout, entries, size_bytes)
                self._trees[digest] = tree
            tree.users += 1
            return tree

    def give_back(self, tree: Tree) -> None:
        """Ends one use of a tree that was lent."""
        tree.users -= 1

    async def clear(self) -> None:
        """Removes all trees that nobody uses. Raises OSError."""
        for digest in [digest for digest, tree in self._trees.items() if not tree.users]:
            self._doomed.append(self._trees.pop(digest))
        await self._sweep()

    @asynccontextmanager
    async def _turn(self, digest: Digest) -> AsyncIterator[None]:
        turn = self._turns.setdefault(digest, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[digest]

    async def _make(self, layout: Layout, entries: int, size_bytes: int) -> Tree:
        root = str(self._scratch.trees / str(next(self._numbers)))
        blobs = dict.fromkeys((*layout.nodes, *(digest for digest, _, _ in layout.files)))
        tree = Tree(root, tuple(blobs), entries, size_bytes)
        self.entries += entries
        self.size_bytes += size_bytes
        try:
            os.mkdir(root, 0o755)
            await self._inputs.lay_out(layout, root)
        except BaseException:
            self._doomed.append(tree)
            await self._sweep()
            raise
        return tree

    def _has_room(self, entries: int, size_bytes: int) -> bool:
        options = self._options
        return (
            self.entries + entries <= options.max_entries
            and self.size_bytes + size_bytes <= options.max_bytes
        )

    async def _make_room(self, entries: int, size_bytes: int) -> None:
        await self._sweep()
        while not self._has_room(entries, size_bytes):
            idle = next((digest for digest, tree in self._trees.items() if not tree.users), None)
            if idle is None:
                return
            self._doomed.append(self._trees.pop(idle))
            await self._sweep()

    async def _sweep(self) -> None:
        while (tree := next((one for one in self._doomed if not one.users), None)) is not None:
            self._doomed.remove(tree)
            try:
                await self._in_thread(_remove, tree.root, self._scratch)
            except OSError:
                self._doomed.append(tree)
                raise
            finally:
                if tree not in self._doomed:
                    self.entries -= tree.entries
                    self.size_bytes -= tree.size_bytes


def _remove(root: str, scratch: Scratch) -> None:
    if os.path.lexists(root):
        remove_tree(scratch.trees / os.path.basename(root), scratch.trash)


def _measure(layout: Layout) -> tuple[int, int]:
    entries = len(layout.directories) + len(layout.files) + len(layout.symlinks)
    return entries, sum(digest.size_bytes for digest, _, _ in layout.files)
