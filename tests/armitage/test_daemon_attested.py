"""A whole daemon that judges, attests, caches and explains; its actions say what they used."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.daemon import disk_config, memory_config, running_daemon
from support.telling import let_actions_tell

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.export import Exporter
from armitage.attest.git import GitStore
from armitage.attest.keyring import AttestOptions, read_ring
from armitage.attest.keys import parse_public_key
from armitage.cli.entry import main
from armitage.client.blobs import upload
from armitage.client.channel import CallFailed, Channel
from armitage.client.execution import execute
from armitage.client.record import open_http_record
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.log.keys import read_key
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.settings import plain, to_toml
from armitage.transport.port import Code
from armitage.trust.options import TrustedKey, TrustOptions
from armitage.witness.rotation import rotate_log
from cas.digest import Digest

BUILD = ("/bin/sh", "-c", "mkdir -p d; echo made > d/inner; echo made > out; echo said")


@pytest.fixture(autouse=True)
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    let_actions_tell(monkeypatch)


@dataclass
class Build:
    """A client of one daemon."""

    remote: Remote
    http: str

    async def run(self, used: str = "", coeffects: str = "", name: str = "") -> tuple[Digest, Any]:
        """Executes, and answers the action and the ExecuteResponse."""
        packed = pack(
            Run(
                BUILD,
                outputs=("out", "d"),
                environment={"USED": used, "NAME": name},
                platform=[("coeffects", coeffects)] if coeffects else [],
            ),
            self.remote.function,
        )
        await upload(self.remote, packed.blobs)
        monotonic = SystemClock().monotonic
        updates = execute(self.remote, packed.action, monotonic=monotonic)
        *_, last = [update async for update in updates]
        return packed.action, last.response

    async def is_hit(self, action: Digest) -> bool:
        request = reapi.GetActionResultRequest(
            action_digest=wire_digest(action), digest_function=self.remote.wire_function
        )
        try:
            await self.remote.channel.call(rpcs.GET_ACTION_RESULT, request)
        except CallFailed as error:
            if error.code == Code.NOT_FOUND:
                return False
            raise
        return True

    async def explain(self, action: Digest) -> Any:
        async with open_http_record(self.http) as record:
            return await record.explain(f"{action.hash}/{action.size_bytes}", "")


@asynccontextmanager
async def building(config: Config) -> AsyncIterator[Build]:
    async with running_daemon(config) as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        yield Build(await connect(channel, ""), f"http://{daemon.addresses.http[0]}")


def trusting(path: Path, policy: str) -> Config:
    return replace(disk_config(path), trust=TrustOptions(policy=policy))


async def test_honest_actions_are_cached_and_liars_are_refused(tmp_path: Path) -> None:
    honest = [
        ("", ""),
        ("h.example:443", "network:*.example:443"),
        ("auth=npm h.example:80", "auth:npm+network"),
        ("/opt/tool", "filesystem:/opt"),
    ]
    liars = [
        ("h.example:443", "", "add `network:h.example:443`"),
        ("h.example:443", "network:other.example", "add `network:h.example:443`"),
        ("auth=npm", "network", "add `auth:npm`"),
        ("/etc/shadow", "filesystem:/opt", "add `filesystem:/etc/shadow:ro`"),
    ]
    async with building(trusting(tmp_path, "self")) as build:
        for used, coeffects in honest:
            action, response = await build.run(used, coeffects)
            assert response.status.code == Code.OK
            assert await build.is_hit(action)
        for used, coeffects, words in liars:
            action, response = await build.run(used, coeffects)
            assert response.status.code == Code.FAILED_PRECONDITION
            assert words in response.status.message
            assert not await build.is_hit(action)
        with pytest.raises(CallFailed) as refused:
            await build.run("", "netwrok")
        assert refused.value.code == Code.INVALID_ARGUMENT
        assert "did you mean network" in str(refused.value)


async def test_what_stands_in_a_log_that_ended_counts_unless_that_is_revoked(
    tmp_path: Path,
) -> None:
    record = tmp_path / "record"
    async with building(disk_config(tmp_path)) as build:
        attested, _ = await build.run()
        told_nothing, _ = await build.run("nothing")
    ended = [
        await asyncio.to_thread(rotate_log, record, f"log.example/{name}")
        for name in ("second", "third")
    ]

    async with building(trusting(tmp_path, "self and checker")) as build:
        assert await build.is_hit(attested)
        assert not await build.is_hit(told_nothing)
        late, _ = await build.run(name="late")
        assert await build.is_hit(late)

    revoked = TrustOptions(policy="self", revoked_logs=(str(ended[0].before),))
    async with building(replace(disk_config(tmp_path), trust=revoked)) as build:
        assert not await build.is_hit(attested)
        assert await build.is_hit(late)

    shutil.rmtree(record / "past" / ended[1].past.name)  # Then nothing leads to the first one.
    async with building(trusting(tmp_path, "self")) as build:
        assert not await build.is_hit(attested)
        assert await build.is_hit(late)


async def test_explain_shows_what_was_judged_in_logs_that_ended(tmp_path: Path) -> None:
    record = tmp_path / "record"
    async with building(disk_config(tmp_path)) as build:
        action, _ = await build.run("h.example:443", "network")
        gone, _ = await build.run(name="gone")
        refused, _ = await build.run("h.example:443")
        before = [await build.explain(each) for each in (action, refused)]
    ended = await asyncio.to_thread(rotate_log, record, "log.example/second")
    (record / "attestations.sqlite").unlink()

    async with building(disk_config(tmp_path)) as build:
        after = [await build.explain(each) for each in (action, refused)]
        await build.run("h.example:443")
        late, early = (await build.explain(refused))["runs"]
        assert len((await build.explain(gone))["runs"]) == 1
    for then, now in zip(before, after, strict=True):
        assert [run["is_past"] for run in then["runs"]] == [False]
        assert now["runs"] == [{**run, "is_past": True} for run in then["runs"]]
    assert early == after[1]["runs"][0]
    assert early["log"] == ended.before.name
    assert (late["log"], late["is_past"]) == ("log.example/second", False)
    assert late["index"] == ended.size + late["log_index"]

    with sqlite3.connect(next(record.glob("attestations.*.sqlite"))) as ledger:
        change = "UPDATE entries SET position = position + 1000 WHERE action = ?"
        ledger.execute(change, (str(gone),))
    async with building(disk_config(tmp_path)) as build:  # Its index is not believed.
        assert len((await build.explain(gone))["runs"]) == 1


async def test_trust_outlives_the_daemon_and_its_index(tmp_path: Path) -> None:
    async with building(disk_config(tmp_path)) as build:
        attested, _ = await build.run()
        told_nothing, _ = await build.run("nothing")
        assert await build.is_hit(attested)
        assert await build.is_hit(told_nothing)
    (tmp_path / "record" / "attestations.sqlite").unlink()

    async with building(trusting(tmp_path, "self and checker")) as build:
        assert await build.is_hit(attested)
        for _ in range(3):  # Nor when it is at hand in memory.
            assert not await build.is_hit(told_nothing)
        _, again = await build.run()
        assert again.cached_result
        told = await build.explain(told_nothing)
    assert told["runs"] == []
    assert told["cached"] == {
        "is_served": False,
        "policy": "self and checker",
        "reasons": ["no attestation of this result is left by `checker`"],
    }


async def test_explain_shows_all_that_mends_an_action(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with building(disk_config(tmp_path)) as build:
        action, refused = await build.run("h.example:443", "auth:npm")
        told = await build.explain(action)
        (denied,) = told["runs"]
        code = await asyncio.to_thread(main, ["explain", action.hash[:12], "--server", build.http])
        shown = capsys.readouterr().out.splitlines()
        unknown = await asyncio.to_thread(main, ["explain", "0" * 64, "--server", build.http])
        mended, response = await build.run("h.example:443", denied["sufficient"])
        good = await asyncio.to_thread(main, ["explain", mended.hash, "--server", build.http])
        approved = capsys.readouterr().out

    assert refused.status.code == Code.FAILED_PRECONDITION
    assert (denied["verdict"], denied["declared"]) == ("denied", "auth:npm")
    assert denied["used"] == ["sandbox namespace", "network h.example 443"]
    assert denied["sufficient"] == "network:h.example:443+sandbox:namespace"
    assert told["cached"] is None
    assert (code, unknown, good) == (1, 1, 0)
    assert "would do    coeffects=network:h.example:443+sandbox:namespace" in shown
    assert "cached      no" in shown
    assert response.status.code == Code.OK
    assert "approved" in approved
    assert "cached      yes, served" in approved


async def test_without_a_record_actions_run_and_no_policy_is_met() -> None:
    async with building(memory_config()) as build:
        action, response = await build.run("h.example:443")
        assert response.status.code == Code.OK
        assert await build.is_hit(action)
    strict = replace(memory_config(), trust=TrustOptions(policy="self"))
    async with building(strict) as build:
        action, response = await build.run()
        assert response.status.code == Code.OK
        assert not await build.is_hit(action)


@dataclass
class Peer:
    """A daemon as others know it: where its data is, and the keys that it gave them."""

    path: Path

    def trusted(self) -> TrustedKey:
        record = self.path / "record"
        public = read_ring(record)[-1].public
        return TrustedKey("peer", str(public), str(read_key(record / "log.key").public))

    def carry(self) -> None:
        assert main(["attest", "commit", "--data-dir", str(self.path)]) == 0


@pytest.mark.slow
async def test_two_daemons_vouch_for_a_result_under_a_policy_of_two(tmp_path: Path) -> None:
    peer, here = Peer(tmp_path / "peer"), tmp_path / "here"
    async with building(disk_config(peer.path)) as build:
        action, _ = await build.run()
        await build.run(name="other")
    await asyncio.to_thread(peer.carry)
    both = TrustOptions("threshold(2, self, key:peer) and reproduced(2)", keys=(peer.trusted(),))
    config = replace(disk_config(here), trust=both)

    async with building(config) as build:
        assert (await build.run())[0] == action
        assert not await build.is_hit(action)
        told = await build.explain(action)
        assert told["cached"]["reasons"][0].startswith("attested by 1 of 2 distinct keys")
    settings = here / "config.toml"
    settings.write_text(f"[trust]\n{to_toml(plain(both), 'trust')}")
    pull = ["attest", "pull", str(peer.path / "record/git"), "--data-dir", str(here)]
    pull += ["--config", str(settings)]
    assert await asyncio.to_thread(main, pull) == 0

    async with building(config) as build:
        assert await build.is_hit(action)
        assert (await build.run())[1].cached_result
        alone, _ = await build.run(name="alone")
        assert not await build.is_hit(alone)
    stolen = replace(both, revoked=(parse_public_key(peer.trusted().public).key_id,))
    async with building(replace(config, trust=stolen)) as build:
        assert not await build.is_hit(action)


async def test_new_attestations_are_carried_into_git_while_the_daemon_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armitage.daemon._HOUSEKEEPING_S", 0.01)
    carried, run = asyncio.Event(), Exporter.run

    async def noticed(exporter: Exporter) -> int:
        done = await run(exporter)
        if done:
            carried.set()
        return done

    monkeypatch.setattr(Exporter, "run", noticed)
    async with building(disk_config(tmp_path)) as build:
        action, _ = await build.run()
        await asyncio.wait_for(carried.wait(), 60)
        verify = ["verify", action.hash, "--data-dir", str(tmp_path), "--server", build.http]
        assert await asyncio.to_thread(main, verify) == 0

    store = GitStore(tmp_path / "record" / "git", {"PATH": os.environ["PATH"]})
    assert len(list(store.find([action.hash]))) == 1


async def test_the_last_attestations_are_in_git_when_the_daemon_has_stopped(tmp_path: Path) -> None:
    async with building(disk_config(tmp_path)) as build:
        action, _ = await build.run()

    store = GitStore(tmp_path / "record" / "git", {"PATH": os.environ["PATH"]})
    assert len(list(store.find([action.hash]))) == 1


async def test_what_stands_in_a_log_that_ended_is_verified_over_http(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with building(disk_config(tmp_path)) as build:
        action, _ = await build.run()
    ended = await asyncio.to_thread(rotate_log, tmp_path / "record", "log.example/second")

    async with building(disk_config(tmp_path)) as build:
        verify = ["verify", action.hash, "--data-dir", str(tmp_path), "--server", build.http]
        assert await asyncio.to_thread(main, verify) == 0
        assert f"{ended.before.name} has {ended.size} entries now" in capsys.readouterr().out
        audit = ["audit", "verify", "--json", "--server", build.http]
        assert await asyncio.to_thread(main, audit) == 0
        (past,) = json.loads(capsys.readouterr().out)["past"]

    assert (past["log"], past["attestations"]) == (ended.before.name, 1)


async def test_without_git_nothing_is_carried_and_the_daemon_serves(tmp_path: Path) -> None:
    config = replace(disk_config(tmp_path), attest=AttestOptions(git=False))

    async with building(config) as build:
        action, _ = await build.run()
        assert await build.is_hit(action)

    assert not (tmp_path / "record" / "git").exists()
