"""What an action gets beyond its inputs and the toolchain, because it declares so and may."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from executor.coeffects import FilesystemGrant
from executor.errors import InvalidInput, SandboxUnavailable
from executor.paths import BUILD_ROOT
from executor.ports import NetworkSession
from executor.spec import Devices
from executor.tree_cache import Tree

_NEVER = ("/proc", "/sys", "/dev", BUILD_ROOT)
"""What is made for each action, or shows the host's kernel: not to be had from the host."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of the host, and where an action sees it."""

    source: str
    target: str
    is_writable: bool = False
    is_device: bool = False
    is_checked: bool = False
    """Whether the source was checked by its path, which must lead through no link then."""

    @property
    def kind(self) -> str:
        """What may be done with it, in a word."""
        return "device" if self.is_device else "rw" if self.is_writable else "ro"


@dataclass(frozen=True, slots=True)
class RootView:
    """A root filesystem in the toolchain's place, spread out: its own top directory is not mounted,
    so that what is made for each action needs no place in it and meets no link of it.
    """

    name: str
    """As the platform has it, for the record."""
    tree: Tree | None
    """Which it is, lent for as long as it is shown; None for a directory of the host."""
    directories: tuple[str, ...]
    """Made anew, because the action is given something in them; parents first."""
    mounts: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...]
    """Path and content of symbolic links, made again."""


@dataclass(frozen=True, slots=True)
class Grants:
    """All of it, for one action."""

    mounts: tuple[Mount, ...] = ()
    session: NetworkSession | None = None
    root: RootView | None = None


NOTHING = Grants()


def filesystem_mounts(
    declared: Iterable[FilesystemGrant], allowed: Sequence[str], private: Sequence[Path]
) -> tuple[Mount, ...]:
    """Answers the mounts that show declared directories, which lie in an allowed one.

    Raises InvalidInput for what no worker gives, SandboxUnavailable for what this one does not.
    """
    return tuple(_mount(grant, allowed, private) for grant in declared)


def _mount(grant: FilesystemGrant, allowed: Sequence[str], private: Sequence[Path]) -> Mount:
    path = grant.path
    if not path.startswith("/") or os.path.normpath(path) != path or path.startswith("//"):
        raise InvalidInput(f"filesystem:{path} is not an absolute path in normal form")
    if path == "/" or any(is_in(path, never) for never in _NEVER):
        raise InvalidInput(
            f"filesystem:{path} cannot be given to an action: it is the host's root, or its /proc,"
            " /sys or /dev, or where inputs are; declare what is really needed"
        )
    real = {os.path.realpath(place) for place in private}
    if any(is_in(path, place) or is_in(place, path) for place in real):
        raise InvalidInput(f"filesystem:{path} would show the daemon's own data to an action")
    if not any(is_in(path, directory) for directory in allowed):
        raise SandboxUnavailable(
            f"filesystem:{path} is not given to actions by this worker: its operator would have to"
            " add it, or a directory that it is in, to executor.filesystem_allow"
        )
    if not os.path.exists(path):
        raise SandboxUnavailable(f"filesystem:{path} is not there on this worker")
    if os.path.realpath(path) != path:
        raise InvalidInput(
            f"filesystem:{path} leads through a symbolic link; declare {os.path.realpath(path)}"
        )
    return Mount(path, path, is_writable=grant.writable, is_checked=True)


def device_mounts(devices: Devices | None, visible: Sequence[str]) -> tuple[Mount, ...]:
    """Answers the mounts that show devices and what they need, but for what is below `visible`
    directories, which are shown already, links and all.
    """
    if devices is None:
        return ()
    nodes = (Mount(path, path, is_writable=True, is_device=True) for path in devices.nodes)
    files = {
        place: Mount(place, place)
        for path in devices.files
        for place in (_place(path), os.path.realpath(path))
        if not any(is_in(place, directory) for directory in visible)
    }
    return (*nodes, *files.values())


def _place(path: str) -> str:
    """Answers where a path leads but for its last part, which may be a link."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def is_in(path: str, directory: str) -> bool:
    """Tells whether a path is a directory or lies below it, by their names."""
    directory = directory.rstrip("/")
    return path == directory or path.startswith(f"{directory}/")
