"""How often a peer may do what costs us more than it costs the peer."""

from __future__ import annotations

from armitage.transport.http2.codes import ConnectionFault, ErrorCode


class Allowance:
    """A token bucket for one kind of frame.

    `spend` is cheap: the bucket is only filled up, by the time and the work done since, when it
    has run empty.
    """

    __slots__ = ("_burst", "_counter", "_filled_at", "_rate", "_reason", "_tokens", "_work")

    def __init__(self, burst: float, rate: float, counter: str, reason: str) -> None:
        self._burst = burst
        self._rate = rate
        self._counter = counter
        self._reason = reason
        self._tokens = burst
        self._filled_at: float | None = None
        self._work = 0

    def spend(self, now: float, work: int, tokens: int = 1) -> None:
        """Counts one frame. `work` is a running total that earns a token for each unit: frames that
        answer ours do no harm. Raises ConnectionFault when there are too many.
        """
        self._tokens -= tokens
        if self._filled_at is None:
            self._filled_at = now
        if self._tokens >= 0:
            return
        earned = (now - self._filled_at) * self._rate + work - self._work
        self._tokens = min(self._burst, self._tokens + earned)
        self._filled_at = now
        self._work = work
        if self._tokens < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, self._reason, self._counter)
