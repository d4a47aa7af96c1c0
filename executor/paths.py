"""Paths inside an input root, resolved without ever leaving it.

The kernel would resolve an absolute symlink, or a `..` too many, against the host. Here every link
is followed by hand, relative to an open directory of the root, as the sandbox would see it; and
files are opened one component at a time without following links, so that nothing that still runs
can swap a component for a link to elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from executor.errors import InvalidInput

_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""

BUILD_ROOT = "/build"
"""Where an action sees its input root, unless that is the filesystem root."""

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """Where a path leads: components below the root, none of them a link except maybe the last."""

    parts: tuple[str, ...]
    status: os.stat_result | None
    """None when nothing is there; then all parts but those after `existing` exist."""
    existing: int
    """How many leading parts exist as directories."""


def join(working_directory: str, path: str) -> tuple[str, ...]:
    """Joins an output path to the working directory, lexically, as components below the root.

    Raises InvalidInput when the path is absolute, holds a NUL, or leaves the root.
    """
    parts: list[str] = []
    for name in (working_directory, path):
        if name.startswith("/"):
            raise InvalidInput(f"path {name[:200]!r} is absolute; it must be relative")
        if "\0" in name:
            raise InvalidInput(f"path {name[:200]!r} holds a NUL character")
        for component in name.split("/"):
            if component == "..":
                if not parts:
                    raise InvalidInput(
                        f"path {path[:200]!r} leaves the input root"
                        f" (working directory {working_directory[:200]!r})"
                    )
                parts.pop()
            elif component not in ("", "."):
                parts.append(component)
    return tuple(parts)


def locate(
    roots: Sequence[int], parts: Sequence[str], mounted_at: str, *, follow_last: bool
) -> Place | None:
    """Follows a path inside the root as a process in the sandbox would.

    The root is an open directory, or several that are seen as one and of which no two have the same
    path, but for directories.

    `mounted_at` is where that process sees the root (`/`, or `/build`): absolute links below it
    lead inside. Answers None when the path leads outside, round in circles, or through a file.
    """
    pending = list(reversed(parts))
    real: list[str] = []
    links = 0
    while pending:
        name = pending.pop()
        if name == "..":
            if real:
                real.pop()
            elif mounted_at != "/":
                return None
            continue
        real.append(name)
        try:
            status, root_fd = _look(roots, real)
        except FileNotFoundError:
            # Lexical: below something that does not exist there are no links to follow.
            if ".." in pending:
                return None
            return Place((*real, *reversed(pending)), None, len(real) - 1)
        except OSError:
            return None
        if stat.S_ISLNK(status.st_mode) and (pending or follow_last):
            links += 1
            target = _inside(os.readlink("/".join(real), dir_fd=root_fd), mounted_at, len(real) - 1)
            if target is None or links > _MAX_LINKS:
                return None
            real.pop()
            pending.extend(reversed(target))
        elif pending and not stat.S_ISDIR(status.st_mode):
            return None
    if not real:
        return Place((), os.stat(roots[0]), 0)
    try:
        status, _ = _look(roots, real)
    except OSError:
        return None
    return Place(tuple(real), status, len(real))


def _look(roots: Sequence[int], parts: Sequence[str]) -> tuple[os.stat_result, int]:
    """Looks at one entry, which is not followed; answers in which root it is. Raises OSError."""
    *others, last = roots
    for root in others:
        with contextlib.suppress(FileNotFoundError):
            return _look_in(root, parts), root
    return _look_in(last, parts), last


def _look_in(root_fd: int, parts: Sequence[str]) -> os.stat_result:
    """Looks at one entry, also where a command has closed the directories that lead to it."""
    path = "/".join(parts)
    try:
        return os.stat(path, dir_fd=root_fd, follow_symlinks=False)
    except PermissionError:
        os.close(open_directory(root_fd, parts[:-1]))
        return os.stat(path, dir_fd=root_fd, follow_symlinks=False)


def _inside(target: str, mounted_at: str, depth: int) -> list[str] | None:
    """Answers a link's target as components relative to the link's directory, which lies `depth`
    below the root; None when it is absolute and not below the root.
    """
    components = [part for part in target.split("/") if part not in ("", ".")]
    if not target.startswith("/"):
        return components
    prefix = [part for part in mounted_at.split("/") if part]
    if components[: len(prefix)] != prefix:
        return None
    return [".."] * depth + components[len(prefix) :]


def open_directory(root_fd: int, parts: Sequence[str]) -> int:
    """Opens a directory below the root, following no link at any step. The caller closes it."""
    fd = os.open(".", DIRECTORY_FLAGS, dir_fd=root_fd)
    for part in parts:
        try:
            below = open_readable(fd, part, DIRECTORY_FLAGS)
        finally:
            os.close(fd)
        fd = below
    return fd


def open_readable(directory_fd: int, name: str, flags: int) -> int:
    """Opens one entry of a directory, making it readable when its owner is not allowed to read it.

    Commands may leave files and directories with any mode. `flags` must hold O_NOFOLLOW.
    """
    try:
        fd = os.open(name, flags, dir_fd=directory_fd)
    except PermissionError:
        probe = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
        try:
            if stat.S_ISLNK(os.fstat(probe).st_mode):
                raise
            # By its name in /proc because fchmod refuses O_PATH descriptors.
            make_readable(f"/proc/self/fd/{probe}")
        finally:
            os.close(probe)
        return os.open(name, flags, dir_fd=directory_fd)
    try:
        if flags & os.O_DIRECTORY:
            make_readable(fd)  # It may be listed, but nothing in it looked at.
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_readable(place: int | str) -> None:
    """Lets its owner read a file, or list and enter a directory, whatever a command has made of its
    mode.
    """
    mode = os.stat(place).st_mode
    needed = stat.S_IRUSR | (stat.S_IXUSR if stat.S_ISDIR(mode) else 0)
    if mode & needed != needed:
        os.chmod(place, stat.S_IMODE(mode) | needed)


def make_parents(root_fd: int, parts: Sequence[str], mounted_at: str, mtime_s: int) -> None:
    """Makes the missing directories of a path below the root, and dates what it touches.

    Does nothing where a file is in the way: that is the command's affair. Raises InvalidInput when
    links lead the path outside the root.
    """
    place = _missing((root_fd,), parts, mounted_at)
    if place is None:
        return
    fd = open_directory(root_fd, place.parts[: place.existing])
    try:
        for part in place.parts[place.existing :]:
            os.mkdir(part, 0o755, dir_fd=fd)
            os.utime(fd, (mtime_s, mtime_s))
            below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        os.utime(fd, (mtime_s, mtime_s))
    finally:
        os.close(fd)


def make_parents_beside(
    roots: Sequence[int], parts: Sequence[str], mounted_at: str, mtime_s: int, upper: str
) -> None:
    """Does what make_parents does, in a directory that will be merged over the root (see locate).

    What it makes there has the same name, mode and time as the directory of the root below it.
    """
    place = _missing(roots, parts, mounted_at)
    if place is None:
        return
    path = upper
    made = [path]
    for part in place.parts:
        path = f"{path}/{part}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        made.append(path)
    for path in made:
        os.utime(path, (mtime_s, mtime_s))


def _missing(roots: Sequence[int], parts: Sequence[str], mounted_at: str) -> Place | None:
    """Answers where directories are to be made; None where all are there, or a file is in the way.

    Raises InvalidInput when links lead the path outside the root.
    """
    place = locate(roots, parts, mounted_at, follow_last=True)
    if place is None and not _blocked_by_file(roots, parts):
        raise InvalidInput(
            f"output directory {'/'.join(parts)[:200]!r} leads out of the input root"
            " through a symbolic link"
        )
    return place if place is not None and place.status is None else None


def _blocked_by_file(roots: Sequence[int], parts: Sequence[str]) -> bool:
    for end in range(1, len(parts) + 1):
        try:
            mode = _look(roots, parts[:end])[0].st_mode
        except OSError:
            return False
        if stat.S_ISLNK(mode):
            return False
        if not stat.S_ISDIR(mode):
            return True
    return False
