"""QEMU's `microvm` machine: what it is started with, and whether a guest really comes up in it.

QEMU itself runs in a bubblewrap sandbox, without network, capabilities or any file but those it is
given, and with its own seccomp filter: a guest that breaks out of its machine is in there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from executor.errors import SandboxUnavailable
from executor.microvm.driver import build_driver
from executor.microvm.initramfs import Initramfs, Kernel, build_initramfs, find_kernel
from executor.probe import SYSTEM_PATH, find_bubblewrap
from executor.spec import PassedDevice

_KVM = "/dev/kvm"
_MACHINE = "microvm,acpi=on,rtc=on"
"""ACPI tells the kernel where devices are. Without a clock it waits seconds for one to answer."""
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable random.trust_cpu=on rdinit=/init"
)
_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_NETWORK = (
    *("-netdev", "user,id=network,ipv6=off"),
    *("-device", "virtio-net-device,netdev=network"),
)
_PROBE_MEMORY_BYTES = 256 << 20
_LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
WORKSPACE = "/job"
"""Where QEMU sees the files of one guest."""


class Accel(StrEnum):
    """What runs the guest's instructions."""

    AUTO = "auto"
    """KVM where a guest really comes up with it, else TCG."""
    KVM = "kvm"
    TCG = "tcg"


_ACCELERATORS = {
    Accel.KVM: "kvm",
    # Translated code takes a gigabyte otherwise, which no limit on memory would leave room for.
    Accel.TCG: "tcg,tb-size=128",
}


@dataclass(frozen=True, slots=True)
class MicrovmOptions:
    """Virtual machines for actions (`sandbox:microvm`)."""

    enabled: bool = True
    """Whether to offer them where the host has what they take."""
    qemu: str | None = None
    """Path of `qemu-system-x86_64`; None looks for it where system programs are."""
    kernel: Path | None = None
    """None: the newest of Debian's cloud kernels in /boot."""
    modules: Path | None = None
    """Directory of its modules; None: by its version, in /lib/modules."""
    busybox: Path | None = None
    """A static one; None looks for it where system programs are."""
    toolchain_image: Path | None = None
    """What guests see as their read-only system (`armitage microvm image` makes one)."""
    accel: Accel = Accel.AUTO
    memory_bytes: int = 2 << 30
    """Of a guest."""
    cpus: int = 1
    """Of a guest."""
    disk_bytes: int = 16 << 30
    """For an action's files, and again for its outputs; used as far as they are written."""
    probe_s: float = 10.0
    """How long a guest may take to come up with KVM before TCG is taken."""
    gpu_modules: tuple[Path, ...] = ()
    """The driver of GPUs that are passed through: modules for the guests' kernel, in the order in
    which they are loaded. None: actions in guests are refused GPUs.
    """
    gpu_firmware: Path | None = None
    """Directory that is /lib/firmware in a guest with a GPU."""

    def __post_init__(self) -> None:
        if self.memory_bytes < _PROBE_MEMORY_BYTES:
            raise ValueError("memory_bytes must be at least 256 MiB: the guest's kernel takes some")
        if self.cpus < 1:
            raise ValueError("cpus must be at least 1")
        if self.disk_bytes < 64 << 20:
            raise ValueError("disk_bytes must be at least 64 MiB")


