"""Root filesystems that actions name by the platform property `rootfs`, in the toolchain's place.

- `rootfs=cas:[FUNCTION:]HASH/SIZE`: a tree of the store, by its Directory. It is made once below
  the scratch directory, and kept for others until room is needed;
- `rootfs=NAME`: a directory of the host, which the configuration names.

What is made for each action is never looked for in it: its top directory is not mounted, but each
entry of it is, read-only, into an empty root of ours, and its symbolic links are made again
(executor.grants.RootView). So `/proc`, `/dev`, `/tmp` and `/build` are ours whatever it has there,
and a link of it cannot lead a mount astray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest
from executor.errors import InvalidInput, SandboxUnavailable
from executor.grants import Mount, RootView, is_in
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.preparing import ROOTFS
from executor.spec import Work
from executor.tree_cache import Tree

_OURS = frozenset({BUILD_ROOT, "/dev", "/proc", "/sys", "/tmp"})  # noqa: S108 (the sandbox's)
"""What of a root filesystem is not shown: made for each action, or (`/sys`) had by none."""
_MAX_PARTS = 2_000
"""Mounts and links of one view."""
_CAS = "cas:"


def rootfs_of(work: Work) -> Digest | str | None:
    """Answers the tree or the name that an action asks for. Raises InvalidInput."""
    texts = [value for name, value in work.platform if name == ROOTFS]
    if not texts:
        return None
    if len(texts) > 1:
        raise InvalidInput(f"the platform has {ROOTFS} {len(texts)} times; an action has one root")
    if not texts[0].startswith(_CAS):
        return texts[0]
    return _digest(texts[0], work.digest_function)


def _digest(text: str, function: DigestFunction) -> Digest:
    name, colon, rest = text.removeprefix(_CAS).rpartition(":")
    hash_, slash, size = rest.partition("/")
    try:
        if not slash or not (size.isascii() and size.isdecimal()):
            raise ValueError("it has no size")
        return Digest(DigestFunction(name) if colon else function, hash_, int(size))
    except (InvalidDigest, ValueError) as error:
        raise InvalidInput(
            f"platform property {ROOTFS} is {text[:200]!r}: {error}; write cas:HASH/SIZE or"
            " cas:FUNCTION:HASH/SIZE of a Directory"
        ) from None


def read_roots(options: ExecutorOptions, scratch: Path) -> Mapping[str, str]:
    """Answers the configured directories, links resolved.

    Raises SandboxUnavailable when one would show what is the daemon's.
    """
    roots = {name: os.path.realpath(path) for name, path in options.rootfs.items()}
    for private in (scratch, *options.private):
        own = private.resolve()
        for name, path in roots.items():
            if own.is_relative_to(path) or Path(path).is_relative_to(own):
                raise SandboxUnavailable(
                    f"executor.rootfs: {name} is {path}, which would show {own}, the daemon's own,"
                    " to actions; name another directory"
                )
    return roots


def host_root(roots: Mapping[str, str], name: str) -> str:
    """Answers a configured directory. Raises InvalidInput, SandboxUnavailable."""
    path = roots.get(name)
    if path is None:
        known = ", ".join(sorted(roots)) or "none"
        raise InvalidInput(
            f"platform property {ROOTFS} is {name[:200]!r}, which is neither cas:HASH/SIZE nor"
            f" under executor.rootfs on this worker (it has: {known})"
        )
    if not os.path.isdir(path):
        raise SandboxUnavailable(f"{ROOTFS}={name} is {path}, which is no directory on this worker")
    return path


def view_root(source: str, name: str, tree: Tree | None, places: Iterable[str]) -> RootView:
    """Spreads out a root filesystem for an action that is given something at `places`. Blocks.

    Raises InvalidInput where a place cannot be had in it, OSError.
    """
    wanted = [place for place in places if not any(is_in(place, ours) for ours in _OURS)]
    spread = _Spread(name, wanted)
    spread.show(source, "")
    return RootView(
        name, tree, tuple(spread.directories), tuple(spread.mounts), tuple(spread.links)
    )


class _Spread:
    def __init__(self, name: str, places: list[str]) -> None:
        self._name = name
        self._places = places
        self.directories: list[str] = []
        self.mounts: list[Mount] = []
        self.links: list[tuple[str, str]] = []

    def show(self, source: str, target: str) -> None:
        """Shows what a directory has, which `target` is to have; of few, each is looked at."""
        with os.scandir(source) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{target}/{entry.name}"
            if path not in _OURS:
                self._show_entry(entry, path)
            if len(self.mounts) + len(self.links) > _MAX_PARTS:
                raise InvalidInput(
                    f"the root filesystem {self._name} has over {_MAX_PARTS} entries in"
                    f" {target or '/'}"
                )

    def _show_entry(self, entry: os.DirEntry[str], path: str) -> None:
        inside = [place for place in self._places if place.startswith(f"{path}/")]
        if entry.is_symlink():
            self._refuse([*inside, *(place for place in self._places if place == path)], path)
            self.links.append((path, os.readlink(entry.path)))
        elif entry.is_dir():
            if all(self._has(entry.path, path, place) for place in inside):
                self.mounts.append(Mount(entry.path, path, is_checked=True))
            else:
                self.directories.append(path)
                self.show(entry.path, path)
        elif entry.is_file():
            self._refuse(inside, path)
            self.mounts.append(Mount(entry.path, path, is_checked=True))

    def _has(self, source: str, path: str, place: str) -> bool:
        """Whether a directory has a place to mount something on, which no link leads to."""
        for name in place.removeprefix(f"{path}/").split("/"):
            source, path = f"{source}/{name}", f"{path}/{name}"
            if os.path.islink(source):
                self._refuse([place], path)
            if not os.path.lexists(source):
                return False
        return True

    def _refuse(self, places: list[str], path: str) -> None:
        if places:
            raise InvalidInput(
                f"the action is given {places[0]}, but {path} of its root filesystem {self._name}"
                " is a symbolic link or a file; leave it out of the root filesystem"
            )
