"""What GPUs this host has to lease: asked of the driver, or held against sysfs."""

from __future__ import annotations

from executor.errors import DevicesUnavailable
from executor.isospin.device import Device
from executor.isospin.nvml import NvmlDiscovery, load_nvml
from executor.isospin.passthrough import PassthroughDiscovery
from executor.probe import Finding


def probe_gpus(discovery: NvmlDiscovery | None = None) -> Finding:
    """Looks for GPUs that could be leased. `discovery` takes the driver's place in tests."""
    try:
        devices = (discovery or NvmlDiscovery(load_nvml())).find()
    except DevicesUnavailable as error:
        detail, _, remedy = str(error).partition(": ")
        return Finding("GPU leases", False, detail, remedy if "install" in remedy else "")
    healthy = [device for device in devices if not device.fault]
    return Finding(
        "GPU leases",
        bool(healthy),
        "; ".join(map(_describe, devices)) or "the driver knows of no GPU",
    )


def probe_passthrough(discovery: PassthroughDiscovery) -> tuple[Finding, ...]:
    """Looks at each GPU that is configured to be passed through to virtual machines."""
    return tuple(
        Finding("GPU pass-through", not device.fault, f"{device.uuid} {_describe(device)}")
        for device in discovery.find()
    )


def _describe(device: Device) -> str:
    name = f"{device.name} {device.profile}".rstrip()
    text = f"{name} (sm_{device.sm}, {device.memory_mib} MiB, driver {device.driver})"
    return f"{text}: {device.fault}" if device.fault else text
