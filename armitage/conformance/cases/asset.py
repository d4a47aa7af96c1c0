"""Cases 103-107: Remote Asset Fetch and Push."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import actions, wire
from armitage.conformance.control import Variant
from armitage.conformance.model import Failed, Level, Need, Skipped, case
from armitage.conformance.session import Session, describe, new_upload, random_bytes
from armitage.reapi import rpcs
from armitage.reapi.rpcs import Req, Rpc
from armitage.transport.port import Code

_FETCH = (Need.FETCH,)
_BOTH = (Need.FETCH, Need.PUSH)
Pairs = Sequence[tuple[str, str]]


def _qualifiers(pairs: Pairs) -> list[asset.Qualifier]:
    return [asset.Qualifier(name=name, value=value) for name, value in pairs]


def _uri() -> str:
    return f"urn:uuid:{new_upload()}"


async def _push(
    s: Session,
    uris: Sequence[str],
    digest: reapi.Digest,
    qualifiers: Pairs = (),
    expire_at: timestamp_pb2.Timestamp | None = None,
) -> None:
    request = asset.PushBlobRequest(
        instance_name=s.instance,
        uris=uris,
        qualifiers=_qualifiers(qualifiers),
        expire_at=expire_at,
        blob_digest=digest,
        digest_function=s.function,  # type: ignore[arg-type]
    )
    await s.channel.call(rpcs.PUSH_BLOB, request, timeout=s.options.call_timeout_s)


async def _fetch(
    s: Session, uris: Sequence[str], qualifiers: Pairs = ()
) -> asset.FetchBlobResponse:
    request = asset.FetchBlobRequest(
        instance_name=s.instance,
        uris=uris,
        qualifiers=_qualifiers(qualifiers),
        digest_function=s.function,  # type: ignore[arg-type]
    )
    return await s.channel.call(rpcs.FETCH_BLOB, request, timeout=s.options.call_timeout_s)


async def _fetch_code(s: Session, uris: Sequence[str], qualifiers: Pairs = ()) -> tuple[Code, str]:
    """Answers how a fetch ends, whether the RPC or the response says it."""
    try:
        response = await _fetch(s, uris, qualifiers)
    except CallFailed as error:
        return error.code, describe(error)
    return Code(response.status.code), describe(response.status)


async def _fetched(s: Session, uris: Sequence[str], qualifiers: Pairs = ()) -> reapi.Digest:
    response = await _fetch(s, uris, qualifiers)
    if response.status.code != Code.OK:
        raise Failed(f"FetchBlob of what was pushed: {describe(response.status)}")
    s.check(response.uri in uris, f"the answer's uri is {response.uri!r}", Level.SHOULD)
    return response.blob_digest


@case(
    103,
    "Fetches without URIs and empty pushes are INVALID_ARGUMENT",
    source="FetchBlobRequest.uris: clients MUST supply at least one; BuildStream probes with it",
    needs=_FETCH,
)
async def empty_requests_are_refused(s: Session) -> None:
    await _check_refused(s, rpcs.FETCH_BLOB, asset.FetchBlobRequest(instance_name=s.instance))
    await _check_refused(
        s, rpcs.FETCH_DIRECTORY, asset.FetchDirectoryRequest(instance_name=s.instance)
    )
    await _check_refused(s, rpcs.PUSH_BLOB, asset.PushBlobRequest(instance_name=s.instance))
    await _check_refused(
        s, rpcs.PUSH_DIRECTORY, asset.PushDirectoryRequest(instance_name=s.instance)
    )


async def _check_refused(s: Session, rpc: Rpc[Req, Any], request: Req) -> None:
    codes = {Code.INVALID_ARGUMENT} | ({Code.UNIMPLEMENTED} if "Push" in rpc.path else set())
    call = s.channel.call(rpc, request, timeout=s.options.call_timeout_s)
    await s.rejected(call, codes, f"{rpc.path.rpartition('/')[2]} of nothing")


@case(
    104,
    "What was pushed is fetched by any of its URIs, qualifiers in any order",
    source="PushBlobRequest.uris; Qualifier: may be supplied in any order",
    needs=_BOTH,
)
async def pushed_content_is_fetched(s: Session) -> None:
    data = random_bytes(400)
    (digest,) = await s.put(data)
    one, two = _uri(), _uri()
    pairs = [("resource_type", "application/octet-stream"), ("vcs.branch", "main")]
    await _push(s, [one, two], digest, pairs)
    for uris, order in (([one], pairs), ([two], pairs[::-1]), ([_uri(), two], pairs)):
        got = await _fetched(s, uris, order)
        s.check(wire.key(got) == wire.key(digest), "another digest came")
    s.check(await s.read(digest) == data, "the fetched blob reads as other bytes")
    code, seen = await _fetch_code(s, [_uri()], ())
    s.check(code != Code.OK, f"a URI that was never pushed: {seen}")
    await _check_directory(s)


async def _check_directory(s: Session) -> None:
    root, blobs = actions.build_tree(s, {"file": random_bytes(50), "inner": {"x": b"y"}})
    await s.put(*blobs)
    uri, timeout = _uri(), s.options.call_timeout_s
    push = asset.PushDirectoryRequest(
        instance_name=s.instance,
        uris=[uri],
        root_directory_digest=root,
        digest_function=s.function,  # type: ignore[arg-type]
    )
    await s.channel.call(rpcs.PUSH_DIRECTORY, push, timeout=timeout)
    fetch = asset.FetchDirectoryRequest(
        instance_name=s.instance,
        uris=[uri],
        digest_function=s.function,  # type: ignore[arg-type]
    )
    got = await s.channel.call(rpcs.FETCH_DIRECTORY, fetch, timeout=timeout)
    same = wire.key(got.root_directory_digest) == wire.key(root)
    s.check(same, f"FetchDirectory of what was pushed: {describe(got.status)}")


@case(
    105,
    "An unsupported qualifier is INVALID_ARGUMENT with a BadRequest, or finds nothing",
    source="Fetch: MUST reject where Push is not offered; SHOULD send BadRequest",
    needs=_FETCH,
)
async def unsupported_qualifiers_are_refused(s: Session) -> None:
    name = f"conformance.{random_bytes(4).hex()}"
    try:
        response = await _fetch(s, [_uri()], [(name, "x")])
    except CallFailed as error:
        if error.code == Code.NOT_FOUND:
            return
        if s.check(error.code == Code.INVALID_ARGUMENT, describe(error)):
            fields = _bad_fields(error)
            wanted = ("qualifiers.name", f'"{name}" not supported')
            seen = f"the BadRequest names {fields or 'nothing'}"
            s.check(wanted in fields, seen, Level.SHOULD)
        return
    code = Code(response.status.code)
    s.check(code == Code.NOT_FOUND, f"response.status: {describe(response.status)}")


def _bad_fields(error: CallFailed) -> list[tuple[str, str]]:
    fields = []
    for box in error.details.details:
        bad = error_details_pb2.BadRequest()
        if box.Unpack(bad):
            fields += [(v.field, v.description) for v in bad.field_violations]
    return fields


@case(
    106,
    "A checksum.sri that does not match gives no content",
    source="Fetch: servers MUST ensure content matches the qualifiers (Push'd: MAY trust)",
    level=Level.SHOULD,
    needs=_BOTH,
)
async def wrong_checksum_gives_nothing(s: Session) -> None:
    data = random_bytes(300)
    (digest,) = await s.put(data)
    uri = _uri()
    await _push(s, [uri], digest)
    wrong = "sha256-" + base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    code, seen = await _fetch_code(s, [uri], [("checksum.sri", wrong)])
    fine = {Code.ABORTED, Code.NOT_FOUND, Code.INVALID_ARGUMENT}
    s.check(code in fine, f"wrong checksum: {seen}", Level.SHOULD)
    code, seen = await _fetch_code(s, [uri])
    s.check(code == Code.OK, f"afterwards, without a checksum: {seen}", Level.SHOULD)


@case(
    107,
    "Pushed content is kept until expire_at, and gone after it",
    source="PushBlobRequest.expire_at: a time after which it should stop being returned",
    level=Level.SHOULD,
    needs=_BOTH,
)
async def pushed_content_expires(s: Session) -> None:
    data = random_bytes(300)
    (digest,) = await s.put(data)
    uri = _uri()
    now = s.clock.wall()
    await _push(s, [uri], digest, expire_at=_timestamp(now + 3600))
    got = await _fetched(s, [uri])
    s.check(wire.key(got) == wire.key(digest), "another digest came")
    # Altering the expiry is legal, and a past one keeps the case independent of clock skew.
    await _push(s, [uri], digest, expire_at=_timestamp(now - 3600))
    seen = ""
    for _ in range(10):
        code, seen = await _fetch_code(s, [uri])
        if code == Code.NOT_FOUND:
            break
        await asyncio.sleep(s.options.patience_s / 10)
    else:
        s.fail(f"an hour past expire_at: {seen}", Level.SHOULD)
    with suppress(Skipped):
        async with s.elsewhere(Variant.SMALL_STORE) as other:
            await _check_kept(other)


async def _check_kept(s: Session) -> None:
    """Fills the store twice over: what a live association refers to must outlast that."""
    blob, extra, loose = await s.put(*(random_bytes(100_000) for _ in range(3)))
    uri = _uri()
    push = asset.PushBlobRequest(
        instance_name=s.instance,
        uris=[uri],
        expire_at=_timestamp(s.clock.wall() + 3600),
        blob_digest=blob,
        references_blobs=[extra],
        digest_function=s.function,  # type: ignore[arg-type]
    )
    await s.channel.call(rpcs.PUSH_BLOB, push, timeout=s.options.call_timeout_s)
    for _ in range(40):
        await s.put(random_bytes(400_000))
    missing = {wire.key(digest) for digest in await s.find_missing([blob, extra, loose])}
    s.check(wire.key(loose) in missing, "nothing was evicted at all", Level.SHOULD)
    s.check(wire.key(blob) not in missing, "the pushed blob was evicted", Level.SHOULD)
    s.check(wire.key(extra) not in missing, "a referenced blob was evicted", Level.SHOULD)


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp
