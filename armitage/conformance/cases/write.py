"""Cases 21-43: ByteStream.Write and QueryWriteStatus."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed
from armitage.conformance import wire
from armitage.conformance.control import Variant
from armitage.conformance.model import Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import (
    OpenWrite,
    Session,
    compressible,
    describe,
    new_upload,
    random_bytes,
    write_requests,
)
from armitage.reapi import rpcs
from armitage.transport.port import Code

_MIB = 1024 * 1024
_BAD = frozenset({Code.INVALID_ARGUMENT})
_BAD_OFFSET = frozenset({Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE})
_STREAM = (Need.BYTESTREAM,)
_ZSTD = (Need.BYTESTREAM, Need.ZSTD)


async def _check_stored(s: Session, digest: reapi.Digest, data: bytes, what: str) -> None:
    s.check(await s.read(digest) == data, f"{what}: read back, it is other bytes")


async def _check_not_stored(s: Session, digest: reapi.Digest, what: str) -> None:
    s.check(await s.is_missing(digest), f"{what}: the blob is there all the same")


@case(
    21,
    "A whole blob in one message is committed with its full size",
    source="WriteResponse.committed_size",
    needs=_STREAM,
)
async def one_message_commits(s: Session) -> None:
    data = random_bytes(1000)
    digest = s.digest(data)
    committed = await s.write(digest, data)
    s.check(committed == len(data), f"committed_size is {committed}, not {len(data)}")
    await _check_stored(s, digest, data, "one message")


@case(
    22,
    "One-byte messages with the name on the first only are put together",
    source="WriteRequest.resource_name: must be set on the first request",
    needs=_STREAM,
)
async def tiny_messages_commit(s: Session) -> None:
    data = random_bytes(300)
    digest = s.digest(data)
    committed = await s.write(digest, [data[n : n + 1] for n in range(len(data))])
    s.check(committed == len(data), f"committed_size is {committed}, not {len(data)}")
    await _check_stored(s, digest, data, "one-byte messages")
    data = random_bytes(300)
    digest = s.digest(data)
    requests = write_requests(s.write_name(digest), [data[:100], b"", data[100:]])
    for request in requests:
        request.resource_name = requests[0].resource_name
    committed = await s.send_writes(requests)
    s.check(committed == len(data), f"named thrice, committed_size is {committed}")


@case(
    23,
    "A resource name that changes in mid-stream is refused",
    source="WriteRequest.resource_name: must match the value of the first request",
    needs=_STREAM,
)
async def changed_name_is_refused(s: Session) -> None:
    data = random_bytes(200)
    digest = s.digest(data)
    requests = write_requests(s.write_name(digest), [data[:100], data[100:]])
    requests[1].resource_name = s.write_name(s.absent(200))
    call = s.send_writes(requests)
    await s.rejected(call, _BAD, "a second name", code_level=Level.SHOULD)
    await _check_not_stored(s, digest, "a second name")


@case(
    24,
    "A gap or an overlap in the offsets is refused, and nothing is stored",
    source="WriteRequest.write_offset: an incorrect value will cause an error",
    needs=_STREAM,
)
async def wrong_offsets_are_refused(s: Session) -> None:
    for what, second in {"gap": 150, "overlap": 50, "negative offset": -1}.items():
        data = random_bytes(200)
        digest = s.digest(data)
        requests = write_requests(s.write_name(digest), [data[:100], data[100:]])
        requests[1].write_offset = second
        await s.rejected(s.send_writes(requests), _BAD_OFFSET, what, code_level=Level.SHOULD)
        await _check_not_stored(s, digest, what)
    data = random_bytes(200)
    requests = write_requests(s.write_name(s.digest(data)), data, offset=7)
    what = "first offset 7 of an upload never begun"
    await s.rejected(s.send_writes(requests), _BAD_OFFSET, what, code_level=Level.SHOULD)


@case(
    25,
    "A message after finish_write is refused",
    source="ByteStream.Write: a request after finish_write will cause an error",
    level=Level.SHOULD,
    needs=_STREAM,
)
async def message_after_finish_is_refused(s: Session) -> None:
    data = random_bytes(200)
    requests = write_requests(s.write_name(s.digest(data)), data)
    requests.append(bytestream.WriteRequest(write_offset=len(data), data=b"more"))
    # A server may answer as soon as it sees finish_write, and then never learns of the rest.
    await s.rejected(s.send_writes(requests), _BAD, "data after finish_write", level=Level.SHOULD)


@case(
    26,
    "A wrong hash, too few bytes or too many are INVALID_ARGUMENT, and nothing is stored",
    source="ContentAddressableStorage: INVALID_ARGUMENT when the Digest does not match",
    needs=_STREAM,
)
async def mismatches_are_refused(s: Session) -> None:
    data = random_bytes(500)
    wrong = {
        "wrong hash": (s.absent(500), data),
        "too few bytes": (s.digest(data), data[:-1]),
        "too many bytes": (s.digest(data), data + b"x"),
    }
    for what, (digest, sent) in wrong.items():
        await s.rejected(s.write(digest, sent), _BAD, what)
        await _check_not_stored(s, digest, what)


@case(
    27,
    "Writing an existing blob ends early with its full size",
    source="ContentAddressableStorage: the request will terminate immediately without error",
    needs=_STREAM,
)
async def existing_blob_ends_early(s: Session) -> None:
    data = random_bytes(3000)
    (digest,) = await s.put(data)
    committed = await s.write(digest, data)
    s.check(committed == len(data), f"sent whole, committed_size is {committed}, not {len(data)}")
    committed, early = await _offer(s, s.write_name(digest), data)
    s.check(early, "the server waits for data that it already has", Level.SHOULD)
    s.check(committed == len(data), f"sent in part, committed_size is {committed}")


@case(
    28,
    "Writing an existing blob compressed ends early with -1",
    source="ContentAddressableStorage: committed_size is -1 if this is a compressed upload",
    needs=_ZSTD,
)
async def existing_compressed_ends_with_minus_one(s: Session) -> None:
    data = compressible(30_000)
    (digest,) = await s.put(data)
    packed = wire.compress(data, "zstd")
    committed, early = await _offer(s, s.write_name(digest, compressor="zstd"), packed)
    if early:
        s.check(committed == -1, f"ended early with committed_size {committed}, not -1")
        return
    s.fail("the server waits for data that it already has", Level.SHOULD)
    fine = committed in {-1, len(packed)}
    s.check(fine, f"committed_size is {committed}, neither -1 nor {len(packed)}", Level.SHOULD)


async def _offer(s: Session, name: str, data: bytes) -> tuple[int, bool]:
    """Sends the first tenth, waits for an early end, and only then sends the rest."""
    first = len(data) // 10
    async with s.open_write() as stream:
        stream.send(name, 0, data[:first])
        try:
            return await stream.answer(s.options.patience_s), True
        except TimeoutError:
            stream.send("", first, data[first:], finish=True)
            stream.half_close()
        return await stream.answer(s.options.call_timeout_s), False


@case(
    29,
    "Two uploads of one blob at the same time both succeed",
    source="ContentAddressableStorage: uploads of the same data MAY occur concurrently",
    needs=_STREAM,
)
async def concurrent_uploads_succeed(s: Session) -> None:
    data = random_bytes(600_000)
    digest = s.digest(data)
    async with s.open_write() as one, s.open_write() as two:
        for stream in (one, two):
            stream.send(s.write_name(digest), 0, data[:300_000])
        await asyncio.sleep(0)
        for which, stream in (("first", one), ("second", two)):
            stream.send("", 300_000, data[300_000:], finish=True)
            stream.half_close()
            committed = await stream.answer(s.options.call_timeout_s)
            s.check(committed == len(data), f"the {which}: committed_size is {committed}")
    await _check_stored(s, digest, data, "two uploads at once")


@case(
    30,
    "An upload that was dropped half-way restarts at 0 under the same id",
    source="Buck2 and others retry a failed Write with the same uuid from offset 0",
    level=Level.INTEROP,
    needs=_STREAM,
)
async def dropped_upload_restarts(s: Session) -> None:
    data = random_bytes(400_000)
    digest = s.digest(data)
    upload = new_upload()
    async with s.open_write() as stream:
        stream.send(s.write_name(digest, upload=upload), 0, data[:200_000])
        await _settle(s, s.write_name(digest, upload=upload))
    try:
        committed = await s.write(digest, data, upload=upload)
    except CallFailed as error:
        s.fail(f"the restart: {describe(error)}", Level.INTEROP)
        return
    s.check(committed == len(data), f"committed_size is {committed}", Level.INTEROP)
    await _check_stored(s, digest, data, "restarted upload")


async def _settle(s: Session, name: str) -> None:
    """Waits until the server has seen something of an upload, or had the time to."""
    for _ in range(10):
        await asyncio.sleep(s.options.patience_s / 30)
        if await s.kept(name):
            return


@case(
    31,
    "An upload restarts at 0 under the same id while the first stream hangs",
    source="a client whose connection died retries before the server noticed",
    level=Level.INTEROP,
    needs=_STREAM,
)
async def hanging_upload_is_overtaken(s: Session) -> None:
    data = random_bytes(400_000)
    digest = s.digest(data)
    upload = new_upload()
    name = s.write_name(digest, upload=upload)
    async with s.open_write() as hanging:
        hanging.send(name, 0, data[:200_000])
        await _settle(s, name)
        try:
            async with asyncio.timeout(s.options.patience_s * 5):
                committed = await s.write(digest, data, upload=upload)
        except CallFailed as error:
            s.fail(f"the second stream: {describe(error)}", Level.INTEROP)
            return
        except TimeoutError:
            s.fail("the second stream gets no answer", Level.INTEROP)
            return
        s.check(committed == len(data), f"committed_size is {committed}", Level.INTEROP)
    await _check_stored(s, digest, data, "overtaken upload")


@case(
    32,
    "QueryWriteStatus tells unknown, partial and complete uploads apart",
    source="QueryWriteStatusResponse.committed_size, .complete",
    needs=(*_STREAM, Need.QUERY),
)
async def write_status_is_truthful(s: Session) -> None:
    data = random_bytes(300_000)
    digest = s.digest(data)
    name = s.write_name(digest)
    await _check_status(s, name, "unknown", range(1))
    async with s.open_write() as stream:
        stream.send(name, 0, data[:100_000])
        await _settle(s, name)
        await _check_status(s, name, "partial", range(100_001))
        stream.send("", 100_000, data[100_000:], finish=True)
        stream.half_close()
        await stream.answer(s.options.call_timeout_s)
    try:
        status = await s.write_status(name)
    except CallFailed as error:
        s.fail(f"complete: {describe(error)}", Level.SHOULD)
        return
    seen = f"complete: committed_size {status.committed_size}, complete {status.complete}"
    s.check(status.committed_size == len(data) and status.complete, seen, Level.SHOULD)


async def _check_status(s: Session, name: str, what: str, sizes: range) -> None:
    try:
        status = await s.write_status(name)
    except CallFailed as error:
        s.check(error.code == Code.NOT_FOUND, f"{what}: {describe(error)}")
        return
    fine = status.committed_size in sizes and not status.complete
    s.check(fine, f"{what}: committed_size {status.committed_size}, complete {status.complete}")


@case(
    33,
    "An interrupted upload resumes at its committed size and nowhere else",
    source="ByteStream.Write: continue writing from the returned committed_size",
    needs=(*_STREAM, Need.QUERY),
)
async def upload_resumes_where_it_stopped(s: Session) -> None:
    data = random_bytes(400_000)
    digest = s.digest(data)
    name = s.write_name(digest)
    await _half_close_after(s, name, data[:200_000])
    kept = await s.kept(name)
    if kept == 0:
        raise NotSupported("partial uploads are not kept (committed_size is 0)")
    s.check(kept <= 200_000, f"committed_size is {kept}, of 200000 bytes sent")
    elsewhere = write_requests(name, data[kept + 1 :], offset=kept + 1)
    call = s.send_writes(elsewhere)
    await s.rejected(call, _BAD_OFFSET, "resumed one byte further", code_level=Level.SHOULD)
    kept = await s.kept(name)
    committed = await s.send_writes(write_requests(name, data[kept:], offset=kept))
    s.check(committed == len(data), f"resumed at {kept}, committed_size is {committed}")
    await _check_stored(s, digest, data, "resumed upload")


async def _half_close_after(s: Session, name: str, data: bytes) -> int | None:
    """Sends data without finish_write and ends the stream; None when that is an error."""
    try:
        return await s.send_writes(write_requests(name, data, finish=False))
    except CallFailed:
        return None


@case(
    34,
    "A stream that ends without finish_write commits nothing",
    source="ByteStream.Write: not complete until finish_write has been sent",
    needs=_STREAM,
)
async def unfinished_upload_is_not_committed(s: Session) -> None:
    data = random_bytes(1000)
    for what, sent in {"half of the data": data[:500], "all of the data": data}.items():
        await _half_close_after(s, s.write_name(s.digest(data)), sent)
        await _check_not_stored(s, s.digest(data), f"{what}, no finish_write")


@case(
    35,
    "The empty blob as one empty finished message commits 0 bytes",
    source="Pants writes empty blobs; WriteRequest.data may be empty",
    needs=_STREAM,
)
async def empty_blob_can_be_written(s: Session) -> None:
    committed = await s.write(s.digest(b""), b"")
    s.check(committed == 0, f"committed_size is {committed}")


@case(
    36,
    "Metadata after the size in an upload's name is ignored",
    source="ContentAddressableStorage: {/optional_metadata} in resource names",
    needs=_STREAM,
)
async def optional_metadata_is_ignored(s: Session) -> None:
    data = random_bytes(500)
    digest = s.digest(data)
    name = s.write_name(digest, suffix="foo/bar.txt")
    committed = await s.send_writes(write_requests(name, data))
    s.check(committed == len(data), f"committed_size is {committed}")
    await _check_stored(s, digest, data, "named with metadata")


@case(
    37,
    "A hundred zstd frames, cut anywhere, are one upload",
    source="RFC 8878: frames may be concatenated; Bazel compresses chunk by chunk",
    needs=_ZSTD,
)
async def many_frames_are_one_upload(s: Session) -> None:
    data = compressible(200_000)
    packed = b"".join(
        wire.compress(data[at : at + 2000], "zstd") for at in range(0, len(data), 2000)
    )
    pieces = [packed[at : at + 997] for at in range(0, len(packed), 997)]
    digest = s.digest(data)
    committed = await s.write(digest, pieces, compressor="zstd")
    seen = f"committed_size is {committed}, neither the {len(packed)} bytes sent nor -1"
    # The text leaves this open; Buck2 and Bazel take the compressed count or -1.
    s.check(committed in {len(packed), -1}, seen, Level.INTEROP)
    await _check_stored(s, digest, data, "many frames")


@case(
    38,
    "A truncated, trailing or foreign compressed stream is INVALID_ARGUMENT",
    source="ContentAddressableStorage: servers MUST verify what is uncompressed",
    needs=_ZSTD,
)
async def broken_compression_is_refused(s: Session) -> None:
    data = compressible(50_000)
    good = wire.compress(data, "zstd")
    broken = {
        "truncated frame": (good[:-5], Level.MUST),
        "gzip instead of zstd": (zlib.compress(data, wbits=31), Level.MUST),
        "plain data": (data, Level.MUST),
        "garbage after the frame": (good + random_bytes(64), Level.SHOULD),
    }
    for what, (sent, level) in broken.items():
        fresh = s.digest(data)
        await s.rejected(s.write(fresh, sent, compressor="zstd"), _BAD, what, level=level)
        if level == Level.MUST:
            await _check_not_stored(s, fresh, what)


@case(
    39,
    "deflate is the raw stream of RFC 1951; a zlib wrapper is INVALID_ARGUMENT",
    source="Compressor.DEFLATE: no headers",
    needs=(Need.BYTESTREAM, Need.DEFLATE),
)
async def deflate_is_raw(s: Session) -> None:
    data = compressible(50_000)
    digest = s.digest(data)
    wrapped = s.write(digest, zlib.compress(data), compressor="deflate")
    await s.rejected(wrapped, _BAD, "zlib-wrapped")
    await _check_not_stored(s, digest, "zlib-wrapped")
    await s.write(digest, wire.compress(data, "deflate"), compressor="deflate")
    await _check_stored(s, digest, data, "raw deflate")
    unpacked = wire.decompress(await s.read(digest, compressor="deflate"), "deflate")
    s.check(unpacked == data, "read as deflate, it is other bytes")


@case(
    40,
    "One WriteRequest may carry a whole batch limit of data",
    source="Buck2 buffers max_batch_total_size_bytes for each message",
    level=Level.INTEROP,
    needs=_STREAM,
)
async def large_messages_are_taken(s: Session) -> None:
    size = s.batch_limit or 4_000_000
    if size > 16 * _MIB and not s.options.full:
        raise Skipped(f"the batch limit is {size} bytes; run with --full to send that much")
    data = random_bytes(size)
    digest = s.digest(data)
    try:
        await s.write(digest, [data])
    except CallFailed as error:
        s.fail(f"one message of {size} bytes: {describe(error)}", Level.INTEROP)


@case(
    41,
    "An early OK reaches a client that is still sending, and the connection lives on",
    source="an answer followed by a reset is lost on some clients (Buck2 behind h2)",
    level=Level.INTEROP,
    needs=_STREAM,
    alone=True,
)
async def early_answer_is_not_lost(s: Session) -> None:
    size = (100 if s.options.full else 16) * _MIB
    data = random_bytes(size)
    digest = s.digest(data)
    await s.write(digest, data)
    async with s.another_connection() as channel:

        async def relentless() -> AsyncIterator[bytestream.WriteRequest]:
            for request in write_requests(s.write_name(digest), data):
                yield request

        try:
            response = await channel.send(
                rpcs.WRITE, relentless(), timeout=s.options.call_timeout_s
            )
        except CallFailed as error:
            s.fail(f"writing {size} bytes that exist: {describe(error)}", Level.INTEROP)
            return
        committed = response.committed_size
        s.check(committed == size, f"committed_size is {committed}, not {size}", Level.INTEROP)
        await channel.call(
            rpcs.FIND_MISSING_BLOBS,
            reapi.FindMissingBlobsRequest(instance_name=s.instance, blob_digests=[digest]),
            timeout=s.options.call_timeout_s,
        )


@case(
    42,
    "A full disk is RESOURCE_EXHAUSTED, and what was there stays good",
    source="BatchUpdateBlobs: RESOURCE_EXHAUSTED on insufficient quota",
    level=Level.SHOULD,
    needs=_STREAM,
)
async def full_disk_is_said(s: Session) -> None:
    async with s.elsewhere(Variant.FULL_DISK) as other:
        data = random_bytes(100_000)
        (early,) = await other.put(data)
        big = random_bytes(32 * _MIB)
        await other.rejected(
            other.write(other.digest(big), big),
            {Code.RESOURCE_EXHAUSTED},
            "writing 32 MiB with 8 MiB left",
            level=Level.SHOULD,
        )
        await _check_stored(other, early, data, "after the disk was full")
        await _check_not_stored(other, other.digest(big), "after the disk was full")
        small = random_bytes(50_000)
        await other.write(other.digest(small), small)


@case(
    43,
    "An upload whose client vanished leaves nothing behind",
    source="temporary space belongs to live uploads",
    level=Level.SHOULD,
    needs=_STREAM,
)
async def cancelled_upload_leaves_nothing(s: Session) -> None:
    async with s.elsewhere(Variant.SHORT_RESUME) as other:
        before = await other.control.temporary_bytes()
        data = random_bytes(4 * _MIB)
        digest = other.digest(data)
        async with other.open_write() as stream:
            await _send_most(other, stream, digest, data)
        await _check_not_stored(other, digest, "after the client vanished")
        after = before
        for _ in range(30):
            after = await other.control.temporary_bytes()
            if after <= before:
                return
            await asyncio.sleep(other.options.patience_s / 10)
        s.fail(f"{after - before} bytes of temporary space are still taken", Level.SHOULD)


async def _send_most(s: Session, stream: OpenWrite, digest: reapi.Digest, data: bytes) -> None:
    name = s.write_name(digest)
    most = len(data) * 3 // 4
    for at in range(0, most, 256 * 1024):
        stream.send(name, at, data[at : at + 256 * 1024])
    await _settle(s, name)
