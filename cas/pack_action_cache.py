"""An ActionCache in the log (cas.log): a record for each result.

A record's key is the instance and the action's key, and a checksum is over all of it; what does not
check, or is another key's, reads as absent. Where each result is, least recently used first, and
the results used last are in memory, so that a hit is a look-up and nothing else.

Changes to one key are made one after another, each when the one before is durable. With a result
that replaces another goes a GONE record for that one, so that no old result comes back when the
segments of the newer ones are compacted first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256

from cas.action_cache import CacheStats
from cas.digest import Digest
from cas.errors import StoreFull, StoreUnavailable
from cas.keys import key_of
from cas.locations import LOCATION_BITS
from cas.log import Job, store_error
from cas.pack_store import Parts
from cas.records import Damaged, Kind, Record, encode_gone

_log = logging.getLogger(__name__)

_LONGEST_NAME = 200
_LOCATION_MASK = (1 << LOCATION_BITS) - 1
_LARGEST_RESULT = 64 * 1024 * 1024
TAG = b"R"
"""What keys of results begin with, and keys of blobs do not."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Limits and habits of a PackActionCache; the least recently used results go first."""

    max_bytes: int = 4 * 1024**3
    """All records together."""
    max_results: int = 2_000_000
    memory_bytes: int = 64 * 1024**2
    """For results kept in memory beside the disk."""


