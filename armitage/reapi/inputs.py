"""Input trees of actions: all that a root refers to, checked and remembered (REAPI `Directory`).

Theory of operation. A tree is walked level by level, each distinct Directory once, without
recursion. What a Directory refers to never changes, so it is remembered by digest: a second action
over the same tree, or over one that shares most of it, reads and parses nothing. Sharing also means
that a small blob can stand for an enormous tree (two equal children, forty levels deep), so size
and depth are counted as the tree would be laid out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from armitage.errors import InvalidRequest
from armitage.reapi.concurrency import map_concurrently
from armitage.reapi.trees import DirectoryCodec
from cas.digest import Digest
from cas.errors import BlobNotFound
from cas.store import BlobStore
from executor.errors import InvalidInput

_READS_AT_ONCE = 64
_BYTES_AT_ONCE = 32 * 2**20
_PARSE_IN_THREAD_BYTES = 256 * 1024
"""Larger ones would hold up every other call while they are parsed."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How large an input tree may be."""

    max_entries: int = 1_000_000
    """Files, directories and symlinks, counted as laid out."""
    max_depth: int = 1_000
    max_directory_bytes: int = 64 * 2**20
    """For one encoded Directory."""
    max_remembered: int = 300_000
    """References remembered between actions, at about 300 bytes each."""


@dataclass(frozen=True, slots=True)
class _Node:
    files: tuple[Digest, ...]
    directories: tuple[Digest, ...]
    entries: int


@dataclass(frozen=True, slots=True)
class InputTree:
    """What a tree needs from the store."""

    digests: frozenset[Digest]
    """Every Directory and file, each once; also those below a missing Directory as far as known."""
    missing: tuple[Digest, ...]
    """Directories that could not be read."""


class InputTrees:
    """Walks input trees; remembers the Directories seen last."""

    def __init__(
        self, store: BlobStore, codec: DirectoryCodec, limits: InputLimits | None = None
    ) -> None:
        self._store = store
        self._codec = codec
        self._limits = limits or InputLimits()
        self._remembered: OrderedDict[Digest, _Node] = OrderedDict()
        self._weight = 0

    async def walk(self, root: Digest) -> InputTree:
        """Answers what the tree needs. Raises InvalidRequest for one malformed or too large.

        A remembered Directory is not looked up again: the caller asks the store for all digests.
        """
        if root.is_empty:
            return InputTree(frozenset((root,)), ())
        nodes: dict[Digest, _Node] = {}
        missing: set[Digest] = set()
        level: Iterable[Digest] = (root,)
        depth = 0
        while level:
            depth += 1
            if depth > self._limits.max_depth:
                raise self._too_deep(root)
            await self._read_level(level, nodes, missing)
            if len(nodes) > self._limits.max_entries:
                raise self._too_large(root)
            found = {child for at in level if at in nodes for child in nodes[at].directories}
            level = [child for child in found if child not in nodes and child not in missing]
        self._check_size(root, nodes)
        digests = set(nodes)
        digests.update(missing)
        for node in nodes.values():
            digests.update(node.files)
        return InputTree(frozenset(digests), tuple(missing))

    async def _read_level(
        self, level: Iterable[Digest], nodes: dict[Digest, _Node], missing: set[Digest]
    ) -> None:
        unknown = []
        for digest in level:
            node = self._remembered.get(digest)
            if node is None:
                unknown.append(digest)
            else:
                self._remembered.move_to_end(digest)
                nodes[digest] = node
        if not unknown:
            return
        largest = max(digest.size_bytes for digest in unknown)
        width = max(1, min(_READS_AT_ONCE, _BYTES_AT_ONCE // max(1, largest)))
        found = await map_concurrently(self._read, unknown, width)
        for digest, node in zip(unknown, found, strict=True):
            if node is None:
                missing.add(digest)
            else:
                nodes[digest] = node
                self._remember(digest, node)

    async def _read(self, digest: Digest) -> _Node | None:
        if digest.is_empty:
            return _Node((), (), 0)
        if digest.size_bytes > self._limits.max_directory_bytes:
            raise InvalidRequest(
                f"directory {digest} is over the limit of {self._limits.max_directory_bytes} bytes"
                " for one directory; spread its entries over several"
            )
        try:
            data = await self._store.get(digest)
        except BlobNotFound:
            return None
        if len(data) > _PARSE_IN_THREAD_BYTES:
            return await asyncio.to_thread(self._parse, digest, data)
        return self._parse(digest, data)

    def _parse(self, digest: Digest, data: bytes) -> _Node:
        try:
            directory = self._codec.parse(data, digest.function)
        except InvalidInput as error:
            raise InvalidRequest(f"input directory {digest}: {error}") from error
        return _Node(
            files=tuple({node.digest for node in directory.files}),
            directories=tuple(node.digest for node in directory.directories),
            entries=len(directory.files) + len(directory.directories) + len(directory.symlinks),
        )

    def _remember(self, digest: Digest, node: _Node) -> None:
        if digest not in self._remembered:
            self._remembered[digest] = node
            self._weight += _weight(node)
        while self._weight > self._limits.max_remembered and self._remembered:
            _, oldest = self._remembered.popitem(last=False)
            self._weight -= _weight(oldest)

    def _check_size(self, root: Digest, nodes: Mapping[Digest, _Node]) -> None:
        """Counts entries and depth as laid out, each distinct Directory once, children first."""
        entries: dict[Digest, int] = {}
        depths: dict[Digest, int] = {}
        stack = [root]
        while stack:
            digest = stack[-1]
            node = nodes.get(digest)
            if node is None or digest in entries:
                entries.setdefault(digest, 0)
                depths.setdefault(digest, 1)
                stack.pop()
                continue
            pending = [child for child in node.directories if child not in entries]
            if pending:
                stack.extend(pending)
                continue
            entries[digest] = node.entries + sum(entries[child] for child in node.directories)
            depths[digest] = 1 + max((depths[child] for child in node.directories), default=0)
            stack.pop()
        if entries[root] > self._limits.max_entries:
            raise self._too_large(root)
        if depths[root] > self._limits.max_depth:
            raise self._too_deep(root)

    def _too_large(self, root: Digest) -> InvalidRequest:
        return InvalidRequest(
            f"the input tree {root} has over {self._limits.max_entries} entries when laid out,"
            " more than this server takes"
        )

    def _too_deep(self, root: Digest) -> InvalidRequest:
        return InvalidRequest(
            f"the input tree {root} is over {self._limits.max_depth} directories deep,"
            " more than this server takes"
        )


def _weight(node: _Node) -> int:
    return 1 + len(node.files) + len(node.directories)
