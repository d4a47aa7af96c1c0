"""What a remote still has to be given, kept where a crash does not take it.

Theory of operation. SQLite keeps the list; one thread owns the connection, and each transaction
takes along all changes that came while the last one was under way, so that concurrent adds share a
sync (WAL, `synchronous=FULL`: durable once committed). Removals wait for company: an entry that a
crash brings back is looked at once more, which costs a question and does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest, StoreFull, StoreUnavailable

_REMOVALS = 500
"""So many removals are company enough."""


class Entry(NamedTuple):
    """A blob, or the result of an action in an instance."""

    digest: Digest
    instance: str | None = None

    @property
    def is_blob(self) -> bool:
        """Whether it is not a result."""
        return self.instance is None


class Pending(Protocol):
    """A list of entries. `add` and `remove` are its owner's; it tells nobody what it holds but at
    the start.
    """

    def entries(self) -> list[Entry]:
        """Those that were there when it was opened, oldest first."""

    async def add(self, entries: Iterable[Entry]) -> None:
        """Keeps entries, so that they are there after any crash once this returns.

        Raises StoreFull and StoreUnavailable, and then they may be kept or not.
        """

    def remove(self, entries: Iterable[Entry]) -> None:
        """Drops entries, some time."""

    async def close(self) -> None:
        """Writes what waits. Idempotent."""


class MemoryPending:
    """A list that dies with the process, as the blobs of a store in memory do."""

    def entries(self) -> list[Entry]:
        """See Pending."""
        return []

    async def add(self, entries: Iterable[Entry]) -> None:
        """See Pending."""

    def remove(self, entries: Iterable[Entry]) -> None:
        """See Pending."""

    async def close(self) -> None:
        """See Pending."""


class DiskPending:
    """A Pending in an SQLite file."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor) -> None:
        """Use open."""
        self._path = path
        self._thread = thread
        self._lock = threading.Lock()
        self._changes: list[tuple[str, bytes]] = []
        self._closed = False
        self._found: list[Entry] = []
        self._database: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> DiskPending:
        """Opens the file, making it where there is none. Raises StoreUnavailable."""
        pending = cls(path, ThreadPoolExecutor(1, "pending"))
        try:
            await pending._run(pending._open)
        except BaseException:
            pending._thread.shutdown()
            raise
        return pending

    def _open(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        self._database = database
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE IF NOT EXISTS pending (name BLOB NOT NULL UNIQUE)")
        names = database.execute("SELECT name FROM pending ORDER BY rowid")
        self._found = [entry for (name,) in names if (entry := _decode(name)) is not None]

    def entries(self) -> list[Entry]:
        """See Pending."""
        return self._found

    async def add(self, entries: Iterable[Entry]) -> None:
        """See Pending. Goes on in its thread when cancelled."""
        statement = "INSERT OR IGNORE INTO pending (name) VALUES (?)"
        with self._lock:
            self._changes += [(statement, _encode(entry)) for entry in entries]
        await self._run(self._write)

    def remove(self, entries: Iterable[Entry]) -> None:
        """See Pending."""
        statement = "DELETE FROM pending WHERE name = ?"
        with self._lock:
            self._changes += [(statement, _encode(entry)) for entry in entries]
            is_time = len(self._changes) >= _REMOVALS and not self._closed
        if is_time:
            self._thread.submit(self._write_some_time)

    def _write_some_time(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # Whoever adds next hears of it.
            self._write()

    def _write(self) -> None:
        """Makes all changes so far durable; finds none when an earlier call took them along."""
        with self._lock:
            changes, self._changes = self._changes, []
        if not changes:
            return
        assert self._database is not None
        try:
            self._database.execute("BEGIN")
            for statement, name in changes:
                self._database.execute(statement, (name,))
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            with self._lock:
                self._changes[:0] = changes
            raise

    async def _run(self, work: Callable[[], object]) -> None:
        if self._closed:
            raise StoreUnavailable("the list of pending uploads is closed")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = StoreFull if full else StoreUnavailable
            raise kind(f"{self._path}: {error}") from error

    async def close(self) -> None:
        """See Pending."""
        if self._closed:
            return
        try:
            await self._run(self._write)
        finally:
            self._closed = True
            await self._end()

    async def _end(self) -> None:
        database = self._database
        if database is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, database.close)
        self._thread.shutdown()


def _encode(entry: Entry) -> bytes:
    """`FUNCTION:HASH/SIZE`, and after a space the instance of a result."""
    name = str(entry.digest).encode()
    if entry.instance is None:
        return name
    return name + b" " + entry.instance.encode("utf-8", "surrogatepass")


def _decode(name: bytes) -> Entry | None:
    """None: something that this version does not know."""
    text, space, instance = name.partition(b" ")
    try:
        function, _, rest = text.decode().partition(":")
        hash_, _, size = rest.partition("/")
        digest = Digest(DigestFunction(function), hash_, int(size))
        return Entry(digest, instance.decode("utf-8", "surrogatepass") if space else None)
    except (ValueError, InvalidDigest):
        return None