@dataclass(eq=False, slots=True)
class _Change:
    """A result that is to be remembered, or, being None, forgotten; or a record of one that is to
    be written anew, if the one at that location is still current.
    """

    key: bytes
    result: bytes | None
    moved: Record | None = None
    moved_from: int = 0
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class PackActionCache:
    """An ActionCache (cas.pack_storage opens one). Owned by the event loop that opened it."""

    def __init__(self, parts: Parts, options: CacheOptions) -> None:
        self._log = parts.log
        self._pool = parts.pool
        self._time = parts.time
        self._close = parts.close
        self._options = options
        self._places: OrderedDict[bytes, int] = OrderedDict()
        """For each key, the location of its record with the record's size above it."""
        self._bytes = 0
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._changes: dict[bytes, deque[_Change]] = {}
        self._evicted = 0
        self._damaged = 0
        self._closed = False

    def recall(self, instance: str, key: bytes) -> bytes | None:
        """See Recall."""
        name = prefix_of(instance) + key
        result = self._recent.get(name)
        if result is not None and not self._closed:
            self._recent.move_to_end(name)
            self._places.move_to_end(name)
            return result
        return None

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """See ActionCache."""
        self._check_open()
        key = prefix_of(instance) + key_of(action)
        for _ in range(3):
            place = self._places.get(key)
            if place is None:
                return None
            self._places.move_to_end(key)
            result = self._recent.get(key)
            if result is not None:
                self._recent.move_to_end(key)
                return result
            result = await self._read(key, place)
            if self._places.get(key) == place:
                if result is not None:
                    self._remember(key, result)
                return result
            # A newer result came, or this one was moved, while it was read.
        raise StoreUnavailable(f"the result of action {action} keeps changing")

    async def _read(self, key: bytes, place: int) -> bytes | None:
        """Reads a result; None when it is damaged, and then it is dropped."""
        location, size_bytes = place & _LOCATION_MASK, place >> LOCATION_BITS
        try:
            record = self._log.read_cached(location, size_bytes)
            if record is None:
                reading = self._pool.submit(self._log.read, location, size_bytes)
                record = await asyncio.wrap_future(reading)
            if record.key != key or record.kind is not Kind.RESULT:
                raise Damaged("there is another record in its place")
            return bytes(record.body)
        except (Damaged, FileNotFoundError) as damage:
            self.condemn(key, location, damage)
        except OSError as error:
            if error.errno != errno.EIO:
                raise store_error(error) from error
            self.condemn(key, location, error)
        return None

    def condemn(self, key: bytes, location: int, damage: Exception) -> None:
        """Drops a result whose record there was found wanting, unless it is another by now."""
        if self.location_of(key) == location:
            _log.warning("dropped an action result: %s", damage)
            self._damaged += 1
            self._log.suspect(location)
            self._forget([key])

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """See ActionCache. When cancelled, the result may be remembered, whole."""
        self._check_open()
        key = prefix_of(instance) + key_of(action)
        size_bytes = Record(Kind.RESULT, key, result).size_bytes
        if size_bytes > min(self._options.max_bytes, _LARGEST_RESULT):
            raise StoreFull(
                f"a result of {len(result)} bytes does not fit in a cache of"
                f" {self._options.max_bytes} bytes"
            )
        await self._ask(_Change(key, result))

    async def remove(self, instance: str, action: Digest) -> None:
        """See ActionCache."""
        self._check_open()
        await self._ask(_Change(prefix_of(instance) + key_of(action), None))

    def _ask(self, change: _Change) -> asyncio.Future[None]:
        waiting = self._changes.setdefault(change.key, deque())
        waiting.append(change)
        if len(waiting) == 1:
            self._make(change)
        return change.done

    async def move(self, record: Record, location: int) -> None:
        """Writes the record of a result anew, if the one at the location is current; it stays as
        old as it was. Durable when it returns. Raises StoreFull, StoreUnavailable.
        """
        await self._ask(_Change(record.key, None, record, location))

    def _make(self, change: _Change) -> None:
        if change.moved is not None:
            job = Job(partial(self._made, change))
            if self.location_of(change.key) == change.moved_from:
                job = Job(partial(self._made, change), (change.moved,))
                self._log.submit(job)
            else:
                self._made(change, job)
            return
        records: list[Record] = []
        stamp = math.ceil(self._time.now())
        if change.result is not None:
            records.append(Record(Kind.RESULT, change.key, change.result, stamp))
        place = self._places.get(change.key)
        if place is not None:
            gone = encode_gone([(place & _LOCATION_MASK, change.key)])
            records.append(Record(Kind.GONE, b"", gone, stamp))
            self._places.move_to_end(change.key)  # So that it is not evicted meanwhile.
        job = Job(partial(self._made, change), records)
        if records:
            self._log.submit(job)
        else:
            self._made(change, job)

    def _made(self, change: _Change, job: Job) -> None:
        key = change.key
        if job.error is not None:
            pass
        elif change.moved is not None:
            if job.locations:
                self._move(key, job.locations[0], change.moved_from)
        else:
            self._strike(key)
            if change.result is not None:
                self.enter(key, job.locations[0], job.records[0].size_bytes)
                self._remember(key, change.result)
                self.evict()
        if not change.done.done():
            if job.error is None:
                change.done.set_result(None)
            else:
                change.done.set_exception(job.error)
        waiting = self._changes[key]
        waiting.popleft()
        if waiting:
            self._make(waiting[0])
        else:
            del self._changes[key]

    def is_changing(self, key: bytes) -> bool:
        """Whether a change to a key is under way."""
        return key in self._changes

    def enter(self, key: bytes, location: int, size_bytes: int) -> None:
        """Enters where the result of a key is that has none, as the one used last."""
        self._places[key] = size_bytes << LOCATION_BITS | location
        self._bytes += size_bytes

    def stored(self) -> list[bytes]:
        """Answers the keys of all results, least recently used first."""
        return list(self._places)

    def location_of(self, key: bytes) -> int | None:
        """Answers where the record of a key's result is, if there is one."""
        place = self._places.get(key)
        return None if place is None else place & _LOCATION_MASK

    def _move(self, key: bytes, location: int, old: int) -> None:
        place = self._places.get(key, 0)
        size_bytes = place >> LOCATION_BITS
        if place & _LOCATION_MASK == old:
            self._log.release(old, size_bytes)
            self._places[key] = size_bytes << LOCATION_BITS | location
            return
        # It was evicted meanwhile.
        record = Record(Kind.GONE, b"", encode_gone([(location, key)]), math.ceil(self._time.now()))
        self._log.submit(Job(_log_failure, (record,), is_durable=False))

    def _strike(self, key: bytes) -> int | None:
        """Strikes a key out, and answers where its record is."""
        self._recent_bytes -= len(self._recent.pop(key, b""))
        place = self._places.pop(key, None)
        if place is None:
            return None
        location, size_bytes = place & _LOCATION_MASK, place >> LOCATION_BITS
        self._bytes -= size_bytes
        self._log.release(location, size_bytes)
        return location

    def strike(self, key: bytes) -> None:
        """Strikes out a result that is known to be gone, when the log is replayed."""
        self._strike(key)

    def _forget(self, keys: Iterable[bytes]) -> None:
        gone = []
        for key in keys:
            location = self._strike(key)
            if location is not None:
                gone.append((location, key))
        record = Record(Kind.GONE, b"", encode_gone(gone), math.ceil(self._time.now()))
        self._log.submit(Job(_log_failure, (record,), is_durable=False))

    def _remember(self, key: bytes, result: bytes) -> None:
        self._recent_bytes += len(result) - len(self._recent.pop(key, b""))
        self._recent[key] = result
        while self._recent_bytes > self._options.memory_bytes:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def evict(self) -> None:
        """Gives up the least recently used results until the limits hold."""
        victims = []
        bytes_, results = self._bytes, len(self._places)
        for key, place in self._places.items():
            if bytes_ <= self._options.max_bytes and results <= self._options.max_results:
                break
            victims.append(key)
            bytes_ -= place >> LOCATION_BITS
            results -= 1
        self.give_up(victims)

    def give_up(self, keys: Collection[bytes]) -> None:
        """Gives up these results."""
        if keys:
            self._evicted += len(keys)
            self._forget(keys)

    def stats(self) -> CacheStats:
        """Answers the figures of this moment."""
        return CacheStats(
            results=len(self._places),
            bytes=self._bytes,
            max_bytes=self._options.max_bytes,
            evicted_results=self._evicted,
            damaged_results=self._damaged,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the action cache is closed")

    async def close(self) -> None:
        """Waits for running work and lets the directory go, with all else that is in it; later
        calls raise StoreUnavailable. Idempotent.
        """
        await self._close()

    def refuse(self) -> None:
        """Refuses all calls from now on. What runs goes on."""
        self._closed = True


@lru_cache(maxsize=1024)
def prefix_of(instance: str) -> bytes:
    """Answers what keys of an instance's results begin with: no two are alike, nor is one the start
    of another.
    """
    name = instance.encode("utf-8", "surrogatepass")
    if len(name) > _LONGEST_NAME:
        name = sha256(name).digest() + b"..."
    return b"%b%d:%b" % (TAG, len(name), name)


def _log_failure(job: Job) -> None:
    if job.error is not None:
        _log.warning("cannot note that action results are gone: %s", job.error)
