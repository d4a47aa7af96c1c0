"""What a live build refers to is kept: RequestMetadata's invocation id as a Retention holder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from armitage.reapi.request_metadata import request_metadata
from armitage.transport.port import Call
from cas.digest import Digest
from cas.store import Retention


class Invocations:
    """Holds what each invocation uploads, is told of or is answered, until it falls silent.

    A call without an invocation id holds nothing and relies on the ordinary lease. The number of
    invocations is bounded:
    one more ends the one that has been silent longest. Synchronous, in memory, for the event loop
    only.
    """

    def __init__(
        self,
        retention: Retention,
        monotonic: Callable[[], float],
        *,
        idle_s: float = 1800.0,
        max_invocations: int = 4096,
    ) -> None:
        self._retention = retention
        self._monotonic = monotonic
        self._idle_s = idle_s
        self._max = max_invocations
        self._last_seen: OrderedDict[str, float] = OrderedDict()  # Longest silent first.

    def holder(self, call: Call) -> str | None:
        """Answers `invocation:ID`, now counted as heard from, or None for a call without an id."""
        invocation = request_metadata(call).tool_invocation_id
        if not invocation:
            return None
        holder = f"invocation:{invocation}"
        self._last_seen[holder] = self._monotonic()
        self._last_seen.move_to_end(holder)
        self.expire()
        return holder

    def hold(self, call: Call, digests: Collection[Digest]) -> None:
        """Keeps blobs for as long as the call's invocation is heard from."""
        holder = self.holder(call)
        if holder is not None and digests:
            self._retention.hold(holder, digests)

    def left_s(self, holder: str) -> float | None:
        """How long a holder keeps what it keeps, were it silent from now on; None for who is no
        live invocation.
        """
        seen = self._last_seen.get(holder)
        return None if seen is None else max(0.0, seen + self._idle_s - self._monotonic())

    def expire(self) -> None:
        """Releases the invocations that have been silent for `idle_s`; each call does this, and a
        periodic one frees what the last invocation held.
        """
        silent_since = self._monotonic() - self._idle_s
        while self._last_seen:
            holder, seen = next(iter(self._last_seen.items()))
            if seen > silent_since and len(self._last_seen) <= self._max:
                return
            del self._last_seen[holder]
            self._retention.release(holder)

    def __len__(self) -> int:
        """The number of live invocations."""
        return len(self._last_seen)
