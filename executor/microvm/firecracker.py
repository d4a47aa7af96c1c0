"""Firecracker: what it is started with. Guests run with KVM, or not at all.

It keeps its own seccomp filter, which its releases have, beside the sandbox that all machines are
in (means.py). That sandbox has the place of its jailer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executor.microvm.machine import (
    COMMAND_LINE,
    DOCUMENT,
    INITRD,
    Accel,
    Disk,
    Guest,
    Machine,
    MachineKind,
)
from executor.spec import Work

FIRECRACKER_REMEDY = (
    "put a release of it at /usr/local/bin/firecracker, or name it (microvm.firecracker)"
)
_KVM_REMEDY = (
    "Firecracker runs guests with KVM alone: load its module (modprobe kvm_intel or kvm_amd) and"
    " let the daemon open /dev/kvm, or take QEMU (apt-get install qemu-system-x86,"
    ' microvm.machine = "qemu")'
)
# It ends when the guest asks the keyboard's controller for a reset, and at nothing else.
_COMMAND_LINE = f"{COMMAND_LINE} reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd"
_KERNEL_REMEDY = (
    "this Firecracker takes no compressed kernel, as releases up to 1.16 do not: set microvm.kernel"
    " to an uncompressed one (vmlinux, which scripts/extract-vmlinux of Linux gets out of a"
    " vmlinuz) and microvm.modules, or take a later release, or QEMU"
)


class Firecracker(Machine):
    """See Machine. Guests have neither a network nor devices of the host."""

    kind = MachineKind.FIRECRACKER
    accels = (Accel.KVM,)
    has_ports = False

    def refusal(self, work: Work) -> str:
        """See Machine."""
        if work.coeffects.network or work.coeffects.auth:
            lacking = "has no network"
        elif work.coeffects.gpu is not None:
            lacking = "passes no GPU through"
        else:
            return ""
        return (
            f"{lacking} here, since Firecracker runs its guests: the operator sets microvm.machine"
            ' to "qemu", or the action uses sandbox:namespace'
        )

    def view(self, guest: Guest) -> list[str]:
        """Shows the program, which may lie anywhere."""
        del guest
        return ["--ro-bind", self.program, self.program]

    def document(self, guest: Guest) -> Mapping[str, object]:
        """Answers its configuration (docs/getting-started.md of Firecracker)."""
        return {
            "boot-source": {
                "kernel_image_path": guest.kernel,
                "initrd_path": INITRD,
                "boot_args": " ".join((_COMMAND_LINE, *guest.words)),
            },
            "drives": [_drive(disk) for disk in guest.disks],
            "machine-config": {
                "vcpu_count": guest.cpus,
                "mem_size_mib": guest.memory_bytes >> 20,
            },
        }

    def command(self, guest: Guest, ports: Sequence[tuple[str, int]]) -> list[str]:
        """See Machine. Its log goes where the guest's console goes, and would be in its way."""
        del guest, ports
        return [self.program, "--no-api", "--config-file", DOCUMENT, "--level", "Error"]

    def advice(self, words: str) -> str:
        """See Machine."""
        return _KERNEL_REMEDY if "InvalidElfMagicNumber" in words else _KVM_REMEDY


def _drive(disk: Disk) -> dict[str, object]:
    return {
        "drive_id": disk.name,
        "path_on_host": disk.path,
        "is_root_device": False,
        "is_read_only": disk.read_only,
    }
