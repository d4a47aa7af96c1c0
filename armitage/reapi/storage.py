"""The Storage service (armitage.storage.v1): how the storage fares, for whoever operates it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
from armitage.errors import Exhausted, InvalidRequest, PreconditionFailed
from armitage.reapi import rpcs
from armitage.reapi.digests import Candidates
from armitage.reapi.instances import Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.operators import LOOPBACK, Operators
from armitage.transport.port import Call, Method, ServerStream, Unary
from cas.digest import Digest
from cas.scrub import Repair, Scrubbed
from cas.store import BlobStore, Lease, Leases
from cas.upkeep import Collected

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_DIGESTS = 10_000
_DIGESTS_A_MESSAGE = 4096
_UNTIL_IT_ENDS = -1.0


class LeasedStore(BlobStore, Leases, Protocol):
    """What the service needs of a store."""


class Disk(Protocol):
    """What is kept on disk, and can be looked after (cas.upkeep.Upkeep)."""

    async def collect(
        self, most_bytes: int | None = None, garbage_share: float | None = None
    ) -> Collected:
        """Gives up blobs and compacts."""

    def scrub(self, repair: Repair | None) -> AsyncIterator[Scrubbed]:
        """Reads and verifies everything."""

    def digests(self) -> Sequence[Digest]:
        """Answers what is stored."""


class StorageService:
    """Answers for the store that all instances share. `figures` answer dataclasses of numbers: of
    the store and of the action cache. Without `disk` there is nothing to look after.
    """

    def __init__(
        self,
        store: LeasedStore,
        instances: Instances,
        invocations: Invocations,
        figures: tuple[Callable[[], Any], Callable[[], Any]],
        *,
        disk: Disk | None = None,
        repair: Repair | None = None,
        operators: Collection[str] = (LOOPBACK,),
    ) -> None:
        self._store = store
        self._instances = instances
        self._invocations = invocations
        self._figures = figures
        self._disk = disk
        self._repair = repair
        # A digest is all that it takes to read a blob, and a scrub is work: neither is for all.
        self._operators = Operators(operators)
        self._is_scrubbing = False

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(rpcs.STAT_BLOBS.path, self.stat_blobs),
            ServerStream(rpcs.LIST_BLOBS.path, self.list_blobs),
            Unary(rpcs.GET_STATS.path, self.get_stats),
            Unary(rpcs.COLLECT.path, self.collect),
            ServerStream(rpcs.SCRUB.path, self.scrub),
        ]

    async def stat_blobs(self, request: bytes, call: Call) -> bytes:
        """Answers presence and remaining lease of each blob, and renews none."""
        message = pb.StatBlobsRequest.FromString(request)
        if len(message.digests) > _MOST_DIGESTS:
            raise InvalidRequest(
                f"{len(message.digests)} digests are too many for one call; ask for {_MOST_DIGESTS}"
            )
        notation = self._instances.get(message.instance_name).digests.notation(
            message.digest_function
        )
        asked = notation.parse_all(message.digests)
        leases = [self._lease_of(candidates) for candidates in asked]
        remote = await self._elsewhere(
            [candidates for candidates, lease in zip(asked, leases, strict=True) if lease is None]
        )
        response = pb.StatBlobsResponse()
        for digest, candidates, lease in zip(message.digests, asked, leases, strict=True):
            stat = response.blobs.add(digest=digest)
            if lease is not None:
                self._describe(stat, lease, self._operators.include(call))
            elif candidates in remote:
                stat.presence = pb.BlobStat.REMOTE
        return response.SerializeToString()

    def _lease_of(self, candidates: Candidates) -> Lease | None:
        for digest in candidates:
            if digest.is_empty:
                return Lease(float("inf"), ())
            lease = self._store.lease_of(digest)
            if lease is not None:
                return lease
        return None

    async def _elsewhere(self, absent: Sequence[Candidates]) -> set[Candidates]:
        """Answers those that are stored, though not here: so there is no lease to be renewed."""
        digests = [digest for candidates in absent for digest in candidates]
        missing = set(await self._store.find_missing(digests)) if digests else set()
        return {candidates for candidates in absent if not missing.issuperset(candidates)}

    def _describe(self, stat: pb.BlobStat, lease: Lease, with_names: bool) -> None:
        stat.presence = pb.BlobStat.PRESENT
        stat.lease_left_s = lease.left_s
        for name in lease.holders:
            left_s = self._invocations.left_s(name)
            shown = name if with_names else name.partition(":")[0]
            stat.holders.add(name=shown, left_s=_UNTIL_IT_ENDS if left_s is None else left_s)

    async def list_blobs(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams the digests of what is stored here."""
        self._instances.get(pb.ListBlobsRequest.FromString(request).instance_name)
        self._operators.check(call)
        digests = self._on_disk().digests()
        for start in range(0, len(digests), _DIGESTS_A_MESSAGE):
            part = digests[start : start + _DIGESTS_A_MESSAGE]
            yield pb.ListBlobsResponse(digests=map(str, part)).SerializeToString()

    async def get_stats(self, request: bytes, _call: Call) -> bytes:
        """Answers the figures of this moment."""
        self._instances.get(pb.GetStatsRequest.FromString(request).instance_name)
        store, cache = self._figures
        return pb.GetStatsResponse(
            blobs=asdict(store()), results=asdict(cache())
        ).SerializeToString()

    async def collect(self, request: bytes, call: Call) -> bytes:
        """Makes one round of upkeep."""
        message = pb.CollectRequest.FromString(request)
        self._instances.get(message.instance_name)
        share = message.garbage_share if message.HasField("garbage_share") else None
        if message.most_bytes < 0 or (share is not None and not 0 < share <= 1):
            raise InvalidRequest("most_bytes is not negative, garbage_share is above 0, at most 1")
        self._operators.check(call)
        most_bytes = message.most_bytes if message.HasField("most_bytes") else None
        collected = await self._on_disk().collect(most_bytes, share)
        return pb.CollectResponse(**asdict(collected)).SerializeToString()

    async def scrub(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams how far a scrub is, and at the end what it has found."""
        message = pb.ScrubRequest.FromString(request)
        self._instances.get(message.instance_name)
        self._operators.check(call)
        disk = self._on_disk()
        with self._alone():
            now = Scrubbed()
            async for now in disk.scrub(self._repair if message.repair else None):
                yield _progress(now).SerializeToString()
            last = _progress(now)
            last.is_done = True
            last.damaged.extend(map(str, now.damaged))
            last.repaired.extend(map(str, now.repaired))
            yield last.SerializeToString()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_scrubbing:
            raise Exhausted("a scrub runs already; wait for its end")
        self._is_scrubbing = True
        try:
            yield
        finally:
            self._is_scrubbing = False

    def _on_disk(self) -> Disk:
        if self._disk is None:
            raise PreconditionFailed("nothing is kept on disk here (storage = memory)")
        return self._disk


def _progress(now: Scrubbed) -> pb.ScrubProgress:
    return pb.ScrubProgress(
        done_bytes=now.done_bytes,
        total_bytes=now.total_bytes,
        blobs=now.blobs,
        results=now.results,
        damaged_results=now.damaged_results,
    )