@dataclass(frozen=True, slots=True)
class Disk:
    """A file that a guest sees as a disk."""

    serial: str
    path: str
    """As QEMU sees it."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Means:
    """The programs and files that guests take, all found."""

    qemu: str
    bubblewrap: str
    mke2fs: str
    kernel: Kernel
    initramfs: Initramfs
    toolchain_image: Path | None
    driver: Initramfs | None = None
    """Of devices that are passed through."""


def find_means(options: MicrovmOptions, bubblewrap: str | None) -> Means:
    """Finds everything and builds the initramfs.

    Raises SandboxUnavailable, saying what is missing and how to get it.
    """
    image = options.toolchain_image
    if image is not None and not image.is_file():
        raise SandboxUnavailable(
            f"microvm.toolchain_image: {image} is no file; armitage microvm image makes one"
        )
    qemu = _program(options.qemu or "qemu-system-x86_64", "qemu-system-x86")
    busybox = options.busybox or Path(_program("busybox", "busybox-static"))
    kernel = find_kernel(options.kernel, options.modules)
    return Means(
        qemu=qemu,
        bubblewrap=find_bubblewrap(bubblewrap),
        mke2fs=_program("mke2fs", "e2fsprogs"),
        kernel=kernel,
        initramfs=build_initramfs(kernel, busybox),
        toolchain_image=image,
        driver=build_driver(options.gpu_modules, options.gpu_firmware)
        if options.gpu_modules
        else None,
    )


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise SandboxUnavailable(f"{name} is not installed: apt-get install {package}")
    return found


def enclosure(
    means: Means, workspace: str, files: Sequence[str] = (), user: tuple[int, int] = (1000, 1000)
) -> list[str]:
    """Answers the command that runs a program with nothing but a workspace and the system's
    libraries. `files` are visible read-only, where they are; `user` is who we are to it.
    """
    binds = [path for path in _LIBRARIES if os.path.exists(path)]
    return [
        means.bubblewrap,
        *("--unshare-all", "--unshare-user", "--uid", str(user[0]), "--gid", str(user[1])),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
        *("--setenv", "PATH", SYSTEM_PATH),
        *(word for path in binds for word in ("--ro-bind", path, path)),
        *("--dev", "/dev"),
        *(word for path in files for word in ("--ro-bind", path, path)),
        *("--bind", workspace, WORKSPACE, "--chdir", WORKSPACE),
    ]


def guest_command(
    means: Means,
    options: MicrovmOptions,
    accel: Accel,
    workspace: str,
    *,
    initrd: str,
    disks: Sequence[Disk] = (),
    ports: Sequence[tuple[str, int]] = (),
    memory_bytes: int | None = None,
    words: Sequence[str] = (),
    has_network: bool = False,
    passed: Sequence[PassedDevice] = (),
) -> list[str]:
    """Answers the command that starts one guest and ends with it.

    A network is what the loopback of QEMU's own namespace has, at 10.0.2.2: it must be started in a
    namespace with nothing else in it (executor.netns), which it keeps then.

    `passed` are devices that the guest gets, at slots from 1 on of a PCI bus that no other has.
    QEMU must then be allowed to lock the guest's memory.

    `ports` are names and inherited descriptors that the guest writes to. The kernel's own words go
    to stdout.
    """
    image = [] if means.toolchain_image is None else [str(means.toolchain_image)]
    kvm = ["--dev-bind", _KVM, _KVM] if accel is Accel.KVM else []
    memory = (memory_bytes or options.memory_bytes) >> 20
    return [
        *enclosure(means, workspace, [str(means.kernel.image), *image]),
        *kvm,
        *(word for node in _nodes(passed) for word in ("--dev-bind", node, node)),
        *(word for place in _places(passed) for word in ("--ro-bind", place, place)),
        *(["--share-net"] if has_network else []),
        "--",
        means.qemu,
        *(
            "-machine",
            f"{_MACHINE},pcie=on" if passed else _MACHINE,
            "-accel",
            _ACCELERATORS[accel],
            *_cpu(accel),
        ),
        *("-m", f"{memory}M", "-smp", str(options.cpus)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", _SECCOMP),
        *("-kernel", str(means.kernel.image), "-initrd", initrd),
        *("-append", " ".join((_COMMAND_LINE, *_pci(passed), *_clock(accel), *words))),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *(word for disk in disks for word in _disk(disk)),
        *(("-device", "virtio-serial-device") if ports else ()),
        *(word for name, fd in ports for word in _port(name, fd)),
        *(_NETWORK if has_network else ()),
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
        *("-drive", f"if=none,id={disk.serial},format=raw,file={path},{mode}"),
        *("-device", f"virtio-blk-device,drive={disk.serial},serial={disk.serial}"),
    ]


def _port(name: str, fd: int) -> list[str]:
    return [
        *("-add-fd", f"fd={fd},set={fd}"),
        *("-chardev", f"file,id={name},path=/dev/fdset/{fd},append=on"),
        *("-device", f"virtserialport,chardev={name},name={name}"),
    ]


def boot_probe(
    means: Means, options: MicrovmOptions, accel: Accel, workspace: Path, timeout_s: float
) -> tuple[float, str]:
    """Boots a guest that does nothing. Answers how long it took, and what went wrong, if anything.

    That /dev/kvm opens proves nothing: there are hosts where no guest makes progress.
    """
    if accel is Accel.KVM and not os.access(_KVM, os.R_OK | os.W_OK):
        return 0.0, f"{_KVM} cannot be opened"
    (workspace / "probe.initrd").write_bytes(means.initramfs.data)
    command = guest_command(
        means,
        options,
        accel,
        str(workspace),
        initrd=f"{WORKSPACE}/probe.initrd",
        memory_bytes=_PROBE_MEMORY_BYTES,
        words=("armitage.probe",),
    )
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return timeout_s, f"no guest came up within {timeout_s:g} s"
    except OSError as error:
        return 0.0, f"{command[0]}: {error.strerror}"
    took_s = time.monotonic() - started
    if b"armitage guest is up" not in done.stdout:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["no word from it"]
        return took_s, f"the guest did not come up: {last[0][:200]}"
    return took_s, ""
