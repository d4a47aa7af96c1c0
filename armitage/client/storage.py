"""What an Armitage server says of its storage (armitage.storage.v1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
from armitage.client.blobs import find_missing
from armitage.client.channel import CallFailed
from armitage.client.errors import UntrustworthyAnswer
from armitage.client.remote import Remote
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest


@dataclass(frozen=True, slots=True)
class BlobStat:
    """Whether a blob is there, and for how long."""

    digest: Digest
    is_present: bool
    is_remote: bool = False
    """It is in the bucket behind the server only."""
    lease_left_s: float | None = None
    """None when the server does not tell."""
    holders: Sequence[tuple[str, float | None]] = ()
    """Who keeps it, and for how long at least (None: until that ends)."""


async def stat(remote: Remote, digests: Sequence[Digest]) -> list[BlobStat]:
    """Answers in the order given. Renews no lease, save at a server that has no Storage service.

    Raises CallFailed, UntrustworthyAnswer.
    """
    found: dict[Digest, BlobStat] = {}
    for function in dict.fromkeys(digest.function for digest in digests):
        # One call each: a call has one digest function.
        spoken = replace(remote, function=function)
        asked = [digest for digest in digests if digest.function is function]
        found.update(zip(asked, await _stat(spoken, asked), strict=True))
    return [found[digest] for digest in digests]


async def _stat(remote: Remote, digests: Sequence[Digest]) -> list[BlobStat]:
    request = pb.StatBlobsRequest(
        instance_name=remote.instance,
        digest_function=remote.wire_function,
        digests=map(wire_digest, digests),
    )
    try:
        answer = await remote.channel.call(rpcs.STAT_BLOBS, request)
    except CallFailed as failure:
        if failure.code != Code.UNIMPLEMENTED:
            raise
        missing = set(await find_missing(remote, digests))
        return [BlobStat(digest, digest not in missing) for digest in digests]
    if [one.digest for one in answer.blobs] != list(request.digests):
        raise UntrustworthyAnswer("the server answered for other blobs than were asked about")
    return [_parse(digest, one) for digest, one in zip(digests, answer.blobs, strict=True)]


def _parse(digest: Digest, stat: pb.BlobStat) -> BlobStat:
    if stat.presence != pb.BlobStat.PRESENT:
        is_remote = stat.presence == pb.BlobStat.REMOTE
        return BlobStat(digest, is_remote, is_remote)
    holders = [(one.name, None if one.left_s < 0 else one.left_s) for one in stat.holders]
    return BlobStat(digest, is_present=True, lease_left_s=stat.lease_left_s, holders=holders)


async def figures(remote: Remote) -> dict[str, dict[str, float]]:
    """Answers the figures of blobs and of results. Raises CallFailed."""
    request = pb.GetStatsRequest(instance_name=remote.instance)
    answer = await remote.channel.call(rpcs.GET_STATS, request)
    return {"blobs": dict(answer.blobs), "results": dict(answer.results)}


async def list_blobs(remote: Remote) -> AsyncIterator[Digest]:
    """Answers what the server has on disk. Raises CallFailed, UntrustworthyAnswer."""
    request = pb.ListBlobsRequest(instance_name=remote.instance)
    async with aclosing(remote.channel.stream(rpcs.LIST_BLOBS, request)) as answers:
        async for answer in answers:
            for text in answer.digests:
                yield _digest(text)


def _digest(text: str) -> Digest:
    function, _, rest = text.partition(":")
    hash_, _, size = rest.partition("/")
    try:
        return Digest(DigestFunction(function), hash_, int(size))
    except (ValueError, InvalidDigest) as error:
        raise UntrustworthyAnswer(f"the server listed {text!r}, which is no digest") from error
