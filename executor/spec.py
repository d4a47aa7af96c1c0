"""Plain values: what is to be run, and what came of it (REAPI `Action`, `Command`, `Directory`,
`ActionResult` without the wire).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cas.digest import Digest, DigestFunction
from executor.coeffects import PURE, Coeffects
from executor.evidence import Evidence, Leased


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file of an input or output directory."""

    name: str
    digest: Digest
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A sub-directory, by the digest of its encoded Directory."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class SymlinkNode:
    """A symbolic link; the target is kept verbatim, never resolved."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory level.

    Names are checked by whoever decodes it: not empty, `.`, `..`; no `/` or NUL; each once.
    """

    files: tuple[FileNode, ...] = ()
    directories: tuple[DirectoryNode, ...] = ()
    symlinks: tuple[SymlinkNode, ...] = ()


class OutputKind(Enum):
    """What an output path may turn out to be."""

    ANY = "any"
    """`output_paths`: file, directory or symlink, whichever the command left there."""
    FILE = "file"
    """Legacy `output_files`: a file, or a symlink that leads to a file."""
    DIRECTORY = "directory"
    """Legacy `output_directories`: a directory, or a symlink that leads to one.

    The path itself is not made before the run.
    """


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """A path that the client wants back, relative to the working directory, exactly as asked (may
    be empty, may hold `..`).
    """

    path: str
    kind: OutputKind = OutputKind.ANY


@dataclass(frozen=True, slots=True)
class PassedDevice:
    """A PCI device of the host that a virtual machine gets as a whole."""

    address: str
    """Such as `0000:41:00.0`."""
    ids: str
    """Vendor and device, such as `10de:2330`."""
    group: str
    """Number of its IOMMU group."""
    arch: str
    module: str
    """The guest's driver for it."""
    version: str
    """Which that driver must have."""
    nodes: tuple[str, ...]
    """Patterns for names in the guest's /dev that the action gets."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that are leased to one action, and what of the host it needs to use them."""

    leased: tuple[Leased, ...]
    nodes: tuple[str, ...] = ()
    """Device nodes, for reading and writing; the sandbox has no others of their kind."""
    files: tuple[str, ...] = ()
    """The driver's libraries and the like, shown read-only where they are."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that name the devices; they win over the action's own."""
    passed: tuple[PassedDevice, ...] = ()
    """For a virtual machine; an action in any other sandbox is leased none of these."""


@dataclass(frozen=True, slots=True)
class Requester:
    """On whose behalf work is done, for the records about it. What is not known is empty."""

    instance: str = ""
    operation: str = ""
    invocation: str = ""
    """The build that it belongs to, by the client's word."""
    target: str = ""
    """What it builds, by the client's word."""
    identity: str = ""
    """The proven name of the client."""


NOBODY = Requester()


@dataclass(frozen=True, slots=True)
class Work:
    """All that an executor needs to know of one action.

    Its digests use one function, and so do the outputs'.
    """

    name: str
    """Unique among running work; names scratch space and log lines. Safe as a file name."""
    digest_function: DigestFunction
    input_root: Digest
    """Digest of an encoded Directory; the empty digest is an empty tree."""
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""
    outputs: tuple[OutputRequest, ...] = ()
    platform: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = None
    """For the command alone; None leaves it to the executor's own maximum."""
    coeffects: Coeffects = PURE
    """What it may use of the world; it gets that and nothing else."""
    action: Digest | None = None
    """Of the Action, for the records about it; None where there is none."""
    devices: Devices | None = None
    """What was leased for it, by whoever leases; None where it declares no device."""
    requester: Requester = NOBODY
    """Who asked for it first; others may share it."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that the command left at an output path."""

    path: str
    digest: Digest
    is_executable: bool


@dataclass(frozen=True, slots=True)
class OutputSymlink:
    """A symlink left at an output path, never followed; `leads_to` is what a stat through it finds
    inside the input root.
    """

    path: str
    target: str
    leads_to: OutputKind | None
    """FILE, DIRECTORY, or None when it leads nowhere (or outside)."""


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """A directory left at an output path.

    All Directory blobs and the Tree blob are in the store.
    """

    path: str
    tree: Digest
    root: Digest


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock times in seconds since the epoch, in order (REAPI `ExecutedActionMetadata`)."""

    worker_start: float
    input_fetch_start: float
    input_fetch_completed: float
    execution_start: float
    execution_completed: float
    output_upload_start: float
    output_upload_completed: float
    worker_completed: float


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What the command used, where the host can tell."""

    wall_s: float
    """By the monotonic clock that enforces the timeout."""
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    """From and to disks: what a version 2 control group counts, or what the processes did that had
    ended when the command did, whichever is more. Of these, written is what they changed of files
    that have a disk, whether or not it is there yet.
    """


class EndedBy(Enum):
    """What ended a command that was not stopped by the executor."""

    EXIT = "exit"
    SIGNAL = "signal"
    MEMORY = "memory"
    """A process of the action was killed at its limit of memory, and the command failed."""
    LIMIT = "limit"
    """It hit another limit: size of a file, number of processes, space in scratch."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command that ran to its own end."""

    exit_code: int
    """As a shell reports it: 128 + N for death by signal N."""
    stdout: Digest
    stderr: Digest
    """Both in the store; the empty digest when nothing was printed."""
    timings: Timings
    resources: ResourceUse
    files: tuple[OutputFile, ...] = ()
    directories: tuple[OutputDirectory, ...] = ()
    symlinks: tuple[OutputSymlink, ...] = ()
    sandbox: Mapping[str, str] = field(default_factory=dict)
    """The sandbox profile really applied, as short facts."""
    ended_by: EndedBy = EndedBy.EXIT
    evidence: Evidence | None = None
    """What was really used; None from an executor that cannot tell, which proves nothing."""
    message: str = ""
    """What the machinery has to add for a person to read: killed for memory, output truncated."""
