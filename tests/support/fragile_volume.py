"""A volume in memory whose power can fail before any operation that changes it.

What was not synced is then lost as `After` says: all of it, none of it (only the process ended), or
a part: any of the writes to a file, the last one up to any byte, and any of the changes of names.
"""

import errno
import os
import random
import threading
from collections.abc import Iterator, Sequence
from enum import Enum

from cas.digest import Buffer
from cas.files import Stop
from cas.volume import File, FileId, Found


class After(Enum):
    """What is left of what was not synced."""

    NOTHING = "nothing"
    A_PART = "a part"
    EVERYTHING = "everything"


class _Inode:
    def __init__(self, number: int, data: bytes = b"", mtime: float = 0.0) -> None:
        self.number = number
        self.data = bytearray(data)
        self.synced = bytes(data)
        self.pending: list[tuple[int, bytes | None]] = []
        """Writes with their offset; None cuts the file off there."""
        self.mtime = mtime

    def apply(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        _apply(self.data, offset, data)

    def left(self, after: After, chance: random.Random) -> bytes:
        if after is After.NOTHING:
            return self.synced
        if after is After.EVERYTHING:
            return bytes(self.data)
        left = bytearray(self.synced)
        kept = [change for change in self.pending if chance.random() < 0.7]
        for number, (offset, data) in enumerate(kept):
            is_last = number == len(kept) - 1
            end = chance.randrange(len(data) + 1) if data and is_last else None
            _apply(left, offset, data and data[:end])
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    elif data:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


class FragileVolume:
    """A Volume. `fatal` is the number of the operation at which the power fails, from 0 on."""

    root = "fragile"

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal = fatal
        self.operations = 0
        self.names: dict[str, _Inode] = {}
        self.folders_: set[str] = {""}
        self.synced_names: dict[str, _Inode] = {}
        self.synced_folders: set[str] = {""}
        self.lock = threading.RLock()
        self._numbers = 1

    @property
    def is_dead(self) -> bool:
        """Whether the power has failed."""
        return self.fatal is not None and self.operations > self.fatal

    def check(self) -> None:
        """Fails when there is no power."""
        if self.is_dead:
            raise OSError(errno.EIO, "the power has failed")

    def count(self) -> None:
        """Counts an operation, and has the power fail before it when it is time."""
        self.check()
        self.operations += 1
        self.check()

    def after(self, after: After, seed: int = 0) -> "FragileVolume":
        """The volume as the next process finds it."""
        chance = random.Random(seed)
        left = FragileVolume()
        left.folders_ = set(self.synced_folders)
        for folder in sorted(self.folders_ - self.synced_folders):
            if _is_left(after, chance) and _parent(folder) in left.folders_:
                left.folders_.add(folder)
        for name in sorted(self.names.keys() | self.synced_names.keys()):
            now, synced = self.names.get(name), self.synced_names.get(name)
            inode = now if now is not synced and _is_left(after, chance) else synced
            if inode is not None and _parent(name) in left.folders_:
                left._numbers += 1
                data = inode.left(after, chance)
                left.names[name] = _Inode(left._numbers, data, inode.mtime)
        left.synced_names = dict(left.names)
        left.synced_folders = set(left.folders_)
        return left

    def create(self, name: str) -> File:
        with self.lock:
            self.count()
            if name in self.names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            if _parent(name) not in self.folders_:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._numbers += 1
            inode = self.names[name] = _Inode(self._numbers)
            return FragileFile(self, inode)

    def open(self, name: str, *, write: bool = False) -> File:
        with self.lock:
            self.check()
            if name not in self.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            return FragileFile(self, self.names[name])

    def rename(self, old: str, new: str) -> None:
        with self.lock:
            self.count()
            if old not in self.names or _parent(new) not in self.folders_:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
            self.names[new] = self.names.pop(old)

    def remove(self, name: str) -> None:
        with self.lock:
            self.count()
            self.names.pop(name, None)

    def make_folder(self, name: str) -> None:
        with self.lock:
            self.count()
            while name:
                self.folders_.add(name)
                name = _parent(name)

    def sync_folder(self, name: str) -> None:
        with self.lock:
            self.count()
            if name not in self.folders_:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            for known in [n for n in self.synced_names if _parent(n) == name]:
                del self.synced_names[known]
            self.synced_names |= {n: i for n, i in self.names.items() if _parent(n) == name}
            self.synced_folders |= {f for f in self.folders_ if f and _parent(f) == name}

    def scan(self, folder: str) -> Iterator[Found]:
        with self.lock:
            self.check()
            names = [name for name in self.names if name.startswith(f"{folder}/")]
            return iter([Found(name, _id(self.names[name])) for name in names])

    def folders(self, folder: str) -> list[str]:
        with self.lock:
            self.check()
            below = {name for name in self.folders_ if f"{name}/".startswith(f"{folder}/")}
            return sorted(below)

    def free_bytes(self) -> int:
        return 1 << 40

    def close(self) -> None:
        pass


class FragileFile:
    """A file of such a volume."""

    def __init__(self, volume: FragileVolume, inode: _Inode) -> None:
        self._volume = volume
        self._inode = inode

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        with self._volume.lock:
            try:
                self._volume.count()
            except OSError:
                if self._volume.operations == (self._volume.fatal or 0) + 1:
                    self._inode.apply(offset, data)  # On its way when the power failed.
                raise
            self._inode.apply(offset, data)

    def read(self, size_bytes: int, offset: int) -> bytes:
        with self._volume.lock:
            self._volume.check()
            return bytes(self._inode.data[offset : offset + size_bytes])

    def read_cached(self, size_bytes: int, offset: int) -> bytes | None:
        return self.read(size_bytes, offset)

    def sync(self) -> None:
        with self._volume.lock:
            self._volume.count()
            self._inode.synced = bytes(self._inode.data)
            self._inode.pending.clear()

    def truncate(self, size_bytes: int) -> None:
        with self._volume.lock:
            self._volume.count()
            self._inode.apply(size_bytes, None)

    def set_mtime(self, seconds: float) -> None:
        with self._volume.lock:
            self._volume.count()
            self._inode.mtime = seconds

    def id(self) -> FileId:
        with self._volume.lock:
            self._volume.check()
            return _id(self._inode)

    def copy_to(self, path: str, mode: int, size_bytes: int, stop: Stop) -> None:
        with open(path, "xb") as file:
            file.write(self.read(size_bytes, 0))
        os.chmod(path, mode)

    def close(self) -> None:
        pass


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _id(inode: _Inode) -> FileId:
    return FileId(inode.number, len(inode.data), int(inode.mtime * 1e9), 0)


def _is_left(after: After, chance: random.Random) -> bool:
    return after is After.EVERYTHING or (after is After.A_PART and chance.random() < 0.5)
