"""One directory with one log, and the blob store and action cache that share it.

lock             held while a process uses the directory, and names it
clock            see cas.store_time
packs/           the log's segments (cas.log)
blobs/ drafts/ damaged/    see cas.large_files
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cas import large_files, log
from cas.compaction import Compactor
from cas.digest import Digest
from cas.index import WINDOWS_PER_LEASE, Generation
from cas.keys import key_of, size_of
from cas.large_files import SMALL_BYTES, LargeFiles
from cas.log import Job, Log, locate, store_error
from cas.pack_action_cache import TAG, CacheOptions, PackActionCache
from cas.pack_store import Durability, PackOptions, PackStore, Parts
from cas.records import (
    Damaged,
    Kind,
    Record,
    Table,
    decode_gone,
    decode_touched,
    encode_gone,
    record_bytes,
)
from cas.store_time import StoreTime
from cas.volume import DiskVolume, Volume

_log = logging.getLogger(__name__)

_KNOWN = frozenset({
    "clock", "clock.new", log.FOLDER, large_files.TOP, large_files.DRAFTS, large_files.DAMAGED,
})  # fmt: skip
_TICK_S = 60.0
_RUN = 16
"""So many records of blobs one after another are worth to be taken in together."""


class Clocks(NamedTuple):
    """Those of armitage.clock.Clock."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Limits and habits of a PackStorage."""

    store: PackOptions = field(default_factory=PackOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    segment_bytes: int = log.SEGMENT_BYTES
    """Of the log; the less, the finer is what compaction does."""


class PackStorage:
    """A PackStore and a PackActionCache in one directory."""

    def __init__(
        self, volume: Volume, pool: ThreadPoolExecutor, options: StorageOptions, clocks: Clocks
    ) -> None:
        """Use open. Blocks."""
        self._volume = volume
        self._pool = pool
        self._closed = False
        self._large = LargeFiles(volume)
        self._time = StoreTime(volume, clocks.monotonic, clocks.wall)
        self._sync = options.store.durability is Durability.FULL
        self.log = Log(
            volume, secrets.token_bytes, sync=self._sync, segment_bytes=options.segment_bytes
        )
        parts = Parts(volume, self.log, self._large, pool, self._time, self.close)
        self.store = PackStore(parts, options.store)
        self.cache = PackActionCache(parts, options.cache)
        self.compactor = Compactor(parts, self.store, self.cache)
        self._superseded = self._replay(options.store)

    @classmethod
    async def open(cls, directory: Path, options: StorageOptions, clocks: Clocks) -> PackStorage:
        """Takes the directory over, making it where it is not there, and finds what it holds.

        Raises StoreUnavailable when the directory cannot be used, or another process uses it.
        """
        return await cls.open_on(
            await asyncio.to_thread(DiskVolume, directory, _KNOWN), options, clocks
        )

    @classmethod
    async def open_on(cls, volume: Volume, options: StorageOptions, clocks: Clocks) -> PackStorage:
        """The same on any volume, which is closed with it."""
        pool = ThreadPoolExecutor(options.store.threads, thread_name_prefix="cas")
        try:
            self = await asyncio.to_thread(cls, volume, pool, options, clocks)
        except BaseException as error:
            await asyncio.to_thread(pool.shutdown)
            volume.close()
            if isinstance(error, OSError):
                raise store_error(error) from error
            raise
        self._begin()
        return self

    def _replay(self, options: PackOptions) -> list[tuple[int, bytes]]:
        """Finds what there is, and answers what is superseded with no record saying so."""
        replay = _Replay(self.log, self.store, self.cache, options.min_lease_s)
        for number, table in self.log.replay():
            replay.apply(number, table)
        files, damaged = self._large.scan(sync=self._sync)
        for digest, touched in files:
            if digest.size_bytes > SMALL_BYTES:
                replay.add_file(digest, touched)
            else:  # Of a version that kept all blobs in files.
                self._volume.remove(self._large.name(digest))
        replay.end(self._time)
        self.store.damaged_blobs += damaged
        return replay.superseded

    def _begin(self) -> None:
        self.log.start()
        if self._superseded:
            # Lest they come back once the segments of those that superseded them are gone.
            gone = Record(Kind.GONE, b"", encode_gone(self._superseded))
            self.log.submit(Job(_ignore, (gone,), is_durable=False))
        self.cache.evict()
        self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._time.save()
        self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def close(self) -> None:
        """Waits for running work and lets the directory go; later calls raise StoreUnavailable.

        Idempotent.
        """
        if self._closed:
            return
        self._closed = True
        self.store.refuse()
        self.cache.refuse()
        self._ticking.cancel()
        self._time.save()
        await self.store.drain()
        await asyncio.to_thread(self._pool.shutdown)
        await self.log.close()
        self._volume.close()


def _ignore(_: Job) -> None:
    """For jobs that nobody waits for."""


class _Replay:
    """Builds what is in memory from what is in the log and in files."""

    def __init__(
        self, log_: Log, store: PackStore, cache: PackActionCache, min_lease_s: float
    ) -> None:
        self._log = log_
        self._store = store
        self._cache = cache
        self._window_s = min_lease_s / WINDOWS_PER_LEASE or 1.0
        self._windows: dict[int, set[bytes]] = {}
        """Blobs by when they were put."""
        self._touched: dict[int, set[bytes]] = {}
        """Blobs by when they were used; they may have gone."""
        self._stored: set[bytes] = set()
        self._superseded: dict[int, bytes] = {}
        self._latest = 0.0

    @property
    def superseded(self) -> list[tuple[int, bytes]]:
        """Records that are not current, with no other record saying so."""
        return list(self._superseded.items())

    def apply(self, number: int, table: Table) -> None:
        """Takes in a segment; in their order."""
        base = locate(number, 0, is_encoded=False)
        start = 0
        for kind, run in groupby(table.kinds):
            end = start + sum(1 for _ in run)
            rows = table.part(start, end)
            is_run = kind == Kind.BLOB and end - start >= _RUN
            if not is_run or not self._apply_new_blobs(base, rows):
                self._apply_rows(base, rows)
            start = end
        self._latest = max(self._latest, *table.times)

    def _apply_new_blobs(self, base: int, rows: Table) -> bool:
        """Takes in what most records are, in a few passes in C: blobs of which this is the only
        record so far. Answers False, having done nothing, where some are not.
        """
        keys = rows.keys
        if len(set(keys)) < len(keys) or not self._stored.isdisjoint(keys):
            return False
        self._stored.update(keys)
        self._store.locations.add_many(
            keys,
            [
                base | units << 1 | (encoding != 0)
                for units, encoding in zip(rows.offsets, rows.encodings, strict=True)
            ],
        )
        self._log.keep(base, rows.size_bytes)
        self._store.bytes += (
            sum(map(size_of, keys)) if any(rows.encodings) else sum(rows.body_bytes)
        )
        start = 0
        for time, run in groupby(rows.times):
            end = start + sum(1 for _ in run)
            self._at(self._windows, time).update(keys[start:end])
            start = end
        return True

    def _apply_rows(self, base: int, rows: Table) -> None:
        stored, add, keep = self._stored, self._store.locations.add, self._log.keep
        for key, kind, encoding, units, body_bytes, time in rows.rows():
            location = base | units << 1 | bool(encoding)
            size_bytes = record_bytes(len(key), body_bytes)
            if kind == Kind.BLOB:
                if key in stored:
                    self._supersede(key)
                stored.add(key)
                add(key, location)
                keep(location, size_bytes)
                self._store.bytes += size_of(key) if encoding else body_bytes
                self._at(self._windows, time).add(key)
            elif kind == Kind.RESULT:
                old = self._cache.location_of(key)
                if old is not None:
                    self._superseded[old] = key
                    self._cache.strike(key)
                self._cache.enter(key, location, size_bytes)
                keep(location, size_bytes)
            elif kind in {Kind.GONE, Kind.TOUCHED}:
                self._apply_note(location, size_bytes)

    def _at(self, windows: dict[int, set[bytes]], time: float) -> set[bytes]:
        number = int(time // self._window_s)
        found = windows.get(number)
        if found is None:
            found = windows[number] = set()
        return found

    def _apply_note(self, location: int, size_bytes: int) -> None:
        try:
            record = self._log.read(location, size_bytes)
        except Damaged as damage:
            _log.warning("a note about blobs is damaged and ignored: %s", damage)
            return
        if record.kind is Kind.TOUCHED:
            self._at(self._touched, record.time).update(decode_touched(record.body))
            return
        for gone, key in decode_gone(record.body):
            if self._superseded.pop(gone, None) is not None:
                continue
            if key.startswith(TAG):
                if self._cache.location_of(key) == gone:
                    self._cache.strike(key)
            elif key in self._stored and gone in self._store.locations.find(key):
                self._remove(key, gone)

    def _supersede(self, key: bytes) -> None:
        """Strikes out the older record of a blob of which there is a newer one."""
        old = self._store.locate(key)
        if old is not None:
            self._superseded[old] = key
            self._remove(key, old)

    def _remove(self, key: bytes, location: int) -> None:
        self._store.locations.remove(key, location)
        self._store.release_record(key, location)
        self._store.bytes -= size_of(key)
        self._stored.discard(key)
        for keys in self._windows.values():
            keys.discard(key)

    def add_file(self, digest: Digest, touched: float) -> None:
        """Takes in a large blob."""
        key = key_of(digest)
        self._stored.add(key)
        self._store.bytes += digest.size_bytes
        self._at(self._windows, touched).add(key)

    def end(self, time: StoreTime) -> None:
        """Puts all blobs in the order of their last touch."""
        time.not_before(self._latest)
        for number, keys in sorted(self._touched.items()):
            used = keys & self._stored
            for put, blobs in self._windows.items():
                if put < number:
                    blobs.difference_update(used)
                else:
                    used -= blobs
            self._windows.setdefault(number, set()).update(used)
        now = time.now()
        self._store.index.restore(
            Generation(keys, min((number + 1) * self._window_s, now))
            for number, keys in sorted(self._windows.items())
            if keys
        )
