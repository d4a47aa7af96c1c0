"""The driver of devices that are passed through: an archive for the guests that have one."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from executor.errors import SandboxUnavailable
from executor.microvm import cpio
from executor.microvm.initramfs import Initramfs, module_content

LOCKED_BESIDE_BYTES = 128 << 20
"""Of what QEMU locks for a device: firmware and the like, beside the guest's memory."""
_FIRMWARE = "lib/firmware"


def build_driver(modules: Sequence[Path], firmware: Path | None) -> Initramfs:
    """Answers what a guest with a device has beside the base: modules, in the order in which they
    are loaded, and the directory that is its /lib/firmware. Raises SandboxUnavailable.
    """
    try:
        named = {path.name.partition(".ko")[0]: module_content(path) for path in modules}
        files = [] if firmware is None else list(_below(firmware))
    except OSError as error:
        raise SandboxUnavailable(
            f"microvm.gpu_modules, microvm.gpu_firmware: {error.filename}: {error.strerror}"
        ) from error
    if len(named) < len(modules):
        raise SandboxUnavailable("microvm.gpu_modules: two of them have one name")
    script = resources.files("executor.microvm").joinpath("devices.sh").read_bytes()
    return Initramfs(
        cpio.pack(
            [
                cpio.directory("driver"),
                cpio.file("driver/devices.sh", script),
                cpio.file("driver/order", "".join(f"{name}\n" for name in named).encode()),
                *(cpio.file(f"driver/{name}.ko", data) for name, data in named.items()),
                *files,
            ]
        )
    )


def _below(directory: Path) -> Iterator[cpio.Item]:
    yield from map(cpio.directory, ("lib", _FIRMWARE))
    if not directory.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(directory))
    for path in sorted(directory.rglob("*")):
        name = f"{_FIRMWARE}/{path.relative_to(directory)}"
        yield cpio.directory(name) if path.is_dir() else cpio.file(name, path.read_bytes())


def lock_complaint(memory_bytes: int) -> str:
    """Answers why QEMU may not lock a guest's memory, as a device takes; empty when it may."""
    needed = memory_bytes + LOCKED_BESIDE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ""
    return (
        f"the daemon may lock {hard >> 20} MiB of memory, and a guest with a device takes"
        f" {needed >> 20}: LimitMEMLOCK=infinity in its unit (ulimit -l unlimited)"
    )
