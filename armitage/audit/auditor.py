"""Answers an auditor's questions about one record, as plain values: the command line, the JSON API
and the pages are three shells over this.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from armitage.audit.index import HostRow, Hour, Index, SessionRow
from armitage.audit.query import Query
from armitage.audit.rows import Row, read_json, record_of, row_of, statements_in
from armitage.audit.source import ArchiveSource
from armitage.clock import Clock
from armitage.errors import NotFound
from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import InvalidProof, LogError, NotLogged
from armitage.log.store import LogStore
from armitage.log.tiles import WIDTH
from armitage.log.witnessed import Standing
from armitage.witness.archive import Archive
from armitage.witness.logs import Logs
from cas.errors import CasError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger(__name__)

INDEX_NAME = "index.sqlite"
_BATCH = 4 * WIDTH
_COUNT_UP_TO = 10_000
_HOUR_S = 3600

P = ParamSpec("P")
T = TypeVar("T")


class Page(NamedTuple):
    """Some entries, and how to go on."""

    rows: list[Row]
    next_before: int | None
    """For the next page of older entries; None: there are none."""
    total: int
    """How many entries match in all, unless that is more than `counted_up_to`."""
    counted_up_to: int
    indexed: int
    """Entries that were searched, the first so many of the log."""
    size: int
    """Entries of the log."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """All of one entry."""

    row: Row
    entry: dict[str, object]
    record: dict[str, object] | None
    """None: it is not there any more. Of an attestation: its `envelopes`, and the `statements` in
    them.
    """
    receipt: str
    """A C2SP tlog-proof."""


@dataclass(frozen=True, slots=True)
class PastLog:
    """A log that has ended."""

    origin: str
    key: str
    first: int
    """The number of its first entry in the record."""
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """How the log stands, and those before it."""

    origin: str
    key: str
    """Of its signatures (a C2SP vkey)."""
    first: int
    """The number of its first entry in the record; others before it have those below."""
    size: int
    root: bytes
    indexed: int
    """Entries of the record, those of all logs."""
    checkpoint: str
    """The signed note."""
    witnesses: list[Standing]
    past: list[PastLog]
    """The logs that ended before, the oldest first."""
    past_problem: str
    """Why there are not more of them."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What an auditor sees first."""

    kinds: dict[str, int]
    hosts: list[HostRow]
    first_hour: int
    """Hours since 1970; what `hours` and `cache` tell of begins here."""
    end_hour: int
    hours: list[Hour]
    cache: list[tuple[int, int, int]]
    """Hour, hits and misses of the action cache."""


