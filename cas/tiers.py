"""Two tiers of everything: a store and a cache here, a store and a cache elsewhere, and what runs
between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from cas.action_cache import ActionCache
from cas.pending import Entry, Pending
from cas.replication import Replicator
from cas.store import BlobStore
from cas.tiered import FastTier, TieredStore, TierOptions
from cas.tiered_action_cache import FastCache, TieredActionCache


class Here(NamedTuple):
    """The fast tier."""

    store: FastTier
    cache: FastCache


class Elsewhere(NamedTuple):
    """The slow tier."""

    store: BlobStore
    cache: ActionCache


@dataclass(frozen=True, slots=True)
class TiersStats:
    """How two tiers fare."""

    downloads: int
    downloaded_bytes: int
    shared_downloads: int
    asked: int
    recalled: int
    unanswered: int
    result_hits: int
    pending: int
    pending_bytes: int
    uploaded: int
    uploaded_bytes: int
    failed_uploads: int
    lost: int


class Tiers:
    """A TieredStore and a TieredActionCache with one list of pending copies.

    An async context manager, to be entered and left by one task; then `store` and `cache` work.
    Leaving it ends downloads and copies where they are: what is pending goes on next time.
    """

    store: TieredStore
    cache: TieredActionCache

    def __init__(
        self,
        here: Here,
        elsewhere: Elsewhere,
        options: TierOptions,
        pending: Pending,
        *,
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """Takes over the list of pending copies, and closes it; the tiers themselves are not
        closed. Clock and chance are as for S3Bucket.
        """
        self._here = here
        self._elsewhere = elsewhere
        self._options = options
        self._pending = pending
        self._monotonic = monotonic
        self._chance = chance
        self._group = asyncio.TaskGroup()
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._replicator = Replicator(
            self._pending,
            self._copy,
            keep=self._keep,
            let_go=self._let_go,
            chance=self._chance,
        )
        await self._group.__aenter__()
        clock = self._monotonic
        self.store = TieredStore(
            self._here.store,
            self._elsewhere.store,
            self._options,
            self._replicator,
            self._group,
            monotonic=clock,
        )
        self.cache = TieredActionCache(
            self._here.cache,
            self._elsewhere.cache,
            self._options,
            self._replicator,
            monotonic=clock,
        )
        self._workers = self._replicator.run(self._group, self._options.uploads_at_once)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.cancel()
        self.store.stop()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            await self._pending.close()

    async def flush(self, within_s: float) -> bool:
        """Waits for pending copies for so long; answers whether all were made."""
        try:
            async with asyncio.timeout(within_s):
                await self._replicator.wait_until_idle()
        except TimeoutError:
            return False
        return True

    async def _copy(self, entry: Entry) -> None:
        if entry.instance is None:
            await self.store.copy(entry.digest)
        else:
            await self.cache.copy(entry.instance, entry.digest)

    def _keep(self, entry: Entry) -> None:
        if entry.is_blob:
            self._here.store.hold(_holder(entry), [entry.digest])

    def _let_go(self, entry: Entry) -> None:
        if entry.is_blob:
            self._here.store.release(_holder(entry))

    def stats(self) -> TiersStats:
        """Answers the figures of this moment."""
        tier, copies = self.store.tier_stats(), self._replicator.stats()
        return TiersStats(
            downloads=tier.downloads,
            downloaded_bytes=tier.downloaded_bytes,
            shared_downloads=tier.shared_downloads,
            asked=tier.asked,
            recalled=tier.recalled,
            unanswered=tier.unanswered + self.cache.unanswered,
            result_hits=self.cache.hits,
            pending=copies.pending,
            pending_bytes=copies.pending_bytes,
            uploaded=copies.uploaded,
            uploaded_bytes=copies.uploaded_bytes,
            failed_uploads=copies.failed,
            lost=copies.lost,
        )


def _holder(entry: Entry) -> str:
    return f"upload:{entry.digest}"
