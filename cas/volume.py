"""The file system as a port: what a store does in its one directory, and nothing else.

Names are paths relative to the directory. Everything blocks; run it in a thread. Errors are
OSErrors. What `sync` and `sync_folder` have not been asked for may be lost when the power fails, in
any order and in part: the bytes of a file and its size (`File.sync`), and which names a folder has
(`sync_folder`). Nothing is lost when only the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from cas import files
from cas.digest import Buffer
from cas.errors import StoreUnavailable

_IOV_MAX = os.sysconf("SC_IOV_MAX")
_SMALL_BYTES = 80 * 1024
_JOINED_BYTES = 8 * 1024
"""Where buffers are smaller on average, to copy them together costs less than to pass each."""


class FileId(NamedTuple):
    """What tells a file that was changed or replaced from the one that was looked at before."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Found(NamedTuple):
    """A file in a folder."""

    name: str
    id: FileId


class File(Protocol):
    """An open file. Closed when the last reference to it goes, if not before."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all bytes one after another from there on."""

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Reads that many bytes, fewer only where the file ends before."""

    def read_cached(self, size_bytes: int, offset: int) -> bytes | None:
        """Reads without waiting for the disk, or answers None. May be called on an event loop."""

    def sync(self) -> None:
        """Makes all bytes and the size durable."""

    def truncate(self, size_bytes: int) -> None:
        """Cuts the file off there."""

    def set_mtime(self, seconds: float) -> None:
        """Sets the time of the last change."""

    def id(self) -> FileId:
        """Answers what the file is at this moment."""

    def copy_to(self, path: str, mode: int, size_bytes: int, stop: files.Stop) -> None:
        """Makes a new file anywhere with this one's first bytes (see cas.files.copy_to_new)."""

    def close(self) -> None:
        """Closes it. Idempotent."""


class Volume(Protocol):
    """A directory that one store has for itself."""

    @property
    def root(self) -> str:
        """How messages name it."""

    def create(self, name: str) -> File:
        """Makes a new file to write and read; its folder must be there."""

    def open(self, name: str, *, write: bool = False) -> File:
        """Opens a file that is there, through no symbolic link."""

    def rename(self, old: str, new: str) -> None:
        """Gives a file another name, in place of any that has it."""

    def remove(self, name: str) -> None:
        """Removes a file; does nothing when there is none."""

    def make_folder(self, name: str) -> None:
        """Makes a folder, with those around it, where it is not there; durable if `sync_folder` of
        each is.
        """

    def sync_folder(self, name: str) -> None:
        """Makes the names in a folder durable. The empty name is the directory itself."""

    def scan(self, folder: str) -> Iterator[Found]:
        """Answers all files below a folder, in no order."""

    def folders(self, folder: str) -> list[str]:
        """Answers a folder and all folders below it, outermost first."""

    def free_bytes(self) -> int:
        """How much the disk still takes from an ordinary user."""

    def close(self) -> None:
        """Lets the directory go. Idempotent."""


