"""Daemons with a bucket behind their stores."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from support.daemon import disk_config, memory_config, running_daemon, start_daemon
from support.faults import Fault, Kind, fault_proxy
from support.packs import place_of
from support.s3 import BUCKET, OWNER, REGION, Key, S3Server, open_bucket
from support.tiers import until

from armitage._proto.armitage.storage.v1 import storage_pb2 as storage
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client import blobs
from armitage.client.channel import Channel
from armitage.client.remote import Remote
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.reapi import rpcs
from armitage.remote import RemoteOptions
from cas.digest import Digest, DigestFunction
from cas.errors import StoreDenied
from cas.objects import Layout
from cas.retry import RetryOptions
from cas.s3 import S3Options
from cas.s3_store import S3StoreOptions
from cas.tiered import TierOptions, WriteMode

_numbers = itertools.count()
SHA256 = DigestFunction.SHA256


@pytest.fixture
def prefix() -> str:
    return f"daemon/{next(_numbers)}"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an operator sets it, and nothing of this machine's own."""
    set_key(monkeypatch, OWNER)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def set_key(monkeypatch: pytest.MonkeyPatch, key: Key) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)


def with_bucket(
    config: Config, url: str, prefix: str, mode: WriteMode = WriteMode.WRITE_BACK
) -> Config:
    s3 = S3Options(
        bucket=BUCKET,
        endpoint=url,
        region=REGION,
        leave_alone_s=0.05,
        retry=RetryOptions(attempts=2),
    )
    remote = RemoteOptions(
        s3=s3, store=S3StoreOptions(prefix=prefix), tiers=TierOptions(mode=mode, missing_s=0)
    )
    return replace(config, remote=remote)


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Remote]:
    async with Channel(address) as channel:
        yield Remote(channel, "", SHA256, 4_000_000, exec_enabled=False)


def pending(daemon: Daemon) -> int:
    stats = daemon.remote_stats()
    assert stats is not None
    return stats.tiers.pending


def blob(size: int) -> tuple[Digest, bytes]:
    data = os.urandom(size)
    return SHA256.digest(data), data


async def store_action(remote: Remote) -> Digest:
    command = reapi.Command(arguments=["true", os.urandom(8).hex()]).SerializeToString()
    action = reapi.Action(
        command_digest=wire(SHA256.digest(command)), input_root_digest=wire(SHA256.empty)
    ).SerializeToString()
    await blobs.upload(remote, {SHA256.digest(data): data for data in (command, action)})
    return SHA256.digest(action)


async def update(remote: Remote, action: Digest, result: reapi.ActionResult) -> None:
    request = reapi.UpdateActionResultRequest(
        action_digest=reapi.Digest(hash=action.hash, size_bytes=action.size_bytes),
        action_result=result,
    )
    await remote.channel.call(rpcs.UPDATE_ACTION_RESULT, request)


async def look_up(remote: Remote, action: Digest) -> reapi.ActionResult:
    request = reapi.GetActionResultRequest(
        action_digest=reapi.Digest(hash=action.hash, size_bytes=action.size_bytes)
    )
    return await remote.channel.call(rpcs.GET_ACTION_RESULT, request)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BACK])
async def test_what_one_daemon_stored_another_serves(
    s3: S3Server, prefix: str, tmp_path: Path, mode: WriteMode
) -> None:
    made = dict([blob(100), blob(3_000_000), blob(5_000_000)])
    [output, *_] = made
    result = reapi.ActionResult(stdout_digest=wire(output))
    result.execution_metadata.worker = "w"
    one, other = (
        with_bucket(disk_config(tmp_path / name), s3.endpoint, prefix, mode) for name in "ab"
    )

    async with running_daemon(one) as daemon, client(daemon.addresses.grpc[0]) as remote:
        await blobs.upload(remote, made)
        action = await store_action(remote)
        await update(remote, action, result)
        if mode is WriteMode.WRITE_BACK:
            await until(lambda: pending(daemon) == 0)

    async with running_daemon(other) as daemon, client(daemon.addresses.grpc[0]) as remote:
        assert await blobs.find_missing(remote, [*made, SHA256.digest(b"no")]) == [
            SHA256.digest(b"no")
        ]
        for digest, data in made.items():
            assert await blobs.read(remote, digest) == data
        assert await look_up(remote, action) == result


