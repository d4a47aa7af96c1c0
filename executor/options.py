"""How actions run on this machine: what an operator chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from executor.staging import TreeLimits
from executor.tree_cache import TreeCacheOptions
from executor.wasm.options import WasmOptions

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LauncherKind(Enum):
    """What makes sandboxes."""

    AUTO = "auto"
    """Armitage's own where it works, else bubblewrap."""
    ARMITAGE = "armitage"
    BUBBLEWRAP = "bubblewrap"
    """Denies few system calls, and gives actions no network."""


class FilesystemRoot(Enum):
    """What an action sees as `/`."""

    TOOLCHAIN = "toolchain"
    """Always the host's toolchain, read-only, with the input root at BUILD_ROOT below it."""
    REQUESTED = "requested"
    """The toolchain, unless the platform asks for the input root: `chroot-input-root=true`, or a
    `unixUID`, which only BuildStream sends.
    """
    INPUTS = "inputs"
    """Always the input root itself, as BuildStream means it; nothing of the host is visible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """How actions run on this machine."""

    scratch: Path = Path("scratch")
    """Directory for running actions' files. Emptied at the start; no two executors may share it."""
    launcher: LauncherKind = LauncherKind.AUTO
    bubblewrap: str | None = None
    """Path of `bwrap`; None looks for it where system programs are."""
    toolchain: tuple[str, ...] = (
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/etc/alternatives",
        "/etc/ld.so.cache",
        "/etc/java-*",
    )
    """Host paths (or patterns) that actions see, read-only. What does not exist is left out."""
    filesystem_allow: tuple[str, ...] = ()
    """Host directories that actions may be given, with all below them, when they declare so."""
    private: tuple[Path, ...] = field(default=(), metadata={"setting": False})
    """What no action may be given: the daemon's data. The scratch directory is never given."""
    filesystem_root: FilesystemRoot = FilesystemRoot.REQUESTED
    rootfs: Mapping[str, str] = field(default_factory=dict)
    """Host directories that actions may have as their root, read-only, in place of the toolchain:
    by the name that they ask for (`rootfs=NAME`).
    """
    rootfs_bytes: int = 16 << 30
    """Of files of root filesystems that actions name by digest (`rootfs=cas:HASH/SIZE`), which are
    kept below the scratch directory; the least recently used goes first.
    """
    rootfs_trees: int = 32
    """How many of them."""
    environment: tuple[tuple[str, str], ...] = (("PATH", DEFAULT_PATH),)
    """Variables that an action has unless it sets them itself. (`PWD` is set as well.)"""
    uid: int = 1000
    gid: int = 1000
    """User and group that a sandboxed command sees itself as; on the host it is this process's."""
    hostname: str = "armitage"
    max_timeout_s: float = field(default=3600.0, metadata={"setting": False})
    """For actions that set no timeout, and the most that any may ask for. Not a setting of its own:
    whoever takes actions in has the limits, and sets it from them.
    """
    output_limit_bytes: int = 64 << 20
    """Of stdout, and again of stderr, that is kept; the rest is dropped, and a line says so."""
    memory_bytes: int | None = 8 << 30
    """Of one action, by control group; without one, of private data of each of its processes alone,
    which does not bound what they use together, share or have in /tmp.
    """
    processes: int | None = 4096
    """Of one action, threads included."""
    cpus: float | None = None
    """CPU time per wall-clock time of one action, by control group only."""
    open_files: int = 65_536
    """For each process of an action; the host's own hard limit may be lower."""
    file_bytes: int | None = 64 << 30
    """Largest file that an action may write."""
    outputs_bytes: int | None = 64 << 30
    """All output files of one action together, holes included."""
    tmp_bytes: int = 2 << 30
    """Size of the private /tmp, and again of /dev/shm, of a sandboxed action, in memory."""
    tmp_files: int = 1_000_000
    """Files and directories in each of them. Not limited by bubblewrap."""
    scratch_bytes: int | None = None
    """What one action may have in its scratch space: what it writes, a copy of its inputs, and a
    guest's disks as far as they are filled. Looked at now and then, so it may have more for a
    moment; that look is why there is no limit by default.
    """
    reserve_bytes: int = 256 << 20
    """When less than this is left free on the scratch filesystem, the action that takes most there
    is killed, and then, if that does not do, the next.
    """
    reserve_files: int = 10_000
    """Or fewer files than this can be made there."""
    trees: TreeLimits = field(default_factory=TreeLimits)
    tree_cache: TreeCacheOptions = field(default_factory=TreeCacheOptions)
    wasm: WasmOptions = field(default_factory=WasmOptions)
    threads: int = 4
    """For blocking work: laying out trees, hashing outputs, removing scratch space."""

    def __post_init__(self) -> None:
        if self.rootfs_trees < 1:
            raise ValueError("rootfs_trees must be at least 1")
        for path in (*self.toolchain, *self.filesystem_allow):
            if not os.path.isabs(path):
                where = "toolchain" if path in self.toolchain else "filesystem_allow"
                raise ValueError(f"{where}: {path!r} is not an absolute path")
        for name, path in self.rootfs.items():
            if not name or ":" in name:
                raise ValueError(f"rootfs: {name!r} cannot name a directory: leave out colons")
            if not os.path.isabs(path):
                raise ValueError(f"rootfs: {name} is {path!r}; write an absolute path")
