"""Splitting and splicing over a memory store, in the forms of both versions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from support.wire import BLAKE3, SHA256, Services, code_of, wire

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi import chunking, rpcs
from armitage.reapi.chunking import ChunkingOptions
from armitage.reapi.digests import DigestPolicy
from armitage.reapi.instances import Instance
from armitage.reapi.limits import Limits
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Code
from cas.chunking import ChunkSizes, Cutter
from cas.digest import Buffer, Digest
from cas.memory import MemoryOptions, MemoryStore

KIB = 1 << 10
SMALL = ChunkingOptions(average_bytes=4 * KIB)
FAST_CDC = reapi.ChunkingFunction.FAST_CDC_2020


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def small_chunks(data: bytes) -> list[bytes]:
    cutter = Cutter(ChunkSizes.of_average(SMALL.average_bytes))
    return [*cutter.feed(data), *cutter.finish()]


def make(**options: object) -> Services:
    return Services(chunking=SMALL, **options)  # type: ignore[arg-type]


async def split(
    services: Services,
    digest: Digest,
    *,
    function: int = 0,
    metadata: dict[str, bytes] | None = None,
) -> list[reapi.Digest]:
    request = reapi.SplitBlobRequest(blob_digest=wire(digest), digest_function=function)  # type: ignore[arg-type]
    answer = await services.call(rpcs.SPLIT_BLOB, request, {**(metadata or {})})
    assert answer.chunking_function == FAST_CDC
    return list(answer.chunk_digests)


async def stream_split(services: Services, digest: Digest) -> list[reapi.Digest]:
    request = reapi.GetChunkMappingRequest(blob_digest=wire(digest))
    answers = [answer async for answer in services.stream(rpcs.GET_CHUNK_MAPPING, request)]
    said = [answer.chunking_function for answer in answers]
    assert said[:1] in ([FAST_CDC], [])
    assert not any(said[1:])
    return [chunk for answer in answers for chunk in answer.chunk_digests]


async def splice(
    services: Services, digest: Digest, chunks: Sequence[Digest], *, function: int = 0
) -> reapi.Digest:
    request = reapi.SpliceBlobRequest(
        blob_digest=wire(digest),
        chunk_digests=map(wire, chunks),
        digest_function=function,  # type: ignore[arg-type]
    )
    return (await services.call(rpcs.SPLICE_BLOB, request)).blob_digest


async def stream_splice(
    services: Services, digest: Digest, chunks: Sequence[Digest], *, function: int = 0
) -> reapi.Digest:
    first = reapi.RegisterChunkMappingRequest(
        blob_digest=wire(digest),
        digest_function=function,  # type: ignore[arg-type]
    )
    rest = [reapi.RegisterChunkMappingRequest(chunk_digests=[wire(chunk)]) for chunk in chunks]
    return (await services.send(rpcs.REGISTER_CHUNK_MAPPING, [first, *rest])).blob_digest


SPLITS = [split, stream_split]
SPLICES = [splice, stream_splice]
Split = Callable[[Services, Digest], Awaitable[list[reapi.Digest]]]
Splice = Callable[..., Awaitable[reapi.Digest]]


@pytest.mark.parametrize("split_by", SPLITS)
@pytest.mark.parametrize("digest_function", [SHA256, BLAKE3])
async def test_chunks_are_stored_where_the_algorithm_cuts(
    split_by: Split, digest_function: object
) -> None:
    services, data = make(), noise(300 * KIB)
    digest = await services.put(data, digest_function)  # type: ignore[arg-type]

    chunks = await split_by(services, digest)

    wanted = small_chunks(data)
    assert chunks == [wire(digest.function.digest(chunk)) for chunk in wanted]
    stored = [await services.store.get(digest.function.digest(chunk)) for chunk in wanted]
    assert b"".join(stored) == data


async def test_an_answer_of_many_chunks_is_of_many_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunking, "_DIGESTS_A_MESSAGE", 7)
    services, data = make(), noise(300 * KIB)
    digest = await services.put(data)

    chunks = await stream_split(services, digest)

    assert len(chunks) > 7
    assert chunks == [wire(SHA256.digest(chunk)) for chunk in small_chunks(data)]


@pytest.mark.parametrize("split_by", SPLITS)
@pytest.mark.parametrize("size", [1, 16 * KIB - 1])
async def test_a_small_blob_is_its_own_chunk(split_by: Split, size: int) -> None:
    services = make()
    digest = await services.put(noise(size))

    assert await split_by(services, digest) == [wire(digest)]


@pytest.mark.parametrize("split_by", SPLITS)
async def test_the_empty_blob_has_no_chunks(split_by: Split) -> None:
    assert await split_by(make(), SHA256.empty) == []


@pytest.mark.parametrize("split_by", SPLITS)
async def test_an_absent_blob_is_not_found(split_by: Split) -> None:
    absent = SHA256.digest(b"absent")

    assert await code_of(split_by(make(), absent)) == Code.NOT_FOUND


class CountingStore(MemoryStore):
    """Counts what is read, and can lose a blob."""

    reads = 0

    async def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        self.reads += 1
        async for piece in super().read(digest, offset, limit):
            yield piece

    def lose(self, digest: Digest) -> None:
        self._index.remove(digest)
        del self._blobs[digest]


async def test_a_blob_is_cut_once_for_all_who_ask() -> None:
    store = CountingStore()
    services = make(store=store)
    digest = await services.put(noise(300 * KIB))

    answers = await asyncio.gather(*(split(services, digest) for _ in range(5)))

    assert all(answer == answers[0] for answer in answers)
    assert store.reads == 1


async def test_a_blob_is_cut_again_when_a_chunk_is_gone() -> None:
    store = CountingStore()
    services = make(store=store)
    digest = await services.put(data := noise(300 * KIB))
    chunks = await split(services, digest)
    lost = SHA256.digest(small_chunks(data)[3])
    store.lose(lost)

    assert await split(services, digest) == chunks

    assert await store.find_missing([lost]) == []


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "_MAX_REMEMBERED", 100)
    store = CountingStore()
    services = make(store=store)
    digests = [await services.put(noise(300 * KIB, seed)) for seed in range(3)]
    for digest in digests:
        await split(services, digest)
    store.reads = 0

    await split(services, digests[2])
    await split(services, digests[0])

    assert store.reads == 1


async def test_too_many_chunks_for_one_message_are_told_to_be_streamed() -> None:
    services = make(limits=Limits(max_response_bytes=1000))
    digest = await services.put(noise(300 * KIB))

    assert await code_of(split(services, digest)) == Code.RESOURCE_EXHAUSTED
    assert len(await stream_split(services, digest)) > 10


async def test_a_store_without_room_for_the_chunks_says_so() -> None:
    services = make(store=MemoryStore(MemoryOptions(max_bytes=400 * KIB)))
    digest = await services.put(noise(300 * KIB))

    assert await code_of(split(services, digest)) == Code.RESOURCE_EXHAUSTED
    assert await services.store.find_missing([digest]) == []


async def test_an_invocation_holds_the_chunks_that_it_was_told_of() -> None:
    services = make()
    digest = await services.put(noise(300 * KIB))
    metadata = reapi.RequestMetadata(tool_invocation_id="build").SerializeToString()

    chunks = await split(services, digest, metadata={HEADER: metadata})

    assert services.store.stats().held == len({chunk.hash for chunk in chunks}) + 1


@pytest.mark.parametrize("splice_by", SPLICES)
@pytest.mark.parametrize("parts", [[5, 0, 7], [300 * KIB, 1, 600 * KIB], [10] * 100])
async def test_stored_chunks_become_the_blob(splice_by: Splice, parts: list[int]) -> None:
    services = make()
    pieces = [noise(size, seed) for seed, size in enumerate(parts)]
    chunks = [await services.put(piece) for piece in pieces]
    digest = SHA256.digest(b"".join(pieces))

    assert await splice_by(services, digest, chunks) == wire(digest)

    assert await services.store.get(digest) == b"".join(pieces)


async def test_an_unmarked_splice_may_be_of_either_function() -> None:
    services = make()
    chunks = [await services.put(b"one", BLAKE3), await services.put(b"two", BLAKE3)]

    await splice(services, BLAKE3.digest(b"onetwo"), chunks)

    assert await services.store.get(BLAKE3.digest(b"onetwo")) == b"onetwo"


@pytest.mark.parametrize("splice_by", SPLICES)
async def test_a_missing_chunk_is_not_found(splice_by: Splice) -> None:
    services = make()
    chunks = [await services.put(b"one"), SHA256.digest(b"two")]

    work = splice_by(services, SHA256.digest(b"onetwo"), chunks)

    assert await code_of(work) == Code.NOT_FOUND


@pytest.mark.parametrize("splice_by", SPLICES)
async def test_chunks_that_are_not_the_blob_are_refused(splice_by: Splice) -> None:
    services = make()
    chunks = [await services.put(b"two"), await services.put(b"one")]
    digest = SHA256.digest(b"onetwo")

    assert await code_of(splice_by(services, digest, chunks)) == Code.INVALID_ARGUMENT

    assert await services.store.find_missing([digest]) == [digest]
    assert services.store.stats().reserved_bytes == 0


@pytest.mark.parametrize("splice_by", SPLICES)
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_sizes_that_do_not_add_up_are_refused(splice_by: Splice, count: int) -> None:
    services = make()
    chunks = [await services.put(b"half")] * count

    work = splice_by(services, SHA256.digest(b"halfhalf"), chunks)

    assert await code_of(work) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("splice_by", SPLICES)
async def test_a_blob_that_is_stored_needs_no_chunks_stored(splice_by: Splice) -> None:
    services = make()
    digest = await services.put(b"whole")

    assert await splice_by(services, digest, [SHA256.digest(b"whole")]) == wire(digest)


async def test_a_splice_over_the_instances_limit_is_refused() -> None:
    services = make(instances=[Instance("", DigestPolicy(), max_blob_size_bytes=5)])
    chunks = [await services.put(b"one"), await services.put(b"two")]

    work = splice(services, SHA256.digest(b"onetwo"), chunks)

    assert await code_of(work) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("splice_by", SPLICES)
async def test_too_many_chunks_are_refused(
    splice_by: Splice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "_MAX_CHUNKS", 3)
    services = make()
    chunk = await services.put(b"x")

    assert await code_of(splice_by(services, SHA256.digest(b"xxxx"), [chunk] * 4)) == (
        Code.INVALID_ARGUMENT
    )


async def test_a_stream_without_a_message_is_refused() -> None:
    work = make().send(rpcs.REGISTER_CHUNK_MAPPING, [])

    assert await code_of(work) == Code.INVALID_ARGUMENT


async def test_later_messages_cannot_change_what_the_first_said() -> None:
    services = make()
    chunks = [await services.put(b"one"), await services.put(b"two")]
    digest = SHA256.digest(b"onetwo")
    messages = [
        reapi.RegisterChunkMappingRequest(
            blob_digest=wire(digest), chunk_digests=[wire(chunks[0])]
        ),
        reapi.RegisterChunkMappingRequest(
            instance_name="another",
            blob_digest=wire(SHA256.digest(b"else")),
            chunk_digests=[wire(chunks[1])],
        ),
    ]

    answer = await services.send(rpcs.REGISTER_CHUNK_MAPPING, messages)

    assert answer.blob_digest == wire(digest)


async def test_what_was_spliced_is_split_where_the_algorithm_cuts() -> None:
    """A client's own cuts are not answered to others."""
    services, data = make(), noise(300 * KIB)
    halves = [await services.put(data[: 150 * KIB]), await services.put(data[150 * KIB :])]
    await splice(services, SHA256.digest(data), halves)

    chunks = await split(services, SHA256.digest(data))

    assert chunks == [wire(SHA256.digest(chunk)) for chunk in small_chunks(data)]
