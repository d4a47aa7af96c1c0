"""The guest's kernel, and the initramfs that we build for it: busybox, modules and init.sh."""

from __future__ import annotations

import glob
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cas.digest import DigestFunction
from executor.errors import SandboxUnavailable
from executor.microvm import cpio

_KERNELS = "boot/vmlinuz-*-cloud-*"
_MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console", "squashfs")
"""In the order in which they are loaded. What is built into the kernel is left out."""
_NETWORK_MODULES = ("failover", "net_failover", "virtio_net")
"""Loaded behind those, in a guest that is given a network."""
_APPLETS = (
    *("cat", "chroot", "cp", "cpio", "dmesg", "find", "grep", "head", "hostname", "ifconfig"),
    *(
        "insmod",
        "kill",
        "ln",
        "mkdir",
        "mkfifo",
        "mknod",
        "mount",
        "nc",
        "reboot",
        "rm",
        "rmdir",
        "sh",
        "sync",
        "touch",
        "tr",
    ),
    *("umount", "usleep", "xargs"),
)
_PLACES = ("bin", "dev", "modules", "new", "proc", "ro", "sys", "tmp")
KERNEL_REMEDY = (
    "apt-get install linux-image-cloud-amd64, or name a kernel with virtio, its network, ext4 and"
    " squashfs (microvm.kernel, microvm.modules)"
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel for guests, and where its modules lie."""

    image: Path
    modules: Path


def find_kernel(image: Path | None, modules: Path | None, root: Path = Path("/")) -> Kernel:
    """Answers the kernel that is configured, else the newest of Debian's cloud kernels.

    Raises SandboxUnavailable, saying what to install.
    """
    if image is None:
        found = sorted(root.glob(_KERNELS), key=lambda path: _version(path.name))
        if not found:
            raise SandboxUnavailable(f"there is no kernel for guests: {KERNEL_REMEDY}")
        image = found[-1]
    if modules is None:
        release = image.name.partition("-")[2]
        places = [root / "lib/modules" / release, root / "usr/lib/modules" / release]
        modules = next((place for place in places if place.is_dir()), None)
        if modules is None:
            raise SandboxUnavailable(
                f"kernel {image} has no modules in {places[0]}: {KERNEL_REMEDY}"
            )
    if not image.is_file():
        raise SandboxUnavailable(f"microvm.kernel: {image} is no file; {KERNEL_REMEDY}")
    return Kernel(image, modules)


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


@dataclass(frozen=True, slots=True)
class Initramfs:
    """The base that all guests start with; what they are to do comes behind it."""

    data: bytes

    @property
    def hash(self) -> str:
        """SHA-256."""
        return DigestFunction.SHA256.digest(self.data).hash


def build_initramfs(kernel: Kernel, busybox: Path) -> Initramfs:
    """Builds the base. Equal inputs give equal bytes. Raises SandboxUnavailable."""
    try:
        program = busybox.read_bytes()
    except OSError as error:
        raise SandboxUnavailable(f"{busybox}: {error.strerror}") from error
    if b"/lib64/ld-linux" in program[:4096]:
        raise SandboxUnavailable(
            f"{busybox} is linked dynamically, and guests have no libraries: apt-get install"
            " busybox-static"
        )
    modules, network = dict(_modules(kernel, _MODULES)), dict(_modules(kernel, _NETWORK_MODULES))
    script = resources.files("executor.microvm").joinpath("init.sh").read_bytes()
    return Initramfs(
        cpio.pack(
            [
                *map(cpio.directory, _PLACES),
                # The kernel opens it for init before anything is mounted.
                cpio.device("dev/console", 5, 1),
                cpio.file("init", script, 0o755),
                cpio.file("bin/busybox", program, 0o755),
                *(cpio.link(f"bin/{name}", "busybox") for name in _APPLETS),
                cpio.file("modules/order", _lines(modules)),
                cpio.file("modules/network", _lines(network)),
                *(
                    cpio.file(f"modules/{name}.ko", data)
                    for name, data in (modules | network).items()
                ),
            ]
        )
    )


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _modules(kernel: Kernel, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    built_in = _built_in(kernel)
    for name in names:
        found = glob.glob(
            f"{glob.escape(str(kernel.modules))}/kernel/**/{name}.ko*", recursive=True
        )
        if found:
            yield name, module_content(Path(found[0]))
        elif name not in built_in:
            raise SandboxUnavailable(
                f"kernel {kernel.image} has no {name}, built in or in {kernel.modules}:"
                f" {KERNEL_REMEDY}"
            )


def _built_in(kernel: Kernel) -> set[str]:
    try:
        lines = (kernel.modules / "modules.builtin").read_text().splitlines()
    except OSError:
        return set()
    return {line.rpartition("/")[2].removesuffix(".ko") for line in lines}


def module_content(path: Path) -> bytes:
    """Answers a module, unpacked. Raises SandboxUnavailable, OSError."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix != ".ko":
        raise SandboxUnavailable(f"{path}: modules compressed so cannot be read; {KERNEL_REMEDY}")
    return data
