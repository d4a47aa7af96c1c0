"""Cases 44-50: ByteStream.Read."""

from __future__ import annotations

from dataclasses import replace

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import wire
from armitage.conformance.model import Level, Need, NotSupported, case
from armitage.conformance.session import (
    Session,
    compressible,
    describe,
    new_upload,
    random_bytes,
    write_requests,
)
from armitage.reapi import rpcs
from armitage.transport.port import Code

_STREAM = (Need.BYTESTREAM,)


@case(
    44,
    "Reads start anywhere from 0 to the end; outside is OUT_OF_RANGE",
    source="ReadRequest.read_offset",
    needs=_STREAM,
)
async def read_offsets_are_honoured(s: Session) -> None:
    data = random_bytes(10_000)
    (digest,) = await s.put(data)
    for offset in (0, 1, 5000, 9999, 10_000):
        got = await s.read(digest, offset=offset)
        seen = f"offset {offset}: {len(got)} bytes, or other ones, not the last {10_000 - offset}"
        s.check(got == data[offset:], seen)
    for offset in (10_001, -1):
        await s.rejected(s.read(digest, offset=offset), {Code.OUT_OF_RANGE}, f"offset {offset}")


@case(
    45,
    "read_limit is kept; a negative one is an error, any with compression too",
    source="ReadRequest.read_limit; ContentAddressableStorage: INVALID_ARGUMENT if non-zero",
    needs=_STREAM,
)
async def read_limit_is_kept(s: Session) -> None:
    data = compressible(10_000)
    (digest,) = await s.put(data)
    for offset, limit in ((0, 10), (100, 5000), (9990, 100), (0, 10_000)):
        what = f"offset {offset}, limit {limit}"
        try:
            got = await s.read(digest, offset=offset, limit=limit)
        except CallFailed as error:
            s.fail(f"{what} of 10000: {describe(error)}")
            continue
        s.check(got == data[offset : offset + limit], f"{what}: {len(got)} bytes, or other ones")
    errors = {Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE}
    await s.rejected(s.read(digest, limit=-1), errors, "limit -1", code_level=Level.SHOULD)
    for compressor in s.compressors:
        await s.rejected(
            s.read(digest, compressor=compressor, limit=10),
            {Code.INVALID_ARGUMENT},
            f"{compressor} with a limit",
        )


@case(
    46,
    "A compressed read at an offset decodes to the rest of the blob",
    source="ContentAddressableStorage: read_offset refers to the uncompressed form",
    needs=_STREAM,
)
async def compressed_reads_start_anywhere(s: Session) -> None:
    if not s.compressors:
        raise NotSupported("supported_compressors is empty")
    data = compressible(100_000)
    (digest,) = await s.put(data)
    for compressor in s.compressors:
        for offset in (0, 1, 54_321, 100_000):
            packed = await s.read(digest, compressor=compressor, offset=offset)
            _check_decodes(s, packed, compressor, data[offset:], f"{compressor} from {offset}")


def _check_decodes(s: Session, packed: bytes, compressor: str, wanted: bytes, what: str) -> None:
    if not packed and not wanted:
        return
    try:
        plain = wire.decompress(packed, compressor)
    except ValueError as error:
        s.fail(f"{what}: {error}")
        return
    s.check(plain == wanted, f"{what}: {len(plain)} bytes, or other ones, not {len(wanted)}")


@case(
    47,
    "A blob reads the same in every form, whichever it was uploaded in",
    source="ContentAddressableStorage: servers MUST provide data in each format",
    needs=_STREAM,
)
async def every_form_reads_the_same(s: Session) -> None:
    forms = ["", *s.compressors]
    if len(forms) == 1:
        raise NotSupported("supported_compressors is empty")
    for upload in forms:
        data = compressible(300_000)
        digest = s.digest(data)
        await s.write(digest, wire.compress(data, upload) if upload else data, compressor=upload)
        for download in forms:
            what = f"written {upload or 'plain'}, read {download or 'plain'}"
            got = await s.read(digest, compressor=download)
            if download:
                _check_decodes(s, got, download, data, what)
            else:
                s.check(got == data, f"{what}: other bytes")


