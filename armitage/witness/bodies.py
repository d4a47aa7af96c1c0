"""Bodies on their way into the CAS: written aside while they pass, hashed and stored when whole."""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import Executor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from armitage.witness.evidence import Body
from cas.digest import DigestFunction
from cas.store import BlobImporter

_SLICE_BYTES = 1 << 20


class Spool:
    """One body. Memory stays within a few slices, whatever its size; `discard` frees everything."""

    def __init__(self, directory: Path, threads: Executor) -> None:
        self._threads = threads
        fd, self._path = tempfile.mkstemp(dir=directory, prefix="body-")
        self._fd = fd
        self._slice: list[bytes] = []
        self._in_slice = 0
        self._hash = sha256()
        self.size_bytes = 0
        self._writing: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Appends. Raises OSError when the disk is full."""
        self.size_bytes += len(data)
        self._in_slice += len(data)
        self._slice.append(data)
        if self._in_slice >= _SLICE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        data = b"".join(self._slice)
        self._slice, self._in_slice = [], 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._threads, self._put, data)
        await asyncio.shield(self._writing)

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def keep(self, store: BlobImporter, *, content_encoding: str = "") -> Body:
        """Stores the whole body. Raises CasError, OSError."""
        await self._flush()
        [digest] = await store.import_files(DigestFunction.SHA256, [self._path])
        return Body(f"sha256:{digest.hash}", digest.size_bytes, content_encoding=content_encoding)

    async def describe(self, *, complete: bool, content_encoding: str = "") -> Body:
        """What passed, without storing it."""
        await self._flush()
        return Body(
            f"sha256:{self._hash.hexdigest()}",
            self.size_bytes,
            complete=complete,
            content_encoding=content_encoding,
        )

    async def discard(self) -> None:
        """Frees the disk space, once no thread writes any more. Idempotent."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            os.unlink(self._path)
