"""Reading back what sessions left in an archive, entry by entry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from armitage.witness.archive import Archive
from armitage.witness.evidence import Entry, Kind, kind_of, parse_entry, parse_record

_KINDS = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry of the log, with its record."""

    index: int
    entry: Entry
    record: dict[str, Any]


async def logged(archive: Archive, first: int = 0) -> AsyncIterator[Logged]:
    """Answers what sessions logged, from an index on, in order. Raises LogError, BlobNotFound and
    MalformedEvidence for what is not as it was kept.
    """
    store = archive.log.store
    for index in range(first, store.checkpoint.size):
        data = store.entry(index)
        if kind_of(data) in _KINDS:
            entry = parse_entry(data)
            yield Logged(index, entry, parse_record(await archive.record(entry)))
