import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemon import memory_config, running_daemon

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client import blobs
from armitage.client.blobs import find_missing, read, read_small, stream, upload
from armitage.client.channel import CallFailed, Channel
from armitage.client.errors import BlobMissing, UntrustworthyAnswer, UsageError
from armitage.client.remote import Remote, connect
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.reapi.gate import status_of
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Method, ServerStream, Unary
from cas.digest import Digest, DigestFunction

SHA256 = DigestFunction.SHA256
DATA = b"honest bytes"
DIGEST = SHA256.digest(DATA)


@asynccontextmanager
async def real_server() -> AsyncIterator[Remote]:
    config = memory_config()
    config = replace(config, worker=replace(config.worker, enabled=False))
    async with running_daemon(config) as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        yield await connect(channel)


@asynccontextmanager
async def server_of(
    methods: Sequence[Method], max_batch_bytes: int = 4000
) -> AsyncIterator[Remote]:
    """A server that does as the test says."""
    server = GrpcioServer(methods, status_of, GrpcOptions(addresses=("127.0.0.1:0",)))
    (target,) = await server.start()
    try:
        async with Channel(target) as channel:
            yield Remote(channel, "", SHA256, max_batch_bytes, exec_enabled=True)
    finally:
        await server.drain(0)


def answering_reads(*chunks: bytes) -> ServerStream:
    async def read_chunks(request: bytes, call: Call) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield bytestream.ReadResponse(data=chunk).SerializeToString()

    return ServerStream(rpcs.READ.path, read_chunks)


def answering_batches(answer: reapi.BatchReadBlobsResponse) -> Unary:
    async def read_batch(request: bytes, call: Call) -> bytes:
        return answer.SerializeToString()

    return Unary(rpcs.BATCH_READ_BLOBS.path, read_batch)


async def test_small_and_large_blobs_arrive_once(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(5_000_000))
    large = blobs.hash_file(tmp_path / "large", SHA256)
    small = {SHA256.digest(bytes([n])): bytes([n]) for n in range(200)}
    heard: list[int] = []
    async with real_server() as remote:
        first = await upload(remote, {**small, large: tmp_path / "large"}, heard.append)
        again = await upload(remote, {**small, large: tmp_path / "large"})

        assert await find_missing(remote, [*small, large]) == []
        assert SHA256.digest(await read(remote, large)) == large
        found = {digest: data async for digest, data in read_small(remote, [*small, large])}
    assert (first.blobs, first.size_bytes) == (201, 5_000_200)
    assert (again.blobs, again.size_bytes) == (0, 0)
    assert sum(heard) == 5_000_200
    assert {digest: found[digest] for digest in small} == small
    assert len(found[large]) == 5_000_000


async def test_the_empty_blob_needs_no_server() -> None:
    async with server_of([]) as remote:
        assert await find_missing(remote, [SHA256.empty]) == []
        assert await read(remote, SHA256.empty) == b""
        assert [chunk async for chunk in stream(remote, SHA256.empty)] == []


@pytest.mark.parametrize("size", [100, 5_000_000])
async def test_what_is_not_there_is_told(size: int) -> None:
    async with real_server() as remote:
        with pytest.raises(BlobMissing):
            await read(remote, SHA256.digest(bytes(size)))


@pytest.mark.parametrize("size", [100, 5_000_000])
@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
async def test_a_file_that_changed_since_it_was_hashed_is_named(
    tmp_path: Path, size: int, change: str
) -> None:
    path = tmp_path / "f"
    data = os.urandom(size)
    path.write_bytes(data)
    digest = blobs.hash_file(path, SHA256)
    path.write_bytes({"longer": data + b"x", "shorter": data[1:], "other": b"x" + data[1:]}[change])
    async with real_server() as remote:
        if size > 4_000_000 and change == "other":
            # Only the server, which hashes what comes, can know; it says so.
            with pytest.raises(CallFailed, match="INVALID_ARGUMENT"):
                await upload(remote, {digest: path})
        else:
            with pytest.raises(UsageError, match="changed while it was uploaded"):
                await upload(remote, {digest: path})

        assert await find_missing(remote, [digest]) == [digest]


@pytest.mark.parametrize(
    "chunks",
    [(), (DATA[:-1],), (DATA, b"x"), (b"other bytes!",), (DATA[:3], DATA[3:].upper())],
    ids=["nothing", "short", "long", "other", "mixed"],
)
async def test_streamed_bytes_of_another_digest_are_refused(chunks: tuple[bytes, ...]) -> None:
    async with server_of([answering_reads(*chunks)], max_batch_bytes=0) as remote:
        with pytest.raises(UntrustworthyAnswer):
            await read(remote, DIGEST)


async def test_a_stream_that_never_ends_is_cut_at_the_blobs_size() -> None:
    sent = 0

    async def endless(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytestream.ReadResponse(data=bytes(1000)).SerializeToString()

    async with server_of([ServerStream(rpcs.READ.path, endless)], max_batch_bytes=0) as remote:
        with pytest.raises(UntrustworthyAnswer, match="more bytes than its size"):
            await read(remote, DIGEST)
    assert sent < 10_000


def batch(
    digest: Digest = DIGEST, data: bytes = DATA, code: int = 0
) -> reapi.BatchReadBlobsResponse:
    answer = reapi.BatchReadBlobsResponse()
    answer.responses.add(digest=wire_digest(digest), data=data).status.code = code
    return answer


async def test_batched_bytes_are_taken_when_they_are_right() -> None:
    async with server_of([answering_batches(batch())]) as remote:
        assert await read(remote, DIGEST) == DATA


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (batch(data=b"other bytes!"), UntrustworthyAnswer),
        (batch(SHA256.digest(b"unasked")), UntrustworthyAnswer),
        (reapi.BatchReadBlobsResponse(), UntrustworthyAnswer),
        (batch(code=5), BlobMissing),
        (batch(code=13), CallFailed),
    ],
    ids=["other bytes", "unasked blob", "left out", "not found", "broken"],
)
async def test_batched_answers_are_checked(
    answer: reapi.BatchReadBlobsResponse, error: type[Exception]
) -> None:
    async with server_of([answering_batches(answer)]) as remote:
        with pytest.raises(error):
            await read(remote, DIGEST)


async def test_a_missing_blob_that_nobody_asked_about_is_refused() -> None:
    async def find(request: bytes, call: Call) -> bytes:
        other = wire_digest(SHA256.digest(b"other"))
        return reapi.FindMissingBlobsResponse(missing_blob_digests=[other]).SerializeToString()

    async with server_of([Unary(rpcs.FIND_MISSING_BLOBS.path, find)]) as remote:
        with pytest.raises(UntrustworthyAnswer, match="unasked"):
            await find_missing(remote, [DIGEST])
