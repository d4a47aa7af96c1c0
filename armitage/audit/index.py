"""An index over the logs of a record, in SQLite: what makes searching a million entries quick.

Nothing here is evidence. The index is made from the logs and the records, may be deleted at any
time, and is not synced; when it does not belong to the logs as they are, it is made anew. Reading
and searching take memory for one page and SQLite's cache.

Names that repeat (hosts, sessions, actions, identities) are kept once. Each has the order of its
entries in an index of its own, so a search by any of them reads only what it shows.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from armitage.audit.query import Query
from armitage.audit.rows import Link, Row
from armitage.witness.logs import Begins

_VERSION = 1
_SPAN = 256
_AT_ONCE = 500
_HOUR_S = 3600
_BEYOND = 1 << 62
_CACHE_KIB = 16_384
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT UNIQUE NOT NULL);
CREATE TABLE entries (
  idx INTEGER PRIMARY KEY, kind TEXT NOT NULL, session INTEGER, number INTEGER, at_s REAL,
  action INTEGER, host INTEGER, method TEXT, url TEXT, status INTEGER, outcome TEXT,
  size_bytes INTEGER, body BLOB, note TEXT);
CREATE INDEX by_session ON entries (session, idx);
CREATE INDEX by_action ON entries (action, idx) WHERE action IS NOT NULL;
CREATE INDEX by_host ON entries (host, idx) WHERE host IS NOT NULL;
CREATE INDEX by_kind ON entries (kind, idx) WHERE kind <> 'exchange';
CREATE INDEX by_outcome ON entries (outcome, idx) WHERE outcome IN ('refused', 'failed');
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY, opened INTEGER, closed INTEGER, action INTEGER, identity INTEGER,
  invocation INTEGER, instance INTEGER, target TEXT, declared TEXT, exchanges INTEGER,
  size_bytes INTEGER, refused INTEGER, began_s REAL);
CREATE INDEX sessions_by_identity ON sessions (identity) WHERE identity IS NOT NULL;
CREATE INDEX sessions_by_invocation ON sessions (invocation) WHERE invocation IS NOT NULL;
CREATE INDEX sessions_by_action ON sessions (action) WHERE action IS NOT NULL;
CREATE TABLE links (hash BLOB, idx INTEGER, role TEXT, PRIMARY KEY (hash, idx, role)) WITHOUT ROWID;
CREATE INDEX links_by_entry ON links (idx);
CREATE TABLE spans (span INTEGER PRIMARY KEY, first_s REAL, last_s REAL);
CREATE TABLE hours (
  hour INTEGER, host INTEGER, fetched INTEGER, refused INTEGER, failed INTEGER,
  size_bytes INTEGER, PRIMARY KEY (hour, host)) WITHOUT ROWID;
CREATE TABLE cache_hours (hour INTEGER PRIMARY KEY, hits INTEGER, misses INTEGER);
"""
_TEXT_COLUMNS = ("a.text", "i.text", "v.text", "n.text", "t.target", "h.text")
_COLUMNS = f"""
  e.idx, e.kind, coalesce(s.text, ''), e.number, e.at_s,
  {", ".join(f"coalesce({name}, '')" for name in _TEXT_COLUMNS)},
  e.method, e.url, e.status, e.outcome, e.size_bytes, lower(hex(e.body)), e.note
"""
"""In the order of the fields of Row."""
_JOINS = """
  LEFT JOIN names s ON s.id = e.session LEFT JOIN names a ON a.id = e.action
  LEFT JOIN names h ON h.id = e.host LEFT JOIN sessions t ON t.id = e.session
  LEFT JOIN names i ON i.id = t.identity LEFT JOIN names v ON v.id = t.invocation
  LEFT JOIN names n ON n.id = t.instance
"""


class Indexed(NamedTuple):
    """How far the index has come, and the tree that it was made of."""

    size: int
    root: bytes


class SessionRow(NamedTuple):
    """What is known of a session."""

    session: str
    opened: int | None
    closed: int | None
    action: str
    identity: str
    invocation: str
    instance: str
    target: str
    declared: str
    exchanges: int
    size_bytes: int
    refused: int
    began_s: float | None


class Hour(NamedTuple):
    """What came from one host in one hour (hours since 1970)."""

    hour: int
    host: str
    fetched: int
    refused: int
    failed: int
    size_bytes: int


class HostRow(NamedTuple):
    """What came from one host in all."""

    host: str
    fetched: int
    refused: int
    failed: int
    size_bytes: int


