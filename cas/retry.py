"""When to try again, and when to leave a remote alone: sans-io; time and randomness come in as
arguments.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How persistently one request is tried."""

    attempts: int = 5
    """In all, the first included."""
    deadline_s: float = 30.0
    """From the first attempt on, waits included; no attempt begins after it. What is transferred
    gets time for its size on top.
    """
    first_wait_s: float = 0.1
    """The most that is waited before the second attempt; doubles with each further one."""
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")


def wait_before(
    attempt: int, elapsed_s: float, options: RetryOptions, chance: float
) -> float | None:
    """Answers how long to wait before the attempt of that number (the first is 0), or None when
    there should not be one.

    `chance`, from 0 to 1, is drawn anew each time: full jitter, so that clients which failed
    together do not come back together.
    """
    if attempt >= options.attempts:
        return None
    wait_s = chance * min(options.max_wait_s, options.first_wait_s * 2.0 ** (attempt - 1))
    return None if elapsed_s + wait_s > options.deadline_s else wait_s


class Breaker:
    """Opens after several failures in a row, so that nobody waits for a remote that is down.

    While open, nothing may be asked, until a rest is over; then one request at a time may try, and
    its success closes the breaker.
    """

    def __init__(self, failures: int, rest_s: float) -> None:
        self._failures = failures
        self._rest_s = rest_s
        self._in_a_row = 0
        self._open_until = 0.0

    def is_open(self, now: float) -> bool:
        """Whether to leave the remote alone. When a rest is over, answers False once, and the
        asker must report how it went.
        """
        if self._in_a_row < self._failures:
            return False
        if now < self._open_until:
            return True
        self._open_until = now + self._rest_s
        return False

    def succeeded(self) -> None:
        """A request was answered, be it by a refusal."""
        self._in_a_row = 0

    def failed(self, now: float) -> None:
        """A request was given up."""
        self._in_a_row += 1
        self._open_until = now + self._rest_s
