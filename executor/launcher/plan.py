"""Which sandbox an action gets, written as the documents that ask the launcher for it.

There are three roots: the template, which all plain actions share; one made anew for an action that
is given more of the host than the template has, or names a root filesystem; and the input root
itself.
"""

from __future__ import annotations

import os

from executor.grants import Mount, RootView
from executor.input_overlay import Overlay
from executor.launcher.document import BindFlag, Document, Field, ListenFlag, Op, u32, u64
from executor.launching import Confinement
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.process import Job
from executor.toolchain import Toolchain

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)
MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/slabinfo",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/vmallocinfo",
)
"""What of /proc tells of the host and may be read by the host's user that the daemon is."""
_ROOT_BYTES = 1 << 20
_DEV_BYTES = 64 << 10
_PLACES = (BUILD_ROOT, "/proc", "/tmp", "/dev", "/dev/shm", "/dev/pts")  # noqa: S108 (its own)
_DNS_PORT = 53


def needs_own_network(job: Job) -> bool:
    """Whether no other action may get the network namespace: the witness has sockets in it, or what
    the action is given of the host can be a way to its state, as some devices are.
    """
    return job.grants.session is not None or bool(job.grants.mounts)


class Plan:
    """Writes the documents of one executor."""

    def __init__(self, toolchain: Toolchain, options: ExecutorOptions) -> None:
        self._toolchain = toolchain
        self._options = options
        self.masked = tuple(
            path for path in MASKED if os.path.exists(path) and os.access(path, os.R_OK)
        )
        """Those that matter here. The kernel keeps them from everybody else but root anyway."""
        self._private = self._encode_private()

    def template(self) -> bytes:
        """Answers the document of what all plain actions see."""
        document = Document()
        options = self._options
        document.add(Op.IDS, u32(options.uid, options.gid, os.geteuid(), os.getegid()))
        self._add_root(document)
        document.add(Op.SEAL, "/")
        return document.encode()

    def action(self, job: Job, confinement: Confinement, *, makes_sockets: bool = False) -> bytes:
        """Answers the document of one action."""
        document = Document()
        if makes_sockets or needs_own_network(job):
            document.add(Op.OWN_NETWORK)
        if job.group is not None:
            document.extend(Op.GROUP, job.group.tasks)
        document.add(Op.HOSTNAME, self._options.hostname)
        self._add_network(document, job)
        if job.is_root:
            self._add_input_root(document, job)
        else:
            self._add_view(document, job)
        self._add_confinement(document, confinement)
        self._add_command(document, job)
        return document.encode()

    def _add_root(self, document: Document, root: RootView | None = None) -> None:
        document.add(Op.ROOT_TMPFS, u64(_ROOT_BYTES))
        if root is None:
            self._add_toolchain(document)
        else:
            _add_root_view(document, root)
        for path in _PLACES:
            document.add(Op.DIR, u32(0o755), path)
        _add_devices(document)

    def _add_toolchain(self, document: Document) -> None:
        toolchain = self._toolchain
        for path, content in toolchain.links:
            document.add(Op.LINK, content, path)
        for path in toolchain.shown:
            document.add(Op.BIND, u32(0), path, path)
        for path, text in toolchain.files:
            document.add(Op.FILE, path, text.encode())

    def _add_view(self, document: Document, job: Job) -> None:
        mounts = job.grants.mounts
        is_own = bool(mounts) or job.grants.root is not None
        if is_own:
            self._add_root(document, job.grants.root)
        if job.overlay is None:
            _add_bind(document, Mount(job.root, BUILD_ROOT, is_writable=True))
        else:
            document.add(Op.OVERLAY, *_layers(job.root, job.overlay), BUILD_ROOT)
        document.append(self._private)
        for mount in mounts:
            _add_bind(document, mount)
        if is_own:
            document.add(Op.SEAL, "/")
        writable = [mount.target for mount in mounts if mount.is_writable]
        document.extend(Op.WRITABLE, (BUILD_ROOT, "/tmp", "/dev", *writable))  # noqa: S108

    def _add_input_root(self, document: Document, job: Job) -> None:
        if job.overlay is None:
            document.add(Op.ROOT_BIND, job.root)
        else:
            document.add(Op.ROOT_OVERLAY, *_layers(job.root, job.overlay))
        document.add(Op.TMPFS, u64(_DEV_BYTES, 64), u32(0o755), "/dev")
        for path in ("/dev/shm", "/dev/pts"):  # noqa: S108 (its own)
            document.add(Op.DIR, u32(0o755), path)
        _add_devices(document)
        document.append(self._private)
        document.add(Op.SEAL, "/dev")
        document.add(Op.WRITABLE, "/")

    def _encode_private(self) -> bytes:
        document = Document()
        document.add(Op.PROC, "/proc")
        document.extend(Op.MASK, self.masked)
        for path in ("/tmp", "/dev/shm"):  # noqa: S108 (its own)
            size = u64(self._options.tmp_bytes, self._options.tmp_files)
            document.add(Op.TMPFS, size, u32(0o1777), path)
        document.add(Op.DEVPTS, "/dev/pts")
        return document.encode()

    def _add_network(self, document: Document, job: Job) -> None:
        session = job.grants.session
        if session is None:
            return
        flags = ListenFlag(0)
        if session.redirect:
            document.add(Op.REDIRECT)
            flags = ListenFlag.ANY_ADDRESS
        for port in session.ports:
            document.add(Op.LISTEN, u32(flags, port))
        if session.resolver:
            document.add(Op.LISTEN, u32(flags | ListenFlag.DATAGRAM, _DNS_PORT))
            document.add(Op.LISTEN, u32(flags, _DNS_PORT))
        if session.redirect:
            document.add(Op.LISTEN, u32(ListenFlag.RAW, 0))
        document.add(Op.HOLD)

    def _add_confinement(self, document: Document, confinement: Confinement) -> None:
        options = self._options
        ids = (confinement.uid, confinement.gid, options.uid, options.gid)
        document.add(Op.IDS, u32(*ids))
        for which, value in confinement.rlimits.items():
            document.add(Op.RLIMIT, u32(which), u64(value))

    def _add_command(self, document: Document, job: Job) -> None:
        directory = "/".join(("" if job.is_root else BUILD_ROOT, *job.cwd)) or "/"
        environment = dict(job.environment) | {"PWD": directory}
        document.extend(Op.ARGUMENT, job.work.arguments)
        document.extend(Op.VARIABLE, (f"{name}={value}" for name, value in environment.items()))
        document.add(Op.DIRECTORY, directory)


def _layers(root: str, overlay: Overlay) -> tuple[Field, ...]:
    return u32(len(overlay.lowers)), *overlay.lowers, root, overlay.work


def _add_root_view(document: Document, root: RootView) -> None:
    for path in root.directories:
        document.add(Op.DIR, u32(0o755), path)
    for path, content in root.links:
        document.add(Op.LINK, content, path)
    for mount in root.mounts:
        _add_bind(document, mount)


def _add_devices(document: Document) -> None:
    for name in DEVICES:
        path = f"/dev/{name}"
        _add_bind(document, Mount(path, path, is_writable=True, is_device=True))
    for path, content in DEVICE_LINKS:
        document.add(Op.LINK, content, path)


def _add_bind(document: Document, mount: Mount) -> None:
    flags = BindFlag(0)
    if mount.is_device:
        # A device can be written to on a read-only mount; its mode on the host cannot be changed.
        flags |= BindFlag.DEVICES
    elif mount.is_writable:
        flags |= BindFlag.WRITABLE
    if mount.is_checked:
        flags |= BindFlag.NO_LINKS
    document.add(Op.BIND, u32(flags), mount.source, mount.target)
