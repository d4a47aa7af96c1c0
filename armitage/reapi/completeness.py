"""Whether an ActionResult's blobs are all there (REAPI `GetActionResult`).

Servers that check less answer hits that fail later in the build; so everything that a client may
want is looked up: output files, stdout, stderr, Trees, and every file inside the Trees.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi.limits import Limits
from armitage.reapi.walk import children_of, files_of, walk
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, InvalidDigest
from cas.keys import key_of
from cas.store import BlobStore, Glimpse

_PARSE_IN_THREAD_BYTES = 1 << 18
_MOST_AT_ONCE = 2000
"""Look-ups that nobody need wait for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result refers to, and what of that is not stored."""

    closure: tuple[Digest, ...]
    """Each blob once, without empty ones: output files, stdout, stderr, Trees, and every file (and
    Directory where `root_directory_digest` is set) inside the Trees that could be read.
    """
    missing: tuple[Digest, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the result may be answered as a hit."""
        return not self.missing


@dataclass(slots=True)
class _Closure:
    """What a result refers to; also as keys, once somebody asked for them."""

    digests: tuple[Digest, ...]
    keys: list[bytes] | None = None


class Completeness:
    """Checks results against a store; remembers the closure of recent results (they never change),
    so that a repeated check costs index look-ups only. For the event loop only.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        limits: Limits | None = None,
        max_remembered_digests: int = 250_000,
    ) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._max_remembered = max_remembered_digests
        self._remembered: OrderedDict[tuple[DigestFunction, bytes], _Closure] = OrderedDict()
        self._remembered_digests = 0

    async def check(self, result: bytes, function: DigestFunction) -> Verdict:
        """Checks a serialised ActionResult whose digests take the function, and renews the lease of
        all it refers to.

        Raises InvalidRequest for a result that is malformed (a bad digest, path or Tree).
        """
        key = (function, result)
        known = self._remembered.get(key)
        if known is None:
            closure, is_whole = await self._closure(result, function)
            if is_whole:
                self._remember(key, closure)
        else:
            closure = known.digests
            self._remembered.move_to_end(key)
        return Verdict(closure, tuple(await self._store.find_missing(closure)))

    def recall(
        self, result: bytes, function: DigestFunction, store: Glimpse
    ) -> Collection[bytes] | None:
        """Answers the keys of what a result refers to, if it was read before and the store, which
        is the one that `check` asks, has all of it at hand. None says nothing: ask `check`.
        """
        known = self._remembered.get((function, result))
        if known is None or len(known.digests) > _MOST_AT_ONCE:
            return None
        if known.keys is None:
            known.keys = [key_of(digest) for digest in known.digests]
        if not store.all_fresh(known.keys):
            return None
        self._remembered.move_to_end((function, result))
        return known.keys

    def _remember(self, key: tuple[DigestFunction, bytes], closure: tuple[Digest, ...]) -> None:
        cost = len(closure) + 1
        if cost > self._max_remembered // 2 or key in self._remembered:
            return
        self._remembered[key] = _Closure(closure)
        self._remembered_digests += cost
        while self._remembered_digests > self._max_remembered:
            _, dropped = self._remembered.popitem(last=False)
            self._remembered_digests -= len(dropped.digests) + 1

    async def _closure(
        self, result: bytes, function: DigestFunction
    ) -> tuple[tuple[Digest, ...], bool]:
        """Answers the closure as far as it can be read, and whether that is all of it."""
        try:
            wire = reapi.ActionResult.FromString(result)
        except DecodeError as error:
            raise InvalidRequest(f"the action result is malformed: {error}") from error
        digests: set[Digest] = set()
        for file in wire.output_files:
            digests.add(_digest(function, file.digest, f"output file {file.path!r}"))
        for name, stream in (("stdout", wire.stdout_digest), ("stderr", wire.stderr_digest)):
            if wire.HasField(f"{name}_digest"):
                digests.add(_digest(function, stream, name))
        is_whole = True
        for directory in wire.output_directories:
            is_whole &= await self._add_directory(directory, function, digests)
        return tuple(digest for digest in digests if not digest.is_empty), is_whole

    async def _add_directory(
        self, directory: reapi.OutputDirectory, function: DigestFunction, digests: set[Digest]
    ) -> bool:
        what = f"output directory {directory.path!r}"
        root = None
        if directory.HasField("root_directory_digest"):
            root = _digest(function, directory.root_directory_digest, what)
        if directory.HasField("tree_digest"):
            tree = _digest(function, directory.tree_digest, what)
            digests.add(tree)
            return await self._add_tree(tree, root, digests)
        if root is None:
            raise InvalidRequest(f"{what} has neither a tree_digest nor a root_directory_digest")
        is_whole = True
        async for visit in walk(self._store, root, self._limits):
            digests.add(visit.digest)
            if visit.directory is None:
                is_whole = False
            else:
                digests.update(files_of(visit.directory, function))
        return is_whole

    async def _add_tree(self, tree: Digest, root: Digest | None, digests: set[Digest]) -> bool:
        if tree.size_bytes > self._limits.max_tree_bytes:
            raise InvalidRequest(
                f"tree {tree} is over the limit of {self._limits.max_tree_bytes} bytes"
            )
        try:
            data = await self._store.get(tree)
        except BlobNotFound:
            return False
        if root is not None:
            digests.add(root)
        if len(data) > _PARSE_IN_THREAD_BYTES:
            digests |= await asyncio.to_thread(_tree_closure, data, tree, root is not None)
        else:
            digests |= _tree_closure(data, tree, root is not None)
        return True


def _tree_closure(data: bytes, digest: Digest, with_directories: bool) -> set[Digest]:
    try:
        tree = reapi.Tree.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"blob {digest} is not a Tree: {error}") from error
    closure: set[Digest] = set()
    for directory in (tree.root, *tree.children):
        closure.update(files_of(directory, digest.function))
        if with_directories:
            closure.update(children_of(directory, digest.function))
    return closure


def _digest(function: DigestFunction, wire: reapi.Digest, what: str) -> Digest:
    try:
        return Digest(function, wire.hash, wire.size_bytes)
    except InvalidDigest as error:
        raise InvalidRequest(f"bad digest of {what}: {error}") from error
