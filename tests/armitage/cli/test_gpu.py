"""`armitage gpu` against daemons with a GPU and without."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from support.command_line import Cli
from support.daemon import memory_config
from support.gpus import Shelf, gpu

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.cli.gpu import describe, lines_of
from armitage.daemon import Daemon

ANSWER = pb.ListGpusResponse(
    devices=[
        pb.Device(uuid="GPU-1", name="NVIDIA H200", memory_mib=143_771, sm=90, driver="580.159.04"),
        pb.Device(uuid="GPU-2", name="NVIDIA T4", memory_mib=15_360, sm=75, fault="broken"),
    ],
    leases=[
        pb.Lease(id=3, holder="action a1/2", parts=[pb.Part(uuid="GPU-1", memory_mib=143_771)])
    ],
    waiting=[pb.Waiting(holder="action b1/2", need="gpu:1:sm>=90")],
)


def test_table_tells_holders_faults_and_who_waits() -> None:
    assert lines_of(describe(ANSWER)) == [
        "UUID   NAME         MEMORY      SM     DRIVER      HELD BY",
        "GPU-1  NVIDIA H200  143771 MiB  sm_90  580.159.04  3 action a1/2 (143771 MiB)",
        "GPU-2  NVIDIA T4    15360 MiB   sm_75              broken",
        "waits: action b1/2 for gpu:1:sm>=90",
    ]


@pytest.fixture
def with_gpu(armitage: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """A command line that talks to a daemon with one GPU, in a thread of its own."""

    async def serve(address: Future[str], is_over: threading.Event) -> None:
        async with Daemon(memory_config(), gpus=Shelf(gpu("a"))) as daemon:
            address.set_result(daemon.addresses.grpc[0])
            await asyncio.to_thread(is_over.wait)

    address, is_over = Future[str](), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(asyncio.run, serve(address, is_over))
        either: list[Future[Any]] = [address, served]
        wait(either, return_when=FIRST_COMPLETED)
        try:
            monkeypatch.setenv("ARMITAGE_SERVER", f"grpc://{address.result(0)}")
            yield armitage
        finally:
            is_over.set()
            served.result()


def test_lease_prints_variables_and_is_seen_until_it_is_released(with_gpu: Cli) -> None:
    leased = with_gpu("gpu", "lease", "--purpose", "a look")
    held = [with_gpu(*words).out for words in (("gpu", "list"), ("status",))]
    released = with_gpu("gpu", "release", "1")

    assert (leased.code, released.code) == (0, 0)
    assert leased.out.splitlines() == [
        "# lease 1; give it back with: armitage gpu release 1",
        "export CUDA_VISIBLE_DEVICES=a",
        "export NVIDIA_VISIBLE_DEVICES=a",
    ]
    assert all(": a look (81559 MiB)" in text for text in held)
    assert released.out == "released 1\n"
    assert with_gpu("gpu", "list").out.split()[-1] == "free"


def test_host_without_gpu_says_why(online: Cli) -> None:
    done = online("gpu", "list")
    as_json = json.loads(online("gpu", "list", "--json").out)

    assert done.code == 0
    assert done.out.startswith("no GPU: ")
    assert as_json["devices"] == []
    assert as_json["why_none"] in done.out


def test_lease_where_there_is_none_is_refused_with_the_reason(online: Cli) -> None:
    done = online("gpu", "lease", "--memory", "1000")

    assert done.code == 5
    assert "gpu:1:mem>=1000: no GPU of this host can ever do (it has none)" in done.err


def test_release_of_an_unknown_lease_is_a_plain_no(online: Cli) -> None:
    done = online("gpu", "release", "7")

    assert done.code == 1
    assert "armitage gpu list" in done.err


def test_status_of_a_host_without_gpu_says_nothing_of_them(online: Cli) -> None:
    assert json.loads(online("status", "--json").out)["gpus"] is None
