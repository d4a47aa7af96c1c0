"""Cases 54-57: splitting and splicing of blobs, in whichever form the server's version has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import actions, fastcdc, wire
from armitage.conformance.model import Failed, Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import Session, describe, random_bytes
from armitage.reapi import rpcs
from armitage.transport.port import Code

_MIB = 1024 * 1024


def _streamed(s: Session) -> bool:
    """Whether the server's version has the streamed forms (2.13) instead of the unary ones."""
    high = s.capabilities.high_api_version
    return (high.major, high.minor) >= (2, 13)


async def _split(
    s: Session, digest: reapi.Digest, function: int = 0
) -> tuple[list[reapi.Digest], int]:
    if not _streamed(s):
        response = await s.channel.call(
            rpcs.SPLIT_BLOB,
            reapi.SplitBlobRequest(
                instance_name=s.instance,
                blob_digest=digest,
                digest_function=s.function,  # type: ignore[arg-type]
                chunking_function=function,  # type: ignore[arg-type]
            ),
            timeout=s.options.call_timeout_s,
        )
        return list(response.chunk_digests), response.chunking_function
    request = reapi.GetChunkMappingRequest(
        instance_name=s.instance,
        blob_digest=digest,
        digest_function=s.function,  # type: ignore[arg-type]
        chunking_function=function,  # type: ignore[arg-type]
    )
    stream = s.channel.stream(rpcs.GET_CHUNK_MAPPING, request, timeout=s.options.call_timeout_s)
    responses = [response async for response in stream]
    chunks = [digest for response in responses for digest in response.chunk_digests]
    return chunks, responses[0].chunking_function if responses else 0


async def _splice(s: Session, digest: reapi.Digest, chunks: Sequence[reapi.Digest]) -> reapi.Digest:
    if not _streamed(s):
        response = await s.channel.call(
            rpcs.SPLICE_BLOB,
            reapi.SpliceBlobRequest(
                instance_name=s.instance,
                blob_digest=digest,
                chunk_digests=chunks,
                digest_function=s.function,  # type: ignore[arg-type]
            ),
            timeout=s.options.call_timeout_s,
        )
        return response.blob_digest

    async def requests() -> AsyncIterator[reapi.RegisterChunkMappingRequest]:
        yield reapi.RegisterChunkMappingRequest(
            instance_name=s.instance,
            blob_digest=digest,
            chunk_digests=chunks,
            digest_function=s.function,  # type: ignore[arg-type]
        )

    mapped = await s.channel.send(
        rpcs.REGISTER_CHUNK_MAPPING, requests(), timeout=s.options.call_timeout_s
    )
    return mapped.blob_digest


async def _joined(s: Session, chunks: Sequence[reapi.Digest]) -> bytes:
    return b"".join([await s.get(chunk) for chunk in chunks])


@case(
    54,
    "Splitting an absent blob is NOT_FOUND; the chunks of a present one are it",
    source="SplitBlob, GetChunkMapping: the guarantees",
    needs=(Need.SPLIT,),
    time_limit_s=120,
)
async def split_chunks_are_the_blob(s: Session) -> None:
    await s.rejected(_split(s, s.absent()), {Code.NOT_FOUND}, "absent blob")
    data = random_bytes(4 * _MIB)
    (digest,) = await s.put(data)
    chunks, _ = await _split(s, digest)
    s.check(await _joined(s, chunks) == data, "the chunks of an upload are other bytes")
    if not s.capabilities.execution_capabilities.exec_enabled:
        return
    size = (50 if s.options.full else 8) * _MIB
    verdict = await actions.run_script(
        s, f"head -c {size} /dev/urandom > made", output_paths=["made"]
    )
    (made,) = verdict.expect_ok().output_files
    chunks, _ = await _split(s, made.digest)
    whole = await _joined(s, chunks)
    s.check(wire.key(s.digest(whole)) == wire.key(made.digest), "an output's chunks differ")


@case(
    55,
    "FastCDC cut points are those of the pinned algorithm",
    source="FastCdc2020Params",
    level=Level.SHOULD,
    needs=(Need.SPLIT,),
)
async def cut_points_follow_the_algorithm(s: Session) -> None:
    if not s.cache.HasField("fast_cdc_2020_params"):
        raise NotSupported("fast_cdc_2020_params is not set")
    params = s.cache.fast_cdc_2020_params
    if params.seed:
        raise Skipped(f"the seed is {params.seed}; only 0 has known cut points")
    data = random_bytes(params.avg_chunk_size_bytes * 6)
    (digest,) = await s.put(data)
    fast = reapi.ChunkingFunction.FAST_CDC_2020
    chunks, used = await _split(s, digest, fast)
    if not s.check(used == fast, f"it used chunking function {used}", Level.SHOULD):
        return
    wanted = fastcdc.chunk_sizes(data, params.avg_chunk_size_bytes)
    sizes = [chunk.size_bytes for chunk in chunks]
    s.check(sizes == wanted, f"cut to {sizes[:4]}, not {wanted[:4]}", Level.SHOULD)


@case(
    56,
    "Splicing verifies: a missing chunk, a wrong order; a good one reads as a plain blob",
    source="SpliceBlob, RegisterChunkMapping: errors; servers MUST NOT trust digests",
    needs=(Need.SPLICE,),
)
async def splice_verifies(s: Session) -> None:
    parts = [random_bytes(100_000) for _ in range(3)]
    chunks = await s.put(*parts)
    data = b"".join(parts)
    digest = s.digest(data)
    missing = _splice(s, digest, [*chunks[:2], s.absent()])
    await s.rejected(missing, {Code.NOT_FOUND}, "a missing chunk", code_level=Level.SHOULD)
    wrong = _splice(s, digest, chunks[::-1])
    await s.rejected(wrong, {Code.INVALID_ARGUMENT}, "chunks in the wrong order")
    s.check(await s.is_missing(digest), "a refused splice left the blob behind")
    answer = await _splice(s, digest, chunks)
    s.check(wire.key(answer) == wire.key(digest), "the answer names another blob")
    s.check(await s.read(digest) == data, "spliced, it reads as other bytes")


@case(
    57,
    "After a chunk is evicted, splitting cuts again or is NOT_FOUND, but never dangles",
    source="SplitBlob: NOT_FOUND when at least one chunk is missing",
    needs=(Need.SPLIT,),
)
async def split_never_dangles(s: Session) -> None:
    data = random_bytes(4 * _MIB)
    (digest,) = await s.put(data)
    chunks, _ = await _split(s, digest)
    if len(chunks) < 2:
        raise NotSupported("4 MiB are not cut at all")
    await s.control.evict(chunks[0])
    try:
        again, _ = await _split(s, digest)
    except CallFailed as error:
        s.check(error.code == Code.NOT_FOUND, describe(error))
        return
    try:
        whole = await _joined(s, again)
    except (CallFailed, Failed) as error:
        s.fail(f"a chunk cannot be read: {error}")
        return
    s.check(whole == data, "the chunks are other bytes")
