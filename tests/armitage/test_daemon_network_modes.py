"""Actions in a real sandbox: caught without a proxy, pinned, with a credential, and offline."""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.daemon import disk_config, running_daemon
from support.witnessed import Origin, answering

from armitage.client.blobs import upload
from armitage.client.channel import Channel
from armitage.client.execution import execute
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.witness.authority import SessionAuthority
from armitage.witness.credentials import CredentialOptions
from armitage.witness.options import WitnessOptions
from armitage.witness.policy import Rule, Verdict

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)"),
]
BODY = b"what is served\n"
SECRET = "correct-horse-battery"
PLANTED = "planted-staple-stapler"
# Put together inside, since the command itself is a blob of the client's.
SPLIT = 'P="planted-staple"; P="$P-stapler";'
LEAKY = (
    f'{SPLIT} curl -sSf -H "Cookie: $P" -H "X-Token: $P" -u a:$P "{{url}}?token=$P" -d $P > out;'
    f" env; cat /proc/*/environ; grep -rs {SECRET[:7]} /run /etc /tmp"
)


def config_for(path: Path, *, offline: bool = False) -> Config:
    rules = (Rule(Verdict.ALLOW, "loopback", methods=("GET", "POST"), networks=("127.0.0.0/8",)),)
    file = path / "token"
    file.write_text(SECRET)
    file.chmod(0o600)
    witness = WitnessOptions(
        authorities=path / "origins.pem",
        rules=rules,
        offline=offline,
        credentials={"registry": CredentialOptions(hosts=("localhost",), file=file)},
    )
    return replace(disk_config(path / "data"), witness=witness)


async def run(remote: Remote, script: str, **platform: str) -> Any:
    pairs = [(name.replace("_", "-"), value) for name, value in platform.items()]
    command = Run(("/bin/sh", "-c", script), outputs=("out",), platform=sorted(pairs))
    packed = pack(command, remote.function)
    await upload(remote, packed.blobs)
    *_, last = [
        update async for update in execute(remote, packed.action, monotonic=SystemClock().monotonic)
    ]
    return last.response


def skip_without_launcher(daemon: Daemon) -> None:
    if not daemon.execution.sandboxed or "bubblewrap" in daemon.execution.reason:
        pytest.skip(f"needs armitage's own launcher; this host: {daemon.execution.reason}")


def holding(directory: Path, data: bytes) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "token"]
    return [path for path in files if data in path.read_bytes()]


async def pages(daemon: Daemon) -> str:
    base = f"http://{daemon.addresses.http[0]}"
    found = []
    async with aiohttp.ClientSession() as client:
        for path in ("/", "/audit", "/audit/log", "/api/audit/entries", "/metrics", "/status"):
            async with client.get(base + path) as response:
                found.append(await response.text())
    return "\n".join(found)


async def test_every_mode_in_a_real_sandbox_and_again_without_an_origin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authority = SessionAuthority("origins", SystemClock().wall())
    (tmp_path / "origins.pem").write_bytes(authority.certificate)
    origin = Origin(answering(BODY, f"Set-Cookie: s={PLANTED}"))
    async with origin.listening(authority.context("localhost")):
        where = f"localhost:{origin.port}"
        url, network = f"https://{where}/a", f"network:{where}"
        pins = f"{url} {sha256(BODY).hexdigest()}"
        scripts = {
            "witnessed": (f"curl -sSf {url} > out", {}),
            "transparent": (
                f"curl -sSf --noproxy '*' {url} > out",
                {"network_mode": "transparent"},
            ),
            "pinned": (
                f"curl -sSf {url} > out; curl -sS {url}b >&2",
                {"network_mode": "pinned", "network_pins": pins},
            ),
            "credential": (
                LEAKY.format(url=url),
                {"coeffects": f"{network}+auth:registry"},
            ),
        }
        results = {}
        async with (
            running_daemon(config_for(tmp_path)) as daemon,
            Channel(daemon.addresses.grpc[0]) as channel,
        ):
            skip_without_launcher(daemon)
            remote = await connect(channel, "")
            for name, (script, platform) in scripts.items():
                response = await run(remote, script, **{"coeffects": network, **platform})
                assert response.status.code == 0, (name, response)
                [made] = response.result.output_files or [None]
                assert made is not None, (name, response)
                results[name] = made.digest
            shown = await pages(daemon)

    assert len({digest.hash for digest in results.values()}) == 1
    assert any(f"Bearer {SECRET}".encode() in head for head in origin.heads)
    assert sum(SECRET.encode() in head for head in origin.heads) == 1
    for secret in (SECRET, PLANTED):
        assert secret not in caplog.text
        assert secret not in shown
        assert await asyncio.to_thread(holding, tmp_path, secret.encode()) == []

    # The origin is gone; other commands, so that nothing comes from the action cache.
    async with (
        running_daemon(config_for(tmp_path, offline=True)) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        remote = await connect(channel, "")
        for name in ("witnessed", "transparent", "pinned"):
            script, platform = scripts[name]
            response = await run(remote, f": again; {script}", **{"coeffects": network, **platform})
            assert response.result.output_files[0].digest == results[name], response
        missing = await run(remote, f"curl -sSf {url}c > out", coeffects=network)

    assert missing.result.exit_code > 0
    assert f"offline, and GET {url}c is not on record" in missing.message


async def test_a_mode_that_cannot_be_is_an_invalid_argument(tmp_path: Path) -> None:
    (tmp_path / "origins.pem").write_bytes(
        SessionAuthority("origins", SystemClock().wall()).certificate
    )
    async with (
        running_daemon(config_for(tmp_path)) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        skip_without_launcher(daemon)
        remote = await connect(channel, "")
        wrong = await run(remote, "true", coeffects="network", network_mode="open")

    assert "'open' is not one of witnessed, transparent, pinned" in wrong.status.message
