"""Plain files outside of any store: what exports make and imports read. All of it blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from cas.digest import Buffer

_IOV_MAX = os.sysconf("SC_IOV_MAX")
_SMALL = 64 * 1024
_PIECE = 1024 * 1024
_SLICE = 64 * 1024 * 1024
_LITTLE_FILES = 8
_LITTLE_BYTES = _SMALL
_CANNOT_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Stop(Protocol):
    """Tells a long copy that nobody waits for it any more; threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to stop."""


def write_all(fd: int, buffers: Sequence[Buffer]) -> None:
    """Appends all bytes, however many writes it takes."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    while views:
        written = os.writev(fd, views[:_IOV_MAX])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def read_all(fd: int, offset: int, size_bytes: int) -> bytes:
    """Reads that many bytes, fewer only where the file ends before."""
    data = os.pread(fd, size_bytes, offset)
    while len(data) < size_bytes:
        more = os.pread(fd, size_bytes - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def create(path: str, mode: int) -> int:
    """Makes a new file with exactly these permission bits and answers its descriptor.

    Raises OSError when anything is at the path already.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    if os.fstat(fd).st_mode & 0o7777 != mode:  # The umask had its say in open.
        os.fchmod(fd, mode)
    return fd


def are_little(sizes_bytes: Sequence[int]) -> bool:
    """Tells whether files are so few and small that a thread would be reached no sooner than they
    are made.
    """
    return len(sizes_bytes) <= _LITTLE_FILES and sum(sizes_bytes) <= _LITTLE_BYTES


def write_new_file(path: str, mode: int, data: Buffer) -> None:
    """Makes a new file with these bytes."""
    fd = create(path, mode)
    try:
        write_all(fd, [data])
    finally:
        os.close(fd)


def copy_to_new(source: int, size_bytes: int, path: str, mode: int, stop: Stop) -> None:
    """Makes a new file with an open file's first bytes; leaves it half done when told to stop."""
    fd = create(path, mode)
    try:
        done_bytes = 0
        while done_bytes < size_bytes and not stop.is_set():
            copied = _copy_range(source, fd, done_bytes, size_bytes - done_bytes)
            if not copied:
                raise OSError(errno.EIO, "the stored file was cut short")
            done_bytes += copied
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _copy_range(source: int, target: int, offset: int, size_bytes: int) -> int:
    if size_bytes > _SMALL:  # Below, the kernel's way costs more than it saves.
        try:
            return os.copy_file_range(source, target, min(_SLICE, size_bytes), offset, offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_RANGE:
                raise
    return os.pwrite(target, os.pread(source, min(size_bytes, _PIECE), offset), offset)


def open_regular(path: str) -> int:
    """Opens a regular file to read, through no symbolic link, and answers its descriptor.

    Raises OSError for anything else, without waiting for a FIFO's writer or waking a device.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd
