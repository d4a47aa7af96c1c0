"""Finding answers that are on record already: for pinned contents, and for rebuilds without any
origin.

An index over the log, in SQLite beside it. All of it can be made again from the log, so it is never
synced with care: one that is of another log, or cannot be read, is thrown away. It learns of what
was logged since when it is asked, and now and then from whoever owns it.

What is found was fetched once, whole and without error. An answer to a request with a secret is
found only by whoever sends the same secret, or was granted the same credential; an answer that an
origin varies by other headers only by requests which are alike in these.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from armitage.log.errors import LogError
from armitage.log.tiles import WIDTH
from armitage.witness.archive import Archive
from armitage.witness.evidence import (
    Body,
    Entry,
    Kind,
    MalformedEvidence,
    digest_of,
    parse_entry,
    parse_record,
)
from cas.digest import Digest
from cas.errors import BlobNotFound

T = TypeVar("T")

_VERSION = 1
_CANDIDATES = 64
_OK = 200
_SCHEMA = """
CREATE TABLE state (origin TEXT, next INTEGER);
CREATE TABLE sessions (id TEXT PRIMARY KEY, instance TEXT) WITHOUT ROWID;
CREATE TABLE answers (
    number INTEGER PRIMARY KEY, request BLOB, shown BLOB, body BLOB, record TEXT, size INTEGER
);
CREATE INDEX answers_by_request ON answers (request);
CREATE INDEX answers_by_shown ON answers (shown) WHERE shown IS NOT NULL;
CREATE INDEX answers_by_body ON answers (body) WHERE body IS NOT NULL;
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as it is looked for. Headers are those that may be kept, names in lower case."""

    instance: str
    method: str
    url: str
    """As it is asked for; of a record, as it is kept there."""
    url_tag: str
    headers: Sequence[Sequence[str]] = ()
    body_sha256: str = ""
    private_tag: str = ""
    credentials: frozenset[str] = frozenset()
    """Names of those that were granted."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """An answer on record."""

    name: str
    """Of its record."""
    record: dict[str, Any]

    @property
    def body(self) -> Digest:
        """What the answer's body is stored as."""
        return digest_of(Body(**self.record["response"]["body"]))


