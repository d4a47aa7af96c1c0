"""Which entries of the log are about which action: an index in SQLite, which the log can always
give back.

It is written after the log and read before anything is served by it, so it may lag behind, never
ahead; opening it reads what the log has more. One that is damaged, or is of another log, is made
anew. Nothing is believed because it stands here: whoever decides reads the record and verifies it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from armitage.attest.entries import Entry, Kind, parse_digest, parse_entry
from armitage.attest.errors import MalformedAttestation
from armitage.attest.service import Kept
from armitage.errors import Unavailable
from armitage.log.store import LogStore
from armitage.log.tiles import WIDTH
from cas.digest import Digest, DigestFunction

_log = logging.getLogger(__name__)

_LAYOUT: Final = 1
_SCHEMA: Final = """
CREATE TABLE log (key TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE entries (
    position INTEGER PRIMARY KEY, action TEXT NOT NULL, instance TEXT NOT NULL,
    kind TEXT NOT NULL, record TEXT NOT NULL, size_bytes INTEGER NOT NULL
);
CREATE INDEX by_action ON entries (action, kind, position);
"""
_FIND: Final = """
SELECT position, instance, record, size_bytes FROM entries
WHERE action = ? AND kind = ? ORDER BY position DESC LIMIT ?
"""
_MARKS: Final = tuple(f'"kind":"{kind.value}"'.encode() for kind in Kind)
_MAX_FOUND: Final = 64
_MEMORY_KIB: Final = 4096
_LAG_ENTRIES: Final = 16_384


class Ledger:
    """The index. Its methods block, shortly; they may be called from any thread."""

    def __init__(self, path: Path, log: LogStore) -> None:
        """Opens it, making it where there is none, and reads what the log has more. Raises
        OSError, and LogError for a log that cannot be read.
        """
        self._lock = Lock()
        self._log = log
        self._db = _open(path, log)
        self._known = 0
        self._catch_up()

    def add(self, kept: Sequence[Kept]) -> None:
        """Enters what was logged. Raises Unavailable."""
        with self._turn():
            with self._db:
                self._insert(kept)
            # So that the next start has little to read.
            if max(each.index for each in kept) - self._known > _LAG_ENTRIES:
                self._catch_up()

    def find(self, action: Digest, kind: Kind) -> list[Kept]:
        """Answers what was logged about an action, in all instances, the newest first and 64 at
        most. Raises Unavailable.
        """
        with self._turn():
            rows = self._db.execute(_FIND, (str(action), kind.value, _MAX_FOUND)).fetchall()
        return [
            Kept(
                Entry(kind, instance, action, Digest(DigestFunction.SHA256, record, size_bytes)),
                position,
            )
            for position, instance, record, size_bytes in rows
        ]

    def actions(self, prefix: str) -> list[Digest]:
        """Answers actions whose hash begins so, 64 at most. Raises Unavailable."""
        found: set[Digest] = set()
        with self._turn():
            for function in DigestFunction:
                start = f"{function.value}:{prefix}"
                rows = self._db.execute(
                    "SELECT DISTINCT action FROM entries WHERE action >= ? AND action < ? LIMIT ?",
                    (start, f"{start}~", _MAX_FOUND),
                )
                found.update(parse_digest(action) for (action,) in rows)
        return sorted(found, key=str)[:_MAX_FOUND]

    def close(self) -> None:
        """Lets the file go. Idempotent."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time, with the index's troubles told as the daemon's."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise Unavailable(f"the index of attestations fails: {error}") from error

    def _catch_up(self) -> None:
        size = self._log.checkpoint.size
        (self._known,) = self._db.execute("SELECT size FROM log").fetchone()
        for first in range(self._known // WIDTH * WIDTH, size, WIDTH):
            end = min(size, first + WIDTH)
            entries = self._log.entries(first, end)
            with self._db:
                self._insert(_attestations(entries, first))
                self._db.execute("UPDATE log SET size = ?", (end,))
            self._known = end

    def _insert(self, kept: Iterable[Kept]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    each.index,
                    str(each.entry.action),
                    each.entry.instance,
                    each.entry.kind.value,
                    each.entry.record.hash,
                    each.entry.record.size_bytes,
                )
                for each in kept
            ],
        )


def _attestations(entries: Sequence[bytes], first: int) -> Iterator[Kept]:
    """Picks out what is about actions; the log holds the witness's sessions too."""
    for index, data in enumerate(entries, first):
        if not any(mark in data for mark in _MARKS):
            continue
        try:
            yield Kept(parse_entry(data), index)
        except MalformedAttestation as error:
            _log.warning("entry %d of the log is passed over: %s", index, error)


def _open(path: Path, log: LogStore) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    if _is_of(db, log):
        return db
    db.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    db = sqlite3.connect(path, check_same_thread=False)
    _set_up(db)
    with db:
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO log VALUES (?, 0)", (str(log.key),))
        db.execute(f"PRAGMA user_version = {_LAYOUT}")
    return db


def _is_of(db: sqlite3.Connection, log: LogStore) -> bool:
    """Whether this is an index of that log, and not one of a later state of it."""
    try:
        _set_up(db)
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        rows = db.execute("SELECT key, size FROM log").fetchall()
    except sqlite3.DatabaseError:
        return False
    if layout != _LAYOUT or len(rows) != 1:
        return False
    ((key, size),) = rows
    return bool(key == str(log.key) and size <= log.checkpoint.size)


def _set_up(db: sqlite3.Connection) -> None:
    # A crash may take the last commits, whole ones and in order: the log gives them back.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA cache_size = -{_MEMORY_KIB}")
