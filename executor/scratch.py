"""Scratch space: one directory for each running action, and nothing left of it afterwards.

Most actions leave little behind, and freeing even that may wait for the disk. So of those what lies
in their directory is moved out of the way, for rm(1) to remove that of many at once: a thread of
ours would fight for the interpreter's lock at every system call. The directory itself, which no
sandboxed command can reach, is kept for another action: ext4 takes longest to make and free that
one (see _spread).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import stat
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from executor.errors import SandboxUnavailable, WorkerFailure
from executor.paths import DIRECTORY_FLAGS

_DIRECTORY_MODE = stat.S_IRWXU
_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16
_SET_FLAGS = 0x40006602 | struct.calcsize("l") << 16
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (ioctl_iflags(2))."""
_FEW_ENTRIES = 48
_FEW_BYTES = 1 << 20
_BACKLOG = 512
"""So many directories that actions left may wait for their removal."""
_GATHER_S = 0.05
"""How long what an action left waits for that of others, to be removed together."""
_RM = shutil.which("rm", path=os.defpath) or "rm"
_SPARE = 32
_WORN_ENTRIES = 200
"""After so many entries a directory is not used again, for what _spread says."""
_TOPDIR_FLAG = 0x00020000


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a filesystem has too little of."""

    complaint: str
    is_of_files: bool = False
    """Whether of files that can be made, not of bytes."""


class Scratch:
    """The scratch directory of one executor. Locked, because whoever opens it removes what a
    killed predecessor left there.
    """

    def __init__(self, directory: Path) -> None:
        """Makes the directory where missing, locks it and empties it.

        Raises SandboxUnavailable when it cannot be used or another process holds it.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.directory = directory.resolve()
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxUnavailable(
                f"scratch directory {directory}: {error.strerror}; make it writable or configure"
                " another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._work = self.directory / "work"
            self._trash = self.directory / "trash"
            self._grave = self.directory / "grave"
            self._spare = self.directory / "spare"
            self.trees = self.directory / "trees"
            for place in (self._work, self.trees):
                place.mkdir(mode=0o700, exist_ok=True)
                _spread(place)
            for place in (self._trash, self._grave, self._work, self._spare, self.trees):
                place.mkdir(mode=0o700, exist_ok=True)
                for leftover in list(place.iterdir()):
                    remove_tree(leftover, self._trash)
        except OSError as error:
            os.close(self._lock)
            why = (
                "another process uses it"
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES)
                else error.strerror
            )
            raise SandboxUnavailable(
                f"scratch directory {directory}: {why}; configure another or stop that process"
            ) from error
        self._numbers = itertools.count()
        self._free: list[tuple[str, int]] = []
        """Empty directories, and how many entries each has had."""
        self._worn: dict[str, int] = {}
        """The same of those in use."""
        self._reaper = ThreadPoolExecutor(1, thread_name_prefix="scratch")
        self._reaping: deque[Future[None]] = deque()
        self._closing = threading.Event()
        self._heap_lock = threading.Lock()
        """Guards what follows."""
        self._heap, self._next_heap = self._trash, self._grave
        """What is left goes into one while that in the other is removed: the kernel keeps others
        from changing what is around a directory until that is gone.
        """
        self._heaped: list[str] = []
        self._waiting = 0
        """How many directories are not removed yet."""

    @property
    def trash(self) -> Path:
        """Where remove_tree may put what it removes."""
        return self._trash

    @property
    def work(self) -> Path:
        """Where the directories of running actions are."""
        return self._work

    def make(self, name: str) -> Path:
        """Makes the empty directory of one action. Raises WorkerFailure."""
        if not name or "/" in name or name.startswith("."):
            raise WorkerFailure(f"work name {name!r} cannot name a directory")
        path = f"{self._work}/{name}"
        try:
            if self._free and not os.path.lexists(path):
                free, self._worn[path] = self._free.pop()
                os.rename(free, path)
            else:
                os.mkdir(path, 0o700)
        except OSError as error:
            raise WorkerFailure(f"making scratch space {path}: {error.strerror}") from error
        return Path(path)

    def discard(self, path: Path) -> None:
        """Removes the directory of one action, whatever is in it and whatever its modes.

        Raises OSError.
        """
        self._worn.pop(str(path), None)
        remove_tree(path, self._trash)

    def discard_little(self, path: Path) -> bool:
        """Does the same where there is little in it, never waiting for the disk; answers whether it
        has. Else nothing has changed, and it is for `discard`, in a thread.

        Raises OSError, also for what could not be removed of others before.
        """
        while self._reaping and self._reaping[0].done():
            self._reaping.popleft().result()
        found = None if self._waiting >= _BACKLOG else _look(str(path))
        if found is None:
            return False
        directories, entries = found
        worn = self._worn.pop(str(path), 0) + entries
        if worn > _WORN_ENTRIES or len(self._free) >= _SPARE:
            self._reap([str(path)])
        else:
            self._reap(directories)
            free = f"{self._spare}/{next(self._numbers)}"
            os.rename(path, free)
            self._free.append((free, worn))
        return True

    def _reap(self, paths: Sequence[str]) -> None:
        with self._heap_lock:
            if not self._heaped:
                self._reaping.append(self._reaper.submit(self._remove_heap))
            for path in paths:
                moved = f"{self._heap}/{next(self._numbers)}"
                _move(path, None, moved)
                self._heaped.append(moved)
                self._waiting += 1

    def _remove_heap(self) -> None:
        self._closing.wait(_GATHER_S)
        with self._heap_lock:
            heaped, self._heaped = self._heaped, []
            self._heap, self._next_heap = self._next_heap, self._heap
        try:
            _remove_all(heaped, self._trash)
        finally:
            with self._heap_lock:
                self._waiting -= len(heaped)

    def shortage(self, reserve_bytes: int, reserve_files: int) -> Shortage | None:
        """Answers which of them its filesystem is short of; None while there is enough."""
        status = os.statvfs(self.directory)
        if status.f_bavail * status.f_frsize < reserve_bytes:
            return Shortage(
                f"under {reserve_bytes >> 20} MiB are free in scratch directory {self.directory};"
                " free some, or lower executor.reserve_bytes"
            )
        # Some filesystems have no limit of files.
        if status.f_files and status.f_favail < reserve_files:
            return Shortage(
                f"under {reserve_files} more files can be made in scratch directory"
                f" {self.directory}; remove some, or lower executor.reserve_files",
                is_of_files=True,
            )
        return None

    def close(self) -> None:
        """Waits until all that was discarded is gone, and gives up the lock."""
        self._closing.set()
        self._reaper.shutdown()
        os.close(self._lock)


