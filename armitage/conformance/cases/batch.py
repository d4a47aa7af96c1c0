"""Cases 5-20: FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs and blob size limits."""

from __future__ import annotations

from dataclasses import replace

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import wire
from armitage.conformance.control import Variant
from armitage.conformance.model import Failed, Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import (
    Session,
    compressible,
    describe,
    random_bytes,
    write_requests,
)
from armitage.transport.port import Code

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_ZSTD = reapi.Compressor.ZSTD
_SANE_BATCH = 16 * _MIB


def _same(one: list[reapi.Digest], other: list[reapi.Digest]) -> bool:
    return sorted(map(wire.key, one)) == sorted(map(wire.key, other))


@case(
    5,
    "FindMissingBlobs answers exactly the absent digests",
    source="FindMissingBlobsResponse.missing_blob_digests",
)
async def find_missing_answers_exactly_the_absent(s: Session) -> None:
    present = await s.put(*(random_bytes(50 + n) for n in range(5)))
    absent = [s.absent() for _ in range(5)]
    mixed = [digest for pair in zip(present, absent, strict=True) for digest in pair]
    missing = await s.find_missing(mixed)
    seen = f"{len(missing)} digests missing, of which {_count(missing, absent)} of 5 absent ones"
    s.check(_same(missing, absent), seen)
    s.check(not await s.find_missing([]), "an empty request has missing digests")
    repeated = await s.find_missing([absent[0], present[0], absent[0]])
    s.check({wire.key(d) for d in repeated} == {wire.key(absent[0])}, "a repeated digest confuses")


def _count(some: list[reapi.Digest], among: list[reapi.Digest]) -> int:
    keys = {wire.key(digest) for digest in among}
    return sum(wire.key(digest) in keys for digest in some)


@case(
    6,
    "The empty blob of every offered digest function is there without an upload",
    source="ContentAddressableStorage: servers MUST behave as though empty blobs are available",
)
async def empty_blobs_are_always_there(s: Session) -> None:
    offered = wire.known_functions(s.cache.digest_functions) or [s.function]
    for function in offered:
        other = replace(s, function=function)
        empty, name = other.digest(b""), wire.function_name(function)
        s.check(not await other.find_missing([empty]), f"{name}: the empty blob is missing")
        answers = await other.batch_read([empty])
        fine = [(a.status.code, a.data) for a in answers] == [(Code.OK, b"")]
        s.check(fine, f"{name}: BatchReadBlobs of the empty blob: {_statuses(answers)}")
        data = await other.read(empty)
        s.check(data == b"", f"{name}: Read of the empty blob gives {len(data)} bytes")
        updated = await other.batch_update([(empty, b"")])
        fine = [a.status.code for a in updated] == [Code.OK]
        s.check(fine, f"{name}: BatchUpdateBlobs of the empty blob: {_statuses(updated)}")


def _statuses(
    answers: list[reapi.BatchReadBlobsResponse.Response]
    | list[reapi.BatchUpdateBlobsResponse.Response],
) -> str:
    return ", ".join(describe(answer.status) for answer in answers) or "no response at all"


@case(
    7,
    "The right hash with another size is another blob",
    source="Digest: the size is an integral part and cannot be separated",
)
async def wrong_size_is_another_blob(s: Session) -> None:
    data = random_bytes(77)
    (right,) = await s.put(data)
    wrong = reapi.Digest(hash=right.hash, size_bytes=right.size_bytes + 1)
    try:
        missing = await s.find_missing([wrong])
        s.check(_same(missing, [wrong]), "FindMissingBlobs takes the wrong size for present")
    except CallFailed as error:
        s.check(error.code == Code.INVALID_ARGUMENT, f"FindMissingBlobs: {describe(error)}")
    codes = {Code.NOT_FOUND, Code.INVALID_ARGUMENT}
    await s.rejected(s.read(wrong), codes, "Read", code_level=Level.SHOULD)
    try:
        answers = await s.batch_read([wrong])
    except CallFailed as error:
        s.check(error.code in codes, f"BatchReadBlobs: {describe(error)}", Level.SHOULD)
    else:
        served = any(answer.status.code == Code.OK for answer in answers)
        s.check(not served, "BatchReadBlobs serves it")
    await _expect_blob_refused(s, wrong, data, "BatchUpdateBlobs with the wrong size")
    try:
        s.check(await s.read(right) == data, "afterwards the right blob reads as other bytes")
    except CallFailed as error:
        s.fail(f"afterwards the right blob is lost: {describe(error)}")


