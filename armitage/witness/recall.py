"""Finding answers that are on record already: for pinned contents, and for rebuilds without any
origin.

An index over the logs, in SQLite beside them: those that ended, the oldest first, and the one that
goes on, as one sequence of entries. All of it can be made again from them, so it is never synced
with care: one that is of other logs, or cannot be read, is thrown away. It learns of what was
logged since when it is asked, and now and then from whoever owns it.

What a log that ended says is proven to be in the tree that the next one begins with, when it is
learnt and when it is found: nobody signs it any more, so nobody who writes to the disk may add to
it either.

What is found was fetched once, whole and without error. An answer to a request with a secret is
found only by whoever sends the same secret, or was granted the same credential; an answer that an
origin varies by other headers only by requests which are alike in these.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from armitage.log.errors import LogError
from armitage.log.note import parse_public_key
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
from armitage.witness.logs import Logs
from cas.digest import Digest
from cas.errors import BlobNotFound

_log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 2
_CANDIDATES = 64
_OK = 200
_SCHEMA = """
CREATE TABLE state (logs TEXT, next INTEGER);
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

    def __init__(self, archive: Archive, revoked: Collection[str] = ()) -> None:
        """`revoked` are public keys (vkeys) of logs that give nothing. Raises MalformedNote."""
        self._archive = archive
        self._without = {str(parse_public_key(vkey)) for vkey in revoked}
        self._logs = Logs(archive, self._without)
        self._path = archive.directory / "recall.sqlite"
        self._lock = asyncio.Lock()  # Guards the connection, which threads use one at a time.
        self._known: sqlite3.Connection | None = None
        self._next = 0

    async def catch_up(self) -> None:
        """Learns of what was logged since. Raises OSError."""
        async with self._lock:
            while (damaged := await self._learn()) is not None:
                # Those before it lead here through it alone, so they go, too; and so does all that
                # was learnt of them, since the index of other logs is made anew.
                keys = [begins.key for begins in self._logs.begins]
                self._without.update(keys[: keys.index(damaged) + 1])
                self._logs = Logs(self._archive, self._without)
                self._forget()

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
            self._forget()

    def _forget(self) -> None:
        if self._known is not None:
            self._known.close()
            self._known = None

    async def _learn(self) -> str | None:
        """Reads what the logs have more. Answers the key of one that has ended and is damaged, if
        one is.
        """
        if self._known is None:
            self._known, self._next = await self._run(self._open)
        while self._next < self._logs.size:
            log, index = self._logs.at(self._next)
            end = self._next + WIDTH - index % WIDTH
            try:
                entries = await self._run(partial(self._logs.proven, self._next, end))
            except OSError as error:
                if log is self._archive.log.store:
                    raise
                why = error.__cause__ or error
                _log.error("nothing in %s, which has ended, is found: %s", log.key.name, why)
                return str(log.key)
            rows = [
                row
                for number, data in enumerate(entries, self._next)
                if (row := await self._row(number, data)) is not None
            ]
            following = self._next + len(entries)
            await self._run(partial(self._write, rows, following))
            self._next = following
        return None

    async def _candidates(
        self, column: str, key: bytes, *, newest: bool
    ) -> AsyncIterator[Recalled]:
        order = "DESC" if newest else "ASC"
        query = (  # Nothing in it is anybody's input.
            f"SELECT number, record, size FROM answers WHERE {column} = ? ORDER BY number {order}"  # noqa: S608
            f" LIMIT {_CANDIDATES}"
        )
        async with self._lock:
            known = self._known
            if known is None:  # Making it anew has failed meanwhile.
                raise OSError(f"the index {self._path} cannot be used")
            rows = await self._run(lambda: known.execute(query, (key,)).fetchall())
        for number, name, size in rows:
            if not await self._run(partial(self._stands, number, name)):
                continue
            entry = Entry("", 0, Kind.EXCHANGE, name, size)
            with suppress(BlobNotFound, MalformedEvidence):  # An audit tells of these.
                found = Recalled(name, parse_record(await self._archive.record(entry)))
                if not await self._archive.store.find_missing([found.body]):
                    yield found

    async def _row(self, number: int, data: bytes) -> tuple[object, ...] | None:
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
        return number, entry.session, record, entry.record, entry.size_bytes

    async def _run(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._archive.threads, function)
        except (sqlite3.Error, LogError) as error:
            raise OSError(f"the index {self._path} cannot be used: {error}") from error

    # In threads

    def _stands(self, number: int, name: str) -> bool:
        """Whether a log that has ended still names the record of an answer of its own."""
        try:
            log, _ = self._logs.at(number)
            if log is self._archive.log.store:
                return True
            [data] = self._logs.proven(number, number + 1)
            return parse_entry(data).record == name
        except (LogError, MalformedEvidence, OSError) as error:
            _log.error("entry %d of the record gives nothing: %s", number, error)
            return False

    def _open(self) -> tuple[sqlite3.Connection, int]:
        logs = [begins.key for begins in self._logs.begins]
        with suppress(sqlite3.Error):
            connection = self._connect()
            if connection.execute("PRAGMA user_version").fetchone() == (_VERSION,):
                known, following = connection.execute("SELECT logs, next FROM state").fetchone()
                ours = known.splitlines()
                # A log that has ended never changes, so the number of an entry stays.
                if ours == logs[: len(ours)] and following <= self._logs.size:
                    with connection:
                        connection.execute("UPDATE state SET logs = ?", ("\n".join(logs),))
                    return connection, following
            connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        connection = self._connect()
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO state VALUES (?, 0)", ("\n".join(logs),))
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
                number, session, record, name, size = row
                found = known.execute("SELECT instance FROM sessions WHERE id = ?", (session,))
                [instance] = found.fetchone() or [None]
                if instance is not None:  # Whose it is, is on record.
                    known.execute(
                        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                        (number, *_keys(record, instance), name, size),
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
