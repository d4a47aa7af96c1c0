"""What Firecracker is started with, and what its guests are refused; no guest is booted here."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import Bench, JsonCodec
from support.microvm import machine_options, microvm_missing

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, GpuGrant, NetworkGrant
from executor.errors import SandboxUnavailable
from executor.microvm import means
from executor.microvm.executor import MicrovmExecutor
from executor.microvm.firecracker import Firecracker
from executor.microvm.initramfs import Initramfs, Kernel
from executor.microvm.machine import Accel, Disk, Guest, MachineKind, MicrovmOptions
from executor.microvm.means import Means, guest_command, write_guest
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT

MACHINE = Firecracker("/opt/firecracker")
MEANS = Means(
    machine=MACHINE,
    bubblewrap="/usr/bin/bwrap",
    mke2fs="/sbin/mke2fs",
    kernel=Kernel(Path("/boot/vmlinuz"), Path("/lib/modules/1")),
    initramfs=Initramfs(b"base"),
    toolchain_image=Path("/srv/toolchain"),
)
GUEST = Guest(
    Accel.KVM,
    "/boot/vmlinuz",
    512 << 20,
    2,
    disks=(Disk("input", "/job/input.img"), Disk("toolchain", "/srv/toolchain", read_only=True)),
    words=("armitage.probe",),
)
V1_16 = (
    "2026-11-29T12:53:59.757504989 [anonymous-instance:main] RunWithoutApiError error: Failed to"
    " build MicroVM from Json: Could not Start MicroVM from one single json: System configuration"
    " error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel"
    " Loader: failed to load ELF kernel image: Kernel Loader: Invalid Elf magic number\n"
    "Error: RunWithoutApiError(BuildMicroVMFromJson(StartMicroVM(ConfigureSystem(KernelLoader("
    "Elf(InvalidElfMagicNumber))))))\n"
    "2026-11-29T12:53:59.757633892 [anonymous-instance:main] Firecracker exiting with error."
    " exit_code=1\n"
)
"""What 1.16.1 said of Debian's cloud kernel."""


def test_guest_has_what_it_is_given_in_that_order_and_nothing_else(tmp_path: Path) -> None:
    write_guest(MEANS, GUEST, tmp_path, [b"base", b"job"])

    document = json.loads((tmp_path / "machine.json").read_text())
    words = document["boot-source"].pop("boot_args").split()
    assert {"reboot=k", "panic=-1", "console=ttyS0", "armitage.probe"} <= set(words)
    assert document == {
        "boot-source": {"kernel_image_path": "/boot/vmlinuz", "initrd_path": "/job/initrd"},
        "drives": [
            {
                "drive_id": "input",
                "path_on_host": "/job/input.img",
                "is_root_device": False,
                "is_read_only": False,
            },
            {
                "drive_id": "toolchain",
                "path_on_host": "/srv/toolchain",
                "is_root_device": False,
                "is_read_only": True,
            },
        ],
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 512},
    }
    assert (tmp_path / "initrd").read_bytes() == b"basejob"


def test_firecracker_is_enclosed_and_keeps_its_own_filter() -> None:
    words = guest_command(MEANS, GUEST, "/scratch/guest")

    enclosing, own = words[: words.index("--")], words[words.index("--") + 1 :]
    assert own[:4] == ["/opt/firecracker", "--no-api", "--config-file", "/job/machine.json"]
    assert "--no-seccomp" not in own
    assert {"--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"} <= set(enclosing)
    assert "--share-net" not in enclosing
    binds = {
        kind: [after for word, after in itertools.pairwise(enclosing) if word == kind]
        for kind in ("--bind", "--dev-bind", "--ro-bind")
    }
    assert (binds["--bind"], binds["--dev-bind"]) == (["/scratch/guest"], ["/dev/kvm"])
    assert {"/boot/vmlinuz", "/srv/toolchain", "/opt/firecracker"} <= set(binds["--ro-bind"])


def test_kernel_that_is_not_taken_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words").write_text(V1_16)
    monkeypatch.setattr(means, "KVM", os.devnull)
    monkeypatch.setattr(means, "guest_command", lambda *_: ["/bin/cat", str(tmp_path / "words")])

    _, complaint = means.boot_probe(MEANS, MicrovmOptions(), Accel.KVM, tmp_path, timeout_s=10)

    assert complaint.startswith("the guest did not come up: Error: RunWithoutApiError(Build")
    assert "set microvm.kernel to an uncompressed one" in complaint
    assert "modprobe" not in complaint


@asynccontextmanager
async def open_bench(directory: Path) -> AsyncIterator[Bench]:
    """A bench whose Firecracker brings up no guest."""
    store = MemoryStore()
    options = replace(
        machine_options(None),
        machine=MachineKind.FIRECRACKER,
        firecracker="/bin/true",
        accel=Accel.AUTO,
    )
    executor = MicrovmExecutor(
        store,
        JsonCodec(),
        ExecutorOptions(scratch=directory / "scratch", max_timeout_s=60),
        SystemClock().wall,
        options,
    )
    yield Bench(executor, store, directory / "scratch", BUILD_ROOT)
    await executor.close()


@pytest.mark.skipif(bool(microvm_missing()), reason=microvm_missing())
async def test_what_firecracker_has_not_is_refused_and_never_left_out(tmp_path: Path) -> None:
    declared = [
        (Coeffects(network=(NetworkGrant(),)), "has no network here.*Firecracker"),
        (Coeffects(auth=("token",)), "has no network here.*Firecracker"),
        (Coeffects(gpu=GpuGrant()), "passes no GPU through here.*Firecracker"),
        (Coeffects(), r"Firecracker runs guests with KVM alone: .*microvm\.machine"),
    ]
    async with open_bench(tmp_path) as bench:
        for coeffects, words in declared:
            with pytest.raises(SandboxUnavailable, match=words):
                await bench.run("true", coeffects=coeffects)
