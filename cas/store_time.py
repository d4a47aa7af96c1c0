"""Store time: seconds that run on while the daemon does, by the monotonic clock, and over a restart
by the wall clock when that went forward. So no step of the wall clock back shortens a lease, and
none during a run matters.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable

from cas.volume import Volume

_log = logging.getLogger(__name__)

_NAME = "clock"
_DRAFT = "clock.new"
_LONGEST_NOTE = 200


class StoreTime:
    """Store time, kept over restarts in a small file."""

    def __init__(
        self, volume: Volume, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """Goes on where the volume's last store time ended. Blocks."""
        self._volume = volume
        self._monotonic = monotonic
        self._wall = wall
        self._base = self._resume() - monotonic()
        self.save()

    def now(self) -> float:
        """Never goes backwards, not even over restarts."""
        return self._base + self._monotonic()

    def not_before(self, earliest: float) -> None:
        """Moves the time on to what is known to have been before, where its note was lost."""
        self._base = max(self._base, earliest - self._monotonic())

    def _resume(self) -> float:
        wall_now = self._wall()
        try:
            note = self._volume.open(_NAME).read(_LONGEST_NOTE, 0).decode("ascii")
            store, wall = map(float, note.split()[:2])
        except (OSError, ValueError):  # The first start, or lost in a power failure.
            return wall_now
        if note != _note(store, wall):  # Part of it was.
            return wall_now
        resumed = store + max(0.0, wall_now - wall)
        return resumed if math.isfinite(resumed) else wall_now

    def save(self) -> None:
        """Notes the time down for the next start. Quick; a failure is logged."""
        note = _note(self.now(), self._wall()).encode("ascii")
        try:
            self._volume.remove(_DRAFT)
            file = self._volume.create(_DRAFT)
            try:
                file.write([note], 0)
            finally:
                file.close()
            self._volume.rename(_DRAFT, _NAME)
        except OSError as error:
            _log.warning("cannot save the time for the next start: %s", error)


def _note(store: float, wall: float) -> str:
    times = f"{store!r} {wall!r}"
    return f"{times} {zlib.crc32(times.encode('ascii'))}\n"
