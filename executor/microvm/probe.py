"""Whether actions can have virtual machines on this host: tried by booting one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from executor.errors import SandboxUnavailable
from executor.microvm.driver import build_driver, lock_complaint
from executor.microvm.machine import Accel, MicrovmOptions
from executor.microvm.means import boot_probe, find_means
from executor.probe import Finding

_TCG_S = 120.0


def probe_microvm(options: MicrovmOptions, bubblewrap: str | None = None) -> Finding:
    """Boots a guest with KVM and, when none comes up in time, with QEMU's TCG. Blocks so long."""
    if not options.enabled:
        return Finding("microVM", False, "switched off (microvm.enabled = false)")
    try:
        means = find_means(options, bubblewrap)
    except SandboxUnavailable as error:
        detail, _, remedy = str(error).partition(": ")
        return Finding("microVM", False, detail, remedy)
    machine = means.machine
    complaints: list[str] = []
    with tempfile.TemporaryDirectory(prefix="armitage-probe-") as workspace:
        for accel, limit_s in ((Accel.KVM, options.probe_s), (Accel.TCG, _TCG_S)):
            if accel not in machine.accels or options.accel not in (Accel.AUTO, accel):
                continue
            took_s, complaint = boot_probe(means, options, accel, Path(workspace), limit_s)
            if not complaint:
                detail = f"a guest of {machine.program} boots with {accel} in {took_s:.1f} s"
                return Finding("microVM", True, "; ".join((detail, *complaints)))
            complaints.append(f"with {accel}: {complaint}")
    detail = f"{machine.program}: {'; '.join(complaints)}"
    return Finding("microVM", False, detail, "see microvm in the configuration")


def probe_driver(options: MicrovmOptions) -> Finding:
    """Looks at what guests take beside a GPU that is passed through."""
    name = "GPU driver of guests"
    if not options.gpu_modules:
        return Finding(name, False, "none: microvm.gpu_modules is empty", "name its modules there")
    try:
        driver = build_driver(options.gpu_modules, options.gpu_firmware)
    except SandboxUnavailable as error:
        return Finding(name, False, str(error))
    complaint = lock_complaint(options.memory_bytes)
    names = ", ".join(path.name for path in options.gpu_modules)
    return Finding(name, not complaint, complaint or f"{names} ({len(driver.data) >> 10} KiB)")
