"""GPUs that are passed through to virtual machines (vfio): what is configured, held against sysfs.

Nothing is bound or unbound here: a device that is not ready has a fault that says what to do.

The rules (Linux, Documentation/driver-api/vfio.rst):

- The device is in an IOMMU group, whose name is not that of vfio's mode without an IOMMU.
- Interrupts are remapped: vfio is not told to go without (allow_unsafe_interrupts).
- All of the group is bound to vfio-pci, but for bridges; so no driver of the host works with
  something that the guest's device could reach. Others than the device itself are left there, bound
  and closed: a guest is not given a GPU's audio function.
- A group has one device that is leased, since one guest opens it.
- vfio can reset the device, by more than a change of its power state, when a guest opens it.
- The group's node is there, and this process may open it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from executor.isospin.device import Device
from executor.spec import PassedDevice

_DRIVER = "vfio-pci"
_BRIDGES = ("0x0600", "0x0604")
"""Host, and PCI to PCI (PCI Code and ID Assignment, base class 06)."""
_NO_IOMMU = "vfio-noiommu"
_WEAK_RESETS = {"pm"}
"""From D3hot to D0: what a device keeps over that is up to it."""
_PATTERNS = {
    "address": r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]",
    "arch": r"sm_[0-9]{2,4}",
    "driver": r"[\w.+-]+",
    "module": r"\w+",
}
_EXAMPLES = {"address": "0000:41:00.0", "arch": "sm_90", "driver": "580.159.04", "module": "nvidia"}
_NODE = r"[\w.*?-]+"


@dataclass(frozen=True, slots=True)
class PassthroughOptions:
    """One GPU for virtual machines, and what nobody can say of it while vfio-pci holds it."""

    address: str
    """Of its PCI function, such as `0000:41:00.0`."""
    name: str
    memory_mib: int
    arch: str
    """Such as `sm_90`."""
    driver: str
    """Version of the guest's driver (/sys/module/MODULE/version there)."""
    module: str = "nvidia"
    """The guest's driver."""
    nodes: tuple[str, ...] = ("nvidia*",)
    """Patterns for names in the guest's /dev: what an action gets."""

    def __post_init__(self) -> None:
        for field, pattern in _PATTERNS.items():
            value = getattr(self, field)
            if not re.fullmatch(pattern, value, re.ASCII):
                raise ValueError(f"{field}: {value!r} is none; write it like {_EXAMPLES[field]}")
        if self.memory_mib < 1:
            raise ValueError("memory_mib must be at least 1")
        if not self.nodes or not all(re.fullmatch(_NODE, one, re.ASCII) for one in self.nodes):
            raise ValueError("nodes are patterns for names in the guest's /dev, at least one")


class PassthroughDiscovery:
    """Looks at the devices that are configured. Blocking."""

    def __init__(
        self,
        options: Sequence[PassthroughOptions],
        *,
        root: Path = Path("/"),
        is_usable: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK),
    ) -> None:
        """Below `root` lie sysfs and device nodes."""
        self._options = options
        self._root = root
        self._is_usable = is_usable

    def find(self) -> tuple[Device, ...]:
        """Answers all that are configured, with what is wrong with each."""
        return tuple(map(self._device, self._options))

    def _device(self, one: PassthroughOptions) -> Device:
        place = self._pci(one.address)
        group = _link(place / "iommu_group")
        return Device(
            uuid=f"PCI-{one.address}",
            name=one.name,
            memory_mib=one.memory_mib,
            sm=int(one.arch.removeprefix("sm_")),
            driver=one.driver,
            fault=next(self._faults(one, group), ""),
            passed=PassedDevice(
                address=one.address,
                ids=f"{_id(place / 'vendor')}:{_id(place / 'device')}",
                group=group,
                arch=one.arch,
                module=one.module,
                version=one.driver,
                nodes=one.nodes,
            ),
        )

    def _faults(self, one: PassthroughOptions, group: str) -> Iterator[str]:
        place = self._pci(one.address)
        if not place.is_dir():
            yield f"there is no PCI device {one.address}; lspci -D lists them"
        if not group:
            yield (
                "it is in no IOMMU group: switch the IOMMU on in the firmware, and boot with"
                " intel_iommu=on (Intel; AMD's is on)"
            )
        known = self._root / "sys/kernel/iommu_groups" / group
        if _text(known / "name") == _NO_IOMMU:
            yield (
                "vfio is in its mode without an IOMMU, where a guest could read and write all of"
                " the host's memory: switch the IOMMU on and enable_unsafe_noiommu_mode off"
            )
        type1 = self._root / "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        if _text(type1) == "Y":
            yield (
                "a guest could forge interrupts: switch vfio_iommu_type1's allow_unsafe_interrupts"
                " off"
            )
        yield from self._faults_of_group(one, group)
        resets = set(_text(place / "reset_method").split())
        if not resets - _WEAK_RESETS:
            yield (
                "it cannot be reset, so that a guest would find what the last one left"
                " (reset_method in sysfs, from Linux 5.15 on)"
            )
        for node in (Path("dev/vfio/vfio"), Path("dev/vfio") / group):
            if not self._is_usable(self._root / node):
                yield f"/{node} is not there or not ours to use: chown it to the daemon's user"

    def _faults_of_group(self, one: PassthroughOptions, group: str) -> Iterator[str]:
        members = sorted(path.name for path in self._pci(one.address).glob("iommu_group/devices/*"))
        named = {other.address for other in self._options}
        for address in members:
            if address != one.address and address in named:
                yield (
                    f"{address} is of the same IOMMU group {group}, which goes to one guest as a"
                    " whole: name only one of them in gpu.passthrough"
                )
            driver = _link(self._pci(address) / "driver")
            is_bridge = _text(self._pci(address) / "class").startswith(_BRIDGES)
            if driver != _DRIVER and not is_bridge:
                yield (
                    f"{address} of its IOMMU group {group} is bound to {driver or 'no driver'};"
                    f" bind it to {_DRIVER}: {_binding(address, driver)}"
                )

    def _pci(self, address: str) -> Path:
        return self._root / "sys/bus/pci/devices" / address


def _binding(address: str, driver: str) -> str:
    """Answers what a person types to bind a device to vfio-pci."""
    place = f"/sys/bus/pci/devices/{address}"
    steps = [f"echo {_DRIVER} > {place}/driver_override"]
    steps += [f"echo {address} > {place}/driver/unbind"] if driver else []
    steps += [f"echo {address} > /sys/bus/pci/drivers_probe"]
    return f"modprobe {_DRIVER} && {' && '.join(steps)}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _id(path: Path) -> str:
    return _text(path).removeprefix("0x")


def _link(path: Path) -> str:
    """Answers the last part of where a link leads; empty when there is none."""
    try:
        return path.readlink().name
    except OSError:
        return ""
