"""GPUs for virtual machines: what sysfs must say before one is leased, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.gpus import gpu

from executor.coeffects import GpuGrant
from executor.isospin.device import Device, need_of
from executor.isospin.passthrough import PassthroughDiscovery, PassthroughOptions

GPU, AUDIO, BRIDGE, OTHER = ("0000:41:00.0", "0000:41:00.1", "0000:40:01.0", "0000:42:00.0")
OPTIONS = PassthroughOptions(
    address=GPU, name="NVIDIA H100", memory_mib=81_559, arch="sm_90", driver="580.159.04"
)


class Host:
    """A sysfs in which one GPU, its audio function and a bridge are of one IOMMU group."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pci = root / "sys/bus/pci/devices"
        self.group = root / "sys/kernel/iommu_groups/7"
        (self.group / "devices").mkdir(parents=True)
        (root / "dev/vfio").mkdir(parents=True)
        for node in ("vfio", "7"):
            (root / "dev/vfio" / node).touch()
        for address, kind in ((GPU, "0x030200"), (AUDIO, "0x040300"), (BRIDGE, "0x060400")):
            self.add(address, kind)
        self.bind(BRIDGE, "pcieport")

    def add(self, address: str, kind: str) -> None:
        place = self.pci / address
        place.mkdir(parents=True)
        for name, text in (("class", kind), ("vendor", "0x10de"), ("device", "0x2330")):
            (place / name).write_text(f"{text}\n")
        (place / "reset_method").write_text("flr bus\n")
        (place / "iommu_group").symlink_to(self.group)
        (self.group / "devices" / address).symlink_to(place)
        self.bind(address, "vfio-pci")

    def bind(self, address: str, driver: str) -> None:
        link = self.pci / address / "driver"
        link.unlink(missing_ok=True)
        if driver:
            link.symlink_to(self.root / "sys/bus/pci/drivers" / driver)

    def find(self, *options: PassthroughOptions) -> tuple[Device, ...]:
        return PassthroughDiscovery(options or (OPTIONS,), root=self.root).find()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_device_is_what_is_configured_and_what_sysfs_tells(host: Host) -> None:
    (device,) = host.find()

    assert device.fault == ""
    assert (device.uuid, device.sm, device.driver) == (f"PCI-{GPU}", 90, "580.159.04")
    assert device.passed is not None
    assert (device.passed.ids, device.passed.group) == ("10de:2330", "7")


def _write(path: str, text: str) -> Callable[[Host], None]:
    def change(host: Host) -> None:
        (host.root / path).parent.mkdir(parents=True, exist_ok=True)
        (host.root / path).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda host: host.bind(GPU, "nvidia"), f"{GPU} of its IOMMU group 7 is bound to nvidia"),
        (lambda host: host.bind(AUDIO, "snd_hda_intel"), f"{AUDIO} of its IOMMU group 7 is bound"),
        (lambda host: host.bind(AUDIO, ""), "is bound to no driver; bind it to vfio-pci"),
        (lambda host: (host.pci / GPU / "iommu_group").unlink(), "it is in no IOMMU group"),
        (_write("sys/kernel/iommu_groups/7/name", "vfio-noiommu"), "mode without an IOMMU"),
        (
            _write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y"),
            "a guest could forge interrupts",
        ),
        (_write(f"sys/bus/pci/devices/{GPU}/reset_method", "pm"), "it cannot be reset"),
        (_write(f"sys/bus/pci/devices/{GPU}/reset_method", ""), "it cannot be reset"),
        (lambda host: (host.root / "dev/vfio/7").unlink(), "/dev/vfio/7 is not there"),
        (lambda host: (host.root / "dev/vfio/vfio").unlink(), "/dev/vfio/vfio is not there"),
    ],
)
def test_device_that_is_not_ready_says_what_to_do(
    host: Host, change: Callable[[Host], object], fault: str
) -> None:
    change(host)

    assert fault in host.find()[0].fault


def test_device_that_is_not_there_is_named(host: Host) -> None:
    (device,) = host.find(replace(OPTIONS, address="0000:99:00.0"))

    assert "there is no PCI device 0000:99:00.0" in device.fault


def test_group_goes_to_one_guest(host: Host) -> None:
    host.add(OTHER, "0x030200")

    faults = [one.fault for one in host.find(OPTIONS, replace(OPTIONS, address=OTHER))]

    assert all("of the same IOMMU group 7" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", "41:00.0"),
        ("address", "0000:41:00.0,x"),
        ("arch", "90"),
        ("driver", "5 8"),
        ("module", "../nvidia"),
        ("memory_mib", 0),
        ("nodes", ("../x",)),
        ("nodes", ()),
    ],
)
def test_configuration_that_means_nothing_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        replace(OPTIONS, **{name: value})  # type: ignore[arg-type]


def test_only_virtual_machines_get_what_is_passed_through(host: Host) -> None:
    (passed,) = host.find()
    held = gpu("GPU-1")
    for in_guest in (True, False):
        need = need_of(GpuGrant(), {}, in_guest=in_guest)

        assert need.suits(passed) == in_guest
        assert need.suits(held) == (not in_guest)
