"""A slow tier that a test slows down, fails, and counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from cas.digest import Buffer, Digest
from cas.errors import CasError
from cas.memory import MemoryActionCache, MemoryOptions, MemoryStore

_CHUNK = 1024 * 1024


class Trouble:
    """What a remote suffers from, and what it was asked."""

    def __init__(self) -> None:
        self.error: CasError | None = None
        """What every call raises."""
        self.gate = asyncio.Event()
        """Every call waits for it."""
        self.gate.set()
        self.patience: dict[str, int] = {}
        """So many calls of a kind are answered, and later ones never."""
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.waiting = 0
        """Calls at the gate."""

    async def suffer(self, what: str) -> None:
        self.calls[what] += 1
        self.log.append(what)
        self.waiting += 1
        try:
            if what in self.patience:
                self.patience[what] -= 1
                if self.patience[what] < 0:
                    await asyncio.Event().wait()
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error


class RemoteStore(MemoryStore):
    """A BlobStore and Replica."""

    def __init__(
        self, trouble: Trouble | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(MemoryOptions(max_bytes=1 << 40), clock)
        self.trouble = trouble or Trouble()
        self.spoilt: set[Digest] = set()
        """Streamed with a wrong byte."""
        self.condemned: list[Digest] = []
        self.asked: list[Digest] = []

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        asked = list(digests)
        self.asked += asked
        await self.trouble.suffer("find")
        return await super().find_missing(asked)

    async def get(self, digest: Digest) -> bytes:
        await self.trouble.suffer("get")
        return await super().get(digest)

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        await self.trouble.suffer("put")
        return await super().put(candidates, data)

    async def read_unverified(self, digest: Digest) -> AsyncIterator[Buffer]:
        await self.trouble.suffer("stream")
        data = await super().get(digest)
        if digest in self.spoilt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]

    def condemn(self, digest: Digest) -> None:
        self.condemned.append(digest)

    async def upload(self, digest: Digest, read: Callable[[], AsyncIterator[Buffer]]) -> None:
        await self.trouble.suffer("upload")
        data = b"".join([bytes(chunk) async for chunk in read()])
        await super().put([digest], data)


class RemoteCache(MemoryActionCache):
    """An ActionCache."""

    def __init__(self, trouble: Trouble | None = None) -> None:
        super().__init__()
        self.trouble = trouble or Trouble()

    async def get(self, instance: str, action: Digest) -> bytes | None:
        await self.trouble.suffer("get result")
        return await super().get(instance, action)

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        await self.trouble.suffer("put result")
        await super().put(instance, action, result)

    async def remove(self, instance: str, action: Digest) -> None:
        await self.trouble.suffer("remove result")
        await super().remove(instance, action)