class Auditor:
    """Searches an archive by its index, and keeps the index up with the log."""

    def __init__(
        self, archive: Archive, index: Index, threads: ThreadPoolExecutor, clock: Clock
    ) -> None:
        """`threads` is one thread, which alone touches the index."""
        self.archive = archive
        self.logs = Logs(archive)
        self.witnesses: list[Standing] = []
        """How those who cosign the log stand, if any do."""
        self._clock = clock
        self._index = index
        self._threads = threads
        self._indexed = 0
        self._is_checked = False
        self._is_sure = False
        """Whether the index has as many as `_indexed` says: not while some are added to it, nor
        once whoever waited for that was cancelled.
        """
        self._progress = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def indexed(self) -> int:
        """Entries that the index has."""
        return self._indexed

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a question to the index in its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    # Indexing

    async def follow(self) -> None:
        """Keeps the index up with the logs, until cancelled. Does not raise: an index that fails is
        logged, tried again with the next entry, and nobody is refused for it but who searches.
        """
        size = -1
        while True:
            size = await self.archive.log.grown(size)
            try:
                await self.catch_up()
            except (CasError, LogError, OSError, sqlite3.Error) as error:
                _log.error("the index of the record is not up to date: %s", error)

    async def catch_up(self, told: Callable[[int, int], None] | None = None) -> None:
        """Indexes what is new. `told` hears how many entries are indexed, of how many.

        Raises LogError, CasError, OSError, sqlite3.Error.
        """
        async with self._turn:
            if not self._is_checked:
                await self._check_belongs()
            if not self._is_sure:
                self._indexed = (await self.ask(lambda: self._index.indexed)).size
                self._is_sure = True
            while self._indexed < (size := self.logs.size):
                self._is_sure = False
                await self._index_some(size)
                self._is_sure = True
                if told is not None:
                    told(self._indexed, size)

    async def _check_belongs(self) -> None:
        """Makes an index anew whose entries are not the first of these logs."""
        found = await self.ask(lambda: self._index.indexed)
        try:
            await asyncio.to_thread(self.logs.check_grown_from, *found)
        except (NotLogged, InvalidProof):
            _log.warning("the index of the record is of another log, and is made anew")
            await self.ask(self._index.begin_anew)
        self._is_checked = True

    async def _index_some(self, size: int) -> None:
        first = self._indexed
        upto = min(size, first + _BATCH)
        entries = await asyncio.to_thread(self.logs.entries, first, upto)
        records = await self.records_of(entries)
        told = zip(entries, records, strict=True)
        rows = [row_of(index, entry, record) for index, (entry, record) in enumerate(told, first)]
        end = first + len(rows)
        root = await asyncio.to_thread(self.logs.root_at, end)
        await self.ask(self._index.add, rows, root)
        self._indexed = end
        passed, self._progress = self._progress, asyncio.Event()
        passed.set()

    async def records_of(self, entries: Sequence[bytes]) -> list[bytes | None]:
        """What entries name; None where it is gone, or nothing is named. Raises OSError."""
        named = [record_of(read_json(entry)) for entry in entries]
        return await ArchiveSource(self.archive).records(0, named)

    async def _entry(self, number: int) -> tuple[LogStore, int, bytes]:
        """The log that has an entry, its index there, and the entry. Raises NotFound."""
        try:
            store, index = await asyncio.to_thread(self.logs.at, number)
            return store, index, await asyncio.to_thread(store.entry, index)
        except NotLogged as error:
            raise NotFound(str(error)) from None

    async def wait_indexed(self, size: int) -> int:
        """Waits until more than `size` entries are indexed, and answers how many are."""
        while self._indexed <= size:
            await self._progress.wait()
        return self._indexed

    # Questions

    async def page(self, query: Query) -> Page:
        """One page of what was asked for."""

        def search() -> tuple[list[Row], int]:
            rows = self._index.rows(replace(query, limit=query.limit + 1))
            return rows, self._index.count(replace(query, before=None, after=None), _COUNT_UP_TO)

        rows, count = await self.ask(search)
        shown = rows[: query.limit]
        has_more = len(rows) > query.limit
        size = self.logs.size
        next_before = shown[-1].index if has_more and query.after is None else None
        return Page(shown, next_before, count, _COUNT_UP_TO, self._indexed, size)

    async def rows(self, query: Query) -> list[Row]:
        """The same without counting."""
        return await self.ask(self._index.rows, query)

    async def rows_of(self, queries: Iterable[Query]) -> list[list[Row]]:
        """The same for several, in one turn."""
        return await self.ask(lambda: [self._index.rows(query) for query in queries])

    async def entry(self, index: int) -> EntryView:
        """Raises NotFound."""
        store, log_index, data = await self._entry(index)
        receipt = await asyncio.to_thread(store.receipt, log_index)
        row = await self.ask(self._index.row, index)
        [record] = await self.records_of([data])
        if row is None:
            row = row_of(index, data, record)
            is_past = store is not self.archive.log.store
            row = replace(row, log=store.key.name, log_index=log_index, is_past=is_past)
        return EntryView(row, read_json(data), _shown(record), receipt.encode().decode())

    async def record_of(self, index: int) -> bytes | None:
        """The record that an entry names; None where it is gone. Raises NotFound."""
        _, _, data = await self._entry(index)
        [record] = await self.records_of([data])
        return record

    async def records(self, first: int, count: int, past: int | None = None) -> list[bytes | None]:
        """The records of some entries, by their index in the log that goes on, or in one that
        ended (from the oldest, 0, on); None for those that are not there. Raises NotFound.
        """
        ended = self.archive.past.logs
        if past is not None and past >= len(ended):
            raise NotFound(f"{len(ended)} logs have ended; there is none with the number {past}")
        store = self.archive.log.store if past is None else ended[past]
        size = store.checkpoint.size
        if first >= size:
            raise NotFound(f"the log has {size} entries, none at {first}")
        entries = await asyncio.to_thread(store.entries, first, min(size, first + count))
        return await self.records_of(entries)

    async def sessions(self, column: str, text: str, limit: int = 100) -> list[SessionRow]:
        """Sessions by `session`, `action` or `invocation`, newest first."""
        return await self.ask(self._index.sessions, column, text, limit)

    async def naming(self, hashed: str, roles: Sequence[str], limit: int = 100) -> list[Row]:
        """The first entries that name exactly this hash in one of these roles."""
        return await self.ask(self._index.naming, hashed, roles, limit)

    async def known(self, hashes: Sequence[str], roles: Sequence[str]) -> set[str]:
        """Those of some hashes that an entry names in one of these roles."""
        return await self.ask(self._index.known, hashes, roles)

    async def hashes(self, prefix: str, limit: int = 20) -> list[str]:
        """Hashes of which something is known and that begin so."""
        return await self.ask(self._index.hashes, prefix, limit)

    async def links_of(self, index: int) -> Row | None:
        """An entry with what it names."""
        return await self.ask(self._index.row, index)

    async def state(self) -> State:
        """How the log stands."""
        store = self.archive.log.store
        encoded = store.signed_checkpoint
        signed = open_checkpoint(encoded, store.key).checkpoint
        return State(
            signed.origin,
            str(store.key),
            self.logs.firsts[-1],
            signed.size,
            signed.root,
            self._indexed,
            encoded.decode(),
            self.witnesses,
            self._past(),
            self.archive.past.problem,
        )

    def _past(self) -> list[PastLog]:
        stores = self.archive.past.logs
        return [
            PastLog(begins.origin, begins.key, begins.first, store.checkpoint.size)
            for begins, store in zip(self.logs.begins, stores, strict=False)
        ]

    async def overview(self, hours: int, hosts: int = 12) -> Overview:
        """The figures of the last so many hours, the one that runs included."""
        end_hour = int(self._clock.wall() // _HOUR_S) + 1

        def sum_up() -> Overview:
            first = end_hour - hours
            return Overview(
                self._index.kinds(),
                self._index.hosts(hosts),
                first,
                end_hour,
                self._index.hours(first, end_hour),
                self._index.cache_hours(first, end_hour),
            )

        return await self.ask(sum_up)

    async def add_cache(self, hits: int, misses: int) -> None:
        """Notes how often the action cache had an answer, just now. Does not raise."""
        hour = int(self._clock.wall() // _HOUR_S)
        try:
            await self.ask(self._index.add_cache, hour, hits, misses)
        except sqlite3.Error as error:
            _log.warning("the figures of the action cache are not kept: %s", error)


def _shown(record: bytes | None) -> dict[str, object] | None:
    if record is None:
        return None
    if statements := statements_in(record):
        envelopes = [read_json(line) for line in record.split(b"\n") if line]
        return {"envelopes": envelopes, "statements": statements}
    return read_json(record)


@asynccontextmanager
async def open_auditor(archive: Archive, clock: Clock) -> AsyncIterator[Auditor]:
    """An auditor whose index is in the archive's directory. Raises OSError, sqlite3.Error."""
    with ThreadPoolExecutor(1, thread_name_prefix="audit-index") as threads:
        loop = asyncio.get_running_loop()
        path, logs = archive.directory / INDEX_NAME, Logs(archive).begins
        index = await loop.run_in_executor(threads, Index, path, logs)
        try:
            yield Auditor(archive, index, threads, clock)
        finally:
            await loop.run_in_executor(threads, index.close)
