"""A BlobStore of two tiers: a fast one here, and a slow one elsewhere that keeps more and longer.

Theory of operation. What is asked for is looked for in the fast tier first. What only the slow one
has is brought over whole, verified on its way in by the fast tier's own writer, and then served
from there; all who want one blob at the same time share one download. What either tier answered is
remembered for a while, so that a build which asks ten times for the same absent blobs costs one
question each.

What is written goes into the fast tier and, noted durably before (cas.replication), from there to
the slow one: before it is acknowledged (write-through), after it (write-back), or not at all
(read-only). Until it is copied it is held in the fast tier. When more is pending than the limits
allow, write-back waits like write-through does: that is its back-pressure.

A slow tier that fails, is down, or takes longer than its budget never fails a find_missing: what it
cannot say counts as missing, and the client sends it, as it would to a cache of its own. Reads of
what only the slow tier may have then fail as unavailable, not as missing.

Tiers nest: the slow one may be tiered itself (memory, before disk, before a bucket).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, cast

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import (
    BlobNotFound,
    BlobTooLarge,
    CasError,
    DigestMismatch,
    StoreFull,
    StoreUnavailable,
)
from cas.flights import Flights
from cas.pending import Entry
from cas.recollection import Recollection
from cas.replica import Replica, replica_of
from cas.replication import Replicator
from cas.store import (
    BatchPut,
    BatchStore,
    BlobExporter,
    BlobImporter,
    BlobStore,
    BlobWriter,
    FileExport,
    Glimpse,
    Leases,
    Measured,
    Retention,
    StoreStats,
    ZstdStore,
)

_log = logging.getLogger(__name__)

_WHOLE_BYTES = 1024 * 1024
"""Up to here a blob is brought over and copied in one piece."""
_ASKED_AT_ONCE = 250
_FETCHES = 2
"""Wrong bytes may have been spoilt on the way: once more, and then they are the slow tier's."""


class WriteMode(StrEnum):
    """When what is written here is written to the slow tier."""

    WRITE_BACK = "write-back"
    """After it is acknowledged; pending copies survive a crash."""
    WRITE_THROUGH = "write-through"
    """Before it is acknowledged; while the slow tier is down, writes fail."""
    READ_ONLY = "read-only"
    """Never: the slow tier is somebody else's mirror."""


@dataclass(frozen=True, slots=True)
class TierOptions:
    """How two tiers work together."""

    mode: WriteMode = WriteMode.WRITE_BACK
    find_budget_s: float = 5.0
    """How long a question may wait for the slow tier; what is unknown then counts as missing."""
    present_s: float = 600.0
    """How long the slow tier is believed to have what it had. Well below the time after which a
    lifecycle rule may remove a blob.
    """
    missing_s: float = 5.0
    """How long the slow tier is believed to lack what it lacked, although others may fill it."""
    remembered: int = 1_000_000
    """Blobs of which either is remembered, some 300 bytes each."""
    uploads_at_once: int = 16
    max_pending: int = 200_000
    """Blobs and results that wait for being copied; over it, each write waits for its own."""
    max_pending_bytes: int = 16 * 1024**3
    """Likewise, of blobs."""

    def __post_init__(self) -> None:
        if self.uploads_at_once < 1 or self.remembered < 1:
            raise ValueError("uploads_at_once and remembered must be at least 1")


class FastTier(BlobStore, BatchStore, Retention, BlobExporter, BlobImporter, Measured, Protocol):
    """What a fast tier can do. Of Glimpse, Leases and ZstdStore the tiers are
    whatever it is.
    """


@dataclass(slots=True)
class TierStats:
    """What the slow tier was needed for since the start."""

    downloads: int = 0
    downloaded_bytes: int = 0
    shared_downloads: int = 0
    """Reads that joined a download under way."""
    asked: int = 0
    """Digests that the slow tier was asked about."""
    recalled: int = 0
    """Digests for which what was heard lately sufficed."""
    unanswered: int = 0
    """Questions that the slow tier failed or that went over their budget."""


