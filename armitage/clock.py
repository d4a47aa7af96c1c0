"""Time as a port: whoever needs it is handed a Clock, so that tests own time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time to show and store, monotonic time to measure and expire with."""

    def wall(self) -> float:
        """Seconds since the epoch.

        May step backwards; never subtract two of these to expire anything.
        """

    def monotonic(self) -> float:
        """Seconds since some point; never goes backwards."""


class SystemClock:
    """The host's clocks."""

    def wall(self) -> float:
        """Answers the system time."""
        return time.time()  # noqa: TID251 (the one place that may)

    def monotonic(self) -> float:
        """Answers the monotonic time."""
        return time.monotonic()
