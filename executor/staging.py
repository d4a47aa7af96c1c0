"""Input trees: read from the store, checked, and laid out as real files for one action.

Everything is copied, never hard-linked: a command may overwrite or chmod its inputs, and neither
the store nor the next action may notice (REAPI `Action.input_root_digest`).
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from cas.digest import Digest
from cas.errors import BlobNotFound
from cas.store import BlobExporter, BlobStore, FileExport
from executor.concurrency import Threads, for_each
from executor.errors import InputsMissing, InvalidInput
from executor.layers import Layer, divide
from executor.ports import TreeCodec
from executor.spec import Directory, Work

FIXED_MTIME_S = 946_684_800
"""2000-01-01T00:00:00Z: every input's modification time, so that runs are alike. Not the epoch:
zip cannot say that.
"""

_CONCURRENT_READS = 32
_BATCH = 2_000
"""Files exported per call, so that cancelling a large stage takes effect in between."""
_INLINE_DECODE_BYTES = 32 * 1024
_INLINE_ENTRIES = 1_000
_INLINE_NODES = 32
"""The directories, links and times of trees of up to so many entries are made where we are:
threads fight for the interpreter's lock at each system call, and take longer. A filesystem whose
journal is full holds the event loop meanwhile. What files hold is written by the store, in one hop
to a thread unless it is little: the kernel slows down who writes more than the disk takes.
"""
_REMEMBERED_NODES = 200_000
_PATH_MAX = 4_095


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """How large a tree of inputs or outputs may be; a small blob can describe a huge tree."""

    max_entries: int = 2_000_000
    """Files, directories and symlinks together, counted as often as they appear."""
    max_depth: int = 1_200
    """Directory levels below the root."""
    max_directory_bytes: int = 64 << 20
    """Size of one encoded Directory."""


@dataclass(frozen=True, slots=True)
class InputTree:
    """A whole input tree as it was read."""

    root: Digest
    directories: Mapping[Digest, Directory]
    """Each distinct one."""
    entries: int
    """Files, directories and symlinks, as often as they appear."""


@dataclass(slots=True)
class Layout:
    """An input tree, or layers of it, as flat lists of paths below its root, parents first."""

    directories: list[str] = field(default_factory=list)
    files: list[tuple[Digest, str, bool]] = field(default_factory=list)
    """Digest, path, executable."""
    symlinks: list[tuple[str, str]] = field(default_factory=list)
    """Path, target."""
    nodes: list[Digest] = field(default_factory=list)
    """The distinct Directories that say all this."""

    @property
    def entries(self) -> int:
        """How many directories, files and symlinks it has."""
        return len(self.directories) + len(self.files) + len(self.symlinks)


class InputTrees:
    """Reads input trees from a store and lays them out. Remembers decoded directories.

    Owned by the event loop.
    """

    def __init__(
        self, store: BlobStore, codec: TreeCodec, limits: TreeLimits, in_thread: Threads
    ) -> None:
        self._store = store
        self._codec = codec
        self._limits = limits
        self._in_thread = in_thread
        self._decoded: OrderedDict[Digest, Directory] = OrderedDict()
        self._nodes = 0

    async def plan(self, work: Work) -> Layout:
        """Reads the whole tree and spells it out. Raises what `read` and `expand` do."""
        return await self.expand(await self.read(work))

    async def read(self, work: Work) -> InputTree:
        """Reads the whole tree, level by level, each distinct directory once.

        Raises InputsMissing with every missing blob, files included, when a Directory is missing;
        InvalidInput when the tree is malformed or over the limits.
        """
        tree: dict[Digest, Directory | None] = {}
        level = {work.input_root: 1}
        entries = depth = 0
        while level:
            if depth > self._limits.max_depth:
                raise InvalidInput(
                    f"the input tree is over {self._limits.max_depth} directories deep"
                )
            await self._load([digest for digest in level if digest not in tree], work, tree)
            added, level = _next_level(level, tree)
            entries += added
            # Checked before anything grows with it: 40 small directories can hold 2**40.
            if entries > self._limits.max_entries:
                raise InvalidInput(
                    f"the input tree has over {self._limits.max_entries} files and directories"
                )
            depth += 1
        known = {digest: directory for digest, directory in tree.items() if directory is not None}
        if len(known) < len(tree):
            lacking = [digest for digest in tree if digest not in known]
            raise InputsMissing([*lacking, *await self.find_missing_files(known)])
        return InputTree(work.input_root, known, entries)

    async def find_missing_files(self, directories: Mapping[Digest, Directory]) -> list[Digest]:
        """Answers which files of some directories are not stored."""
        files = dict.fromkeys(
            file.digest for directory in directories.values() for file in directory.files
        )
        return await self._store.find_missing(files)

    async def divide(self, tree: InputTree, least: int) -> list[Layer]:
        """Divides a tree into layers of `least` entries or more (executor.layers.divide)."""
        if len(tree.directories) <= _INLINE_ENTRIES:
            return divide(tree.root, tree.directories, least)
        return await self._in_thread(divide, tree.root, tree.directories, least)

    async def expand(self, tree: InputTree, layers: Sequence[Layer] | None = None) -> Layout:
        """Spells out some layers of a tree, or all of it. Raises InvalidInput."""
        if layers is None:
            layers = [Layer("", tree.root, frozenset(), tree.entries)]
        if sum(layer.entries for layer in layers) <= _INLINE_ENTRIES:
            return _expand(layers, tree.directories)
        return await self._in_thread(_expand, layers, tree.directories)

    async def _load(
        self, digests: Sequence[Digest], work: Work, tree: dict[Digest, Directory | None]
    ) -> None:
        """Adds each directory to the tree, or None for what is not stored.

        What is remembered is still looked up, which renews its lease.
        """
        remembered = [digest for digest in digests if digest in self._decoded]
        for digest in remembered:
            self._decoded.move_to_end(digest)
            tree[digest] = self._decoded[digest]
        tree.update(dict.fromkeys(await self._store.find_missing(remembered)))

        async def load(digest: Digest) -> None:
            tree[digest] = await self._read(digest, work)

        unknown = [digest for digest in digests if digest not in tree]
        if len(unknown) == 1:
            await load(unknown[0])
        elif unknown:
            await for_each(min(_CONCURRENT_READS, len(unknown)), load, unknown)

    async def _read(self, digest: Digest, work: Work) -> Directory | None:
        if digest.is_empty:
            return Directory()
        if digest.size_bytes > self._limits.max_directory_bytes:
            raise InvalidInput(
                f"directory {digest} is over {self._limits.max_directory_bytes} bytes"
            )
        try:
            data = await self._store.get(digest)
        except BlobNotFound:
            return None
        if len(data) <= _INLINE_DECODE_BYTES:
            directory = self._codec.decode_directory(data, work)
        else:
            directory = await self._in_thread(self._codec.decode_directory, data, work)
        self._remember(digest, directory)
        return directory

    def _remember(self, digest: Digest, directory: Directory) -> None:
        if digest in self._decoded:
            return
        self._decoded[digest] = directory
        self._nodes += _weight(directory)
        while self._nodes > _REMEMBERED_NODES:
            _, dropped = self._decoded.popitem(last=False)
            self._nodes -= _weight(dropped)

    async def lay_out(self, layout: Layout, root: str) -> None:
        """Makes the tree below `root`, an empty directory.

        Raises InputsMissing with every file that is not stored, InvalidInput when the tree cannot
        exist on a filesystem (a path too long), OSError when the host fails.
        """
        _check_lengths(layout, root)
        try:
            missing = await self._fill(layout, root)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise InvalidInput(f"input {error.filename!r}: {error.strerror}") from error
            raise
        if missing:
            raise InputsMissing(missing)
        await self._make(layout, _set_times, root)

    async def _fill(self, layout: Layout, root: str) -> list[Digest]:
        await self._make(layout, _make_skeleton, root)
        missing: dict[Digest, None] = {}
        for start in range(0, len(layout.files), _BATCH):
            files = [
                FileExport(digest, f"{root}/{path}", 0o755 if executable else 0o644)
                for digest, path, executable in layout.files[start : start + _BATCH]
            ]
            missing.update(dict.fromkeys(await self._export(files)))
        return list(missing)

    async def _make(
        self, layout: Layout, function: Callable[[Layout, str], None], root: str
    ) -> None:
        if layout.entries <= _INLINE_NODES:
            function(layout, root)
        else:
            await self._in_thread(function, layout, root)

    async def _export(self, files: Sequence[FileExport]) -> list[Digest]:
        if hasattr(self._store, "export_files"):
            return await cast("BlobExporter", self._store).export_files(files)
        return await self._copy(files)

    async def _copy(self, files: Sequence[FileExport]) -> list[Digest]:
        missing: dict[Digest, None] = {}
        for digest, path, mode in files:
            try:
                with open(path, "xb") as file:  # noqa: ASYNC230 (page cache, chunk by chunk)
                    async for chunk in self._store.read(digest):
                        file.write(chunk)
                    os.fchmod(file.fileno(), mode)
            except BlobNotFound:
                missing[digest] = None
        return list(missing)


def _next_level(
    level: Mapping[Digest, int], tree: Mapping[Digest, Directory | None]
) -> tuple[int, dict[Digest, int]]:
    """Answers how many entries one level of a tree has, and the directories of the next.

    A level says how often each distinct directory is found at one depth.
    """
    entries = 0
    below: dict[Digest, int] = {}
    for digest, times in level.items():
        directory = tree[digest]
        if directory is not None:
            entries += times * (_weight(directory) - 1)
            for node in directory.directories:
                below[node.digest] = below.get(node.digest, 0) + times
    return entries, below


def _expand(layers: Sequence[Layer], directories: Mapping[Digest, Directory]) -> Layout:
    """Writes out layers of a tree of known directories. Raises InvalidInput."""
    nodes: dict[Digest, None] = {}
    made: dict[str, None] = {}
    layout = Layout()
    for layer in layers:
        ends = (end for end, letter in enumerate(layer.path) if letter == "/")
        made.update(dict.fromkeys(layer.path[:end] for end in ends))
        pending = [(layer.path, layer.digest)]
        for prefix, digest in pending:
            directory = directories[digest]
            nodes[digest] = None
            for node in directory.directories:
                if node.digest not in layer.apart:
                    made[prefix + node.name] = None
                    pending.append((f"{prefix}{node.name}/", node.digest))
            layout.files.extend(
                (file.digest, prefix + file.name, file.is_executable) for file in directory.files
            )
            for link in directory.symlinks:
                if not link.target or "\0" in link.target:
                    raise InvalidInput(f"symbolic link {prefix + link.name!r} has no valid target")
                layout.symlinks.append((prefix + link.name, link.target))
    layout.directories = list(made)
    layout.nodes = list(nodes)
    return layout


def _check_lengths(layout: Layout, root: str) -> None:
    room = _PATH_MAX - len(os.fsencode(root)) - 1
    for path in _paths(layout):
        if len(path) > room // 4 and len(os.fsencode(path)) > room:
            raise InvalidInput(
                f"the input tree has a path of {len(os.fsencode(path))} bytes, {path[:60]!r}...;"
                f" this worker has room for {room}"
            )


def _make_skeleton(layout: Layout, root: str) -> None:
    for path in layout.directories:
        os.mkdir(f"{root}/{path}", 0o755)
    for path, target in layout.symlinks:
        os.symlink(target, f"{root}/{path}")


def _paths(layout: Layout) -> Iterable[str]:
    yield from layout.directories
    for _, path, _ in layout.files:
        yield path
    for path, _ in layout.symlinks:
        yield path


def _set_times(layout: Layout, root: str) -> None:
    times = (FIXED_MTIME_S, FIXED_MTIME_S)
    for _, path, _ in layout.files:
        os.utime(f"{root}/{path}", times)
    for path, _ in layout.symlinks:
        os.utime(f"{root}/{path}", times, follow_symlinks=False)
    for path in layout.directories:
        os.utime(f"{root}/{path}", times)
    os.utime(root, times)


def _weight(directory: Directory) -> int:
    return 1 + len(directory.files) + len(directory.directories) + len(directory.symlinks)
