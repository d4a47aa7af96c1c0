"""Bodies on their way into the store: hashed while they pass, the larger ones written aside, and
stored when whole.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import Executor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from armitage.witness.decoding import decoded_hash
from armitage.witness.evidence import Body
from cas.digest import Digest, DigestFunction
from cas.store import BlobImporter, BlobStore

_SLICE_BYTES = 1 << 20


class BodyStore(BlobStore, BlobImporter, Protocol):
    """Where bodies are kept."""


class Spool:
    """One body. Memory stays within a few slices, whatever its size; `discard` frees everything.

    A body of less than a slice never touches the directory.
    """

    def __init__(self, directory: Path, threads: Executor) -> None:
        self._directory = directory
        self._threads = threads
        self._path = ""
        self._fd = -1
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
            await self._settle()
            self._flush()

    def _flush(self) -> None:
        """Hashes and writes a slice in a thread, while the next one comes in."""
        data = b"".join(self._slice)
        self._slice, self._in_slice = [], 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._threads, self._put, data)

    def _put(self, data: bytes) -> None:
        if self._fd < 0:
            self._fd, self._path = tempfile.mkstemp(dir=self._directory, prefix="body-")
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def _settle(self) -> None:
        """Waits for the thread; what it raises is raised here."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def sha256(self) -> str:
        """Of all that was written so far, in hexadecimal."""
        await self._settle()
        if self._fd >= 0 and self._slice:
            self._flush()
            await self._settle()
        total = self._hash.copy()
        for part in self._slice:
            total.update(part)
        return total.hexdigest()

    async def keep(self, store: BodyStore, *, content_encoding: str = "") -> Body:
        """Stores the whole body. Raises CasError, OSError."""
        hashed = await self.sha256()
        digest = Digest(DigestFunction.SHA256, hashed, self.size_bytes)
        decoded = await self._decoded(content_encoding)
        if self._fd < 0:
            await store.put([digest], b"".join(self._slice))
        else:
            [stored] = await store.import_files(DigestFunction.SHA256, [self._path])
            if stored != digest:
                raise OSError(f"{self._path} changed while it was stored")
        name = f"sha256:{hashed}"
        return Body(
            name, self.size_bytes, content_encoding=content_encoding, decoded_sha256=decoded
        )

    async def _decoded(self, content_encoding: str) -> str:
        if not content_encoding:
            return ""
        source = self._path if self._fd >= 0 else b"".join(self._slice)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, decoded_hash, content_encoding, source)

    async def describe(self, *, complete: bool, content_encoding: str = "") -> Body:
        """What passed, without storing it."""
        return Body(
            f"sha256:{await self.sha256()}",
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
