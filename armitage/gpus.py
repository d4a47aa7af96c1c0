"""The GPUs of this host, opened for the worker inside the daemon."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from armitage.chores import Chores
from executor.errors import DevicesUnavailable
from executor.isospin.device import Device
from executor.isospin.leasing import Discovery, GpuLeases, GpuOptions
from executor.isospin.nvml import DRIVER_FILES, NvmlDiscovery, load_nvml
from executor.isospin.passthrough import PassthroughDiscovery

_log = logging.getLogger(__name__)


class _Nothing:
    """Finds no device, and says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def find(self) -> tuple[Device, ...]:
        raise DevicesUnavailable(self._why)


class _Both:
    """Finds what NVML knows, and what is configured to be passed through."""

    def __init__(self, driver: Discovery, passed: Discovery) -> None:
        self._driver = driver
        self._passed = passed

    def find(self) -> tuple[Device, ...]:
        passed = self._passed.find()
        try:
            return (*self._driver.find(), *passed)
        except DevicesUnavailable as error:
            # A host whose GPUs are all passed through has no driver for them.
            _log.debug("GPUs for virtual machines alone: %s", error)
            return passed


async def open_gpus(
    stack: AsyncExitStack, options: GpuOptions, discovery: Discovery | None = None
) -> GpuLeases:
    """Looks for devices, and again every so often. There may be none: then leases are refused.

    `discovery` takes the driver's place in tests.
    """
    leases = GpuLeases(discovery or _discovery(options), options)
    stack.push_async_callback(leases.close)
    await leases.refresh()
    for device in leases.devices:
        _log.info("GPU %s: %s, %d MiB", device.uuid, device.name, device.memory_mib)
    await stack.enter_async_context(Chores(options.check_s, [], [leases.refresh]))
    return leases


def _discovery(options: GpuOptions) -> Discovery:
    if not options.enabled:
        return _Nothing("GPUs are switched off (gpu.enabled = false)")
    try:
        driver: Discovery = NvmlDiscovery(load_nvml(), files=(*DRIVER_FILES, *options.files))
    except DevicesUnavailable as error:
        driver = _Nothing(str(error))
    if not options.passthrough:
        return driver
    return _Both(driver, PassthroughDiscovery(options.passthrough))
