"""An ActionCache on disk with a file for each result.

A result's file is named after a hash of instance and action digest and holds both again, with a
checksum over all; what does not check, or is another key's, reads as absent. The index (names and
sizes, least recently used first) and the results used last are in memory, so that a hit costs a
hash and a look-up; files come and go through cas.shelf.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from cas import files
from cas.action_cache import CacheStats
from cas.digest import Digest
from cas.errors import StoreFull, StoreUnavailable
from cas.shelf import FileId, Found, Shelf

_log = logging.getLogger(__name__)

_MAGIC = b"armitage action result 1\n"
_CHECKSUM_BYTES = 32


@dataclass(frozen=True, slots=True)
class DiskCacheOptions:
    """Limits and habits of a DiskActionCache; the least recently used results go first."""

    max_bytes: int = 4 * 1024**3
    """All files together."""
    max_results: int = 2_000_000
    memory_bytes: int = 64 * 1024**2
    """For results kept in memory beside the disk."""
    sync: bool = True
    """Whether a result survives a power failure once it is acknowledged."""
    threads: int = 2


class DiskActionCache:
    """An ActionCache in one directory. Owned by the event loop that opened it."""

    def __init__(self, shelf: Shelf, options: DiskCacheOptions, found: list[Found]) -> None:
        """Use open."""
        self._shelf = shelf
        self._options = options
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._evicted = 0
        self._damaged = 0
        self._closed = False
        for file in sorted(found, key=lambda file: file.mtime):
            self._enter(file.name, file.size_bytes)
        self._evict()

    @classmethod
    async def open(cls, directory: Path, options: DiskCacheOptions) -> DiskActionCache:
        """Takes the directory over, making it where it is not there, and finds what it holds.

        Raises StoreUnavailable when it cannot be used, or another process uses it.
        """
        shelf = await asyncio.to_thread(
            Shelf, directory, "results", sync=options.sync, threads=options.threads
        )
        try:
            return cls(shelf, options, await shelf.run(lambda: list(shelf.scan())))
        except BaseException:
            await shelf.close()
            raise

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """See ActionCache."""
        self._check_open()
        key = _key(instance, action)
        name = _name(key)
        if name not in self._sizes:
            return None
        self._sizes.move_to_end(name)
        result = self._recent.get(name)
        if result is not None:
            self._recent.move_to_end(name)
            return result
        try:
            result = await self._shelf.run(_read, self._shelf.path(name), key)
        except _Damage as damage:
            self._condemn(name, damage)
            return None
        if name not in self._sizes:
            return None
        # A newer result may have come while the file was read.
        newer = self._recent.get(name)
        if newer is not None:
            return newer
        self._remember(name, result)
        return result

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """See ActionCache. When cancelled, the result may be remembered, whole."""
        self._check_open()
        key = _key(instance, action)
        name = _name(key)
        content = _encode(key, result)
        if len(content) > self._options.max_bytes:
            raise StoreFull(
                f"a result of {len(result)} bytes does not fit in a cache of"
                f" {self._options.max_bytes} bytes"
            )
        if name in self._sizes:
            self._sizes.move_to_end(name)  # So that its coming replacement is not evicted with it.
        putting = self._shelf.put(name, content)
        putting.add_done_callback(lambda done: self._end_put(name, len(content), result, done))
        await asyncio.shield(putting)

    def _end_put(
        self, name: str, size_bytes: int, result: bytes, put: asyncio.Future[FileId | None]
    ) -> None:
        if put.exception() is None:
            self._strike(name)
            self._enter(name, size_bytes)
            self._remember(name, result)
            self._evict()

    async def remove(self, instance: str, action: Digest) -> None:
        """See ActionCache."""
        self._check_open()
        name = _name(_key(instance, action))
        removing = self._shelf.remove(name)
        removing.add_done_callback(lambda done: self._end_remove(name, done))
        await asyncio.shield(removing)

    def _end_remove(self, name: str, removed: asyncio.Future[FileId | None]) -> None:
        # Only now, since a put that was asked for earlier may have been under way.
        if removed.exception() is None:
            self._strike(name)

    def _enter(self, name: str, size_bytes: int) -> None:
        self._sizes[name] = size_bytes
        self._bytes += size_bytes

    def _strike(self, name: str) -> None:
        self._bytes -= self._sizes.pop(name, 0)
        self._recent_bytes -= len(self._recent.pop(name, b""))

    def _remember(self, name: str, result: bytes) -> None:
        self._recent[name] = result
        self._recent_bytes += len(result)
        while self._recent_bytes > self._options.memory_bytes:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def _evict(self) -> None:
        while self._bytes > self._options.max_bytes or len(self._sizes) > self._options.max_results:
            name = next(iter(self._sizes))
            self._strike(name)
            self._shelf.remove(name)
            self._evicted += 1

    def _condemn(self, name: str, damage: _Damage) -> None:
        if name in self._sizes and self._shelf.quarantine(name, damage.inode):
            _log.warning("dropped action result %s: %s", self._shelf.path(name), damage)
            self._strike(name)
            self._damaged += 1

    def stats(self) -> CacheStats:
        """Answers the figures of this moment."""
        return CacheStats(
            results=len(self._sizes),
            bytes=self._bytes,
            max_bytes=self._options.max_bytes,
            evicted_results=self._evicted,
            damaged_results=self._damaged,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the action cache is closed")

    async def close(self) -> None:
        """Waits for running work and lets the directory go; later calls raise StoreUnavailable.

        Idempotent.
        """
        self._closed = True
        await self._shelf.close()


class _Damage(Exception):
    """A file does not hold the result that it should; not seen outside this module."""

    def __init__(self, inode: int, what: str) -> None:
        super().__init__(what)
        self.inode = inode


def _key(instance: str, action: Digest) -> bytes:
    """Encodes a key so that no two keys are alike, nor is one the start of another."""
    name = instance.encode("utf-8", "surrogatepass")
    return b"%d:%b%b\n" % (len(name), name, str(action).encode("ascii"))


def _name(key: bytes) -> str:
    hashed = hashlib.sha256(key).hexdigest()
    return f"results/{hashed[0]}/{hashed}"


def _encode(key: bytes, result: bytes) -> bytes:
    return b"".join((_MAGIC, hashlib.sha256(key + result).digest(), key, result))


def _read(path: str, key: bytes) -> bytes:
    """Reads one result. Raises _Damage."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise _Damage(0, "its file is gone") from None
    try:
        stat = os.fstat(fd)
        try:
            content = files.read_all(fd, 0, stat.st_size)
        except OSError as error:
            if error.errno == errno.EIO:
                raise _Damage(stat.st_ino, str(error)) from error
            raise
    finally:
        os.close(fd)
    result = content[len(_MAGIC) + _CHECKSUM_BYTES + len(key) :]
    if content != _encode(key, result):
        raise _Damage(stat.st_ino, "its file holds something else")
    return result
