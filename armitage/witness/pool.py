"""Connections to origins that wait for the next request of the session that made them: most of a
small request's time is its handshake (benchmarks/witness.py).

None is ever another session's, nor for requests that bear other credentials, or that a rule lets
reach other networks. What is on record of an exchange is of the connection that it went over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import h11

from armitage.witness.origins import Reached
from armitage.witness.reach import Network
from armitage.witness.wire import Side

_MOST = 32
_IDLE_S = 15.0
_OLD_S = 60.0
"""Then the name is looked up and the certificate checked again."""


@dataclass(frozen=True, slots=True)
class Way:
    """What two requests have in common that may go over one connection."""

    scheme: str
    host: str
    port: int
    networks: tuple[Network, ...]
    credentials: tuple[str, ...]
    private_tag: str
    """Of the secrets that the client sends itself."""


class Pool:
    """One session's."""

    def __init__(self, *, idle_s: float = _IDLE_S, old_s: float = _OLD_S) -> None:
        """A connection waits for `idle_s` at most, and is not used any more `old_s` after it was
        made.
        """
        self._idle_s = idle_s
        self._old_s = old_s
        self._waiting: dict[Reached, Way] = {}
        self._timers: dict[Reached, asyncio.TimerHandle] = {}
        self._is_closed = False

    def take(self, way: Way) -> Reached | None:
        """Answers one that is up and on which nothing has come unasked, the last one used first.
        Whoever takes it ends it or puts it back.
        """
        for reached in [one for one, of in self._waiting.items() if of == way][::-1]:
            self._forget(reached)
            if reached.side.stream.is_quiet:
                return reached
            reached.side.abort()
        return None

    def put(self, way: Way, reached: Reached) -> None:
        """Lets it wait, or ends it where its last exchange left it in no state for another one."""
        loop = asyncio.get_running_loop()
        left_s = min(self._idle_s, reached.since_s + self._old_s - loop.time())
        room = not self._is_closed and len(self._waiting) < _MOST and left_s > 0
        if not room or not reached.side.is_done:
            reached.side.abort()
            return
        waiting = replace(reached, side=Side(h11.CLIENT, reached.side.stream))
        self._waiting[waiting] = way
        self._timers[waiting] = loop.call_later(left_s, self._end, waiting)

    def close(self) -> None:
        """Ends all that wait; none will any more."""
        self._is_closed = True
        for reached in list(self._waiting):
            self._end(reached)

    def _end(self, reached: Reached) -> None:
        self._forget(reached)
        reached.side.abort()

    def _forget(self, reached: Reached) -> None:
        del self._waiting[reached]
        self._timers.pop(reached).cancel()
