"""A log for many callers at once: whoever appends while another append is on its way shares the
next checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from armitage.log.errors import LogError
from armitage.log.store import LogStore
from armitage.log.tiles import MAX_ENTRY_BYTES
from executor.concurrency import outlast

_BATCH_ENTRIES = 1024


@dataclass(frozen=True, slots=True)
class LogStats:
    """A log's size, and what was done since it was opened."""

    entries: int
    appended: int
    checkpoints: int
    """That were signed: one for each batch."""
    failed: int
    """Entries that could not be appended."""


class Log:
    """Appends entries in batches, in a thread."""

    def __init__(self, store: LogStore, threads: Executor) -> None:
        self.store = store
        self._threads = threads
        self._queue: list[tuple[Sequence[bytes], asyncio.Future[int]]] = []
        self._turn = asyncio.Lock()
        self._growth = asyncio.Event()
        self._appended = 0
        self._checkpoints = 0
        self._failed = 0

    def stats(self) -> LogStats:
        """Answers the numbers of this moment."""
        size = self.store.checkpoint.size
        return LogStats(size, self._appended, self._checkpoints, self._failed)

    async def append(self, entry: bytes) -> int:
        """Adds an entry and answers its index once a checkpoint over it is durable.

        Cancelled, it may or may not be in. Raises ValueError when it is too long, OSError for the
        disk's refusal, LogError when the log takes no more.
        """
        return await self.append_all([entry])

    async def append_all(self, entries: Sequence[bytes]) -> int:
        """Adds entries, side by side and under one checkpoint, and answers the index of the first;
        else as `append`.
        """
        for size in map(len, entries):
            if size > MAX_ENTRY_BYTES:  # Here, so that it spoils nobody else's batch.
                raise ValueError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, this one {size}")
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((entries, place))
        try:
            async with self._turn:
                while not place.done():
                    await self._append_batch()
        finally:
            place.cancel()  # Does nothing to one that is settled.
        return place.result()

    async def grown(self, size: int) -> int:
        """Waits until there are more than `size` entries, and answers how many there are."""
        while self.store.checkpoint.size <= size:
            await self._growth.wait()
        return self.store.checkpoint.size

    async def _append_batch(self) -> None:
        batch, places = self._take()
        loop = asyncio.get_running_loop()
        appending = loop.run_in_executor(self._threads, self.store.append, batch)
        # The thread cannot be stopped, and the next append must not begin beside it.
        cancelled = await outlast(appending)
        self._count(len(batch), failed=appending.exception() is not None)
        for number, place in places:
            _settle(place, appending, number)
        grew, self._growth = self._growth, asyncio.Event()
        grew.set()
        if cancelled is not None:
            raise cancelled

    def _take(self) -> tuple[list[bytes], list[tuple[int, asyncio.Future[int]]]]:
        """Answers the next entries, and where among them each caller's begin."""
        batch: list[bytes] = []
        places: list[tuple[int, asyncio.Future[int]]] = []
        taken = 0
        for entries, place in self._queue:
            if batch and len(batch) + len(entries) > _BATCH_ENTRIES:
                break
            taken += 1
            if not place.cancelled():
                places.append((len(batch), place))
                batch += entries
        del self._queue[:taken]
        return batch, places

    def _count(self, entries: int, *, failed: bool) -> None:
        if failed:
            self._failed += entries
        elif entries:
            self._appended += entries
            self._checkpoints += 1


def _settle(place: asyncio.Future[int], appended: asyncio.Future[int], number: int) -> None:
    if place.done():
        return
    error = appended.exception()
    if error is None:
        place.set_result(appended.result() + number)
    elif isinstance(error, OSError | LogError):
        place.set_exception(error)
    else:
        place.set_exception(LogError(f"the log failed: {error}"))
