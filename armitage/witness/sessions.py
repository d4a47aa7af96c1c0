"""Sessions: what one action fetched, kept as it happens, and whether what is kept is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from armitage.clock import Clock
from armitage.errors import Unavailable
from armitage.log.errors import LogError
from armitage.witness.counts import WitnessCounts
from armitage.witness.evidence import (
    Entry,
    Exchange,
    Kind,
    Subject,
    close_record,
    entry_of,
    exchange_record,
    open_record,
)
from cas.digest import DigestFunction
from cas.errors import CasError
from cas.store import BlobStore
from executor.concurrency import outlast

Append = Callable[[bytes], Awaitable[int]]
"""Adds an entry to the log durably and answers its index (armitage.log.service.Log.append)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a record is: its name in the CAS, and its entry in the log."""

    record: str
    index: int


class Sessions:
    """Opens sessions whose records go into one store and one log."""

    def __init__(
        self,
        store: BlobStore,
        append: Append,
        clock: Clock,
        new_id: Callable[[], str],
        counts: WitnessCounts | None = None,
    ) -> None:
        self.counts = counts or WitnessCounts()
        self._store = store
        self._append = append
        self._clock = clock
        self._new_id = new_id

    async def open(self, subject: Subject, declared: str, mode: str = "witnessed") -> Session:
        """Begins a session. Raises Unavailable when that cannot be kept: nothing may be fetched
        then.
        """
        session = Session(self._new_id(), self)
        record = open_record(session.id, self._clock.wall(), subject, declared, mode)
        session.last = await self.keep(session.id, 0, Kind.OPEN, record)
        self.counts.opened()
        return session

    async def keep(self, session: str, number: int, kind: Kind, record: bytes) -> Kept:
        """Stores a record, then logs it: what the log names is there. Raises Unavailable."""
        entry = entry_of(session, number, kind, record)
        try:
            await self._store.put([DigestFunction.SHA256.digest(record)], record)
            return Kept(entry.record, await self._append(entry.encode()))
        except (CasError, LogError, OSError) as error:
            self.counts.lost()
            raise Unavailable(
                f"the evidence of session {session} cannot be kept: {error}"
            ) from error

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._clock.wall()


class Session:
    """One action's exchanges. Not more than one close; no exchange after it."""

    def __init__(self, session_id: str, sessions: Sessions) -> None:
        self.id = session_id
        self.last: Kept | None = None
        self._sessions = sessions
        self._numbers = 0
        self._dropped = 0
        self._is_closed = False

    async def record(self, exchange: Exchange) -> Kept:
        """Keeps what came of one exchange. Raises Unavailable when it cannot be kept: whoever
        fetched must not be given what was fetched. Cancelled, it is kept all the same, first.
        """
        if self._is_closed:
            raise Unavailable(f"session {self.id} is closed")
        self._numbers += 1
        number = self._numbers
        record = exchange_record(self.id, number, exchange)
        keeping = self._sessions.keep(self.id, number, Kind.EXCHANGE, record)
        work = asyncio.get_running_loop().create_task(keeping)
        try:
            # A number that was given away and is not in the log is a gap.
            cancelled = await outlast(work)
            kept = work.result()
        except BaseException:
            self._dropped += 1
            raise
        if number == self._numbers:
            self.last = kept
        if cancelled is not None:
            raise cancelled
        return kept

    @property
    def dropped(self) -> int:
        """How many exchanges could not be kept so far."""
        return self._dropped

    async def close(self) -> Kept:
        """Ends the session; no exchange may be under way. Raises Unavailable: then it stays open,
        and nothing counts as proven.
        """
        assert self.last is not None
        if not self._is_closed:
            self._is_closed = True
            self._sessions.counts.closed()
        number = self._numbers + 1
        record = close_record(
            self.id, number, self._sessions.now_s(), self.last.record, self._dropped
        )
        return await self._sessions.keep(self.id, number, Kind.CLOSE, record)


@dataclass(slots=True)
class _Seen:
    """Which records of a session there are: all below `next`, and some after a gap."""

    next: int = 0
    ahead: set[int] | None = None
    closed_by: int | None = None

    def add(self, number: int) -> bool:
        """Whether it is new."""
        ahead = self.ahead
        if number < self.next or (ahead is not None and number in ahead):
            return False
        if number > self.next:
            if ahead is None:
                ahead = self.ahead = set()
            ahead.add(number)
            return True
        self.next += 1
        while ahead is not None and self.next in ahead:
            ahead.remove(self.next)
            self.next += 1
        self.ahead = ahead or None
        return True


class SessionAudit:
    """Reads a log's entries in order, and tells which sessions are not complete. Remembers a few
    numbers of each session, however many exchanges it has.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, _Seen] = {}
        self._faults: list[str] = []

    def add(self, index: int, entry: Entry) -> None:
        """Takes the entry at an index of the log."""
        seen = self._sessions.get(entry.session)
        if seen is None:
            seen = self._sessions[entry.session] = _Seen()
        if not seen.add(entry.number):
            self._faults.append(
                f"entry {index}: {entry.session} has a second record {entry.number}"
            )
        if (entry.kind is Kind.OPEN) is not (entry.number == 0):
            self._faults.append(f"entry {index}: {entry.session} is not opened by record 0")
        if seen.closed_by is not None:
            self._faults.append(f"entry {index}: {entry.session} goes on after its close")
        if entry.kind is Kind.CLOSE:
            seen.closed_by = entry.number

    def faults(self) -> Iterator[str]:
        """What is wrong, once all entries are in."""
        yield from self._faults
        for session, seen in self._sessions.items():
            if seen.closed_by is None:
                yield f"{session} was not closed: it runs still, or was cut off"
                continue
            if seen.next <= seen.closed_by:
                yield f"{session} lacks record {seen.next} of {seen.closed_by}"
            if max(seen.next - 1, *(seen.ahead or (0,))) > seen.closed_by:
                yield f"{session} has a record beyond its close"
