"""What QEMU is started with: nothing but what a guest needs, whatever is configured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from executor.microvm.initramfs import Initramfs, Kernel
from executor.microvm.machine import Accel, Disk, Guest
from executor.microvm.means import Means, guest_command
from executor.microvm.qemu import Qemu
from executor.spec import PassedDevice

MEANS = Means(
    machine=Qemu("/usr/bin/qemu-system-x86_64"),
    bubblewrap="/usr/bin/bwrap",
    mke2fs="/sbin/mke2fs",
    kernel=Kernel(Path("/boot/vmlinuz"), Path("/lib/modules/1")),
    initramfs=Initramfs(b"base"),
    toolchain_image=Path("/srv/toolchain"),
)


def passed(address: str, group: str) -> PassedDevice:
    return PassedDevice(address, "10de:2330", group, "sm_90", "nvidia", "580.1", ("nvidia*",))


def command(
    accel: Accel = Accel.TCG, ports: Sequence[tuple[str, int]] = (), **more: object
) -> list[str]:
    guest = Guest(accel, "/boot/vmlinuz", 2 << 30, 1, **more)  # type: ignore[arg-type]
    return guest_command(MEANS, guest, "/scratch/guest", ports)


def test_guest_has_the_devices_that_it_is_given_and_no_others() -> None:
    words = command(
        disks=[Disk("input", "/job/a,b"), Disk("toolchain", "/srv/toolchain", read_only=True)],
        ports=[("stdout", 7)],
    )

    devices = [after for word, after in itertools.pairwise(words) if word == "-device"]
    assert devices == [
        "virtio-blk-device,drive=input,serial=input",
        "virtio-blk-device,drive=toolchain,serial=toolchain",
        "virtio-serial-device",
        "virtserialport,chardev=stdout,name=stdout",
    ]
    assert "if=none,id=input,format=raw,file=/job/a,,b,cache=unsafe" in words
    assert "if=none,id=toolchain,format=raw,file=/srv/toolchain,readonly=on" in words
    assert not {"-netdev", "-nic", "-net", "-fsdev", "-virtfs", "-monitor", "-qmp"} & set(words)
    assert {"-nodefaults", "-no-user-config"} <= set(words)


def test_qemu_is_enclosed_with_its_own_filter() -> None:
    words = command()

    enclosing = words[: words.index("--")]
    assert {"--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"} <= set(enclosing)
    assert enclosing[enclosing.index("--cap-drop") + 1] == "ALL"
    writable = [after for word, after in itertools.pairwise(enclosing) if word == "--bind"]
    assert writable == ["/scratch/guest"]
    assert words[words.index("-sandbox") + 1].startswith("on,")


def test_network_is_that_of_the_namespace_it_is_started_in_and_only_when_granted() -> None:
    granted = command(has_network=True)

    assert "--share-net" in granted[: granted.index("--")]
    assert "user,id=network,ipv6=off" in granted
    assert "--share-net" not in command()


def test_devices_are_passed_at_the_slots_of_a_bus_that_no_other_guest_has() -> None:
    words = command(passed=[passed("0000:41:00.0", "7"), passed("0000:42:00.0", "8")])

    devices = [after for word, after in itertools.pairwise(words) if word == "-device"]
    assert devices == [
        "vfio-pci,host=0000:41:00.0,bus=pcie.0,addr=0x1",
        "vfio-pci,host=0000:42:00.0,bus=pcie.0,addr=0x2",
    ]
    enclosing = words[: words.index("--")]
    nodes = [after for word, after in itertools.pairwise(enclosing) if word == "--dev-bind"]
    assert nodes == ["/dev/vfio/vfio", "/dev/vfio/7", "/dev/vfio/8"]
    assert "pcie=on" in words[words.index("-machine") + 1]
    assert "pci=off" not in words[words.index("-append") + 1]
    without = command()
    assert "pcie=on" not in without[without.index("-machine") + 1]
    assert "pci=off" in without[without.index("-append") + 1]
    assert not [word for word in without if "vfio" in word]


def test_only_kvm_gets_its_device() -> None:
    assert "/dev/kvm" in command(Accel.KVM)
    assert "/dev/kvm" not in command(Accel.TCG)


def test_kernel_is_told_the_pace_of_a_clock_that_it_cannot_measure() -> None:
    def told(accel: Accel) -> bool:
        words = command(accel)
        return "tsc_early_khz=" in words[words.index("-append") + 1]

    assert told(Accel.TCG)
    assert not told(Accel.KVM)