def _look(top: str) -> tuple[list[str], int] | None:
    """Answers the directories in a directory, and how many entries there are with all below; None
    when that is much, or a file lies beside them.
    """
    directories: list[str] = []
    entries, size_bytes, pending = 0, 0, [top]
    while pending:
        path = pending.pop()
        try:
            with os.scandir(path) as found:
                for entry in found:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif path is top:
                        return None
                    else:
                        size_bytes += entry.stat(follow_symlinks=False).st_size
                    if entries > _FEW_ENTRIES or size_bytes > _FEW_BYTES:
                        return None
        except OSError:
            return None
        if path is top:
            directories = list(pending)
    return directories, entries


def _remove_all(paths: Sequence[str], trash: Path) -> None:
    """Removes directories. Raises OSError."""
    # What it cannot, for its modes, is for us; and we say why, if we cannot either.
    subprocess.run(
        [_RM, "-rf", "--", *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    for path in paths:
        if os.path.lexists(path):
            remove_tree(Path(path), trash)


def _spread(directory: Path) -> None:
    """Asks ext4 to put each directory made in this one into a block group of its own.

    ext4 does not use an inode again for minutes after its file was deleted, and looks at all such
    inodes of a group for each new file: actions that make and delete thousands of files in the same
    group would take a millisecond for each. Other filesystems refuse or ignore the flag.
    """
    fd = os.open(directory, DIRECTORY_FLAGS)
    try:
        flags = bytearray(struct.calcsize("l"))
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        value = struct.unpack("l", flags)[0] | _TOPDIR_FLAG
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", value))
    except OSError:
        return  # No such flags here, and no need of them.
    finally:
        os.close(fd)


def remove_tree(path: Path, trash: Path) -> None:
    """Removes a tree of any depth and any modes, with a bounded number of open files.

    Each sub-directory is first moved up into `trash` (a directory on the same filesystem), so that
    no path grows with the depth and no recursion is needed. Raises OSError.
    """
    prefix = os.urandom(12).hex()  # Unlike any name that an interrupted removal left there.
    numbers = itertools.count()
    pending = [str(path)]
    while pending:
        directory = pending.pop()
        try:
            fd = os.open(directory, DIRECTORY_FLAGS)
        except PermissionError:
            os.chmod(directory, _DIRECTORY_MODE)
            fd = os.open(directory, DIRECTORY_FLAGS)
        try:
            if os.fstat(fd).st_mode & _DIRECTORY_MODE != _DIRECTORY_MODE:
                os.fchmod(fd, _DIRECTORY_MODE)
            for name, is_directory in _entries(fd):
                if is_directory:
                    moved = f"{trash}/{prefix}.{next(numbers)}"
                    _move(name, fd, moved)
                    pending.append(moved)
                else:
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(directory)


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _move(name: str, fd: int | None, target: str) -> None:
    try:
        os.rename(name, target, src_dir_fd=fd)
    except PermissionError:
        # Moving a directory changes its `..`, which takes write permission on itself.
        os.chmod(name, _DIRECTORY_MODE, dir_fd=fd)
        os.rename(name, target, src_dir_fd=fd)
