"""What a guest left, put where outputs are collected from.

The archive comes from a guest that may have been taken over: names, types, sizes and order are all
hostile. Nothing is written but below the places that were asked for, and no link is followed below
those.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from executor.errors import InvalidOutput, WorkerFailure
from executor.microvm.cpio import BadArchive, Entry, Reader
from executor.paths import DIRECTORY_FLAGS, locate, open_directory
from executor.scratch import remove_tree

_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_ENTRIES = 2_000_000


def outermost(outputs: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Answers each output once, without those that lie below another and come with that one."""
    return [
        one
        for one in dict.fromkeys(outputs)
        if not any(one != other and one[: len(other)] == other for other in outputs)
    ]


class Unpacker:
    """Unpacks one archive into one input root, whose action is over."""

    def __init__(self, root: str, outputs: Sequence[tuple[str, ...]], mounted_at: str) -> None:
        """`outputs` are the outermost."""
        self._root = root
        self._mounted_at = mounted_at
        self._outputs = outputs
        self._bases: dict[tuple[str, ...], int] = {}
        """Open directories that hold the outputs, by output."""
        self._linked: dict[int, list[tuple[str, ...]]] = {}
        """Names of a file with several that came without its data, by inode."""

    def unpack(self, archive: Path, trash: Path) -> None:
        """Removes what is at the outputs' places, and puts there what the archive says.

        Raises InvalidOutput, WorkerFailure when the archive cannot be one of our guest's, OSError.
        """
        try:
            for output in self._outputs:
                self._clear(output, trash)
            with archive.open("rb") as stream:
                reader = Reader(stream)
                for count, entry in enumerate(reader.entries()):
                    if count >= _MOST_ENTRIES:
                        raise InvalidOutput(f"the outputs are over {_MOST_ENTRIES} entries")
                    self._take(entry, reader)
        except BadArchive as error:
            raise WorkerFailure(f"the guest's outputs cannot be read: {error}") from error
        except (FileExistsError, NotADirectoryError) as error:
            raise WorkerFailure(f"the guest's outputs contradict themselves: {error}") from error
        finally:
            for fd in self._bases.values():
                os.close(fd)

    def _clear(self, output: tuple[str, ...], trash: Path) -> None:
        """Opens the directory that an output lies in, and removes what is there."""
        root_fd = os.open(self._root, DIRECTORY_FLAGS)
        try:
            if not output:
                self._bases[output] = os.dup(root_fd)
                for name in os.listdir(root_fd):
                    _remove(Path(self._root), name, trash)
                return
            place = locate((root_fd,), output[:-1], self._mounted_at, follow_last=True)
            if place is None or place.status is None or not stat.S_ISDIR(place.status.st_mode):
                return  # A file is in the way; whatever the guest has there cannot be an output.
            self._bases[output] = open_directory(root_fd, place.parts)
            _remove(Path(self._root, *place.parts), output[-1], trash)
        finally:
            os.close(root_fd)

    def _take(self, entry: Entry, reader: Reader) -> None:
        parts = tuple(part for part in entry.name.split("/") if part not in ("", "."))
        if ".." in parts or entry.name.startswith("/"):
            raise WorkerFailure(f"the guest names an output {entry.name[:200]!r}")
        output = next((one for one in self._outputs if parts[: len(one)] == one), None)
        if output is None:
            raise WorkerFailure(f"the guest sent {entry.name[:200]!r}, which nobody asked for")
        if output not in self._bases:
            return
        below = parts[len(output) - 1 :] if output else parts
        if not below:
            return  # The input root itself, which is there.
        with self._parent(self._bases[output], below[:-1]) as fd:
            self._make(entry, reader, fd, below, output)

    @contextlib.contextmanager
    def _parent(self, base_fd: int, parts: Sequence[str]) -> Iterator[int]:
        fd = open_directory(base_fd, parts)
        try:
            yield fd
        finally:
            os.close(fd)

    def _make(
        self,
        entry: Entry,
        reader: Reader,
        fd: int,
        below: tuple[str, ...],
        output: tuple[str, ...],
    ) -> None:
        name, kind = below[-1], stat.S_IFMT(entry.mode)
        if kind == stat.S_IFDIR:
            # Its own modes could keep us out of it.
            os.mkdir(name, stat.S_IMODE(entry.mode) & 0o777 | 0o700, dir_fd=fd)
        elif kind == stat.S_IFLNK:
            target = b"".join(reader.data())
            if not target or b"\0" in target or len(target) > 4095:
                raise WorkerFailure(f"the guest sent a link {entry.name[:200]!r} to nowhere")
            os.symlink(target, name, dir_fd=fd)
        elif kind == stat.S_IFREG:
            self._write(entry, reader, fd, below, output)
        else:
            raise InvalidOutput(
                f"output {entry.name[:200]!r} is a socket, a fifo or a device node; outputs are"
                " files, directories and symbolic links"
            )

    def _write(
        self,
        entry: Entry,
        reader: Reader,
        fd: int,
        below: tuple[str, ...],
        output: tuple[str, ...],
    ) -> None:
        name = below[-1]
        file = os.open(name, _FILE_FLAGS, stat.S_IMODE(entry.mode) & 0o777 | 0o600, dir_fd=fd)
        with os.fdopen(file, "wb") as out:
            for piece in reader.data():
                out.write(piece)
            out.flush()
            os.fchmod(out.fileno(), stat.S_IMODE(entry.mode) & 0o777 | 0o600)
            os.utime(out.fileno(), (entry.mtime_s, entry.mtime_s))
        if entry.links > 1:
            self._join_names(entry, below, output)

    def _join_names(self, entry: Entry, below: tuple[str, ...], output: tuple[str, ...]) -> None:
        """Gives a file's data to the names of it that came without: one of them has it all."""
        names = self._linked.setdefault(entry.inode, [])
        names.append((*output, "\0", *below))
        if not entry.size_bytes:
            return
        for other in names[:-1]:
            where = other.index("\0")
            base, rest = self._bases[other[:where]], other[where + 1 :]
            with (
                self._parent(base, rest[:-1]) as there,
                self._parent(self._bases[output], below[:-1]) as here,
            ):
                os.unlink(rest[-1], dir_fd=there)
                os.link(below[-1], rest[-1], src_dir_fd=here, dst_dir_fd=there)
        del names[:]


def _remove(parent: Path, name: str, trash: Path) -> None:
    path = parent / name
    if path.is_dir() and not path.is_symlink():
        trash.mkdir(exist_ok=True)
        remove_tree(path, trash)
    else:
        path.unlink(missing_ok=True)
