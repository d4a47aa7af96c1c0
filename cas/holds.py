"""Who keeps which blobs (see cas.store.Retention). All in set operations, as calls are many."""

from __future__ import annotations

from collections.abc import Collection


class Holds:
    """The keys (cas.keys) that holders keep, for as long as the holders live."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        """What anybody keeps, stored or not."""
        self._by_holder: dict[str, set[bytes]] = {}
        self._more: dict[bytes, int] = {}
        """For blobs with several holders: how many beside the first."""

    @property
    def holders(self) -> int:
        """How many holders live."""
        return len(self._by_holder)

    def hold(self, holder: str, keys: Collection[bytes]) -> None:
        """Adds blobs to what the holder keeps."""
        kept = self._by_holder.setdefault(holder, set())
        new = set(keys) - kept
        if not new:
            return
        kept |= new
        for key in new & self.held:
            self._more[key] = self._more.get(key, 0) + 1
        self.held |= new

    def release(self, holder: str) -> None:
        """Ends the holder. Unknown holders are ignored."""
        kept = self._by_holder.pop(holder, set())
        shared = kept & self._more.keys()
        self.held -= kept - shared
        for key in shared:
            more = self._more[key] - 1
            if more:
                self._more[key] = more
            else:
                del self._more[key]

    def holders_of(self, key: bytes) -> list[str]:
        """Answers who keeps a blob."""
        if key not in self.held:
            return []
        return [holder for holder, kept in self._by_holder.items() if key in kept]