class Recall:
    """The index of one archive. `open` it in the archive's context, and `close` it before that
    ends.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._path = archive.directory / "recall.sqlite"
        self._lock = asyncio.Lock()  # Guards the connection, which threads use one at a time.
        self._known: sqlite3.Connection | None = None
        self._next = 0

    async def catch_up(self) -> None:
        """Learns of what was logged since. Raises OSError."""
        async with self._lock:
            if self._known is None:
                self._known, self._next = await self._run(self._open)
            size = self._archive.log.store.checkpoint.size
            while self._next < size:
                upto = min(size, (self._next // WIDTH + 1) * WIDTH)
                read = self._archive.log.store.entries
                entries = await self._run(partial(read, self._next, upto))
                rows = [
                    row
                    for index, data in enumerate(entries, self._next)
                    if (row := await self._row(index, data)) is not None
                ]
                await self._run(partial(self._write, rows, upto))
                self._next = upto

    async def answer(self, wanted: Wanted) -> Recalled | None:
        """Answers the newest that fits the request. Raises OSError."""
        await self.catch_up()
        for column, key in (("request", _key(wanted)), ("shown", _shown_key(wanted))):
            if key is not None:
                async for found in self._candidates(column, key, newest=True):
                    if _fits(found.record, wanted):
                        return found
        return None

    async def content(self, hashed: str, credentials: frozenset[str]) -> Recalled | None:
        """Answers the first fetch of a content by its SHA-256 in hexadecimal, if it was public or
        fetched with credentials that were granted. Raises OSError.
        """
        await self.catch_up()
        async for found in self._candidates("body", bytes.fromhex(hashed), newest=False):
            record = found.record
            if not record["request"]["private_tag"] and credentials.issuperset(
                record["credentials"]
            ):
                return found
        return None

    async def close(self) -> None:
        """Ends it. Idempotent."""
        async with self._lock:
            if self._known is not None:
                self._known.close()
                self._known = None

    async def _candidates(
        self, column: str, key: bytes, *, newest: bool
    ) -> AsyncIterator[Recalled]:
        order = "DESC" if newest else "ASC"
        query = (  # Nothing in it is anybody's input.
            f"SELECT record, size FROM answers WHERE {column} = ? ORDER BY number {order}"  # noqa: S608
            f" LIMIT {_CANDIDATES}"
        )
        async with self._lock:
            known = self._known
            assert known is not None
            rows = await self._run(lambda: known.execute(query, (key,)).fetchall())
        for name, size in rows:
            entry = Entry("", 0, Kind.EXCHANGE, name, size)
            with suppress(BlobNotFound, MalformedEvidence):  # An audit tells of these.
                found = Recalled(name, parse_record(await self._archive.record(entry)))
                if not await self._archive.store.find_missing([found.body]):
                    yield found

    async def _row(self, index: int, data: bytes) -> tuple[object, ...] | None:
        try:
            entry = parse_entry(data)
            if entry.kind is Kind.CLOSE:
                return None
            record = parse_record(await self._archive.record(entry))
        except (MalformedEvidence, BlobNotFound):  # Others' entries; an audit tells of the rest.
            return None
        if entry.kind is Kind.OPEN:
            return entry.session, record["subject"]["instance"]
        if not _is_original(record):
            return None
        return index, entry.session, record, entry.record, entry.size_bytes

    async def _run(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._archive.threads, function)
        except (sqlite3.Error, LogError) as error:
            raise OSError(f"the index {self._path} cannot be used: {error}") from error

    # In threads

    def _open(self) -> tuple[sqlite3.Connection, int]:
        origin = self._archive.log.store.checkpoint.origin
        size = self._archive.log.store.checkpoint.size
        with suppress(sqlite3.Error):
            connection = self._connect()
            if connection.execute("PRAGMA user_version").fetchone() == (_VERSION,):
                ours, following = connection.execute("SELECT origin, next FROM state").fetchone()
                if ours == origin and following <= size:
                    return connection, following
            connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        connection = self._connect()
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO state VALUES (?, 0)", (origin,))
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()
        return connection, 0

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _write(self, rows: Iterable[tuple[Any, ...]], upto: int) -> None:
        known = self._known
        assert known is not None
        with known:
            for row in rows:
                if len(row) == 2:
                    known.execute("INSERT OR IGNORE INTO sessions VALUES (?, ?)", row)
                    continue
                index, session, record, name, size = row
                found = known.execute("SELECT instance FROM sessions WHERE id = ?", (session,))
                [instance] = found.fetchone() or [None]
                if instance is not None:  # Whose it is, is on record.
                    known.execute(
                        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                        (index, *_keys(record, instance), name, size),
                    )
            known.execute("UPDATE state SET next = ?", (upto,))


def _is_original(record: dict[str, Any]) -> bool:
    body = record["response"]["body"]
    return (
        record["decision"]["verdict"] == "allow"
        and not record["error"]
        and not record["replays"]
        and body is not None
        and body["complete"]
    )


def _keys(record: dict[str, Any], instance: str) -> tuple[bytes | None, bytes | None, bytes | None]:
    request, response = record["request"], record["response"]
    body = request["body"]
    wanted = Wanted(
        instance=instance,
        method=record["method"],
        url=record["url"],
        url_tag=record["url_tag"],
        headers=request["headers"],
        body_sha256="" if body is None else body["sha256"],
    )
    is_content = record["method"] == "GET" and response["status"] == _OK
    content = response["body"]
    plain = is_content and not content["content_encoding"]
    hashed = bytes.fromhex(content["sha256"].removeprefix("sha256:")) if plain else None
    return _key(wanted), _shown_key(wanted), hashed


def _key(wanted: Wanted) -> bytes:
    return _hashed(wanted, wanted.url_tag)


def _shown_key(wanted: Wanted) -> bytes | None:
    """For what a client learnt from a record: a redirect's Location is there with its secrets left
    out, and so is asked for like that.
    """
    return _hashed(wanted, wanted.url) if "=~" in wanted.url or "?~" in wanted.url else None


def _hashed(wanted: Wanted, url: str) -> bytes:
    asked = [
        wanted.instance,
        wanted.method,
        url,
        wanted.body_sha256,
        *_values(wanted.headers, "range"),
    ]
    return sha256("\n".join(asked).encode("utf-8", "surrogateescape")).digest()[:16]


def _values(headers: Sequence[Sequence[str]], name: str) -> list[str]:
    return [value for known, value in headers if known == name]


def _fits(record: dict[str, Any], wanted: Wanted) -> bool:
    request = record["request"]
    varies = {
        name.strip().lower()
        for value in _values(record["response"]["headers"], "vary")
        for name in value.split(",")
    }
    return (
        request["private_tag"] == wanted.private_tag
        and wanted.credentials.issuperset(record["credentials"])
        and "*" not in varies
        and all(
            _values(request["headers"], name) == _values(wanted.headers, name) for name in varies
        )
    )