class TieredStore:
    """A BlobStore with all that its fast tier is (see FastTier).

    Beside what the fast tier raises, reads of what it lacks raise what the slow one does.
    """

    def __init__(
        self,
        fast: FastTier,
        slow: BlobStore,
        options: TierOptions,
        replicator: Replicator,
        group: asyncio.TaskGroup,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """Downloads run in the group; the replicator's `upload` is to call `copy` for blobs."""
        self._fast = fast
        self._slow = slow
        self._replica: Replica = replica_of(slow)
        self._options = options
        self._replicator = replicator
        self._monotonic = monotonic
        self._heard: Recollection[Digest] = Recollection(
            present_s=options.present_s, missing_s=options.missing_s, max_keys=options.remembered
        )
        self._downloads: Flights[Digest, bool] = Flights(group)
        self._stats = TierStats()
        if hasattr(fast, "all_fresh"):
            glimpse = cast("Glimpse", fast)
            self.all_fresh = glimpse.all_fresh
            self.hold_keys = glimpse.hold_keys
        if hasattr(fast, "lease_of"):
            self.lease_of = cast("Leases", fast).lease_of
        if hasattr(fast, "open_zstd_writer"):
            self._zstd = cast("ZstdStore", fast)
            self.open_zstd_writer = self._open_zstd_writer
            self.get_zstd = self._get_zstd
            self.read_zstd = self._read_zstd

    # Finding

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """See BlobStore. What only the slow tier has is there."""
        missing = await self._fast.find_missing(digests)
        if not missing:
            return missing
        found = await self._find_slow(dict.fromkeys(missing))
        return [digest for digest in missing if digest not in found]

    async def _find_slow(self, digests: Collection[Digest]) -> set[Digest]:
        """Answers those that the slow tier has, for all that can be known in time."""
        now, found, asked = self._monotonic(), set[Digest](), list[Digest]()
        for digest in digests:
            present = self._heard.recall(digest, now)
            if present is None:
                asked.append(digest)
            elif present:
                found.add(digest)
        self._stats.recalled += len(digests) - len(asked)
        self._stats.asked += len(asked)
        try:
            async with asyncio.timeout(self._options.find_budget_s):
                # In batches, so that what was answered in time counts, and the next call goes on.
                for start in range(0, len(asked), _ASKED_AT_ONCE):
                    found |= await self._ask(asked[start : start + _ASKED_AT_ONCE])
        except (StoreUnavailable, TimeoutError) as error:
            self._stats.unanswered += 1
            _log.info("some of %d blobs count as missing: %s", len(asked), error or "out of time")
        return found

    async def _ask(self, digests: Sequence[Digest]) -> set[Digest]:
        missing = set(await self._slow.find_missing(digests))
        now = self._monotonic()
        for digest in digests:
            self._heard.learn(digest, present=digest not in missing, now=now)
        return {digest for digest in digests if digest not in missing}

    # Reading

    async def get(self, digest: Digest) -> bytes:
        """See BlobStore."""
        with suppress(BlobNotFound):
            return await self._fast.get(digest)
        if await self._bring(digest):
            with suppress(BlobNotFound):  # Evicted already, by a fast tier without leases.
                return await self._fast.get(digest)
        return await self._slow.get(digest)

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """See BlobStore. Of what only the slow tier has, the first byte comes after the last one
        was verified.
        """
        # A store that finds a blob missing or damaged says so before its first chunk.
        for is_brought in (False, True):
            if is_brought and not await self._bring(digest):
                break
            with suppress(BlobNotFound):
                async with _closing(self._fast.read(digest, offset, limit)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
        async with _closing(self._slow.read(digest, offset, limit)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _bring(self, digest: Digest) -> bool:
        """Fetches a blob into the fast tier; False: it has no room, so read it where it is.

        Raises BlobNotFound, and StoreUnavailable.
        """
        if self._heard.recall(digest, self._monotonic()) is False:
            self._stats.recalled += 1
            raise BlobNotFound(digest)
        return await self._downloads.join(digest, lambda: self._download(digest))

    async def _download(self, digest: Digest) -> bool:
        try:
            await self._fetch(digest)
        except BlobNotFound:
            self._heard.learn(digest, present=False, now=self._monotonic())
            raise
        except (StoreFull, BlobTooLarge) as error:
            _log.warning("the remote's blob %s cannot be kept here: %s", digest, error)
            return False
        self._heard.learn(digest, present=True, now=self._monotonic())
        self._stats.downloads += 1
        self._stats.downloaded_bytes += digest.size_bytes
        return True

    async def _fetch(self, digest: Digest) -> None:
        if digest.size_bytes <= _WHOLE_BYTES:
            data = await self._slow.get(digest)
            await self._fast.put([digest], data)
            return
        for _ in range(_FETCHES):
            writer = await self._fast.open_writer([digest])
            try:
                async with _closing(self._replica.read_unverified(digest)) as pieces:
                    async for piece in pieces:
                        await writer.write(piece)
                await writer.commit()
            except DigestMismatch:
                continue
            else:
                return
            finally:
                await writer.abort()
        self._replica.condemn(digest)
        raise BlobNotFound(digest)

    # Writing

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """See BlobStore."""
        async with self.noted(candidates) as noted:
            digest = await self._fast.put(candidates, data)
            noted.stored(digest)
        await noted.copied()
        return digest

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """See BatchStore."""
        async with self.noted([one for blob in blobs for one in blob.candidates]) as noted:
            outcomes = await self._fast.put_many(blobs)
            for outcome in outcomes:
                if isinstance(outcome, Digest):
                    noted.stored(outcome)
        failed = await noted.failures()
        return [failed.get(one, one) if isinstance(one, Digest) else one for one in outcomes]

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """See BlobStore."""
        return _TieredWriter(self, await self._fast.open_writer(candidates), candidates)

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """See BlobImporter."""
        digests = await self._fast.import_files(function, paths)
        # Nobody was told of them yet, so noting them only now forgets nothing that is promised.
        async with self.noted(digests) as noted:
            for digest in digests:
                noted.stored(digest)
        await noted.copied()
        return digests

    def noted(self, digests: Iterable[Digest]) -> _Noted:
        """To be entered around what stores some of these blobs in the fast tier."""
        now = self._monotonic()
        entries = []
        if self._options.mode is not WriteMode.READ_ONLY:
            entries = [
                Entry(digest)
                for digest in dict.fromkeys(digests)
                if digest.size_bytes and self._heard.recall(digest, now) is not True
            ]
        return _Noted(self._replicator, entries, self._options)

    async def copy(self, digest: Digest) -> None:
        """Writes a blob of the fast tier to the slow one. Raises BlobNotFound when it is gone."""
        if digest.size_bytes <= _WHOLE_BYTES:
            data = await self._fast.get(digest)
            await self._slow.put([digest], data)
        else:
            if await self._fast.find_missing([digest]):
                raise BlobNotFound(digest)
            await self._replica.upload(digest, lambda: self._fast.read(digest))
        self._heard.learn(digest, present=True, now=self._monotonic())

    # What only the fast tier does

    async def export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        """See BlobExporter."""
        lacking = await self._fast.export_files(files)
        if not lacking:
            return lacking
        async with asyncio.TaskGroup() as group:
            bringing = {one: group.create_task(self._try_bring(one)) for one in lacking}
        brought = {digest for digest, task in bringing.items() if task.result()}
        again = [file for file in files if file.digest in brought]
        gone = set(await self._fast.export_files(again)) if again else set()
        return [one for one in lacking if one not in brought or one in gone]

    async def _try_bring(self, digest: Digest) -> bool:
        try:
            if await self._bring(digest):
                return True
        except BlobNotFound:
            return False
        raise StoreFull(f"blob {digest} of the remote does not fit here")

    async def _open_zstd_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        return _TieredWriter(self, await self._zstd.open_zstd_writer(candidates), candidates)

    async def _get_zstd(self, digest: Digest) -> bytes | None:
        try:
            return await self._zstd.get_zstd(digest)
        except BlobNotFound:
            return await self._zstd.get_zstd(digest) if await self._bring(digest) else None

    async def _read_zstd(self, digest: Digest) -> AsyncIterator[Buffer] | None:
        try:
            return await self._zstd.read_zstd(digest)
        except BlobNotFound:
            return await self._zstd.read_zstd(digest) if await self._bring(digest) else None

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """See Retention."""
        self._fast.hold(holder, digests)

    def release(self, holder: str) -> None:
        """See Retention."""
        self._fast.release(holder)

    def stats(self) -> StoreStats:
        """See Measured: the fast tier's."""
        return self._fast.stats()

    def capacity_bytes(self) -> int:
        """See Measured: the fast tier's."""
        return self._fast.capacity_bytes()

    def stop(self) -> None:
        """Ends the downloads under way."""
        self._downloads.stop()

    def tier_stats(self) -> TierStats:
        """Answers what the slow tier was needed for."""
        self._stats.shared_downloads = self._downloads.shared
        return self._stats


class _Noted:
    """Blobs that are noted as pending while they are being stored."""

    def __init__(
        self, replicator: Replicator, entries: Sequence[Entry], options: TierOptions
    ) -> None:
        self._replicator = replicator
        self._entries = entries
        self._options = options
        self._left = set(entries)
        self._started: dict[Digest, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        if self._entries:
            await self._replicator.note(self._entries)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._replicator.forget(self._left)

    def stored(self, digest: Digest) -> None:
        """The fast tier has it."""
        entry = Entry(digest)
        if entry in self._left:
            self._left.remove(entry)
            self._started[digest] = self._replicator.start(entry)

    async def copied(self) -> None:
        """Waits until the slow tier has what was stored, if that is to be waited for.

        Raises what kept it from that.
        """
        for error in (await self.failures()).values():
            raise error

    async def failures(self) -> dict[Digest, CasError]:
        """Like `copied`; answers the errors by blob."""
        failed: dict[Digest, CasError] = {}
        if not self._waits():
            return failed
        for digest, copying in self._started.items():
            try:
                await copying
            except CasError as error:
                failed[digest] = error
        return failed

    def _waits(self) -> bool:
        options = self._options
        return options.mode is WriteMode.WRITE_THROUGH or self._replicator.is_over(
            options.max_pending, options.max_pending_bytes
        )


def _closing(stream: AsyncIterator[Buffer]) -> aclosing[AsyncGenerator[Buffer, None]]:
    """What a store streams, ending with whoever reads it."""
    return aclosing(cast("AsyncGenerator[Buffer, None]", stream))


class _TieredWriter:
    """A fast tier's writer, whose blob is copied once it is committed."""

    def __init__(
        self, store: TieredStore, writer: BlobWriter, candidates: Sequence[Digest]
    ) -> None:
        self._store = store
        self._writer = writer
        self._candidates = candidates

    async def write(self, data: Buffer) -> None:
        await self._writer.write(data)

    async def commit(self) -> Digest:
        async with self._store.noted(self._candidates) as noted:
            digest = await self._writer.commit()
            noted.stored(digest)
        await noted.copied()
        return digest

    async def abort(self) -> None:
        await self._writer.abort()
