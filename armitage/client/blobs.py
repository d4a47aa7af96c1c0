"""Blobs to and from a server: many small ones together, large ones streamed, and whatever comes
back is verified.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed
from armitage.client.errors import BlobMissing, ClientError, UntrustworthyAnswer, UsageError
from armitage.client.remote import Remote
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction

Source = bytes | Path
"""A blob's bytes, or the file that holds them."""

CHUNK_BYTES = 1 << 20
CONCURRENCY = 8
_DIGESTS_PER_QUERY = 10_000
_BATCH_ENTRY_BYTES = 256
"""Room for a digest, lengths and a status beside the data of one batch entry."""
_BATCH_ENTRIES = 5_000


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload came to."""

    blobs: int
    size_bytes: int


async def find_missing(remote: Remote, digests: Collection[Digest]) -> list[Digest]:
    """Answers those that the server lacks, each once. Raises CallFailed, UntrustworthyAnswer."""
    by_wire = {(d.hash, d.size_bytes): d for d in digests if not d.is_empty}
    wires = [wire_digest(digest) for digest in by_wire.values()]
    missing: dict[Digest, None] = {}
    for start in range(0, len(wires), _DIGESTS_PER_QUERY):
        request = reapi.FindMissingBlobsRequest(
            instance_name=remote.instance,
            blob_digests=wires[start : start + _DIGESTS_PER_QUERY],
            digest_function=remote.wire_function,
        )
        answer = await remote.channel.call(rpcs.FIND_MISSING_BLOBS, request)
        for wire in answer.missing_blob_digests:
            digest = by_wire.get((wire.hash, wire.size_bytes))
            if digest is None:
                raise UntrustworthyAnswer(f"FindMissingBlobs answered {wire.hash}, unasked")
            missing[digest] = None
    return list(missing)


async def upload(
    remote: Remote,
    blobs: Mapping[Digest, Source],
    progress: Callable[[int], None] | None = None,
) -> Uploaded:
    """Brings the blobs that the server lacks there. `progress` hears the bytes of each that has
    arrived.

    Raises CallFailed, ClientError; UsageError when a file changed since it was hashed.
    """
    missing = await find_missing(remote, blobs.keys())
    small = [digest for digest in missing if fits_batch(remote, digest)]
    large = [digest for digest in missing if not fits_batch(remote, digest)]
    limit = asyncio.Semaphore(CONCURRENCY)
    heard = progress or _ignore

    async def send_batch(batch: list[Digest]) -> None:
        async with limit:
            await _upload_batch(remote, {digest: blobs[digest] for digest in batch})
            heard(sum(digest.size_bytes for digest in batch))

    async def send_large(digest: Digest) -> None:
        async with limit:
            await upload_stream(remote, digest, blobs[digest])
            heard(digest.size_bytes)

    await run_all(
        [send_batch(batch) for batch in batches(remote, small)]
        + [send_large(digest) for digest in large]
    )
    return Uploaded(len(missing), sum(digest.size_bytes for digest in missing))


async def upload_stream(remote: Remote, digest: Digest, source: Source) -> None:
    """Writes one blob by ByteStream. Raises CallFailed, UsageError, UntrustworthyAnswer."""
    name = remote.write_name(digest, str(uuid.uuid4()))
    failures: list[Exception] = []

    async def requests() -> AsyncIterator[bytestream.WriteRequest]:
        # grpc.aio drops what a request iterator raises, and cancels the call instead.
        try:
            async for request in _write_requests(name, digest, source):
                yield request
        except (UsageError, OSError) as error:
            failures.append(error)

    try:
        answer = await remote.channel.send(rpcs.WRITE, requests())
    except CallFailed as error:
        raise failures[0] if failures else error from None
    if failures:
        raise failures[0]
    if answer.committed_size not in (digest.size_bytes, -1):
        raise UntrustworthyAnswer(
            f"Write of {digest.hash}/{digest.size_bytes} committed {answer.committed_size} bytes"
        )


async def read(remote: Remote, digest: Digest) -> bytes:
    """Answers a whole blob, verified. Raises BlobMissing, UntrustworthyAnswer, CallFailed."""
    if digest.is_empty:
        return b""
    if fits_batch(remote, digest):
        return (await read_batch(remote, [digest]))[digest]
    return b"".join([chunk async for chunk in stream(remote, digest)])


async def read_small(
    remote: Remote, digests: Iterable[Digest]
) -> AsyncIterator[tuple[Digest, bytes]]:
    """Answers many blobs, in batches, each verified and once; too large ones are streamed.

    Raises as `read` does.
    """
    wanted = dict.fromkeys(digests)
    small = [digest for digest in wanted if fits_batch(remote, digest) and not digest.is_empty]
    for batch in batches(remote, small):
        for digest, data in (await read_batch(remote, batch)).items():
            yield digest, data
    for digest in wanted:
        if digest.is_empty or not fits_batch(remote, digest):
            yield digest, await read(remote, digest)


async def stream(remote: Remote, digest: Digest) -> AsyncIterator[bytes]:
    """Streams a blob in order. Its bytes are proven right only when the iterator ends by itself:
    use nothing of it before.

    Raises BlobMissing, UntrustworthyAnswer, CallFailed.
    """
    if digest.is_empty:
        return
    hasher, count = digest.function.hasher(), 0
    request = bytestream.ReadRequest(resource_name=remote.read_name(digest))
    try:
        async with aclosing(remote.channel.stream(rpcs.READ, request)) as responses:
            async for response in responses:
                count += len(response.data)
                if count > digest.size_bytes:
                    raise UntrustworthyAnswer(f"blob {digest.hash}: more bytes than its size")
                hasher.update(response.data)
                yield response.data
    except CallFailed as failure:
        raise _missing_or(failure, digest) from None
    if count != digest.size_bytes or hasher.hexdigest() != digest.hash:
        raise UntrustworthyAnswer(f"the server sent other bytes than blob {digest.hash} has")


async def read_batch(remote: Remote, batch: Collection[Digest]) -> dict[Digest, bytes]:
    """Answers blobs that fit one BatchReadBlobs together. Raises as `read` does."""
    request = reapi.BatchReadBlobsRequest(
        instance_name=remote.instance,
        digests=[wire_digest(digest) for digest in batch],
        digest_function=remote.wire_function,
    )
    answer = await remote.channel.call(rpcs.BATCH_READ_BLOBS, request)
    by_wire = {(entry.digest.hash, entry.digest.size_bytes): entry for entry in answer.responses}
    found = {}
    for digest in batch:
        entry = by_wire.get((digest.hash, digest.size_bytes))
        if entry is None:
            raise UntrustworthyAnswer(f"BatchReadBlobs left out blob {digest.hash}")
        if entry.status.code == Code.NOT_FOUND:
            raise BlobMissing(digest)
        if entry.status.code != Code.OK:
            raise CallFailed(
                rpcs.BATCH_READ_BLOBS.path,
                Code(entry.status.code),
                entry.status.message,
                entry.status,
            )
        if digest.function.digest(entry.data) != digest:
            raise UntrustworthyAnswer(f"the server sent other bytes than blob {digest.hash} has")
        found[digest] = entry.data
    return found


def hash_file(path: Path, function: DigestFunction) -> Digest:
    """Names a file's bytes; blocks. Raises OSError."""
    hasher, size = function.hasher(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return Digest(function, hasher.hexdigest(), size)


async def _upload_batch(remote: Remote, batch: Mapping[Digest, Source]) -> None:
    request = reapi.BatchUpdateBlobsRequest(
        instance_name=remote.instance, digest_function=remote.wire_function
    )
    for digest, source in batch.items():
        data = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
        if digest.function.digest(data) != digest:
            raise _changed(source)
        request.requests.add(digest=wire_digest(digest), data=data)
    answer = await remote.channel.call(rpcs.BATCH_UPDATE_BLOBS, request)
    for entry in answer.responses:
        if entry.status.code != Code.OK:
            raise CallFailed(
                rpcs.BATCH_UPDATE_BLOBS.path,
                Code(entry.status.code),
                f"blob {entry.digest.hash}: {entry.status.message}",
                entry.status,
            )


async def _write_requests(
    name: str, digest: Digest, source: Source
) -> AsyncIterator[bytestream.WriteRequest]:
    offset = 0
    for chunk in _chunks(source):
        end = offset + len(chunk)
        if end > digest.size_bytes:
            raise _changed(source)
        yield bytestream.WriteRequest(
            resource_name="" if offset else name,
            write_offset=offset,
            data=chunk,
            finish_write=end == digest.size_bytes,
        )
        offset = end
    if offset != digest.size_bytes:
        raise _changed(source)


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _ignore(_size_bytes: int) -> None:
    pass


def _changed(source: Source) -> UsageError:
    name = "the data" if isinstance(source, bytes) else str(source)
    return UsageError(f"{name} changed while it was uploaded; run the command again")


def fits_batch(remote: Remote, digest: Digest) -> bool:
    """Whether a blob is small enough to travel with others."""
    return digest.size_bytes + _BATCH_ENTRY_BYTES <= remote.max_batch_bytes


def batches(remote: Remote, digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    """Splits small blobs into groups that fit one batch call."""
    batch: list[Digest] = []
    room = remote.max_batch_bytes
    for digest in digests:
        need = digest.size_bytes + _BATCH_ENTRY_BYTES
        if batch and (need > room or len(batch) >= _BATCH_ENTRIES):
            yield batch
            batch, room = [], remote.max_batch_bytes
        batch.append(digest)
        room -= need
    if batch:
        yield batch


def _missing_or(failure: CallFailed, digest: Digest) -> ClientError | CallFailed:
    return BlobMissing(digest) if failure.code == Code.NOT_FOUND else failure


async def run_all(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Runs coroutines together; the first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
