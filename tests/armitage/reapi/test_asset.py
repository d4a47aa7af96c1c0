"""Remote Asset over a memory store."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from support.wire import BLAKE3, SHA256, Failed, Services, code_of, wire

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi import rpcs
from armitage.reapi.instances import Instance
from armitage.reapi.trusting import REFUSAL
from armitage.transport.port import Code, said_trailers
from cas.digest import Digest
from cas.memory import MemoryStore

URI = "https://example.com/a.tar"


def qualifiers(**pairs: str) -> list[asset.Qualifier]:
    return [asset.Qualifier(name=name, value=value) for name, value in pairs.items()]


def checksum(text: str) -> list[asset.Qualifier]:
    return [asset.Qualifier(name="checksum.sri", value=text)]


async def push(services: Services, digest: Digest, *uris: str, **fields: object) -> None:
    await services.call(
        rpcs.PUSH_BLOB,
        asset.PushBlobRequest(uris=uris or [URI], blob_digest=wire(digest), **fields),  # type: ignore[arg-type]
    )


async def fetch(services: Services, *uris: str, **fields: object) -> asset.FetchBlobResponse:
    return await services.call(
        rpcs.FETCH_BLOB,
        asset.FetchBlobRequest(uris=uris or [URI], **fields),  # type: ignore[arg-type]
    )


async def push_directory(services: Services, digest: Digest, **fields: object) -> None:
    await services.call(
        rpcs.PUSH_DIRECTORY,
        asset.PushDirectoryRequest(uris=[URI], root_directory_digest=wire(digest), **fields),  # type: ignore[arg-type]
    )


async def directory(services: Services, *files: Digest) -> Digest:
    child = reapi.Directory(
        files=[reapi.FileNode(name=str(n), digest=wire(file)) for n, file in enumerate(files)]
    )
    child_digest = await services.put(child.SerializeToString())
    root = reapi.Directory(directories=[reapi.DirectoryNode(name="d", digest=wire(child_digest))])
    return await services.put(root.SerializeToString())


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        (rpcs.FETCH_BLOB, asset.FetchBlobRequest()),
        (rpcs.FETCH_DIRECTORY, asset.FetchDirectoryRequest()),
        (rpcs.PUSH_BLOB, asset.PushBlobRequest()),
        (rpcs.PUSH_DIRECTORY, asset.PushDirectoryRequest()),
        (rpcs.PUSH_BLOB, asset.PushBlobRequest(uris=[URI])),
        (rpcs.FETCH_BLOB, asset.FetchBlobRequest(uris=[""])),
    ],
)
async def test_the_probe_of_an_empty_request_is_an_invalid_argument(
    rpc: rpcs.Rpc[Any, Any], request_: Message
) -> None:
    assert await code_of(Services().call(rpc, request_)) == Code.INVALID_ARGUMENT


async def test_what_nobody_pushed_is_not_found_in_the_response() -> None:
    answer = await fetch(Services())

    assert answer.status.code == Code.NOT_FOUND
    assert "does not fetch from origins" in answer.status.message
    assert not answer.HasField("blob_digest")


async def test_a_push_is_fetched_by_any_uri_and_qualifiers_in_any_order() -> None:
    services = Services()
    digest = await services.put(b"content")
    both = qualifiers(resource_type="application/x-git", directory="src")
    await push(services, digest, "https://a", "https://b", qualifiers=both)

    answer = await fetch(services, "https://other", "https://b", qualifiers=both[::-1])

    assert answer.status.code == Code.OK
    assert (answer.uri, answer.blob_digest) == ("https://b", wire(digest))
    assert answer.digest_function == reapi.DigestFunction.SHA256
    assert {(q.name, q.value) for q in answer.qualifiers} == {(q.name, q.value) for q in both}
    assert (await fetch(services, "https://b")).status.code == Code.NOT_FOUND


async def test_a_second_push_replaces_the_first() -> None:
    services = Services()
    for data in (b"old", b"new"):
        await push(services, await services.put(data))

    assert (await fetch(services)).blob_digest == wire(SHA256.digest(b"new"))


async def test_blobs_and_directories_and_instances_are_apart() -> None:
    services = Services([Instance(""), Instance("other")])
    await push(services, await services.put(b"content"))

    request = asset.FetchDirectoryRequest(uris=[URI])
    assert (await services.call(rpcs.FETCH_DIRECTORY, request)).status.code == Code.NOT_FOUND
    assert (await fetch(services, instance_name="other")).status.code == Code.NOT_FOUND
    assert await code_of(fetch(services, instance_name="who")) == Code.NOT_FOUND


async def test_how_to_ask_an_origin_is_told_to_nobody_else() -> None:
    services = Services()
    digest = await services.put(b"content")
    secret = asset.Qualifier(name="http_header:Authorization", value="Bearer secret")
    await push(services, digest, qualifiers=[secret, *qualifiers(directory="src")])

    answer = await fetch(services, qualifiers=qualifiers(directory="src"))

    assert answer.blob_digest == wire(digest)
    assert [q.name for q in answer.qualifiers] == ["directory"]


async def test_an_unsupported_qualifier_of_unknown_content_is_named() -> None:
    with pytest.raises(Failed) as failed:
        await fetch(Services(), qualifiers=qualifiers(colour="blue", resource_type="x"))

    assert failed.value.code == Code.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(failed.value.status.details)
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    [violation] = bad_request.field_violations
    assert (violation.field, violation.description) == (
        "qualifiers.name",
        '"colour" not supported',
    )


async def test_a_qualifier_given_twice_is_an_invalid_argument() -> None:
    twice = qualifiers(directory="a") + qualifiers(directory="b")

    assert await code_of(fetch(Services(), qualifiers=twice)) == Code.INVALID_ARGUMENT


def sri(algorithm: str, data: bytes) -> str:
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_a_checksum_is_checked_against_the_content(algorithm: str, function: object) -> None:
    services = Services()
    await push(services, await services.put(b"content", function))  # type: ignore[arg-type]
    wrong, right = sri(algorithm, b"other"), sri(algorithm, b"content")

    for _ in range(2):
        assert (await fetch(services, qualifiers=checksum(right))).status.code == Code.OK
        several = checksum(f"{wrong} {right}")
        assert (await fetch(services, qualifiers=several)).status.code == Code.OK
        answer = await fetch(services, qualifiers=checksum(wrong))
        assert answer.status.code == Code.ABORTED
        assert not answer.HasField("blob_digest")


@pytest.mark.parametrize("text", ["", "md5-AAAA", "sha256", "sha256-!!"])
async def test_a_checksum_of_no_known_kind_is_an_invalid_argument(text: str) -> None:
    assert await code_of(fetch(Services(), qualifiers=checksum(text))) == Code.INVALID_ARGUMENT


async def test_a_push_that_belies_its_checksum_binds_nothing() -> None:
    services = Services()
    digest = await services.put(b"content")
    wrong = checksum(sri("sha256", b"other"))

    assert await code_of(push(services, digest, qualifiers=wrong)) == Code.INVALID_ARGUMENT
    assert (await fetch(services)).status.code == Code.NOT_FOUND


async def test_pushing_what_is_not_stored_is_an_invalid_argument() -> None:
    services = Services()

    assert await code_of(push(services, SHA256.digest(b"absent"))) == Code.INVALID_ARGUMENT

    root = await directory(services, SHA256.digest(b"absent file"))
    assert await code_of(push_directory(services, root)) == Code.INVALID_ARGUMENT


async def test_a_read_only_instance_denies_pushes() -> None:
    services = Services([Instance(action_cache_update_enabled=False)])
    digest = await services.put(b"content")

    assert await code_of(push(services, digest)) == Code.PERMISSION_DENIED


async def test_a_pushed_directory_is_fetched() -> None:
    services = Services()
    root = await directory(services, await services.put(b"file"))
    await push_directory(services, root)

    answer = await services.call(rpcs.FETCH_DIRECTORY, asset.FetchDirectoryRequest(uris=[URI]))

    assert answer.status.code == Code.OK
    assert answer.root_directory_digest == wire(root)


async def test_content_older_than_accepted_is_not_found() -> None:
    services = Services()
    await push(services, await services.put(b"content"))
    before, after = Timestamp(seconds=999), Timestamp(seconds=1001)

    assert (await fetch(services, oldest_content_accepted=before)).status.code == Code.OK
    assert (await fetch(services, oldest_content_accepted=after)).status.code == Code.NOT_FOUND


async def test_a_push_expires_and_keeps_what_it_refers_to_until_then() -> None:
    services = Services()
    content, reference = await services.put(b"content"), await services.put(b"reference")
    root = await directory(services, await services.put(b"file"))
    await push(
        services,
        content,
        expire_at=Timestamp(seconds=2000),
        references_blobs=[wire(reference)],
        references_directories=[wire(root)],
    )
    assert services.store.stats().held == 5
    assert (await fetch(services)).expires_at == Timestamp(seconds=2000)

    services.time.now = 2000
    services.asset.expire()

    assert (await fetch(services)).status.code == Code.NOT_FOUND
    assert services.store.stats().held == 0


async def test_a_push_without_expiry_holds_nothing_and_ends_an_earlier_hold() -> None:
    services = Services()
    content = await services.put(b"content")
    await push(services, content, expire_at=Timestamp(seconds=2000))

    await push(services, content)

    assert services.store.stats().held == 0
    again = Services(store=services.store, cache=services.cache)
    await again.asset.restore()
    assert services.store.stats().held == 0


async def test_no_push_holds_for_ever() -> None:
    services = Services()
    await push(services, await services.put(b"content"), expire_at=Timestamp(seconds=10**11))

    services.time.now += 31 * 86400
    services.asset.expire()

    assert services.store.stats().held == 0
    assert (await fetch(services)).status.code == Code.OK


async def test_a_restarted_server_keeps_what_pushes_keep() -> None:
    before, after = Services(), MemoryStore()
    root = await directory(before, await before.put(b"file"))
    await push_directory(before, root, expire_at=Timestamp(seconds=2000))
    for number in range(300):
        digest = await before.put(str(number).encode())
        await push(before, digest, f"urn:{number}", expire_at=Timestamp(seconds=1500))
    for digest in before.store._blobs:
        await after.put([digest], await before.store.get(digest))

    again = Services(cache=before.cache, store=after)
    again.time.now = 1400
    await again.asset.restore()

    assert before.store.stats().held == after.stats().held == 303
    again.time.now = 1600
    again.asset.expire()
    assert after.stats().held == 3


async def test_content_that_was_lost_is_not_found() -> None:
    services = Services()
    await push(services, await services.put(b"content"))
    emptied = Services(cache=services.cache)

    assert (await fetch(emptied)).status.code == Code.NOT_FOUND


async def test_push_is_no_evidence_under_a_policy_unless_its_content_is_proven() -> None:
    services = Services(policy="self")
    data = b"pushed"
    blob, proof = await services.put(data), base64.b64encode(hashlib.sha256(data).digest()).decode()
    sri = checksum(f"sha256-{proof}")
    await push(services, blob)
    await push(services, blob, qualifiers=sri)
    root = await directory(services, blob)
    await push_directory(services, root)

    unproven = await fetch(services)
    proven = await fetch(services, qualifiers=sri)
    tree = await services.call(rpcs.FETCH_DIRECTORY, asset.FetchDirectoryRequest(uris=[URI]))

    assert unproven.status.code == Code.NOT_FOUND
    assert "nobody attests what clients push" in unproven.status.message
    assert proven.blob_digest == wire(blob)
    assert tree.status.code == Code.NOT_FOUND


@pytest.mark.parametrize("explains", [True, False])
async def test_push_that_is_not_believed_is_told_in_a_field_of_its_own_where_that_is_wanted(
    explains: bool,
) -> None:
    services = Services(policy="self", explains=explains)
    data = b"pushed"
    blob, proof = await services.put(data), base64.b64encode(hashlib.sha256(data).digest()).decode()
    sri = checksum(f"sha256-{proof}")
    await push(services, blob, qualifiers=sri)
    assert (await fetch(services, qualifiers=sri)).status.code == Code.OK
    assert said_trailers() == ()

    refused = await fetch(services)
    told = said_trailers()
    await services.call(rpcs.FETCH_DIRECTORY, asset.FetchDirectoryRequest(uris=[URI]))

    assert [name for name, _ in told] == [REFUSAL] * explains
    assert all(why.startswith("Under its trust policy it answers a push only") for _, why in told)
    assert all(why in refused.status.message for _, why in told)
    assert said_trailers() == told * 2