async def _expect_blob_refused(
    s: Session, digest: reapi.Digest, data: bytes, what: str, compressor: int = 0
) -> None:
    try:
        answers = await s.batch_update([(digest, data)], compressor)
    except CallFailed as error:
        s.check(error.code == Code.INVALID_ARGUMENT, f"{what}: {describe(error)}", Level.SHOULD)
        return
    accepted = any(answer.status.code == Code.OK for answer in answers)
    if s.check(answers and not accepted, f"{what}: {_statuses(answers)}"):
        fine = all(answer.status.code == Code.INVALID_ARGUMENT for answer in answers)
        s.check(fine, f"{what}: {_statuses(answers)}", Level.SHOULD)


@case(
    8,
    "A malformed digest is refused with INVALID_ARGUMENT",
    source="Digest.hash: lowercase hexadecimal, padded to the function's length",
    level=Level.SHOULD,
)
async def malformed_digests_are_refused(s: Session) -> None:
    good = s.absent()
    bad = {
        "uppercase hash": reapi.Digest(hash=good.hash.upper(), size_bytes=64),
        "short hash": reapi.Digest(hash=good.hash[:-1], size_bytes=64),
        "long hash": reapi.Digest(hash=good.hash + "0", size_bytes=64),
        "hash that is not hex": reapi.Digest(hash="g" * len(good.hash), size_bytes=64),
        "negative size": reapi.Digest(hash=good.hash, size_bytes=-1),
        "empty digest": reapi.Digest(),
    }
    if good.hash.upper() == good.hash:
        del bad["uppercase hash"]
    taken, strange = [], []
    for what, digest in bad.items():
        try:
            await s.find_missing([digest])
        except CallFailed as error:
            if error.code != Code.INVALID_ARGUMENT:
                strange.append(f"{what}: {describe(error)}")
        else:
            taken.append(what)
    s.check(not taken, f"FindMissingBlobs takes: {', '.join(taken)}", Level.SHOULD)
    for seen in strange:
        s.fail(f"FindMissingBlobs, {seen}", Level.SHOULD)


@case(
    9,
    "A FindMissingBlobs of very many digests is answered, or refused cleanly",
    source="no limit is given; a server protects itself and its neighbours",
    level=Level.INTEROP,
    alone=True,
)
async def many_digests_are_answered(s: Session) -> None:
    count = 100_000 if s.options.full else 20_000
    (present,) = await s.put(random_bytes(64))
    absent = [s.absent(16) for _ in range(count)]
    clean = {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE}
    try:
        missing = await s.find_missing([*absent, present])
    except CallFailed as error:
        s.check(error.code in clean, f"{count} digests: {describe(error)}", Level.INTEROP)
    else:
        seen = f"{count} digests: {len(missing)} came back as missing"
        s.check(_same(missing, absent), seen, Level.INTEROP)
    s.check(not await s.is_missing(present), "after it, a present blob is missing", Level.INTEROP)


@case(
    10,
    "FindMissingBlobs renews: touched blobs outlive untouched ones",
    source="FindMissingBlobs: servers SHOULD increase the lifetimes of the referenced blobs",
    level=Level.SHOULD,
    needs=(Need.BATCH,),
)
async def find_missing_renews(s: Session) -> None:
    async with s.elsewhere(Variant.SMALL_STORE) as other:
        touched, untouched = await other.put(random_bytes(100_000), random_bytes(100_000))
        for _ in range(40):
            await other.put(random_bytes(400_000))
            if await other.is_missing(touched):
                s.fail("a blob that FindMissingBlobs had just named was evicted", Level.SHOULD)
                return
        s.check(await other.is_missing(untouched), "nothing was evicted at all", Level.SHOULD)


