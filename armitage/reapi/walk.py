"""Walking from a root Directory to all below it in the store (REAPI `GetTree`)."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import Exhausted, InvalidRequest
from armitage.reapi.concurrency import map_concurrently
from armitage.reapi.limits import Limits
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, InvalidDigest
from cas.store import BlobStore

_BATCH = 64
_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Visit:
    """One directory on the way; `data` and `directory` are None where the store lacks it."""

    digest: Digest
    data: bytes | None
    directory: reapi.Directory | None


async def walk(store: BlobStore, root: Digest, limits: Limits) -> AsyncIterator[Visit]:
    """Visits each distinct directory once, parents first, level by level, in an order that the root
    alone determines (while nothing goes missing).

    Raises InvalidRequest for a blob that is no Directory or too large for one message, and
    Exhausted over `max_tree_directories`.
    """
    pending = deque([root])
    seen = {root}
    while pending:
        for visit in await _read(store, _next_batch(pending), limits):
            yield visit
            if visit.directory is None:
                continue
            for child in children_of(visit.directory, root.function):
                if child not in seen:
                    seen.add(child)
                    pending.append(child)
            if len(seen) > limits.max_tree_directories:
                raise Exhausted(
                    f"the tree below {root} has over {limits.max_tree_directories} directories"
                )


def children_of(directory: reapi.Directory, function: DigestFunction) -> Iterable[Digest]:
    """Answers the digests of the sub-directories. Raises InvalidRequest."""
    return _digests(directory.directories, function)


def files_of(directory: reapi.Directory, function: DigestFunction) -> Iterable[Digest]:
    """Answers the digests of the files. Raises InvalidRequest."""
    return _digests(directory.files, function)


def _digests(
    nodes: Iterable[reapi.DirectoryNode | reapi.FileNode], function: DigestFunction
) -> Iterable[Digest]:
    for node in nodes:
        try:
            yield Digest(function, node.digest.hash, node.digest.size_bytes)
        except InvalidDigest as error:
            raise InvalidRequest(f"bad digest of {node.name!r} in a directory: {error}") from error


def _next_batch(pending: deque[Digest]) -> list[Digest]:
    batch = [pending.popleft()]
    size = batch[0].size_bytes
    while pending and len(batch) < _BATCH and size + pending[0].size_bytes <= _BATCH_BYTES:
        size += pending[0].size_bytes
        batch.append(pending.popleft())
    return batch


async def _read(store: BlobStore, batch: list[Digest], limits: Limits) -> list[Visit]:
    async def visit(digest: Digest) -> Visit:
        if digest.size_bytes > limits.max_response_bytes:
            raise InvalidRequest(
                f"directory {digest} is over {limits.max_response_bytes} bytes, more than a message"
                " holds; read it as a blob"
            )
        try:
            data = await store.get(digest)
        except BlobNotFound:
            return Visit(digest, None, None)
        try:
            return Visit(digest, data, reapi.Directory.FromString(data))
        except DecodeError as error:
            raise InvalidRequest(f"blob {digest} is not a Directory: {error}") from error

    return await map_concurrently(visit, batch, _BATCH)
