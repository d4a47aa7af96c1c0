"""A PCI device that a guest gets by vfio: what is leased is in the guest, and it works there.

It takes a host with an IOMMU and a spare NVMe drive, as a stand-in for a GPU, that begins with the
word "spare" and is bound to vfio-pci: tests/nested/passthrough runs this on an emulated one.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import Bench, JsonCodec
from support.microvm import KERNEL, machine_options, make_toolchain, microvm_missing

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, GpuGrant
from executor.errors import DevicesUnavailable, WorkerFailure
from executor.isospin.leasing import GpuLeases, GpuOptions, LeasingExecutor
from executor.isospin.passthrough import PassthroughDiscovery, PassthroughOptions
from executor.isospin.pool import WhenNone
from executor.microvm.executor import MicrovmExecutor
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT

ADDRESS = os.environ.get("ARMITAGE_VFIO", "")
MISSING = microvm_missing() or (
    "" if ADDRESS else "ARMITAGE_VFIO names no spare device: see tests/nested/passthrough"
)
DRIVE = PassthroughOptions(
    address=ADDRESS or "0000:00:00.0",
    name="an NVMe drive",
    memory_mib=1,
    arch="sm_10",
    driver="1.0",
    module="nvme",
    nodes=("nvme0n1",),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sandbox,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toolchain(tmp_path_factory.mktemp("toolchain"))


@asynccontextmanager
async def open_bench(
    directory: Path, toolchain: Path, device: PassthroughOptions
) -> AsyncIterator[Bench]:
    store = MemoryStore()
    # The driver of the drive is part of this kernel; any module stands for one that is not.
    module = next(KERNEL.glob("lib/modules/*/kernel/drivers/block/loop.ko"))
    guests = MicrovmExecutor(
        store,
        JsonCodec(),
        ExecutorOptions(scratch=directory / "scratch", max_timeout_s=300),
        SystemClock().wall,
        replace(machine_options(toolchain), gpu_modules=(module,)),
    )
    leases = GpuLeases(PassthroughDiscovery([device]), GpuOptions(when_none=WhenNone.FAIL))
    await leases.refresh()
    executor = LeasingExecutor(guests, leases, lambda _: True)
    yield Bench(executor, store, directory / "scratch", BUILD_ROOT)
    await leases.close()
    await guests.close()


async def test_action_reads_and_writes_the_device_that_it_holds(
    tmp_path: Path, toolchain: Path
) -> None:
    script = (
        "head -c 5 /dev/nvme0n1; printf found >/dev/nvme0n1; sync; head -c 5 /dev/nvme0n1;"
        " ls /dev | grep nvme"
    )
    async with open_bench(tmp_path, toolchain, DRIVE) as bench:
        outcome = await bench.run("sh", "-c", script, coeffects=Coeffects(gpu=GpuGrant()))

        assert outcome.exit_code == 0, await bench.errors(outcome)
        assert await bench.store.get(outcome.stdout) == b"sparefoundnvme0n1\n"
        assert outcome.evidence is not None
        assert [one.uuid for one in outcome.evidence.gpus] == [f"PCI-{ADDRESS}"]
        assert outcome.evidence.profile is not None
        profile = json.loads(await bench.store.get(outcome.evidence.profile))
        assert [one["address"] for one in profile["devices"]] == [ADDRESS]
        assert set(profile["files"]) >= {"kernel", "initramfs", "driver", "qemu"}


async def test_driver_of_another_version_runs_no_action(tmp_path: Path, toolchain: Path) -> None:
    async with open_bench(tmp_path, toolchain, replace(DRIVE, driver="2.0")) as bench:
        with pytest.raises(WorkerFailure, match=r"nvme has version 1\.0, and the lease says 2\.0"):
            await bench.run("true", coeffects=Coeffects(gpu=GpuGrant()))


async def test_device_that_is_not_ready_is_leased_to_nobody(
    tmp_path: Path, toolchain: Path
) -> None:
    async with open_bench(tmp_path, toolchain, replace(DRIVE, address="0000:00:00.0")) as bench:
        with pytest.raises(DevicesUnavailable, match="it cannot be reset"):
            await bench.run("true", coeffects=Coeffects(gpu=GpuGrant()))
