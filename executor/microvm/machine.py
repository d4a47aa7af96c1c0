"""What runs guests: what each program for it has in common, and its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from executor.spec import PassedDevice, Work

PROBE_MEMORY_BYTES = 256 << 20
WORKSPACE = "/job"
"""Where the program that runs a guest sees that guest's files."""
INITRD = f"{WORKSPACE}/initrd"
DOCUMENT = f"{WORKSPACE}/machine.json"
KVM = "/dev/kvm"
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 random.trust_cpu=on rdinit=/init printk.time=0 printk.devkmsg=on"
)
"""For the guest's kernel. Lines that its init writes to its log are on the console as they are."""


class Accel(StrEnum):
    """What runs the guest's instructions."""

    AUTO = "auto"
    """KVM where a guest really comes up with it, else QEMU's TCG."""
    KVM = "kvm"
    TCG = "tcg"


class MachineKind(StrEnum):
    """The program that runs guests."""

    AUTO = "auto"
    """QEMU where it is installed, else Firecracker where that is."""
    QEMU = "qemu"
    FIRECRACKER = "firecracker"


@dataclass(frozen=True, slots=True)
class MicrovmOptions:
    """Virtual machines for actions (`sandbox:microvm`)."""

    enabled: bool = True
    """Whether to offer them where the host has what they take."""
    machine: MachineKind = MachineKind.AUTO
    qemu: str | None = None
    """Path of `qemu-system-x86_64`; None looks for it where system programs are."""
    firecracker: str | None = None
    """Path of `firecracker`; None looks for it where system programs are."""
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
    """For an action's files, again for its outputs, and for each stream where that is on a disk;
    used as far as they are written.
    """
    probe_s: float = 10.0
    """How long a guest may take to come up with KVM before TCG is taken."""
    gpu_modules: tuple[Path, ...] = ()
    """The driver of GPUs that are passed through: modules for the guests' kernel, in the order in
    which they are loaded. None: actions in guests are refused GPUs.
    """
    gpu_firmware: Path | None = None
    """Directory that is /lib/firmware in a guest with a GPU."""

    def __post_init__(self) -> None:
        if self.memory_bytes < PROBE_MEMORY_BYTES:
            raise ValueError("memory_bytes must be at least 256 MiB: the guest's kernel takes some")
        if self.cpus < 1:
            raise ValueError("cpus must be at least 1")
        if self.disk_bytes < 64 << 20:
            raise ValueError("disk_bytes must be at least 64 MiB")
        if self.machine is MachineKind.FIRECRACKER and self.accel is Accel.TCG:
            raise ValueError('accel must not be "tcg": Firecracker runs guests with KVM alone')


@dataclass(frozen=True, slots=True)
class Disk:
    """A file that a guest sees as a disk."""

    name: str
    path: str
    """As the program that runs the guest sees it."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Guest:
    """One virtual machine."""

    accel: Accel
    kernel: str
    memory_bytes: int
    cpus: int
    disks: tuple[Disk, ...] = ()
    words: tuple[str, ...] = ()
    """More for its kernel's command line."""
    has_network: bool = False
    """One that leads to the loopback of the program's own namespace: the program must be started in
    a namespace with nothing else in it (executor.netns), which it keeps then.
    """
    passed: tuple[PassedDevice, ...] = ()
    """Devices that are passed through to it. The program must be allowed to lock its memory."""


@dataclass(frozen=True)
class Machine(ABC):
    """A program that runs guests, each in a process that ends with it."""

    kind: ClassVar[MachineKind]
    accels: ClassVar[tuple[Accel, ...]]
    """What it can run guests on."""
    has_ports: ClassVar[bool]
    """Whether a guest writes stdout and stderr to ports, and knows disks by their names. Else it
    knows disks by their order, and what it prints is on the disks `stdout` and `stderr`.
    """
    program: str
    """Its path."""

    @abstractmethod
    def command(self, guest: Guest, ports: Sequence[tuple[str, int]]) -> list[str]:
        """Answers its own command line. Its stdout is the guest's console. `ports` are names and
        inherited descriptors, where it has any.
        """

    @abstractmethod
    def view(self, guest: Guest) -> list[str]:
        """Answers bubblewrap's words for what it sees beside workspace, kernel and toolchain."""

    def document(self, guest: Guest) -> Mapping[str, object]:
        """Answers what it reads of the guest as DOCUMENT; empty where its words say all."""
        del guest
        return {}

    def refusal(self, work: Work) -> str:
        """Answers what of an action's declaration its guests cannot be given; empty: nothing."""
        del work
        return ""

    def advice(self, words: str) -> str:
        """Answers what to do about its words when no guest comes up; empty when that is unknown."""
        del words
        return ""
