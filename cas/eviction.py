"""Which blobs a store has, and which it may give up: the sans-io core of every BlobStore.

Theory of operation. Blobs are kept in the order of their last recorded touch. Giving up starts at
the oldest end and stops at the first blob whose lease runs: leases win over size. When that does
not make enough room, nothing at all is given up and the write fails with StoreFull; the size limit
is never exceeded.

A FindMissingBlobs call touches hundreds of blobs, so touches are recorded once in a window (a
twelfth of the minimum lease): the first touch in a window is recorded, later ones find the blob in
the set `_fresh` and cost one set operation in C for the whole call. A lease therefore runs from
the *end* of the recorded touch's window at the earliest: it is never shorter than the minimum, and
at most a window longer. Whoever persists the recorded touches before it answers loses no lease in
a crash. With no minimum lease there are no windows, and the order is that of exact last use.

Time comes in as seconds that a caller reads from a clock that does not jump forward. Should it
step back, leases get longer, never shorter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from cas.digest import Digest
from cas.errors import StoreFull
from cas.store import Lease

_WINDOWS_PER_LEASE = 12


class Found(NamedTuple):
    """What a look at the index came to.

    `recorded` are the blobs whose touch was newly recorded; a store that outlives its process saves
    these before it answers.
    """

    missing: list[Digest]
    recorded: Collection[Digest]


class _Holds:
    """Who keeps which blobs (see cas.store.Retention). All in set operations, as calls are many."""

    def __init__(self) -> None:
        self.held: set[Digest] = set()
        self._by_holder: dict[str, set[Digest]] = {}
        self._more: dict[Digest, int] = {}
        """For blobs with several holders: how many beside the first."""

    @property
    def holders(self) -> int:
        return len(self._by_holder)

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        kept = self._by_holder.setdefault(holder, set())
        new = set(digests) - kept
        if not new:
            return
        kept |= new
        for digest in new & self.held:
            self._more[digest] = self._more.get(digest, 0) + 1
        self.held |= new

    def release(self, holder: str) -> None:
        kept = self._by_holder.pop(holder, set())
        shared = kept & self._more.keys()
        self.held -= kept - shared
        for digest in shared:
            more = self._more[digest] - 1
            if more:
                self._more[digest] = more
            else:
                del self._more[digest]

    def holders_of(self, digest: Digest) -> list[str]:
        if digest not in self.held:
            return []
        return [holder for holder, kept in self._by_holder.items() if digest in kept]


class Index:
    """The blobs of one store with sizes, leases and holders, within `max_bytes`.

    Not for concurrent use; owned by the store's event loop. The empty blob is never in it.
    """

    def __init__(self, max_bytes: int, min_lease_s: float) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.reserved_bytes = 0
        self._window_s = min_lease_s / _WINDOWS_PER_LEASE
        self._lease_s = min_lease_s + self._window_s
        self._window_ends = float("-inf")
        # An exact dict beside the order: set.difference is only fast on a dict or a set.
        self._touched: dict[Digest, float] = {}
        self._order: OrderedDict[Digest, None] = OrderedDict()
        self._fresh: set[Digest] = set()
        self._holds = _Holds()

    def __len__(self) -> int:
        return len(self._touched)

    def __contains__(self, digest: object) -> bool:
        """Whether the blob is stored; no touch. May be called from any thread."""
        return digest in self._touched

    @property
    def held(self) -> int:
        """How many digests are held, stored or not."""
        return len(self._holds.held)

    @property
    def holders(self) -> int:
        """How many holders live."""
        return self._holds.holders

    def find(self, digests: Iterable[Digest], now: float) -> Found:
        """Touches the blobs that are stored and answers the others, in the order given."""
        asked = digests if isinstance(digests, (list, tuple)) else list(digests)
        if now >= self._window_ends:
            self._fresh.clear()
            self._window_ends = now + self._window_s
        stored = set(asked)
        missing = stored.difference(self._touched)
        if missing:
            stored -= missing
        stale = stored - self._fresh
        if stale:
            self._record(stale, now)
        if not missing:
            return Found([], stale)
        return Found([d for d in asked if d in missing and not d.is_empty], stale)

    def _record(self, digests: set[Digest], now: float) -> None:
        for digest in digests:
            self._touched[digest] = now
            self._order.move_to_end(digest)
        self._fresh |= digests

    def add(self, digest: Digest, now: float) -> None:
        """Enters a blob that is not in the index, touched now.

        The caller made room for it. Blobs found at a start are added oldest touch first.
        """
        assert digest not in self._touched
        self._touched[digest] = now
        self._order[digest] = None
        if now < self._window_ends:
            self._fresh.add(digest)
        self.bytes += digest.size_bytes

    def remove(self, digest: Digest) -> None:
        """Strikes a blob out; does nothing when it is not there."""
        if self._touched.pop(digest, None) is None:
            return
        del self._order[digest]
        self._fresh.discard(digest)
        self.bytes -= digest.size_bytes

    def lease_of(self, digest: Digest, now: float) -> Lease | None:
        """See Leases.lease_of."""
        touched = self._touched.get(digest)
        if touched is None:
            return None
        return Lease(max(0.0, touched + self._lease_s - now), self._holds.holders_of(digest))

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """See Retention.hold."""
        self._holds.hold(holder, digests)

    def release(self, holder: str) -> None:
        """See Retention.release."""
        self._holds.release(holder)

    def reserve(self, size_bytes: int, now: float) -> list[Digest]:
        """Sets room aside for a write and answers the blobs struck out for it.

        Raises StoreFull, and then nothing was struck out.
        """
        over = self.bytes + self.reserved_bytes + size_bytes - self.max_bytes
        victims = self.evict(over, now)
        self.reserved_bytes += size_bytes
        return victims

    def unreserve(self, size_bytes: int) -> None:
        """Gives back what reserve set aside."""
        self.reserved_bytes -= size_bytes

    def evict(self, wanted_bytes: int, now: float) -> list[Digest]:
        """Strikes out least recently used blobs of at least that many bytes together.

        Raises StoreFull, and then nothing was struck out.
        """
        victims: list[Digest] = []
        kept: list[Digest] = []
        left = wanted_bytes
        if left > 0:
            for digest in self._order:
                if now < self._touched[digest] + self._lease_s:
                    break
                if digest in self._holds.held:
                    kept.append(digest)
                    continue
                victims.append(digest)
                left -= digest.size_bytes
                if left <= 0:
                    break
        # A held blob is in use, so it goes to the young end; else each write would step over it.
        for digest in kept:
            self._touched[digest] = now
            self._order.move_to_end(digest)
        if left > 0:
            raise StoreFull(
                f"no room for {wanted_bytes} more bytes: of the {self.max_bytes} bytes allowed"
                f" {self.bytes} are stored and {self.reserved_bytes} being written, and leases or"
                " running builds protect them; raise the size limit or shorten the lease"
            )
        for digest in victims:
            self.remove(digest)
        return victims
