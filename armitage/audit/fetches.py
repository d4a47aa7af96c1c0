"""What the actions of sessions fetched, for their attestations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import Fetch, Lost
from armitage.audit.auditor import Auditor
from armitage.audit.query import Query
from armitage.audit.rows import Row
from armitage.errors import Unavailable
from armitage.log.store import LogStore
from armitage.log.tiles import WIDTH
from armitage.witness.evidence import parse_record

_MOST: Final = 4096
"""More would not fit an attestation."""


class SessionFetches:
    """Reads sessions back from the record."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    async def __call__(self, session: str, /) -> Sequence[Fetch | Lost]:
        """Answers the exchanges of a closed session, in order. Raises NotAttestable when there are
        too many, and what reading the record raises.
        """
        auditor = self._auditor
        await auditor.catch_up()
        log = auditor.archive.log.store.key.name
        query = Query(session=session, log=log, kind="exchange", after=-1, limit=_MOST + 1)
        rows = await auditor.rows(query)
        if len(rows) > _MOST:
            raise NotAttestable(f"session {session} has over {_MOST} exchanges")
        fetched = [row.log_index for row in rows if row.outcome == "fetched"]
        told = dict(zip(fetched, await self._records(fetched), strict=True))
        return [
            _fetch(row.log_index, told[row.log_index]) if row.outcome == "fetched" else _lost(row)
            for row in rows
        ]

    async def _records(self, indexes: Sequence[int]) -> list[dict[str, Any]]:
        entries = await asyncio.to_thread(_entries, self._auditor.archive.log.store, indexes)
        found = []
        records = await self._auditor.records_of(entries)
        for index, record in zip(indexes, records, strict=True):
            if record is None:
                raise Unavailable(f"the record of the exchange at {index} of the log is gone")
            found.append(parse_record(record))
        return found


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
