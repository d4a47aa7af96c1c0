"""What the actions of sessions fetched, for their attestations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import Exchanges, Fetch, Lost
from armitage.attest.together import one_by_one
from armitage.audit.auditor import Auditor
from armitage.audit.query import Query
from armitage.audit.rows import Row
from armitage.errors import Unavailable
from armitage.log.store import LogStore
from armitage.log.tiles import WIDTH
from armitage.witness.evidence import parse_record

_MOST: Final = 4096
"""More would not fit an attestation."""
_AT_ONCE: Final = 1024
"""Records that are read together."""


class SessionFetches:
    """Reads sessions back from the record."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    async def __call__(self, sessions: Sequence[str], /) -> Sequence[Exchanges]:
        """Answers the exchanges of closed sessions, each in order; an exception for one that has
        too many, or lacks a record. Raises what reading the index and the log raises.
        """
        auditor = self._auditor
        await auditor.catch_up()
        log = auditor.archive.log.store.key.name
        found = await auditor.rows_of(
            Query(session=session, log=log, kind="exchange", after=-1, limit=_MOST + 1)
            for session in sessions
        )
        few = [rows for rows in found if len(rows) <= _MOST]
        indexes = sorted(row.log_index for rows in few for row in rows if row.outcome == "fetched")
        fetched: dict[int, Fetch] = {}
        for first in range(0, len(indexes), _AT_ONCE):
            fetched.update(await self._fetched(indexes[first : first + _AT_ONCE]))
        return one_by_one(partial(_exchanges, fetched))(found)

    async def _fetched(self, indexes: Sequence[int]) -> dict[int, Fetch]:
        """By the index of their entry; without those whose record is gone."""
        entries = await asyncio.to_thread(_entries, self._auditor.archive.log.store, indexes)
        records = zip(indexes, await self._auditor.records_of(entries), strict=True)
        return {
            index: _fetch(index, parse_record(record))
            for index, record in records
            if record is not None
        }


def _exchanges(fetched: Mapping[int, Fetch], rows: Sequence[Row]) -> Sequence[Fetch | Lost]:
    if len(rows) > _MOST:
        raise NotAttestable(f"session {rows[0].session} has over {_MOST} exchanges")
    return [_told(fetched, row) if row.outcome == "fetched" else _lost(row) for row in rows]


def _told(fetched: Mapping[int, Fetch], row: Row) -> Fetch:
    try:
        return fetched[row.log_index]
    except KeyError:
        raise Unavailable(
            f"the record of the exchange at {row.log_index} of the log is gone"
        ) from None


def _entries(log: LogStore, indexes: Sequence[int]) -> list[bytes]:
    """Answers entries by ascending indexes, reading each bundle of the log once."""
    found = []
    for _, near in groupby(indexes, lambda index: index // WIDTH):
        wanted = list(near)
        entries = log.entries(wanted[0], wanted[-1] + 1)
        found += [entries[index - wanted[0]] for index in wanted]
    return found


def _lost(row: Row) -> Lost:
    refused = row.outcome == "refused"
    return Lost(row.url, row.method, row.host, refused, row.note, row.log_index)


def _fetch(index: int, record: dict[str, Any]) -> Fetch:
    body, peer = record["response"]["body"] or {}, record["peer"]
    hashed = str(body.get("sha256", "")).removeprefix("sha256:") if body.get("complete") else ""
    return Fetch(
        url=record["url"],
        method=record["method"],
        status=record["response"]["status"],
        host=peer["host"],
        port=peer["port"],
        sha256=hashed,
        size_bytes=body.get("size_bytes", 0),
        log_index=index,
        address=peer["address"],
        content_encoding=body.get("content_encoding", ""),
    )
