"""`armitage gpu` against a daemon without GPUs, and what it prints of those of another."""

import json

from support.command_line import Cli

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.cli.gpu import describe, lines_of

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
