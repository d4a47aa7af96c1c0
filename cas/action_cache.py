"""The ActionCache protocol: serialised results by instance and action digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cas.digest import Digest


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds and has been through since it was opened."""

    results: int
    bytes: int
    max_bytes: int
    evicted_results: int
    damaged_results: int


class ActionCache(Protocol):
    """Remembers the result of an action as opaque bytes, apart for each instance.

    Knows nothing of completeness: a result may name blobs that are gone. Whoever answers a client
    checks that.
    """

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """Answers the remembered result, or None. Never answers damaged or partial bytes."""

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """Remembers durably; replaces what was there. Raises StoreFull, StoreUnavailable."""

    async def remove(self, instance: str, action: Digest) -> None:
        """Forgets; does nothing when there is nothing to forget."""


@runtime_checkable
class Recall(Protocol):
    """A cache that answers at once, without an await, where it can."""

    def recall(self, instance: str, key: bytes) -> bytes | None:
        """Answers the remembered result of the action with that key (cas.keys) when it is at hand
        in memory. None says nothing: ask get.
        """
