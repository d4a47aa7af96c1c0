"""What tests of microVMs need: a kernel, a toolchain that is small, and why they cannot be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from executor.microvm.image import make_image
from executor.microvm.machine import Accel, MachineKind, MicrovmOptions
from executor.microvm.qemu import Qemu

chosen = {"accel": Accel.TCG}
"""What guests run on: without KVM, which not every host of the tests has, unless pytest is told
`--accel kvm`.
"""
ROOT = Path(__file__).parents[2]
KERNEL = ROOT / ".cache" / "e2e" / "kernel"
FIRECRACKER = os.environ.get("ARMITAGE_FIRECRACKER") or shutil.which("firecracker")


def microvm_missing() -> str:
    """Why this host cannot boot guests; empty when it can."""
    for program, package in (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mksquashfs", "squashfs-tools"),
        ("mke2fs", "e2fsprogs"),
        ("busybox", "busybox-static"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    if not list(KERNEL.glob("boot/vmlinuz-*")):
        return "there is no kernel for guests: run tests/e2e/prepare"
    return ""


def firecracker_missing() -> str:
    """Why this host cannot boot guests with Firecracker; empty when it can."""
    if FIRECRACKER is None:
        return "there is no firecracker, and ARMITAGE_FIRECRACKER names none"
    if chosen["accel"] is not Accel.KVM:
        return "Firecracker takes KVM: pytest --accel kvm, where that works (tests/nested/host)"
    return microvm_missing()


class PortlessQemu(Qemu):
    """QEMU with guests that are told all that those of Firecracker are, for hosts without KVM."""

    has_ports = False


def make_toolchain(directory: Path, *programs: str) -> Path:
    """An image with busybox and its applets, and programs of this host with their libraries."""
    root = directory / "toolchain"
    tree = root / "bin"
    tree.mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in set(listed.stdout.split()) - {"busybox"}:
        os.symlink("busybox", tree / applet)
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        shutil.copy(found, tree / program)
        linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True)
        for library in re.findall(r"/\S+(?= \(0x)", linked.stdout):
            place = root / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    image = directory / "toolchain.squashfs"
    make_image(["/bin", "/lib*"], image, root)
    return image


def machine_options(
    toolchain_image: Path | None, machine: MachineKind = MachineKind.QEMU
) -> MicrovmOptions:
    """Small guests."""
    return MicrovmOptions(
        machine=machine,
        firecracker=FIRECRACKER,
        kernel=next(KERNEL.glob("boot/vmlinuz-*")),
        modules=next(KERNEL.glob("lib/modules/*")),
        toolchain_image=toolchain_image,
        accel=chosen["accel"],
        probe_s=60,
        memory_bytes=512 << 20,
        disk_bytes=1 << 30,
    )
