"""An ActionCache of two tiers: a fast one here, and a slow one elsewhere.

A result that both have is answered from the fast one. One that only the slow one has is kept here,
too, from then on. A slow tier that fails is a cache miss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast
from weakref import WeakValueDictionary

from cas.action_cache import ActionCache, CacheStats, Recall
from cas.digest import Digest
from cas.errors import BlobNotFound, StoreFull, StoreUnavailable
from cas.pending import Entry
from cas.recollection import Recollection
from cas.replication import Replicator
from cas.tiered import TierOptions, WriteMode

_log = logging.getLogger(__name__)

_REMEMBERED = 100_000


class FastCache(ActionCache, Protocol):
    """What a fast tier can do. If it is a Recall as well, so are the tiers."""

    def stats(self) -> CacheStats:
        """Answers the figures of this moment."""


class TieredActionCache:
    """An ActionCache, and whatever its fast tier is besides."""

    def __init__(
        self,
        fast: FastCache,
        slow: ActionCache,
        options: TierOptions,
        replicator: Replicator,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """The replicator's `upload` is to call `copy` for results."""
        self._fast = fast
        self._slow = slow
        self._options = options
        self._replicator = replicator
        self._monotonic = monotonic
        self._missing: Recollection[Entry] = Recollection(
            present_s=0.0, missing_s=options.missing_s, max_keys=_REMEMBERED
        )
        # Entries disappear with the last one who waits.
        self._turns: WeakValueDictionary[Entry, asyncio.Lock] = WeakValueDictionary()
        self.hits = 0
        """Results that only the slow tier had."""
        self.unanswered = 0
        """Questions that it failed or that went over their budget."""
        if hasattr(fast, "recall"):
            self.recall = cast("Recall", fast).recall

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """See ActionCache."""
        result = await self._fast.get(instance, action)
        entry = Entry(action, instance)
        if result is not None or self._missing.recall(entry, self._monotonic()) is False:
            return result
        try:
            async with asyncio.timeout(self._options.find_budget_s):
                result = await self._slow.get(instance, action)
        except (StoreUnavailable, TimeoutError) as error:
            self.unanswered += 1
            _log.info("a result counts as missing: the remote %s", error or "is slow")
            return None
        if result is None:
            self._missing.learn(entry, present=False, now=self._monotonic())
            return None
        self.hits += 1
        await self._keep(instance, action, result)
        return result

    async def _keep(self, instance: str, action: Digest, result: bytes) -> None:
        try:
            await self._fast.put(instance, action, result)
        except StoreFull as error:
            _log.warning("a result of the remote cannot be kept here: %s", error)

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """See ActionCache."""
        entry = Entry(action, instance)
        self._missing.forget(entry)
        if self._options.mode is WriteMode.READ_ONLY:
            await self._fast.put(instance, action, result)
            return
        async with self._turn(entry):
            await self._replicator.note([entry])
            try:
                await self._fast.put(instance, action, result)
            except BaseException:
                self._replicator.forget([entry])
                raise
            copying = self._replicator.start(entry)
        if self._options.mode is WriteMode.WRITE_THROUGH:
            await copying

    async def remove(self, instance: str, action: Digest) -> None:
        """See ActionCache. Of a read-only slow tier's results, only the copy here is removed, and
        comes back with the next question.
        """
        entry = Entry(action, instance)
        async with self._turn(entry):
            await self._replicator.cancel(entry)
            await self._fast.remove(instance, action)
            if self._options.mode is not WriteMode.READ_ONLY:
                await self._slow.remove(instance, action)

    def _turn(self, entry: Entry) -> asyncio.Lock:
        """Changes of one entry come in the order of their calls."""
        return self._turns.setdefault(entry, asyncio.Lock())

    async def copy(self, instance: str, action: Digest) -> None:
        """Writes a result of the fast tier to the slow one. Raises BlobNotFound when it is gone."""
        result = await self._fast.get(instance, action)
        if result is None:
            raise BlobNotFound(action)
        await self._slow.put(instance, action, result)

    def stats(self) -> CacheStats:
        """Answers the fast tier's figures."""
        return self._fast.stats()
