"""Where the program of an action comes from: its input tree, or what the operator names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.store import BlobStore
from executor.concurrency import Threads
from executor.errors import SandboxUnavailable
from executor.process import Job
from executor.staging import Layout
from executor.wasm.options import blob_of
from executor.wasm.views import path_in_tree

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where a program comes from."""

    digest: Digest
    path: str | None
    """None where it is a blob of the store."""


class Programs:
    """Finds and opens programs. Remembers the digest of a file of the host's while that stays the
    same.
    """

    def __init__(self, toolchains: Mapping[str, str], store: BlobStore, in_thread: Threads) -> None:
        self._toolchains = toolchains
        self._store = store
        self._in_thread = in_thread
        self._hashed: dict[tuple[str, DigestFunction], tuple[tuple[int, ...], Digest]] = {}

    async def find(self, job: Job, layout: Layout) -> Source:
        """Finds the program. Raises FileNotFoundError, SandboxUnavailable."""
        work = job.work
        name = work.arguments[0]
        where = self._toolchains.get(name)
        if where is None:
            # As most are written; the disk has to be asked about links and dots alone.
            path = "/".join((*job.cwd, name))
            digest = _file_at(path, layout)
            if digest is None:
                path = path_in_tree(job)
                digest = _file_at(path, layout)
            if digest is None:
                raise FileNotFoundError(name)
            return Source(digest, f"{job.root}/{path}")
        blob = blob_of(where)
        if blob is not None:
            return Source(blob, None)
        try:
            return Source(await self._in_thread(self._hash, where, work.digest_function), where)
        except OSError as error:
            raise SandboxUnavailable(
                f"executor.wasm.toolchains: {name}, {where}: {error.strerror}"
            ) from error

    def _hash(self, path: str, function: DigestFunction) -> Digest:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._hashed.get((path, function))
            if known is not None and known[0] == identity:
                return known[1]
            hasher, size = function.hasher(), 0
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)
                size += len(chunk)
        digest = Digest(function, hasher.hexdigest(), size)
        self._hashed[path, function] = identity, digest
        return digest

    async def open(self, source: Source) -> int:
        """Opens a program for compiling it. Raises OSError, SandboxUnavailable, CasError."""
        if source.path is not None:
            return os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        fd = os.memfd_create("program")
        try:
            async for chunk in self._store.read(source.digest):
                os.write(fd, chunk)
        except BlobNotFound as error:
            os.close(fd)
            raise SandboxUnavailable(
                f"executor.wasm.toolchains: {source.digest} is not in the store; upload it"
            ) from error
        except BaseException:
            os.close(fd)
            raise
        return fd


def _file_at(path: str, layout: Layout) -> Digest | None:
    return next((digest for digest, place, _ in layout.files if place == path), None)
