"""A whole daemon with its real sandbox, witness, checker, attestations and policy."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.daemon import disk_config, memory_config, running_daemon
from support.witnessed import Origin, answering

from armitage.attest.archived import bundle_at
from armitage.attest.entries import Kind, parse_attestation_record
from armitage.cli.entry import main
from armitage.client.blobs import upload
from armitage.client.channel import Channel
from armitage.client.execution import execute
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.transport.port import Code
from armitage.trust.options import TrustOptions
from armitage.witness.policy import Rule, Verdict
from cas.digest import Digest

LOOPBACK = Rule(Verdict.ALLOW, "loopback", methods=("GET",), networks=("127.0.0.0/8",))


async def run(remote: Remote, script: str, coeffects: str) -> tuple[Digest, Any]:
    """Executes a script that may leave `out`, and answers the action and the ExecuteResponse."""
    platform = [("coeffects", coeffects)] if coeffects else []
    packed = pack(
        Run(("/bin/sh", "-c", script), outputs=("out",), platform=platform), remote.function
    )
    await upload(remote, packed.blobs)
    *_, last = [
        update async for update in execute(remote, packed.action, monotonic=SystemClock().monotonic)
    ]
    return packed.action, last.response


async def attested_of(daemon: Daemon, action: Digest) -> list[Any]:
    """What was attested of an action last: provenance, runtime trace, verdict."""
    office, archive = daemon._office, daemon._archive
    assert office is not None
    assert archive is not None
    await office.notary.settle_all()
    newest, *_ = office.ledger.find(action, Kind.ATTESTATION)
    bundle = await bundle_at(archive, newest.index)
    statements = parse_attestation_record(bundle.record)
    return [json.loads(each.payload)["predicate"] for each in statements]


def config_for(path: Path) -> Config:
    config = disk_config(path / "data")
    return replace(
        config,
        trust=TrustOptions(policy="self and checker"),
        witness=replace(config.witness, rules=(LOOPBACK,)),
        executor=replace(config.executor, filesystem_allow=(str(path / "tools"),)),
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)")
async def test_declared_uses_are_attested_and_trusted_and_others_do_not_happen(
    tmp_path: Path,
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tool").write_text("tool\n")
    origin = Origin(answering(b"wheel"))
    async with (
        origin.listening(),
        running_daemon(config_for(tmp_path)) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        if not daemon.execution.sandboxed or "bubblewrap" in daemon.execution.reason:
            pytest.skip(f"needs armitage's own launcher; this host: {daemon.execution.reason}")
        remote = await connect(channel, "")
        url = f"http://localhost:{origin.port}/a.whl"
        honest = [
            ("echo made > out", "pure"),
            (f"curl -sSf {url} > out", f"network:localhost:{origin.port}"),
            (f"cat {tools}/tool > out", f"filesystem:{tools}"),
        ]
        actions = []
        for script, coeffects in honest:
            action, first = await run(remote, script, coeffects)
            assert (first.status.code, first.result.exit_code) == (Code.OK, 0), first
            _, second = await run(remote, script, coeffects)
            assert second.cached_result, script
            actions.append(action)

        _, pure = await run(remote, f"curl -sSf {url} > out", "pure")
        _, elsewhere = await run(remote, f"curl -sSf {url} > out", "network:other.example")
        _, outside = await run(remote, f"cat {tools}/tool > out", "pure")
        # It goes on without what it was refused, and that is attested.
        lenient, ended_well = await run(
            remote, f"curl -sSf {url} > out || echo else > out", "network:other.example"
        )
        fetched, _, _ = await attested_of(daemon, actions[1])
        read, _, _ = await attested_of(daemon, actions[2])
        _, trace, _ = await attested_of(daemon, lenient)
        # Attestations say of the network what the witness has on record, the witness's own words.
        metrics = f"http://{daemon.addresses.http[0]}/metrics"
        audit = ["audit", "verify", "--server", f"http://{daemon.addresses.http[0]}"]
        assert await asyncio.to_thread(main, audit) == 0
        async with aiohttp.ClientSession() as client, client.get(metrics) as response:
            told = (await response.text()).splitlines()

    assert [pure.result.exit_code > 0, outside.result.exit_code > 0] == [True, True]
    assert elsewhere.result.exit_code > 0
    assert f"add network:localhost:{origin.port} to its coeffects" in elsewhere.message
    assert [
        each["uri"] for each in fetched["buildDefinition"]["resolvedDependencies"] if "uri" in each
    ] == [url]
    assert ended_well.result.exit_code == 0
    (refused,) = trace["monitorLog"]["refused"]
    assert (refused["url"], refused["hostname"]) == (url, "localhost")
    assert trace["monitorLog"]["failed"] == trace["monitorLog"]["network"] == []
    assert fetched["runDetails"]["builder"]["id"].endswith("/namespace")
    assert "profile" in read["buildDefinition"]["internalParameters"]["sandbox"]
    assert len(origin.heads) == 1
    assert "armitage_witness_passed_total 1.0" in told
    assert 'armitage_witness_refused_total{reason="undeclared"} 2.0' in told
    assert "armitage_witness_open_sessions 0.0" in told
    assert any(line.startswith("armitage_record_log_entries ") for line in told)


async def test_without_a_record_there_is_no_network_and_the_answer_says_so() -> None:
    async with (
        running_daemon(memory_config()) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        _, answer = await run(await connect(channel, ""), "true", "network:h.example")

    assert answer.status.code == Code.FAILED_PRECONDITION
    assert "this daemon has no witness" in answer.status.message
    assert "storage to disk" in answer.status.message