@case(
    11,
    "A good and a bad blob in one batch get separate verdicts",
    source="BatchUpdateBlobs: the requests may succeed or fail independently",
)
async def batch_update_judges_each_blob(s: Session) -> None:
    good, bad = random_bytes(90), random_bytes(90)
    right, wrong = s.digest(good), s.absent(90)
    answers = await s.batch_update([(right, good), (wrong, bad)])
    verdicts = {wire.key(answer.digest): answer.status for answer in answers}
    if not s.check(
        verdicts.keys() == {wire.key(right), wire.key(wrong)},
        f"{len(answers)} responses to 2 requests, or other digests",
    ):
        return
    first, second = verdicts[wire.key(right)], verdicts[wire.key(wrong)]
    s.check(first.code == Code.OK, f"the good blob: {describe(first)}")
    s.check(second.code == Code.INVALID_ARGUMENT, f"the bad blob: {describe(second)}")
    missing = await s.find_missing([right, wrong])
    s.check(_same(missing, [wrong]), f"afterwards {len(missing)} of the two are missing, not 1")


@case(
    12,
    "Updating a blob that is already there is OK",
    source="BatchUpdateBlobs: equivalent to a ByteStream Write of each blob",
)
async def batch_update_of_existing_is_ok(s: Session) -> None:
    data = random_bytes(80)
    for attempt in ("first", "second"):
        answers = await s.batch_update([(s.digest(data), data)])
        codes = [answer.status.code for answer in answers]
        s.check(codes == [Code.OK], f"{attempt} update: {_statuses(answers)}")


def _advertised_batch_limit(s: Session) -> int:
    limit = s.batch_limit
    if limit == 0:
        raise NotSupported("max_batch_total_size_bytes is 0, which is no limit")
    if limit > _SANE_BATCH and not s.options.full:
        raise Skipped(f"the limit is {limit} bytes; run with --full to send that much")
    return limit


