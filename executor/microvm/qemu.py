"""QEMU's `microvm` machine: what it is started with.

QEMU has its own seccomp filter beside the sandbox that all machines are in (means.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from executor.microvm.machine import COMMAND_LINE, INITRD, Accel, Disk, Guest, Machine, MachineKind
from executor.spec import PassedDevice

_MACHINE = "microvm,acpi=on,rtc=on"
"""ACPI tells the kernel where devices are. Without a clock it waits seconds for one to answer."""
_COMMAND_LINE = f"{COMMAND_LINE} reboot=t tsc=reliable"
_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_NETWORK = (
    *("-netdev", "user,id=network,ipv6=off"),
    *("-device", "virtio-net-device,netdev=network"),
)
_ACCELERATORS = {
    Accel.KVM: "kvm",
    # Translated code takes a gigabyte otherwise, which no limit on memory would leave room for.
    Accel.TCG: "tcg,tb-size=128",
}


class Qemu(Machine):
    """See Machine. Devices that are passed through are at slots from 1 on of a PCI bus, which no
    other guest has.
    """

    kind = MachineKind.QEMU
    accels = (Accel.KVM, Accel.TCG)
    has_ports = True

    def view(self, guest: Guest) -> list[str]:
        """Shows devices that are passed through."""
        passed = guest.passed
        return [
            *(word for node in _nodes(passed) for word in ("--dev-bind", node, node)),
            *(word for place in _places(passed) for word in ("--ro-bind", place, place)),
        ]

    def command(self, guest: Guest, ports: Sequence[tuple[str, int]]) -> list[str]:
        """See Machine."""
        accel, passed = guest.accel, guest.passed
        words = (_COMMAND_LINE, *_pci(passed), *_clock(accel), *guest.words)
        return [
            self.program,
            *("-machine", f"{_MACHINE},pcie=on" if passed else _MACHINE),
            *("-accel", _ACCELERATORS[accel], *_cpu(accel)),
            *("-m", f"{guest.memory_bytes >> 20}M", "-smp", str(guest.cpus)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-sandbox", _SECCOMP),
            *("-kernel", guest.kernel, "-initrd", INITRD, "-append", " ".join(words)),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *(word for disk in guest.disks for word in _disk(disk)),
            *(("-device", "virtio-serial-device") if ports else ()),
            *(word for name, fd in ports for word in _port(name, fd)),
            *(_NETWORK if guest.has_network else ()),
            *(word for slot, one in enumerate(passed, 1) for word in _passed(slot, one)),
        ]


def _pci(passed: Sequence[PassedDevice]) -> tuple[str, ...]:
    return () if passed else ("pci=off",)


def _nodes(passed: Sequence[PassedDevice]) -> list[str]:
    """Answers what of the host's /dev QEMU opens for devices."""
    groups = [f"/dev/vfio/{one.group}" for one in passed]
    return ["/dev/vfio/vfio", *groups] if passed else []


def _places(passed: Sequence[PassedDevice]) -> list[str]:
    """Answers where QEMU looks up a device's group."""
    return [f"/sys/bus/pci/devices/{one.address}" for one in passed]


def _passed(slot: int, one: PassedDevice) -> list[str]:
    return ["-device", f"vfio-pci,host={one.address},bus=pcie.0,addr={slot:#x}"]


def _cpu(accel: Accel) -> tuple[str, str]:
    # Some hosts refuse the guest the registers behind this feature, and QEMU then gives up.
    return ("-cpu", "host,-arch-capabilities" if accel is Accel.KVM else "max")


def _clock(accel: Accel) -> tuple[str, ...]:
    """Answers the word that tells a guest's kernel how fast its time stamp counter is.

    The machine has no other clock to measure it with, and on a busy host a guest that tries waits
    for ever. KVM tells by itself. Where the host's own figure is off, so is the guest's clock.
    """
    if accel is Accel.KVM:
        return ()
    text = Path("/proc/cpuinfo").read_text()
    # A clock rate in the model's name is the counter's; the current rate may be lower.
    named = re.search(r"model name.*@ *([\d.]+) *GHz", text)
    current = re.search(r"cpu MHz\s*: *([\d.]+)", text)
    if named is not None:
        return (f"tsc_early_khz={int(float(named[1]) * 1e6)}",)
    return (f"tsc_early_khz={int(float(current[1]) * 1e3)}",) if current is not None else ()


def _disk(disk: Disk) -> list[str]:
    mode = "readonly=on" if disk.read_only else "cache=unsafe"
    path = disk.path.replace(",", ",,")
    return [
        *("-drive", f"if=none,id={disk.name},format=raw,file={path},{mode}"),
        *("-device", f"virtio-blk-device,drive={disk.name},serial={disk.name}"),
    ]


def _port(name: str, fd: int) -> list[str]:
    return [
        *("-add-fd", f"fd={fd},set={fd}"),
        *("-chardev", f"file,id={name},path=/dev/fdset/{fd},append=on"),
        *("-device", f"virtserialport,chardev={name},name={name}"),
    ]
