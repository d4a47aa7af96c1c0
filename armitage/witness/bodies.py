"""Bodies on their way: hashed while they pass, and answers kept."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Protocol

from armitage.witness.decoding import Decoding
from armitage.witness.evidence import Body
from cas.digest import Digest, DigestFunction
from cas.store import BlobStore, UnnamedStore, UnnamedWriter

_SMALL_BYTES = 64 * 1024
_SLICE_BYTES = 1 << 20


class BodyStore(BlobStore, UnnamedStore, Protocol):
    """Where bodies are kept."""


class Tally:
    """A body that is described and not kept."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Takes more of it."""
        self.size_bytes += len(data)
        self._hash.update(data)

    def describe(self, *, complete: bool) -> Body:
        """What passed."""
        return Body(f"sha256:{self._hash.hexdigest()}", self.size_bytes, complete=complete)


class Spool:
    """A body on its way into the store. Memory stays within a few slices, whatever its size;
    `discard` frees everything. A small body is put as a whole.
    """

    def __init__(self, store: BodyStore) -> None:
        self._store = store
        self._small: list[bytes] = []
        self._writer: UnnamedWriter | None = None
        self.size_bytes = 0

    async def write(self, data: bytes) -> None:
        """Appends. Raises CasError when it cannot be kept."""
        self.size_bytes += len(data)
        if self._writer is None:
            self._small.append(data)
            if self.size_bytes <= _SMALL_BYTES:
                return
            self._writer = await self._store.open_unnamed_writer(DigestFunction.SHA256)
            data, self._small = b"".join(self._small), []
        await self._writer.write(memoryview(data))  # Of bytes, which nobody needs to copy.

    async def digest(self) -> Digest:
        """Of all that was written so far. Raises CasError."""
        if self._writer is None:
            return DigestFunction.SHA256.digest(b"".join(self._small))
        return await self._writer.digest()

    async def keep(self, *, content_encoding: str = "") -> Body:
        """Stores the whole body. Raises CasError."""
        if self._writer is None:
            data = b"".join(self._small)
            digest = await self._store.put([DigestFunction.SHA256.digest(data)], data)
        else:
            digest = await self._writer.commit()
        return Body(
            f"sha256:{digest.hash}",
            digest.size_bytes,
            content_encoding=content_encoding,
            decoded_sha256=await self._decoded(digest, content_encoding),
        )

    async def _decoded(self, digest: Digest, encoding: str) -> str:
        decoding = Decoding.of(encoding)
        if decoding is None:
            return ""
        async for data in self._store.read(digest):
            if not await asyncio.to_thread(decoding.feed, bytes(data)):
                return ""
        return decoding.digest()

    async def describe(self, *, complete: bool, content_encoding: str = "") -> Body:
        """What passed, without storing it."""
        digest = await self.digest()
        return Body(
            f"sha256:{digest.hash}",
            digest.size_bytes,
            complete=complete,
            content_encoding=content_encoding,
        )

    async def discard(self) -> None:
        """Frees what was not kept. Idempotent."""
        if self._writer is not None:
            await self._writer.abort()