@case(
    13,
    "A batch of exactly the advertised size is taken, one byte more is INVALID_ARGUMENT",
    source="CacheCapabilities.max_batch_total_size_bytes; BatchUpdateBlobs errors",
)
async def batch_limit_is_exact(s: Session) -> None:
    limit = _advertised_batch_limit(s)
    half = random_bytes(limit // 2)
    rest = random_bytes(limit - len(half))
    try:
        answers = await s.batch_update([(s.digest(half), half), (s.digest(rest), rest)])
    except CallFailed as error:
        raise Failed(f"{limit} bytes, the advertised limit: {describe(error)}") from None
    fine = [answer.status.code for answer in answers] == [Code.OK, Code.OK]
    s.check(fine, f"{limit} bytes, the advertised limit: {_statuses(answers)}")
    more = random_bytes(limit - len(half) + 1)
    await s.rejected(
        s.batch_update([(s.digest(half), half), (s.digest(more), more)]),
        {Code.INVALID_ARGUMENT},
        f"{limit + 1} bytes, one over the limit",
        level=Level.INTEROP,
        code_level=Level.SHOULD,
    )


@case(
    14,
    "A batch of 50,000 one-byte blobs is taken",
    source="the limit counts blob bytes only; Buck2 fills batches up to it with any number",
    level=Level.INTEROP,
    alone=True,
)
async def batch_of_tiny_blobs_is_taken(s: Session) -> None:
    singles = [bytes([value]) for value in range(256)]
    pairs = [(s.digest(data), data) for data in singles]
    count = 50_000
    try:
        answers = await s.batch_update(pairs[n % 256] for n in range(count))
    except CallFailed as error:
        s.fail(f"{count} blobs of 1 byte: {describe(error)}", Level.INTEROP)
        return
    bad = [answer for answer in answers if answer.status.code != Code.OK]
    seen = f"{len(bad)} of {count} blobs refused, first {describe(bad[0].status) if bad else ''}"
    s.check(not bad, seen, Level.INTEROP)
    answered = {wire.key(answer.digest) for answer in answers}
    s.check(answered == {wire.key(d) for d, _ in pairs}, "not every blob has an answer")


@case(
    15,
    "BatchUpdateBlobs takes the compressors that it advertises and no other",
    source="BatchUpdateBlobsRequest.Request.compressor",
)
async def batch_update_takes_advertised_compressors(s: Session) -> None:
    advertised = list(s.cache.supported_batch_update_compressors)
    for value in (_ZSTD, reapi.Compressor.DEFLATE, reapi.Compressor.BROTLI):
        (name,) = wire.compressor_names([value])
        data = compressible(5000)
        digest, packed = s.digest(data), wire.compress(data, name)
        if value not in advertised:
            await _expect_compressor_refused(s, digest, packed, value)
            continue
        answers = await s.batch_update([(digest, packed)], value)
        fine = [answer.status.code for answer in answers] == [Code.OK]
        if s.check(fine, f"{name}: {_statuses(answers)}"):
            s.check(await s.read(digest) == data, f"{name}: read back, it is other bytes")
            await _expect_blob_refused(s, s.absent(5000), packed, f"{name} of other data", value)


async def _expect_compressor_refused(
    s: Session, digest: reapi.Digest, packed: bytes, value: int
) -> None:
    (name,) = wire.compressor_names([value])
    try:
        answers = await s.batch_update([(digest, packed)], value)
    except CallFailed as error:
        honest = error.code in {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED}
        s.check(honest, f"{name}, not advertised: {describe(error)}", Level.SHOULD)
        return
    honest = all(
        answer.status.code in {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED} for answer in answers
    )
    s.check(honest, f"{name}, not advertised: {_statuses(answers)}", Level.SHOULD)


@case(
    16,
    "A decompression bomb is refused and costs no memory",
    source="ContentAddressableStorage: servers MUST verify hash and size once uncompressed",
    needs=(Need.ZSTD, Need.BYTESTREAM),
    alone=True,
)
async def decompression_bomb_is_refused(s: Session) -> None:
    before = await _memory(s)
    bomb = wire.compress(bytes(_MIB), "zstd") * 1024
    digest = reapi.Digest(hash=s.absent().hash, size_bytes=8)
    name = s.write_name(digest, compressor="zstd")
    await s.rejected(
        s.send_writes(write_requests(name, bomb)),
        {Code.INVALID_ARGUMENT},
        "Write of 8 bytes that unpack to 1 GiB",
    )
    if _ZSTD in s.cache.supported_batch_update_compressors:
        what = "BatchUpdateBlobs of 8 bytes that unpack to 1 GiB"
        await _expect_blob_refused(s, digest, bomb, what, _ZSTD)
    s.check(await s.is_missing(digest), "the bomb was stored")
    after = await _memory(s)
    if before is not None and after is not None:
        grown = (after - before) // _MIB
        s.check(grown < 256, f"the server's memory grew by {grown} MiB", Level.SHOULD)


async def _memory(s: Session) -> int | None:
    try:
        return await s.control.memory_bytes()
    except Skipped:
        return None


@case(
    17,
    "BatchReadBlobs answers present, absent and empty blobs side by side",
    source="BatchReadBlobs: every error on an individual read is in that digest's status",
)
async def batch_read_judges_each_blob(s: Session) -> None:
    data = random_bytes(70)
    (present,) = await s.put(data)
    absent, empty = s.absent(), s.digest(b"")
    answers = await s.batch_read([present, absent, empty])
    by_key = {wire.key(answer.digest): answer for answer in answers}
    wanted = {wire.key(present), wire.key(absent), wire.key(empty)}
    if not s.check(
        by_key.keys() == wanted and len(answers) == 3,
        f"{len(answers)} responses to 3 digests, or other digests",
    ):
        return
    first, second, third = (by_key[wire.key(d)] for d in (present, absent, empty))
    s.check(first.status.code == Code.OK, f"present: {describe(first.status)}")
    s.check(first.data == data, "present: other bytes")
    s.check(second.status.code == Code.NOT_FOUND, f"absent: {describe(second.status)}")
    s.check(third.status.code == Code.OK and not third.data, f"empty: {describe(third.status)}")
    present_status = all(answer.HasField("status") for answer in answers)
    s.check(
        present_status, "status is left out when OK (Pants takes that for UNKNOWN)", Level.INTEROP
    )


@case(
    18,
    "BatchReadBlobs over the advertised limit is INVALID_ARGUMENT",
    source="BatchReadBlobs errors",
    level=Level.SHOULD,
)
async def batch_read_limit_is_kept(s: Session) -> None:
    limit = _advertised_batch_limit(s)
    quarter = limit // 4 + 1
    digests = []
    for _ in range(4):
        digests += await s.put(random_bytes(quarter))
    await s.rejected(
        s.batch_read(digests),
        {Code.INVALID_ARGUMENT},
        f"{quarter * 4} bytes over a limit of {limit}",
        level=Level.INTEROP,
        code_level=Level.SHOULD,
    )


@case(
    19,
    "BatchReadBlobs uses only encodings that the client accepts",
    source="BatchReadBlobsResponse.Response.compressor",
)
async def batch_read_uses_accepted_encodings(s: Session) -> None:
    data = compressible(20_000)
    (digest,) = await s.put(data)
    for acceptable in ([], [reapi.Compressor.IDENTITY], [_ZSTD]):
        for answer in await s.batch_read([digest], acceptable):
            allowed = {*acceptable, reapi.Compressor.IDENTITY}
            used = answer.compressor
            s.check(answer.status.code == Code.OK, f"{acceptable}: {describe(answer.status)}")
            if s.check(used in allowed, f"accepting {acceptable}, it used compressor {used}"):
                plain = wire.decompress(answer.data, "zstd") if used == _ZSTD else answer.data
                s.check(plain == data, f"accepting {acceptable}, other bytes came")


@case(
    20,
    "A blob over max_cas_blob_size_bytes is INVALID_ARGUMENT",
    source="CacheCapabilities.max_cas_blob_size_bytes: servers SHOULD reject",
    level=Level.SHOULD,
)
async def blob_limit_is_kept(s: Session) -> None:
    if s.cache.max_cas_blob_size_bytes:
        await _check_blob_limit(s)
        return
    try:
        async with s.elsewhere(Variant.BLOB_LIMIT) as other:
            await _check_blob_limit(other)
    except Skipped:
        raise NotSupported("max_cas_blob_size_bytes is 0, which is no limit") from None


async def _check_blob_limit(s: Session) -> None:
    limit = s.cache.max_cas_blob_size_bytes
    if limit > 64 * _MIB:
        await _check_claimed_size(s, limit)
        return
    within, over = random_bytes(limit), random_bytes(limit + 1)
    await s.write(s.digest(within), within)
    refusal = {Code.INVALID_ARGUMENT}
    write = s.write(s.digest(over), over)
    await s.rejected(write, refusal, f"Write of {limit + 1} bytes", level=Level.SHOULD)
    if not s.batch_limit or limit < s.batch_limit:
        what = f"BatchUpdateBlobs of {limit + 1} bytes"
        await _expect_blob_refused(s, s.digest(over), over, what)


async def _check_claimed_size(s: Session, limit: int) -> None:
    """Claims a blob over the limit and sends only its beginning: a big limit costs nothing."""
    claimed = reapi.Digest(hash=s.absent().hash, size_bytes=limit + 1)
    async with s.open_write() as stream:
        stream.send(s.write_name(claimed), 0, random_bytes(1024))
        try:
            await stream.answer(s.options.patience_s)
        except TimeoutError:
            raise Skipped(f"the limit is {limit} bytes, and is not checked at once") from None
        except CallFailed as error:
            seen = f"Write claiming {limit + 1} bytes: {describe(error)}"
            s.check(error.code == Code.INVALID_ARGUMENT, seen, Level.SHOULD)
        else:
            s.fail(f"Write claiming {limit + 1} bytes ended OK", Level.SHOULD)