def wire(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


@pytest.mark.slow
async def test_killed_daemon_copies_what_was_pending_when_it_comes_back(
    s3: S3Server, prefix: str, tmp_path: Path
) -> None:
    bucket, layout = open_bucket(s3.endpoint), Layout(prefix)
    made = dict([blob(100), blob(3_000_000)])
    flags = [
        f"--set=remote.s3.bucket={BUCKET}",
        f"--set=remote.store.prefix={prefix}",
        "--set=remote.s3.retry.attempts=1",
        "--set=worker.enabled=false",
        "--set=log.level=debug",
    ]
    async with fault_proxy(s3.endpoint) as proxy:
        proxy.always = Fault(Kind.STATUS, status=503, code="SlowDown")
        flags.append(f"--set=remote.s3.endpoint={proxy.url}")
        daemon = await asyncio.to_thread(start_daemon, tmp_path, *flags)
        try:
            async with client(daemon.target) as remote:
                await blobs.upload(remote, made)
                action = await store_action(remote)
                await update(remote, action, reapi.ActionResult())
        finally:
            daemon.kill()
        for digest in made:
            assert await bucket.head(layout.blob(digest)) is None

        proxy.always = None
        daemon = await asyncio.to_thread(start_daemon, tmp_path, *flags)
        try:
            async with asyncio.timeout(20):
                for key in [*map(layout.blob, made), layout.result("", action)]:
                    while await bucket.head(key) is None:  # noqa: ASYNC110 (another process)
                        await asyncio.sleep(0.02)
            for digest, data in made.items():
                assert await bucket.get(layout.blob(digest), len(data)) == data
        finally:
            assert await asyncio.to_thread(daemon.stop) == 0
    log = daemon.log.read_text()
    assert OWNER.secret not in log


async def test_bucket_that_refuses_keeps_the_daemon_from_starting(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_key(monkeypatch, Key("AKIANOBODY", "wrong"))
    config = with_bucket(memory_config(), s3.endpoint, prefix, WriteMode.WRITE_THROUGH)

    with pytest.raises(StoreDenied, match="InvalidAccessKeyId"):
        async with running_daemon(config):
            pass


async def test_missing_credentials_are_named(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    config = with_bucket(memory_config(), s3.endpoint, prefix, WriteMode.WRITE_THROUGH)

    with pytest.raises(StoreDenied, match="AWS_ACCESS_KEY_ID"):
        async with running_daemon(config):
            pass


async def test_credentials_come_from_the_profile(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        f"[builds]\naws_access_key_id={OWNER.access}\naws_secret_access_key={OWNER.secret}\n"
    )
    config = with_bucket(memory_config(), s3.endpoint, prefix, WriteMode.WRITE_THROUGH)
    config = replace(config, remote=replace(config.remote, profile="builds"))

    async with running_daemon(config) as daemon, client(daemon.addresses.grpc[0]) as remote:
        digest, data = blob(100)
        await blobs.upload(remote, {digest: data})

    assert await open_bucket(s3.endpoint).head(Layout(prefix).blob(digest)) is not None


async def test_draining_daemon_copies_what_is_pending(
    s3: S3Server, prefix: str, tmp_path: Path
) -> None:
    async with fault_proxy(s3.endpoint) as proxy:
        proxy.always = Fault(Kind.DELAY, delay_s=0.1)
        config = with_bucket(disk_config(tmp_path), proxy.url, prefix)
        async with running_daemon(config) as daemon:
            async with client(daemon.addresses.grpc[0]) as remote:
                digest, data = blob(100)
                await blobs.upload(remote, {digest: data})
            assert pending(daemon) == 1

            await daemon.drain()

            assert pending(daemon) == 0
    assert await open_bucket(s3.endpoint).head(Layout(prefix).blob(digest)) is not None


@pytest.mark.slow
async def test_bucket_that_is_down_leaves_a_local_cache(
    s3: S3Server, prefix: str, tmp_path: Path
) -> None:
    async with fault_proxy(s3.endpoint) as proxy:
        proxy.always = Fault(Kind.REFUSE)
        config = with_bucket(disk_config(tmp_path), proxy.url, prefix)
        async with running_daemon(config) as daemon, client(daemon.addresses.grpc[0]) as remote:
            digest, data = blob(100)
            assert await blobs.find_missing(remote, [digest]) == [digest]
            await blobs.upload(remote, {digest: data})
            assert await blobs.read(remote, digest) == data

            proxy.always = None
            await until(lambda: pending(daemon) == 0)

    assert await open_bucket(s3.endpoint).head(Layout(prefix).blob(digest)) is not None


async def test_status_and_metrics_tell_of_the_bucket(s3: S3Server, prefix: str) -> None:
    config = with_bucket(memory_config(), s3.endpoint, prefix, WriteMode.WRITE_THROUGH)
    async with (
        running_daemon(config) as daemon,
        client(daemon.addresses.grpc[0]) as remote,
        aiohttp.ClientSession(f"http://{daemon.addresses.http[0]}") as web,
    ):
        digest, data = blob(100)
        await blobs.upload(remote, {digest: data})

        async with web.get("/status") as answer:
            status = await answer.json()
        async with web.get("/metrics") as answer:
            metrics = await answer.text()

    assert status["remote"]["tiers"]["uploaded"] == 1
    assert status["remote"]["wire"]["sent_bytes"] == 100
    assert "armitage_remote_uploaded_total 1.0" in metrics
    assert "armitage_s3_sent_bytes_total 100.0" in metrics
    assert OWNER.secret not in json.dumps(status) + metrics


@pytest.mark.parametrize("size", [5_000, 300_000])
async def test_a_scrub_repairs_what_the_bucket_has(
    s3: S3Server, prefix: str, tmp_path: Path, size: int
) -> None:
    """By the daemon, then offline."""
    config = with_bucket(disk_config(tmp_path), s3.endpoint, prefix, WriteMode.WRITE_THROUGH)
    digest, data = blob(size)
    async with running_daemon(config) as daemon, client(daemon.addresses.grpc[0]) as remote:
        await blobs.upload(remote, {digest: data})
        spoil(tmp_path / "cas", digest)
        scrubbed = remote.channel.stream(rpcs.SCRUB, storage.ScrubRequest(repair=True))
        last = [answer async for answer in scrubbed][-1]

        assert list(last.damaged) == list(last.repaired) == [str(digest)]
        assert daemon.remote_stats() is not None
        assert await blobs.read(remote, digest) == data
    spoil(tmp_path / "cas", digest)
    settings = tmp_path / "armitage.toml"
    settings.write_text(
        f'[remote.s3]\nbucket = "{BUCKET}"\nendpoint = "{s3.endpoint}"\nregion = "{REGION}"\n'
        f'[remote.store]\nprefix = "{prefix}"\n'
    )
    flags = ["--offline", "--repair", "--json", "--config", settings, "--data-dir", tmp_path]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "armitage", "fsck", *map(str, flags)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert process.returncode == 1
    assert json.loads(out)["repaired"] == [str(digest)]


def spoil(directory: Path, digest: Digest) -> None:
    """Turns a bit of a stored blob; what is where shows only in the one place that has it whole."""
    path, offset, _ = place_of(directory, digest)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
