"""What Remote Asset makes of whoever fetches from origins."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

import pytest
from google.protobuf.duration_pb2 import Duration
from support.wire import BLAKE3, SHA256, Services, code_of, wire

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import Aborted, InvalidRequest, NotFound, PermissionDenied, Unavailable
from armitage.reapi import rpcs
from armitage.reapi.asset_origin import Fetched, Wanted, headers_for
from armitage.transport.port import Code
from cas.memory import MemoryStore

URI = "https://h.example/a"
SRI = "sha256-" + base64.b64encode(hashlib.sha256(b"abc").digest()).decode()
SRI_512 = "sha512-" + base64.b64encode(hashlib.sha512(b"abc").digest()).decode()


@dataclass
class ScriptedOrigin:
    """Answers one content, or fails."""

    store: MemoryStore = field(default_factory=MemoryStore)
    content: bytes = b"abc"
    failure: Exception | None = None
    asked: list[Wanted] = field(default_factory=list)

    async def blob(self, wanted: Wanted) -> Fetched:
        self.asked.append(wanted)
        if self.failure is not None:
            raise self.failure
        digest = wanted.function.digest(self.content)
        return Fetched(wanted.uris[0], await self.store.put([digest], self.content))

    async def directory(self, wanted: Wanted) -> Fetched:
        self.content = reapi.Directory().SerializeToString()
        return await self.blob(wanted)


def made() -> tuple[Services, ScriptedOrigin]:
    origin = ScriptedOrigin()
    return Services(store=origin.store, origin=origin), origin


async def fetch(
    services: Services, *pairs: tuple[str, str], **fields: object
) -> asset.FetchBlobResponse:
    request = asset.FetchBlobRequest(uris=[URI], **fields)  # type: ignore[arg-type]
    for name, value in pairs:
        request.qualifiers.add(name=name, value=value)
    return await services.call(rpcs.FETCH_BLOB, request)


async def test_what_nobody_pushed_is_fetched() -> None:
    services, origin = made()

    answer = await fetch(services, ("bazel.canonical_id", "x"), timeout=Duration(seconds=7))

    assert answer.status.code == Code.OK
    assert (answer.uri, answer.blob_digest) == (URI, wire(SHA256.digest(b"abc")))
    [wanted] = origin.asked
    assert (wanted.timeout_s, wanted.sha256, wanted.is_git) == (7.0, "", False)


async def test_what_was_pushed_is_not_fetched() -> None:
    services, origin = made()
    digest = await services.put(b"pushed")
    await services.call(rpcs.PUSH_BLOB, asset.PushBlobRequest(uris=[URI], blob_digest=wire(digest)))

    assert (await fetch(services)).blob_digest == wire(digest)
    assert origin.asked == []


async def test_the_answer_is_of_the_function_that_is_asked_for() -> None:
    services, _ = made()

    answer = await fetch(services, digest_function=reapi.DigestFunction.BLAKE3)

    assert answer.blob_digest == wire(BLAKE3.digest(b"abc"))
    assert answer.digest_function == reapi.DigestFunction.BLAKE3


@pytest.mark.parametrize("checksum", [SRI, SRI_512, f"{SRI_512} {SRI}"])
async def test_what_a_checksum_names_is_remembered(checksum: str) -> None:
    services, origin = made()
    for _ in range(2):
        answer = await fetch(services, ("checksum.sri", checksum))
        assert answer.status.code == Code.OK

    [wanted] = origin.asked
    assert wanted.sha256 == (hashlib.sha256(b"abc").hexdigest() if checksum == SRI else "")


async def test_what_nothing_names_is_fetched_anew() -> None:
    services, origin = made()
    for _ in range(2):
        await fetch(services)

    assert len(origin.asked) == 2


async def test_another_content_than_its_checksum_says_is_not_answered() -> None:
    services, origin = made()
    origin.content = b"other"

    answer = await fetch(services, ("checksum.sri", SRI_512))

    assert answer.status.code == Code.ABORTED
    assert not answer.HasField("blob_digest")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NotFound("x"), Code.NOT_FOUND),
        (PermissionDenied("x"), Code.PERMISSION_DENIED),
        (Aborted("x"), Code.ABORTED),
        (Unavailable("x"), Code.UNAVAILABLE),
        (TimeoutError(), Code.DEADLINE_EXCEEDED),
    ],
)
async def test_a_failure_is_told_in_the_response(failure: Exception, code: Code) -> None:
    services, origin = made()
    origin.failure = failure

    assert (await fetch(services)).status.code == code


@pytest.mark.parametrize(
    "pair",
    [
        ("http_header_url:1:X", "v"),
        ("http_header_url:x:X", "v"),
        ("bazel.auth_headers", "no JSON"),
        ("vcs.commit", "main"),
        ("vcs.commit", "--upload-pack=x"),
    ],
)
async def test_a_malformed_qualifier_is_an_invalid_argument(pair: tuple[str, str]) -> None:
    services, origin = made()
    origin.failure = InvalidRequest("never reached")

    assert await code_of(fetch(services, pair)) == Code.INVALID_ARGUMENT
    assert origin.asked == []


async def test_a_repository_and_a_part_of_it_are_passed_on() -> None:
    services, origin = made()
    request = asset.FetchDirectoryRequest(uris=[URI])
    for name, value in (("vcs.commit", "ab" * 20), ("directory", "src")):
        request.qualifiers.add(name=name, value=value)

    answer = await services.call(rpcs.FETCH_DIRECTORY, request)

    assert answer.status.code == Code.OK
    [wanted] = origin.asked
    assert (wanted.commit, wanted.directory, wanted.is_git) == ("ab" * 20, "src", True)


async def test_a_checksum_of_a_directory_is_of_its_archive() -> None:
    services, origin = made()
    request = asset.FetchDirectoryRequest(uris=[URI])
    request.qualifiers.add(name="checksum.sri", value=SRI_512)
    await services.call(rpcs.FETCH_DIRECTORY, request)
    request.qualifiers.add(name="vcs.commit", value="ab" * 20)

    assert origin.asked[0].checksums == (("sha512", hashlib.sha512(b"abc").digest()),)
    assert await code_of(services.call(rpcs.FETCH_DIRECTORY, request)) == Code.INVALID_ARGUMENT


async def test_headers_are_sent_and_never_shown() -> None:
    services, origin = made()
    answer = await fetch(services, ("http_header:X-Token", "s3cr3t"), ("checksum.sri", SRI))

    assert origin.asked[0].headers == ((("X-Token", "s3cr3t"),),)
    assert "s3cr3t" not in str(answer)
    assert [qualifier.name for qualifier in answer.qualifiers] == ["checksum.sri"]


def test_headers_are_for_the_uris_that_they_name() -> None:
    by_url = '{"https://b/": {"Authorization": "Basic x"}}'
    pairs = [("http_header:A", "1"), ("http_header_url:1:B", "2"), ("bazel.auth_headers", by_url)]

    assert headers_for(["https://a/", "https://b/"], pairs) == (
        (("A", "1"),),
        (("A", "1"), ("B", "2"), ("Authorization", "Basic x")),
    )