class Index:
    """One index. Blocks, and is for one thread at a time, not always the same."""

    def __init__(self, path: Path, logs: Sequence[Begins]) -> None:
        """Opens the index of these logs, or begins it: also where what is there is damaged, of
        other logs or of another version. One of the first few of them goes on. Raises OSError,
        sqlite3.Error.
        """
        self._path = path
        self._logs = logs
        self._firsts = [each.first for each in logs]
        self._names: dict[str, int] = {}
        try:
            self._db = self._connect()
            known = json.loads(self._fact("logs") or "[]")
            sound = bool(known) and known == self._told[: len(known)]
            if sound and self._version() == _VERSION:
                self._set("logs", json.dumps(self._told))
            else:
                self.begin_anew()
        except (sqlite3.DatabaseError, ValueError):
            self.begin_anew()

    @property
    def _told(self) -> list[list[object]]:
        return [list(each) for each in self._logs]

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return db

    def begin_anew(self) -> None:
        """Forgets everything, as for logs that are not those indexed so far."""
        with suppress(AttributeError, sqlite3.Error):
            self._db.close()
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        self._names.clear()
        self._db = self._connect()
        self._path.chmod(0o600)
        self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        self._set("logs", json.dumps(self._told))

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def _version(self) -> int:
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _fact(self, name: str) -> Any:
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @property
    def indexed(self) -> Indexed:
        """What is in."""
        return Indexed(self._fact("size") or 0, self._fact("root") or b"")

    # Adding

    def add(self, rows: Sequence[Row], root: bytes) -> None:
        """Adds the entries that follow those indexed, all or none. `root` is of the tree that ends
        with the last.
        """
        size = self.indexed.size
        assert [row.index for row in rows] == list(range(size, size + len(rows)))
        self._db.execute("BEGIN")
        try:
            for row in rows:
                self._add(row)
            self._set("size", size + len(rows))
            self._set("root", root)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            self._names.clear()
            raise

    def _add(self, row: Row) -> None:
        session, action, host = map(self._id, (row.session, row.action, row.host))
        if row.session and row.kind in {"open", "close", "exchange"}:
            action = self._add_to_session(row, session, action)
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.index, row.kind, session, row.number, row.at_s, action, host),
                *(row.method, row.url, row.status, row.outcome, row.size_bytes),
                *(bytes.fromhex(row.body), row.note),
            ),
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
            [(bytes.fromhex(link.hash), row.index, link.role) for link in row.links],
        )
        if row.at_s is not None:
            self._db.execute(
                "INSERT INTO spans VALUES (?1, ?2, ?2) ON CONFLICT DO UPDATE SET"
                " first_s = min(first_s, ?2), last_s = max(last_s, ?2)",
                (row.index // _SPAN, row.at_s),
            )
        if row.kind == "exchange" and row.at_s is not None and host is not None:
            flags = [row.outcome == name for name in ("fetched", "refused", "failed")]
            self._db.execute(
                "INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " fetched = fetched + excluded.fetched, refused = refused + excluded.refused,"
                " failed = failed + excluded.failed, size_bytes = size_bytes + excluded.size_bytes",
                (int(row.at_s // _HOUR_S), host, *flags, row.size_bytes),
            )

    def _add_to_session(self, row: Row, session: int | None, action: int | None) -> int | None:
        """Answers the session's action."""
        self._db.execute(
            "INSERT OR IGNORE INTO sessions (id, exchanges, size_bytes, refused)"
            " VALUES (?, 0, 0, 0)",
            (session,),
        )
        if row.kind == "open":
            self._db.execute(
                "UPDATE sessions SET opened = ?, action = ?, identity = ?, invocation = ?,"
                " instance = ?, target = ?, declared = ?, began_s = ? WHERE id = ?",
                (
                    *(row.index, action, self._id(row.identity), self._id(row.invocation)),
                    *(self._id(row.instance), row.target, row.note, row.at_s, session),
                ),
            )
            return action
        if row.kind == "close":
            self._db.execute("UPDATE sessions SET closed = ? WHERE id = ?", (row.index, session))
        else:
            self._db.execute(
                "UPDATE sessions SET exchanges = exchanges + 1, size_bytes = size_bytes + ?,"
                " refused = refused + ? WHERE id = ?",
                (row.size_bytes, row.outcome == "refused", session),
            )
        found = self._db.execute("SELECT action FROM sessions WHERE id = ?", (session,)).fetchone()
        return None if found is None else found[0]

    def _id(self, text: str) -> int | None:
        """The number of a name, which it gets now if it has none."""
        if not text:
            return None
        known = self._names.get(text)
        if known is None:
            self._db.execute("INSERT OR IGNORE INTO names (text) VALUES (?)", (text,))
            known = self._known(text)
            assert known is not None
            if len(self._names) > 50_000:
                self._names.clear()
            self._names[text] = known
        return known

    def _known(self, text: str) -> int | None:
        found = self._db.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()
        return None if found is None else int(found[0])

    def add_cache(self, hour: int, hits: int, misses: int) -> None:
        """Adds to how often the action cache had an answer. This is not from the log, and is lost
        with the index.
        """
        self._db.execute(
            "INSERT INTO cache_hours VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
            " hits = hits + excluded.hits, misses = misses + excluded.misses",
            (hour, hits, misses),
        )

    # Searching

    def rows(self, query: Query) -> list[Row]:
        """One page."""
        conditions, values = self._conditions(query)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "DESC" if query.after is None else "ASC"
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM entries e {_JOINS} {where} ORDER BY e.idx {order} LIMIT ?",  # noqa: S608 (conditions are ours)
            (*values, query.limit),
        )
        return [self._row(each) for each in found]

    def count(self, query: Query, most: int) -> int:
        """How many there are, counted up to a limit."""
        conditions, values = self._conditions(query)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        inner = f"SELECT 1 FROM entries e {where} LIMIT ?"  # noqa: S608
        [number] = self._db.execute(
            f"SELECT count(*) FROM ({inner})",  # noqa: S608
            (*values, most),
        ).fetchone()
        return int(number)

    def _conditions(self, query: Query) -> tuple[list[str], list[Any]]:
        conditions: list[str] = []
        values: list[Any] = []

        def demand(condition: str, *given: Any) -> None:
            conditions.append(condition)
            values.extend(given)

        for name in ("session", "action"):
            if text := getattr(query, name):
                demand(f"e.{name} = ?", self._known(text) or -1)
        for name in ("identity", "invocation", "instance"):
            if text := getattr(query, name):
                demand(
                    f"e.session IN (SELECT id FROM sessions WHERE {name} = ?)",  # noqa: S608
                    self._known(text) or -1,
                )
        if query.log:
            first, end = self._range_of(query.log)
            demand("e.idx >= ? AND e.idx < ?", first, end)
        self._demand_host(query.host, demand)
        if query.digest:
            low, high = _range(query.digest)
            demand("e.idx IN (SELECT idx FROM links WHERE hash >= ? AND hash <= ?)", low, high)
        if query.kind:
            # In the text, since a partial index serves only what is certain to be in it; both are
            # bare words (armitage.audit.query).
            demand(f"e.kind = '{query.kind}'")
        if query.outcome:
            demand(f"e.outcome = '{query.outcome}'")
        if query.text:
            pattern = f"%{_escaped(query.text)}%"
            demand("(e.url LIKE ? ESCAPE '\\' OR e.note LIKE ? ESCAPE '\\')", pattern, pattern)
        self._demand_time(query, demand)
        if query.before is not None:
            demand("e.idx < ?", query.before)
        if query.after is not None:
            demand("e.idx > ?", query.after)
        return conditions, values

    def _range_of(self, log: str) -> tuple[int, int]:
        """Where a log begins, and the one after it; nowhere, if there is none of that name."""
        ends = [*self._firsts[1:], _BEYOND]
        for begins, end in zip(self._logs, ends, strict=True):
            if begins.origin == log:
                return begins.first, end
        return _BEYOND, _BEYOND

    def _demand_host(self, host: str, demand: Any) -> None:
        if host.startswith("*."):
            below = f"%{_escaped(host[1:])}"
            demand(
                "e.host IN (SELECT id FROM names WHERE text = ? OR text LIKE ? ESCAPE '\\')",
                host[2:],
                below,
            )
        elif host:
            demand("e.host = ?", self._known(host) or -1)

    def _demand_time(self, query: Query, demand: Any) -> None:
        """Narrows to the spans of entries that can hold such times, then says the time itself."""
        if query.since_s is not None:
            [first] = self._db.execute(
                "SELECT min(span) FROM spans WHERE last_s >= ?", (query.since_s,)
            ).fetchone()
            demand("e.idx >= ? AND e.at_s >= ?", (first or 0) * _SPAN, query.since_s)
        if query.until_s is not None:
            [last] = self._db.execute(
                "SELECT max(span) FROM spans WHERE first_s <= ?", (query.until_s,)
            ).fetchone()
            demand("e.idx < ? AND e.at_s <= ?", ((last or 0) + 1) * _SPAN, query.until_s)

    def _row(self, found: Sequence[Any], links: tuple[Link, ...] = ()) -> Row:
        number = bisect_right(self._firsts, found[0]) - 1
        begins, is_past = self._logs[number], number < len(self._logs) - 1
        return Row(*[*found, links, begins.origin, found[0] - begins.first, is_past])

    # Looking up

    def row(self, index: int) -> Row | None:
        """One entry, with what it names."""
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM entries e {_JOINS} WHERE e.idx = ?",  # noqa: S608
            (index,),
        ).fetchone()
        return None if found is None else self._row(found, tuple(self.links(index)))

    def links(self, index: int) -> Iterator[Link]:
        """What an entry names."""
        for hashed, role in self._db.execute(
            "SELECT hash, role FROM links WHERE idx = ? ORDER BY role, hash", (index,)
        ):
            yield Link(role, hashed.hex())

    def naming(self, hashed: str, roles: Iterable[str], limit: int) -> list[Row]:
        """The first entries that name exactly this hash in one of these roles."""
        marks = list(roles)
        found = self._db.execute(
            f"SELECT DISTINCT {_COLUMNS} FROM links l JOIN entries e ON e.idx = l.idx {_JOINS}"  # noqa: S608
            f" WHERE l.hash = ? AND l.role IN ({_marks(marks)})"
            " ORDER BY e.idx LIMIT ?",
            (bytes.fromhex(hashed), *marks, limit),
        )
        return [self._row(each) for each in found]

    def known(self, hashes: Sequence[str], roles: Iterable[str]) -> set[str]:
        """Those of some hashes that an entry names in one of these roles."""
        marks, found = list(roles), set()
        for at in range(0, len(hashes), _AT_ONCE):
            part = [bytes.fromhex(each) for each in hashes[at : at + _AT_ONCE]]
            found |= {
                hashed.hex()
                for (hashed,) in self._db.execute(
                    f"SELECT DISTINCT hash FROM links WHERE hash IN ({_marks(part)})"  # noqa: S608
                    f" AND role IN ({_marks(marks)})",
                    (*part, *marks),
                )
            }
        return found

    def hashes(self, prefix: str, limit: int) -> list[str]:
        """The hashes that begin so."""
        low, high = _range(prefix)
        found = self._db.execute(
            "SELECT DISTINCT hash FROM links WHERE hash >= ? AND hash <= ? LIMIT ?",
            (low, high, limit),
        )
        return [hashed.hex() for (hashed,) in found]

    def sessions(self, column: str, text: str, limit: int) -> list[SessionRow]:
        """Sessions by `session`, `action` or `invocation`, newest first."""
        key = {"session": "t.id", "action": "t.action", "invocation": "t.invocation"}[column]
        found = self._db.execute(
            "SELECT s.text, t.opened, t.closed, coalesce(a.text, ''), coalesce(i.text, ''),"  # noqa: S608
            " coalesce(v.text, ''), coalesce(n.text, ''), coalesce(t.target, ''),"
            " coalesce(t.declared, ''), t.exchanges, t.size_bytes, t.refused, t.began_s"
            " FROM sessions t JOIN names s ON s.id = t.id LEFT JOIN names a ON a.id = t.action"
            " LEFT JOIN names i ON i.id = t.identity LEFT JOIN names v ON v.id = t.invocation"
            f" LEFT JOIN names n ON n.id = t.instance WHERE {key} = ?"
            " ORDER BY t.opened DESC LIMIT ?",
            (self._known(text) or -1, limit),
        )
        return [SessionRow(*each) for each in found]

    # Summing up

    def kinds(self) -> dict[str, int]:
        """How many entries of each kind there are."""
        others = dict(
            self._db.execute(
                "SELECT kind, count(*) FROM entries WHERE kind <> 'exchange' GROUP BY kind"
            ).fetchall()
        )
        exchanges = self.indexed.size - sum(others.values())
        return {**others, "exchange": exchanges} if exchanges else others

    def hosts(self, limit: int) -> list[HostRow]:
        """The hosts that most came from."""
        found = self._db.execute(
            "SELECT n.text, sum(fetched), sum(refused), sum(failed), sum(h.size_bytes)"
            " FROM hours h JOIN names n ON n.id = h.host GROUP BY h.host"
            " ORDER BY sum(fetched) + sum(refused) + sum(failed) DESC, n.text LIMIT ?",
            (limit,),
        )
        return [HostRow(*each) for each in found]

    def hours(self, since: int, until: int) -> list[Hour]:
        """What happened from one hour to before another."""
        found = self._db.execute(
            "SELECT hour, n.text, fetched, refused, failed, size_bytes FROM hours h"
            " JOIN names n ON n.id = h.host WHERE hour >= ? AND hour < ? ORDER BY hour, n.text",
            (since, until),
        )
        return [Hour(*each) for each in found]

    def cache_hours(self, since: int, until: int) -> list[tuple[int, int, int]]:
        """Hour, hits and misses of the action cache."""
        return self._db.execute(
            "SELECT hour, hits, misses FROM cache_hours WHERE hour >= ? AND hour < ? ORDER BY hour",
            (since, until),
        ).fetchall()


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _range(prefix: str) -> tuple[bytes, bytes]:
    """The hashes that begin so, up to the longest."""
    width = 128
    return bytes.fromhex(prefix.ljust(len(prefix) + len(prefix) % 2, "0")), bytes.fromhex(
        prefix.ljust(width, "f")
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
