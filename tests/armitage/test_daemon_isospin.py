"""A whole daemon with GPUs (made up) and virtual machines (real ones)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.daemon import disk_config, memory_config
from support.executing import SHA256, sandbox_missing
from support.gpus import Shelf, gpu
from support.microvm import machine_options, make_toolchain, microvm_missing

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.client.blobs import read, upload
from armitage.client.channel import Channel
from armitage.client.execution import execute
from armitage.client.record import open_http_record
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.reapi import rpcs
from armitage.transport.port import Code
from cas.digest import Digest

NO_SANDBOX = sandbox_missing()
NO_GUEST = microvm_missing()
NODES = [name for name in ("kmsg", "fuse", "hwrng", "loop-control") if Path("/dev", name).exists()]
"""What the sandbox's own /dev never has, to stand in for a GPU's node."""


@dataclass
class Client:
    remote: Remote
    http: str

    async def run(self, *command: str, **platform: str) -> tuple[str, Any]:
        """Executes, and answers the action's name and the ExecuteResponse."""
        properties = [(name.replace("_", "-"), value) for name, value in platform.items()]
        packed = pack(Run(command, platform=properties), self.remote.function)
        await upload(self.remote, packed.blobs)
        updates = execute(self.remote, packed.action, monotonic=SystemClock().monotonic)
        *_, last = [update async for update in updates]
        return f"{packed.action.hash}/{packed.action.size_bytes}", last.response


@asynccontextmanager
async def client_of(config: Config, shelf: Shelf) -> AsyncIterator[Client]:
    async with (
        Daemon(config, gpus=shelf) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        yield Client(await connect(channel, ""), f"http://{daemon.addresses.http[0]}")


async def test_daemon_leases_what_it_has_found() -> None:
    async with client_of(memory_config(), Shelf(gpu("a"))) as client:
        request = pb.LeaseGpusRequest(need=pb.Need(count=1), held_s=60)
        lease = await client.remote.channel.call(rpcs.LEASE_GPUS, request)
        answer = await client.remote.channel.call(rpcs.LIST_GPUS, pb.ListGpusRequest())

    assert [part.uuid for part in lease.parts] == ["a"]
    assert [one.id for one in answer.leases] == [lease.id]
    assert answer.devices[0].driver == "580.159.04"


@pytest.mark.sandbox
@pytest.mark.skipif(bool(NO_SANDBOX), reason=NO_SANDBOX)
@pytest.mark.skipif(not NODES, reason="this host has no device node to stand in for a GPU's")
async def test_action_sees_its_gpu_alone_and_is_attested_with_it(tmp_path: Path) -> None:
    nodes = (f"/dev/{NODES[0]}",)
    shelf = Shelf(gpu("a", nodes=nodes, files=()), gpu("b", sm=75, nodes=("/dev/null",), files=()))
    script = f'test -c /dev/{NODES[0]} && test "$CUDA_VISIBLE_DEVICES" = a'
    async with client_of(disk_config(tmp_path), shelf) as client:
        name, done = await client.run("/bin/sh", "-c", script, coeffects="gpu:1:sm>=90")
        _, pure = await client.run("/bin/sh", "-c", script)
        _, refused = await client.run("/bin/true", coeffects="gpu:3")
        _, other = await client.run("/bin/true", coeffects="gpu", gpu_driver="1.0")
        async with open_http_record(client.http) as record:
            told = await record.explain(name, "")

    assert (done.status.code, done.result.exit_code) == (Code.OK, 0)
    assert pure.result.exit_code == 1
    assert refused.status.code == other.status.code == Code.FAILED_PRECONDITION
    assert "gpu:3: no GPU of this host can ever do" in refused.status.message
    assert "with driver 1.0" in other.status.message
    assert "gpu:1:mem>=81559:sm>=90+sandbox:namespace" in str(told)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.skipif(bool(NO_GUEST), reason=NO_GUEST)
async def test_action_that_accepts_only_a_virtual_machine_runs_in_one(tmp_path: Path) -> None:
    image = make_toolchain(tmp_path)
    config = replace(disk_config(tmp_path / "data"), microvm=machine_options(image))
    async with client_of(config, Shelf()) as client:
        script = "uname -r; echo $https_proxy"
        _, done = await client.run("sh", "-c", script, coeffects="sandbox:microvm+network")
        wire = done.result.stdout_digest
        printed = await read(client.remote, Digest(SHA256, wire.hash, wire.size_bytes))
        _, refused = await client.run("true", coeffects="sandbox:microvm+filesystem:/opt")

    assert (done.status.code, done.result.exit_code) == (Code.OK, 0)
    assert b"-cloud-" in printed
    assert b"http://127.0.0.1:8981\n" in printed
    assert refused.status.code == Code.FAILED_PRECONDITION
    assert "shows no directory of the host" in refused.status.message
