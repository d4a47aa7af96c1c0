"""The append-only log below the pack store and its action cache: segments, group commit, recovery.

This file grows: what stands here is the interface that others may build on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from cas.records import Encoding, Kind, Record


class Entry(NamedTuple):
    """A record as a segment's table of contents has it."""

    kind: Kind
    key: bytes
    location: int
    stored_bytes: int
    """In the segment, header and padding included."""
    time: int


class Segment(NamedTuple):
    """What a segment weighs."""

    number: int
    size_bytes: int
    live_bytes: int
    """Of records that are still current. The rest comes free when the segment is compacted."""
    is_sealed: bool


class Log(Protocol):
    """Records on disk. A location names one for as long as its segment is kept."""

    def append(self, records: Sequence[Record]) -> asyncio.Future[list[int]]:
        """Appends all, with one sync shared by all who append at the time, and answers their
        locations once they are durable. Raises StoreFull, StoreUnavailable through the future.
        """

    def read(self, location: int) -> Record:
        """Reads a record and checks it. Blocks. Raises Damaged."""

    def release(self, location: int) -> None:
        """Says that a record is not current any more, for Segment.live_bytes."""

    def segments(self) -> list[Segment]:
        """Oldest first; the last one is being written."""

    def entries(self, number: int) -> Iterator[Entry]:
        """Reads a segment's table of contents. Blocks."""

    def drop(self, number: int) -> None:
        """Deletes a sealed segment; whatever is current of it must be durable elsewhere. Blocks."""


class Stored(NamedTuple):
    """A blob as it is kept."""

    encoding: Encoding
    data: memoryview