@case(
    48,
    "An absent blob is NOT_FOUND, a malformed name INVALID_ARGUMENT",
    source="canonical codes; the forms of resource names",
    needs=_STREAM,
)
async def absent_and_malformed_names(s: Session) -> None:
    absent = s.absent()
    await s.rejected(s.read(absent), {Code.NOT_FOUND}, "absent blob")
    prefix = f"{s.instance}/" if s.instance else ""
    malformed = (
        f"{prefix}blobs/{absent.hash}",
        f"{prefix}blobs/{absent.hash}/many",
        f"{prefix}blobs/{absent.hash[:-1]}/64",
        f"{prefix}blobs/{absent.hash}/-1",
        f"{prefix}uploads/{new_upload()}/blobs/{absent.hash}/64",
        f"{prefix}blobs",
        "",
    )
    for name in malformed:
        await s.rejected(
            s.read_named(name),
            {Code.INVALID_ARGUMENT},
            f"name {_short(name, absent.hash)!r}",
            code_level=Level.SHOULD,
        )


def _short(name: str, long: str) -> str:
    return name.replace(long, "HASH").replace(long[:-1], "HAS")


@case(
    49,
    "A blob damaged on disk is never served",
    source="content is addressed by its digest; clients such as Buck2 do not check it",
    needs=_STREAM,
)
async def damaged_blobs_are_not_served(s: Session) -> None:
    for size in (2000, 3 * 1024 * 1024):
        data = random_bytes(size)
        (digest,) = await s.put(data)
        await s.control.corrupt(digest)
        try:
            got = await s.read(digest)
        except CallFailed as error:
            fine = error.code in {Code.NOT_FOUND, Code.DATA_LOSS}
            s.check(fine, f"{size} bytes: {describe(error)}", Level.SHOULD)
        else:
            s.check(got == data, f"{size} bytes: Read ended OK with damaged bytes")
        missing = await s.is_missing(digest)
        s.check(missing, f"{size} bytes: the damaged blob is still said to be there", Level.SHOULD)
        await s.put(data)
        s.check(await s.read(digest) == data, f"{size} bytes: uploaded again, it stays damaged")


@case(
    50,
    "BLAKE3 blobs round-trip by blake3/ names, and unmarked as Buck2 sends them",
    source="ContentAddressableStorage: digest_function in names; Buck2 leaves it out",
    needs=(*_STREAM, Need.BLAKE3),
)
async def blake3_round_trips(s: Session) -> None:
    marked = replace(s, function=wire.Function.BLAKE3)
    data = random_bytes(5000)
    digest = marked.digest(data)
    s.check("/blake3/" in f"/{marked.read_name(digest)}", "the suite lost the function's name")
    await marked.write(digest, data)
    s.check(await marked.read(digest) == data, "by blake3/ name, other bytes")
    s.check(not await marked.is_missing(digest), "FindMissingBlobs with BLAKE3 misses it")
    try:
        await _check_unmarked(s)
    except CallFailed as error:
        s.fail(f"unmarked: {describe(error)}", Level.INTEROP)


async def _check_unmarked(s: Session) -> None:
    """BLAKE3 without saying so; by the letter, 64 hex characters alone mean SHA256."""
    data = random_bytes(5000)
    digest = wire.digest(data, wire.Function.BLAKE3)
    bare = wire.Function.SHA256
    name = wire.write_name(s.instance, new_upload(), digest, bare)
    await s.send_writes(write_requests(name, data))
    got = await s.read_named(wire.read_name(s.instance, digest, bare))
    s.check(got == data, "unmarked: other bytes", Level.INTEROP)
    request = reapi.FindMissingBlobsRequest(instance_name=s.instance, blob_digests=[digest])
    found = await s.channel.call(rpcs.FIND_MISSING_BLOBS, request, timeout=s.options.call_timeout_s)
    s.check(not found.missing_blob_digests, "unmarked: it is missing", Level.INTEROP)
