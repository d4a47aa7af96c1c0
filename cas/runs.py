"""Small blobs that lie near each other, read in one piece: what was written one after the other
mostly lies so, and one large read costs little more than one of a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cas.log import Log, is_encoded, offset_of, segment_of
from cas.records import plain_blob_at, record_bytes

_RUN_BYTES = 1 << 20
_GAP_BYTES = 4096
"""What is read for nothing sooner than to begin another run."""


class Place(NamedTuple):
    """A small blob, and where its record is."""

    key: bytes
    size_bytes: int
    location: int

    @property
    def end(self) -> int:
        """Where the record of a plain blob ends in its segment."""
        return offset_of(self.location) + record_bytes(len(self.key), self.size_bytes)


def read_runs(log: Log, places: Sequence[Place | None]) -> list[bytes | None]:
    """Answers the blobs that are where they are said to be, plain and whole, and None for each of
    the others: whoever reads that one by itself learns why. Blocks.
    """
    found: list[bytes | None] = [None] * len(places)
    plain = [
        (place, number)
        for number, place in enumerate(places)
        if place is not None and not is_encoded(place.location)
    ]
    plain.sort(key=lambda each: each[0].location)
    for run in _runs(plain):
        first = run[0][0].location
        start = offset_of(first)
        try:
            data = log.raw(first, run[-1][0].end - start)
        except OSError:
            continue
        for (key, size_bytes, location), number in run:
            found[number] = plain_blob_at(data, offset_of(location) - start, key, size_bytes)
    return found


_Numbered = tuple[Place, int]


def _runs(ordered: Sequence[_Numbered]) -> Iterator[Sequence[_Numbered]]:
    """Splits what is in the order of the disk where a gap is too wide or a run too long."""
    at, segment, start, end = 0, -1, 0, 0
    for now, (place, _) in enumerate(ordered):
        offset = offset_of(place.location)
        goes_on = segment_of(place.location) == segment and offset - end <= _GAP_BYTES
        if not goes_on or place.end - start > _RUN_BYTES:
            if now > at:
                yield ordered[at:now]
            at, segment, start = now, segment_of(place.location), offset
        end = place.end
    if ordered:
        yield ordered[at:]
