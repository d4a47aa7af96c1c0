"""What guests take of this host, and whether one really comes up.

The program that runs a guest is itself in a bubblewrap sandbox, without network, capabilities or
any file but those it is given: a guest that breaks out of its machine is in there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from executor.errors import SandboxUnavailable
from executor.microvm.driver import build_driver
from executor.microvm.firecracker import FIRECRACKER_REMEDY, Firecracker
from executor.microvm.initramfs import Initramfs, Kernel, build_initramfs, find_kernel
from executor.microvm.machine import (
    DOCUMENT,
    INITRD,
    KVM,
    PROBE_MEMORY_BYTES,
    WORKSPACE,
    Accel,
    Guest,
    Machine,
    MachineKind,
    MicrovmOptions,
)
from executor.microvm.qemu import Qemu
from executor.probe import SYSTEM_PATH, find_bubblewrap

_LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
_QEMU = "qemu-system-x86_64"
_FIRECRACKER = "firecracker"


@dataclass(frozen=True, slots=True)
class Means:
    """The programs and files that guests take, all found."""

    machine: Machine
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
    machine = find_machine(options)
    busybox = options.busybox or Path(_program("busybox", "apt-get install busybox-static"))
    kernel = find_kernel(options.kernel, options.modules)
    return Means(
        machine=machine,
        bubblewrap=find_bubblewrap(bubblewrap),
        mke2fs=_program("mke2fs", "apt-get install e2fsprogs"),
        kernel=kernel,
        initramfs=build_initramfs(kernel, busybox),
        toolchain_image=image,
        driver=build_driver(options.gpu_modules, options.gpu_firmware)
        if options.gpu_modules
        else None,
    )


def find_machine(options: MicrovmOptions) -> Machine:
    """Answers the machine that is configured. Raises SandboxUnavailable."""
    qemu, firecracker = options.qemu or _QEMU, options.firecracker or _FIRECRACKER
    kind = options.machine
    if kind is MachineKind.AUTO:
        # What is named in the configuration is meant, there or not.
        has_qemu = bool(options.qemu or _which(qemu)) or options.accel is Accel.TCG
        has_firecracker = bool(options.firecracker or _which(firecracker))
        use_firecracker = has_firecracker and not has_qemu
        kind = MachineKind.FIRECRACKER if use_firecracker else MachineKind.QEMU
    if kind is MachineKind.QEMU:
        return Qemu(_program(qemu, "apt-get install qemu-system-x86"))
    return Firecracker(os.path.realpath(_program(firecracker, FIRECRACKER_REMEDY)))


def _program(name: str, remedy: str) -> str:
    found = _which(name)
    if found is None:
        raise SandboxUnavailable(f"{name} is not installed: {remedy}")
    return found


def _which(name: str) -> str | None:
    return shutil.which(name, path=SYSTEM_PATH)


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
    means: Means, guest: Guest, workspace: str, ports: Sequence[tuple[str, int]] = ()
) -> list[str]:
    """Answers the command that starts one guest and ends with it.

    `ports` are names and inherited descriptors that the guest writes to, where the machine has any.
    What comes over its serial console goes to stdout.
    """
    image = [] if means.toolchain_image is None else [str(means.toolchain_image)]
    return [
        *enclosure(means, workspace, [guest.kernel, *image]),
        *(["--dev-bind", KVM, KVM] if guest.accel is Accel.KVM else []),
        *means.machine.view(guest),
        *(["--share-net"] if guest.has_network else []),
        "--",
        *means.machine.command(guest, ports),
    ]


def write_guest(means: Means, guest: Guest, workspace: Path, archives: Iterable[bytes]) -> None:
    """Writes what a guest is booted from. Raises OSError."""
    with (workspace / PurePath(INITRD).name).open("wb") as initrd:
        initrd.writelines(archives)
    document = means.machine.document(guest)
    if document:
        (workspace / PurePath(DOCUMENT).name).write_text(json.dumps(document))


def boot_probe(
    means: Means, options: MicrovmOptions, accel: Accel, workspace: Path, timeout_s: float
) -> tuple[float, str]:
    """Boots a guest that does nothing. Answers how long it took, and what went wrong, if anything,
    with what to do about it, if that is known.

    That /dev/kvm opens proves nothing: there are hosts where no guest makes progress.
    """
    kernel = str(means.kernel.image)
    guest = Guest(accel, kernel, PROBE_MEMORY_BYTES, options.cpus, words=("armitage.probe",))
    write_guest(means, guest, workspace, [means.initramfs.data])
    started = time.monotonic()
    complaint, words = _boot(guest, guest_command(means, guest, str(workspace)), timeout_s)
    advice = means.machine.advice(words) if complaint else ""
    return time.monotonic() - started, "; ".join(filter(None, (complaint, advice)))


def _boot(guest: Guest, command: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """Answers what went wrong, if anything, and what was on the console."""
    if guest.accel is Accel.KVM and not os.access(KVM, os.R_OK | os.W_OK):
        return f"{KVM} cannot be opened", ""
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
        return f"no guest came up within {timeout_s:g} s", ""
    except OSError as error:
        return f"{command[0]}: {error.strerror}", ""
    if b"armitage guest is up" in done.stdout:
        return "", ""
    words = done.stdout.decode(errors="replace").strip()
    lines = words.splitlines() or ["no word from it"]
    # Firecracker's last words tell nothing.
    telling = next((one for one in reversed(lines) if one.startswith("Error: ")), lines[-1])
    return f"the guest did not come up: {telling[:200]}", words
