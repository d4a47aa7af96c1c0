"""armitage.witness.assets: what the daemon fetches for clients."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from hashlib import sha256, sha512
from pathlib import Path

import pytest
from support.networks import HOST, READ_LOOPBACK, Networks, networks
from support.witnessed import Origin, answering, smart_http

from armitage.clock import SystemClock
from armitage.errors import Aborted, InvalidRequest, NotFound, PermissionDenied, Unavailable
from armitage.reapi.asset_origin import Fetched, Wanted
from armitage.reapi.trees import DirectoryCodec
from armitage.witness.assets import AssetFetcher
from armitage.witness.credentials import CredentialOptions, read_credentials
from armitage.witness.options import AssetFetchOptions
from armitage.witness.policy import GIT_FETCH
from cas.digest import DigestFunction
from cas.memory import MemoryOptions, MemoryStore
from executor.spec import Directory, Requester

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
CODEC = DirectoryCodec()


@dataclass
class World:
    networks: Networks
    store: MemoryStore
    options: AssetFetchOptions = field(default_factory=lambda: AssetFetchOptions(hosts=("*",)))

    async def _with(self, fetch: str, wanted: Wanted, *, offline: bool) -> Fetched:
        network = self.networks.network(offline=offline)
        known = read_credentials(self.networks.credentials, self.networks.environment)
        fetcher = AssetFetcher(
            network,
            self.networks.archive,
            self.store,
            CODEC,
            credentials=known,
            options=self.options,
        )
        try:
            found: Awaitable[Fetched] = getattr(fetcher, fetch)(wanted)
            return await found
        finally:
            await network.close()

    async def blob(self, *uris: str, offline: bool = False, **fields: object) -> bytes:
        wanted = replace(Wanted(uris, SHA256), **fields)  # type: ignore[arg-type]
        found = await self._with("blob", wanted, offline=offline)
        assert found.digest.function is wanted.function
        return await self.store.get(found.digest)

    async def directory(self, *uris: str, **fields: object) -> Directory:
        wanted = replace(Wanted(uris, SHA256), **fields)  # type: ignore[arg-type]
        found = await self._with("directory", wanted, offline=False)
        return CODEC.parse(await self.store.get(found.digest), SHA256)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    rules = [READ_LOOPBACK, replace(GIT_FETCH, networks=("127.0.0.0/8",))]
    credentials = {"registry": CredentialOptions(hosts=(HOST,), environment="TOKEN")}
    made = networks(
        tmp_path, rules=rules, credentials=credentials, environment={"TOKEN": "s3cr3t-value"}
    )
    async with made as world:
        store = MemoryStore(MemoryOptions(), SystemClock().monotonic)
        yield World(world, store)
        assert list(world.archive.spool.iterdir()) == []
        await store.close()


@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_a_fetch_leaves_the_content_here_and_the_evidence_on_record(
    world: World, function: DigestFunction
) -> None:
    requester = Requester("main", invocation="build-1", identity="CN=client")
    async with world.networks.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        assert await world.blob(url, function=function, requester=requester) == b"abc"

    [record] = await world.networks.exchanges()
    assert record["url"] == url
    assert record["response"]["body"]["sha256"] == f"sha256:{sha256(b'abc').hexdigest()}"
    opened = world.networks.archive.log.store.entry(0)
    assert b'"kind":"open"' in opened
    assert await world.networks.faults() == []


async def test_what_is_known_by_its_digest_is_fetched_once(world: World) -> None:
    known = sha256(b"abc").hexdigest()
    async with world.networks.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        await world.blob(url, sha256=known)
        assert await world.blob("https://gone.example/b", sha256=known) == b"abc"
        with pytest.raises(Aborted, match="is pinned"):
            await world.blob(url, sha256=sha256(b"other").hexdigest())

    assert len(origin.heads) == 2


async def test_redirects_are_followed_and_secrets_do_not_go_along(world: World) -> None:
    async with world.networks.origin(Origin(answering(b"abc")), "cdn.example") as cdn:
        there = f"Location: https://cdn.example:{cdn.port}/b"
        script = answering(b"", there, status="302 Found")
        async with world.networks.origin(Origin(script)) as origin:
            headers = ((("Authorization", "Bearer mine"), ("X-Kind", "tar")),)
            url = f"https://{HOST}:{origin.port}/a"
            assert await world.blob(url, headers=headers) == b"abc"

    assert b"Bearer mine" in origin.heads[0]
    assert b"mine" not in cdn.heads[0]
    assert b"x-kind: tar" in cdn.heads[0].lower()
    assert [each["response"]["status"] for each in await world.networks.exchanges()] == [302, 200]


async def test_redirects_end(world: World) -> None:
    async def round_and_round(_: bytes, __: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n")

    world.options = replace(world.options, max_redirects=2)
    async with world.networks.origin(Origin(round_and_round)) as origin:
        with pytest.raises(Unavailable, match="more than 2 redirects"):
            await world.blob(f"https://{HOST}:{origin.port}/a")
    assert len(origin.heads) == 3


async def test_the_first_uri_that_works_will_do(world: World) -> None:
    gone = answering(b"", status="404 Not Found")
    async with (
        world.networks.origin(Origin(gone)) as first,
        world.networks.origin(Origin(answering(b"abc"))) as second,
    ):
        uris = [f"https://{HOST}:{origin.port}/a" for origin in (first, second)]
        assert await world.blob(*uris) == b"abc"


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        ("404 Not Found", NotFound),
        ("403 Forbidden", PermissionDenied),
        ("503 Busy", Unavailable),
        ("206 Partial", NotFound),
    ],
)
async def test_what_an_origin_does_not_give_is_told(
    world: World, status: str, failure: type[Exception]
) -> None:
    async with world.networks.origin(Origin(answering(b"", status=status))) as origin:
        with pytest.raises(failure, match=status[:3]):
            await world.blob(f"https://{HOST}:{origin.port}/a")


@pytest.mark.parametrize(
    ("uri", "failure"),
    [
        ("ftp://h.example/a", InvalidRequest),
        ("https://user:pass@h.example/a", InvalidRequest),
        ("https://h.example/../a", InvalidRequest),
        ("https://10.0.0.1/", PermissionDenied),
        ("http://169.254.169.254/latest/meta-data", PermissionDenied),
    ],
)
async def test_what_may_not_be_asked_for_is_refused(
    world: World, uri: str, failure: type[Exception]
) -> None:
    with pytest.raises(failure):
        await world.blob(uri)


async def test_only_the_hosts_that_are_allowed_are_asked(world: World) -> None:
    world.options = AssetFetchOptions(hosts=("*.example.org",))
    async with world.networks.origin(Origin(answering(b"abc"))) as origin:
        with pytest.raises(PermissionDenied, match="does not declare"):
            await world.blob(f"https://{HOST}:{origin.port}/a")
    assert origin.heads == []


async def test_offline_only_what_is_on_record_is_found(world: World) -> None:
    async with world.networks.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        await world.blob(url)

    assert await world.blob(url, offline=True) == b"abc"
    with pytest.raises(NotFound, match="is not on record"):
        await world.blob(f"{url}b", offline=True)


async def test_a_fetch_ends_in_time(world: World) -> None:
    async def stall(_: bytes, reader: asyncio.StreamReader, __: object) -> None:
        await reader.read()

    async with world.networks.origin(Origin(stall)) as origin:
        with pytest.raises(TimeoutError):
            await world.blob(f"https://{HOST}:{origin.port}/a", timeout_s=0.5)

    [record] = await world.networks.exchanges()
    assert record["error"] == "cut off"
    assert await world.networks.faults() == []


async def test_a_credential_is_used_where_the_operator_says_so(world: World) -> None:
    async with world.networks.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        await world.blob(url)
        world.options = replace(world.options, credentials=("registry",))
        await world.blob(url)

    assert [b"s3cr3t-value" in head for head in origin.heads] == [False, True]


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, data in (("top/a", b"abc"), ("top/sub/b", b"de")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def test_an_archive_becomes_a_directory(world: World) -> None:
    data = archive()
    async with world.networks.origin(Origin(answering(data))) as origin:
        url = f"https://{HOST}:{origin.port}/a.tar.gz"
        root = await world.directory(url, sha256=sha256(data).hexdigest())
        part = await world.directory(url, directory="top")

    assert [node.name for node in root.directories] == ["top"]
    [file] = part.files
    assert (file.name, await world.store.get(file.digest)) == ("a", b"abc")
    with pytest.raises(Aborted, match="no directory 'other'"):
        async with world.networks.origin(Origin(answering(data))) as origin:
            await world.directory(f"https://{HOST}:{origin.port}/a", directory="other")


async def test_an_archive_with_another_checksum_is_not_unpacked(world: World) -> None:
    data = archive()
    right, wrong = (("sha512", sha512(data).digest()),), (("sha512", bytes(64)),)
    async with world.networks.origin(Origin(answering(data))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        root = await world.directory(url, checksums=(*wrong, *right))
        with pytest.raises(Aborted, match=r"does not match checksum\.sri"):
            await world.directory(url, checksums=wrong)

    assert [node.name for node in root.directories] == ["top"]


async def test_what_is_no_archive_is_refused(world: World) -> None:
    async with world.networks.origin(Origin(answering(b"no archive"))) as origin:
        with pytest.raises(Aborted, match="is refused: it cannot be read"):
            await world.directory(f"https://{HOST}:{origin.port}/a")


@pytest.mark.slow
@pytest.mark.sandbox
async def test_a_commit_of_a_repository_becomes_a_directory(world: World, tmp_path: Path) -> None:
    commit = make_repository(tmp_path)

    async with world.networks.origin(Origin(smart_http(tmp_path / "r.git"))) as origin:
        url = f"https://{HOST}:{origin.port}/r.git"
        root = await world.directory(url, commit=commit, is_git=True)
        by_branch = await world.directory(url, branch="main", is_git=True)
        with pytest.raises(Unavailable, match="git cannot fetch"):
            await world.directory(url, commit="ab" * 20, is_git=True)

    assert root == by_branch
    assert {node.name: node.is_executable for node in root.files} == {
        ".gitattributes": False,
        "tool": True,
    }
    assert [(node.name, node.target) for node in root.symlinks] == [("link", "tool")]
    assert await world.networks.faults() == []
    methods = {each["method"] for each in await world.networks.exchanges()}
    assert methods == {"GET", "POST"}


def make_repository(directory: Path) -> str:
    """A commit whose own attributes would leave a file out of archives."""
    work, bare = directory / "work", directory / "r.git"
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", work], check=True)
    (work / "tool").write_text("#!/bin/sh\n")
    (work / "tool").chmod(0o755)
    (work / ".gitattributes").write_text("tool export-ignore\n")
    (work / "link").symlink_to("tool")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    told = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return told.stdout.strip()