class DiskFile:
    """A File of the operating system's."""

    # Once a file system cannot tell what is cached, nobody asks it again.
    _can_tell = True

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __del__(self) -> None:
        self.close()

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """See File."""
        size_bytes = sum(map(len, buffers))
        if size_bytes < _JOINED_BYTES * len(buffers):
            buffers = (b"".join(buffers),)
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        at = 0
        while at < len(views):
            written = os.pwritev(self._fd, views[at : at + _IOV_MAX], offset)
            offset += written
            while at < len(views) and written >= len(views[at]):
                written -= len(views[at])
                at += 1
            if written:
                views[at] = views[at][written:]

    def read(self, size_bytes: int, offset: int) -> bytes:
        """See File."""
        return files.read_all(self._fd, offset, size_bytes)

    def read_cached(self, size_bytes: int, offset: int) -> bytes | None:
        """See File."""
        if not DiskFile._can_tell:
            return None
        try:
            if size_bytes <= _SMALL_BYTES:
                small = bytearray(size_bytes)
                whole = os.preadv(self._fd, [small], offset, os.RWF_NOWAIT) == size_bytes
                return bytes(small) if whole else None
            # A copy of a large piece costs more than two looks at its ends.
            os.preadv(self._fd, [bytearray(1)], offset, os.RWF_NOWAIT)
            os.preadv(self._fd, [bytearray(1)], offset + size_bytes - 1, os.RWF_NOWAIT)
            return os.pread(self._fd, size_bytes, offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            DiskFile._can_tell = False
            return None

    def sync(self) -> None:
        """See File."""
        os.fdatasync(self._fd)

    def truncate(self, size_bytes: int) -> None:
        """See File."""
        os.ftruncate(self._fd, size_bytes)

    def set_mtime(self, seconds: float) -> None:
        """See File."""
        os.utime(self._fd, (seconds, seconds))

    def id(self) -> FileId:
        """See File."""
        return _id(os.fstat(self._fd))

    def copy_to(self, path: str, mode: int, size_bytes: int, stop: files.Stop) -> None:
        """See File."""
        files.copy_to_new(self._fd, size_bytes, path, mode, stop)

    def close(self) -> None:
        """See File."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class DiskVolume:
    """A Volume on disk. A lock file keeps a second process out."""

    def __init__(self, root: Path, known: frozenset[str]) -> None:
        """Takes the directory over, making it where it is not there.

        `known` are the names that may be in it. Raises StoreUnavailable when the directory is used
        by another process, has something else in it, or cannot be written.
        """
        self._root = str(root)
        self._lock_fd = -1
        try:
            self._take_over(known)
        except OSError as error:
            self.close()
            raise StoreUnavailable(
                f"cannot keep data in {root}: {error.strerror}; make it a directory that this"
                " user can write, or choose another"
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> str:
        """See Volume."""
        return self._root

    def _take_over(self, known: frozenset[str]) -> None:
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        strange = set(os.listdir(self._root)) - known - {"lock", "lost+found"}
        if strange:
            raise StoreUnavailable(
                f"cannot keep data in {self._root}: it holds {min(strange)!r}, which is not"
                " Armitage's; choose an empty directory"
            )
        self._lock_fd = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip()
            raise StoreUnavailable(
                f"{self._root} is in use by process {pid or 'unknown'}; stop that, or choose"
                " another directory"
            ) from None
        os.truncate(self._lock_fd, 0)
        with suppress(OSError):  # Only for messages, and a full disk may not take it.
            os.pwrite(self._lock_fd, b"%d\n" % os.getpid(), 0)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def create(self, name: str) -> File:
        """See Volume."""
        return DiskFile(os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def open(self, name: str, *, write: bool = False) -> File:
        """See Volume."""
        flags = os.O_RDWR if write else os.O_RDONLY
        return DiskFile(os.open(self._path(name), flags | os.O_NOFOLLOW))

    def rename(self, old: str, new: str) -> None:
        """See Volume."""
        os.rename(self._path(old), self._path(new))

    def remove(self, name: str) -> None:
        """See Volume."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def make_folder(self, name: str) -> None:
        """See Volume."""
        os.makedirs(self._path(name), mode=0o700, exist_ok=True)

    def sync_folder(self, name: str) -> None:
        """See Volume."""
        fd = os.open(self._path(name), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def scan(self, folder: str) -> Iterator[Found]:
        """See Volume."""
        for inner in self.folders(folder):
            with os.scandir(self._path(inner)) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        stat = entry.stat(follow_symlinks=False)
                        yield Found(f"{inner}/{entry.name}", _id(stat))

    def folders(self, folder: str) -> list[str]:
        """See Volume."""
        found = [folder]
        for inner in found:
            with os.scandir(self._path(inner)) as entries:
                found += [f"{inner}/{e.name}" for e in entries if e.is_dir(follow_symlinks=False)]
        return found

    def free_bytes(self) -> int:
        """See Volume."""
        stat = os.statvfs(self._root)
        return stat.f_bavail * stat.f_frsize

    def close(self) -> None:
        """See Volume."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _id(stat: os.stat_result) -> FileId:
    return FileId(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
