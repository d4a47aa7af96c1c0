"""Trees of the store that are root filesystems of actions: made once, shared, bounded."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from cas.digest import Buffer, Digest
from cas.store import BlobExporter, BlobStore, FileExport, Retention
from executor.concurrency import Threads
from executor.errors import SandboxUnavailable
from executor.options import ExecutorOptions
from executor.ports import TreeCodec
from executor.scratch import Scratch
from executor.spec import Work
from executor.staging import InputTrees


@dataclass(slots=True)
class _Tree:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who makes it; whoever comes meanwhile waits, and makes it where that failed."""
    users: int = 0
    path: Path | None = None
    """None until it is whole."""
    size_bytes: int | None = None
    """What it counts for; None until there is room for it."""


class RootTrees:
    """Makes trees below the scratch directory. Owned by the event loop.

    A tree is there while somebody uses it, and its blobs are held in the store for as long as it is
    there. It goes when room is needed for another, the least recently used first.
    """

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        scratch: Scratch,
        threads: Threads,
    ) -> None:
        self._store = store
        self._codec = codec
        self._options = options
        self._scratch = scratch
        self._threads = threads
        self._trees: OrderedDict[Digest, _Tree] = OrderedDict()
        self._numbers = itertools.count()
        self._freed = asyncio.Event()

    async def take(self, digest: Digest, work: Work) -> str:
        """Answers the directory of a whole tree, which stays until it is given back.

        Waits while what others use leaves no room for it. Raises InputsMissing, InvalidInput,
        SandboxUnavailable for a tree over the limit, WorkerFailure, CasError, OSError.
        """
        tree = self._trees.setdefault(digest, _Tree())
        self._trees.move_to_end(digest)
        tree.users += 1
        try:
            async with tree.lock:
                if tree.path is None:
                    tree.path = await self._make(tree, digest, work)
                return str(tree.path)
        except BaseException:
            self.give_back(digest)
            raise

    def give_back(self, digest: Digest) -> None:
        """Ends one use."""
        tree = self._trees[digest]
        tree.users -= 1
        if not tree.users:
            if tree.path is None:
                del self._trees[digest]
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()

    async def _make(self, tree: _Tree, digest: Digest, work: Work) -> Path:
        holder = f"rootfs:{digest}"
        store = _Holding(self._store, holder)
        inputs = InputTrees(store, self._codec, self._options.trees, self._threads)
        path = None
        try:
            layout = await inputs.plan(
                replace(work, input_root=digest, digest_function=digest.function)
            )
            size_bytes = sum(blob.size_bytes for blob, _, _ in layout.files)
            await self._make_room(size_bytes, digest)
            tree.size_bytes = size_bytes
            path = self._scratch.make(f"rootfs.{next(self._numbers)}")
            await inputs.lay_out(layout, str(path))
        except BaseException:
            tree.size_bytes = None
            store.release()
            try:
                if path is not None:
                    await self._threads(self._scratch.discard, path)
            finally:
                self._tell_of_room()
            raise
        return path

    async def _make_room(self, size_bytes: int, digest: Digest) -> None:
        limit = self._options.rootfs_bytes
        if size_bytes > limit:
            raise SandboxUnavailable(
                f"the root filesystem {digest} has {size_bytes} bytes of files; this worker keeps"
                f" up to executor.rootfs_bytes = {limit}"
            )
        while not self._fits(size_bytes):
            freed = self._freed
            unused = next(
                (name for name, tree in self._trees.items() if tree.path and not tree.users), None
            )
            if unused is None:
                await freed.wait()
            else:
                await self._remove(unused)

    def _fits(self, size_bytes: int) -> bool:
        kept = [tree.size_bytes for tree in self._trees.values() if tree.size_bytes is not None]
        options = self._options
        return len(kept) < options.rootfs_trees and sum(kept) + size_bytes <= options.rootfs_bytes

    async def _remove(self, digest: Digest) -> None:
        path = self._trees.pop(digest).path
        assert path is not None
        _Holding(self._store, f"rootfs:{digest}").release()
        await self._threads(self._scratch.discard, path)

    async def close(self) -> None:
        """Removes all trees. Nobody may use one."""
        for digest in list(self._trees):
            await self._remove(digest)


class _Holding:
    """A BlobStore that holds whatever is asked for in its name, where the store can hold."""

    def __init__(self, inner: BlobStore, holder: str) -> None:
        self._inner = inner
        self._holder = holder
        self._retention = cast("Retention", inner) if hasattr(inner, "hold") else None
        self.put = inner.put
        self.open_writer = inner.open_writer
        if hasattr(inner, "export_files"):  # Else InputTrees reads instead.
            self.export_files = self._export_files

    def release(self) -> None:
        if self._retention is not None:
            self._retention.release(self._holder)

    def _hold(self, digests: Sequence[Digest]) -> None:
        if self._retention is not None:
            self._retention.hold(self._holder, digests)

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        wanted = list(digests)
        self._hold(wanted)
        return await self._inner.find_missing(wanted)

    async def get(self, digest: Digest) -> bytes:
        self._hold([digest])
        return await self._inner.get(digest)

    def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        self._hold([digest])
        return self._inner.read(digest, offset, limit)

    async def _export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        self._hold([digest for digest, _, _ in files])
        return await cast("BlobExporter", self._inner).export_files(files)
