"""Archives as trees, without ever making a path of a name in them.

Each file's content goes to a numbered file of a private directory; names only become names of a
tree in memory. So nothing in an archive can name a place outside, and a link is never followed,
because none is ever made. What would be outside is refused all the same: whoever lays the tree out
later should not have to ask.

Bounded in entries and in bytes, and in what an archive's own tables may take.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from armitage.errors import ArmitageError
from armitage.tar_headers import BoundedHeader, HeaderTooLong

_SLICE_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_DEPTH = 200
_MAX_TARGET_BYTES = 4095


class BadArchive(ArmitageError):
    """It cannot be unpacked; the message says which member, and why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an archive may hold."""

    entries: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class File:
    """A file, whose content is in the numbered one."""

    number: int
    is_executable: bool


@dataclass(slots=True)
class Tree:
    """One directory: files, targets of symbolic links, and directories, by name."""

    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    directories: dict[str, Tree] = field(default_factory=dict)


class Unpacking:
    """One tree in the making. Blocks; for a thread."""

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        self.root = Tree()
        self.contents: list[Path] = []
        self._directory = directory
        self._bounds = bounds
        self._entries = 0
        self._left = bounds.size_bytes

    def add_directory(self, name: str) -> Tree:
        """Raises BadArchive."""
        self._count()
        return self._walk(_parts(name), name)

    def add_file(self, name: str, content: IO[bytes], *, is_executable: bool) -> None:
        """Raises BadArchive, OSError."""
        self._count()
        folder, last = self._place(name)
        if last in folder.directories or last in folder.links:
            raise BadArchive(f"{name!r} is there as something else, too")
        path = self._directory / str(len(self.contents))
        with path.open("wb") as out:
            while data := content.read(_SLICE_BYTES):
                self._left -= len(data)
                if self._left < 0:
                    raise BadArchive(f"it holds more than {self._bounds.size_bytes} bytes")
                out.write(data)
        folder.files[last] = File(len(self.contents), is_executable)
        self.contents.append(path)

    def add_hard_link(self, name: str, target: str) -> None:
        """Raises BadArchive."""
        self._count()
        source, known = self._place(target)
        if known not in source.files:
            raise BadArchive(f"{name!r} is a link to {target!r}, which is not there")
        folder, last = self._place(name)
        if last in folder.directories or last in folder.links:
            raise BadArchive(f"{name!r} is there as something else, too")
        folder.files[last] = source.files[known]

    def add_link(self, name: str, target: str) -> None:
        """Raises BadArchive for a link that leads out."""
        self._count()
        folder, last = self._place(name)
        if last in folder.directories or last in folder.files:
            raise BadArchive(f"{name!r} is there as something else, too")
        if not target or "\0" in target or len(_encoded(target)) > _MAX_TARGET_BYTES:
            raise BadArchive(f"{name!r} is a link to nothing")
        if target.startswith("/") or _leads_out(_parts(name)[:-1], target):
            raise BadArchive(f"{name!r} is a link to {target!r}, which is outside")
        folder.links[last] = target

    def check_room(self, size_bytes: int) -> None:
        """Raises BadArchive when a file of this size is too much."""
        if size_bytes > self._left:
            raise BadArchive(f"it holds more than {self._bounds.size_bytes} bytes")

    def part(self, directory: str) -> Tree:
        """The tree below a directory. Raises BadArchive when there is none."""
        tree = self.root
        for part in _parts(directory):
            if part not in tree.directories:
                raise BadArchive(f"it has no directory {directory!r}")
            tree = tree.directories[part]
        return tree

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise BadArchive(f"it has more than {self._bounds.entries} entries")

    def _place(self, name: str) -> tuple[Tree, str]:
        *above, last = _parts(name) or [""]
        if not last:
            raise BadArchive(f"{name!r} names the root itself")
        return self._walk(above, name), last

    def _walk(self, parts: list[str], name: str) -> Tree:
        tree = self.root
        for part in parts:
            if part in tree.files or part in tree.links:
                raise BadArchive(f"{name!r} goes through {part!r}, which is no directory")
            if part not in tree.directories:
                self._count()
            tree = tree.directories.setdefault(part, Tree())
        return tree


def unpack(archive: Path, into: Unpacking) -> None:
    """Reads a zip, or a tar that may be compressed. Blocks. Raises BadArchive, OSError."""
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, into)
        else:
            _unpack_tar(archive, into)
    except HeaderTooLong as error:
        raise BadArchive(str(error)) from error
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
        *(ValueError, NotImplementedError, RuntimeError),
    ) as error:
        raise BadArchive(f"it cannot be read: {error}") from error


def _unpack_zip(archive: Path, into: Unpacking) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            mode = member.external_attr >> 16
            if member.flag_bits & 0x1:
                raise BadArchive(f"{member.filename!r} is encrypted")
            if member.is_dir():
                into.add_directory(member.filename)
            elif stat.S_ISLNK(mode):
                if member.file_size > _MAX_TARGET_BYTES:
                    raise BadArchive(f"{member.filename!r} is a link to nothing")
                into.add_link(member.filename, packed.read(member).decode())
            elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
                raise BadArchive(f"{member.filename!r} is a device or the like")
            else:
                with packed.open(member) as content:
                    executable = bool(mode & 0o111)
                    into.add_file(member.filename, content, is_executable=executable)


def _unpack_tar(archive: Path, into: Unpacking) -> None:
    with (
        archive.open("rb") as file,
        _decompressed(file) as plain,
        tarfile.open(fileobj=plain, mode="r|", tarinfo=BoundedHeader) as packed,
    ):
        for member in packed:
            packed.members = []  # type: ignore[attr-defined]  # It would remember them all.
            _add_member(packed, member, into)


def _add_member(packed: tarfile.TarFile, member: tarfile.TarInfo, into: Unpacking) -> None:
    if member.isdir():
        into.add_directory(member.name)
    elif member.issym():
        into.add_link(member.name, member.linkname)
    elif member.islnk():
        into.add_hard_link(member.name, member.linkname)
    elif member.isreg():
        content = packed.extractfile(member)
        assert content is not None
        into.add_file(member.name, content, is_executable=bool(member.mode & 0o111))
    else:
        raise BadArchive(f"{member.name!r} is a device or the like")


def _decompressed(file: BinaryIO) -> IO[bytes]:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(file))
    if start.startswith(b"\xfd7zXZ"):
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return file


def _parts(name: str) -> list[str]:
    """Raises BadArchive for a name that does not stay inside."""
    if name.startswith("/") or "\0" in name or "\\" in name:
        raise BadArchive(f"{name!r} is no relative path")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise BadArchive(f"{name!r} leads out")
    if len(parts) > _MAX_DEPTH or any(len(_encoded(part)) > _MAX_NAME_BYTES for part in parts):
        raise BadArchive(f"{name[:200]!r} is too deep or too long")
    return parts


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadArchive(f"{text!r} is not UTF-8") from None


def _leads_out(above: list[str], target: str) -> bool:
    depth = len(above)
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False


def in_order(tree: Tree) -> Iterator[Tree]:
    """All directories, those below before those above."""
    for below in tree.directories.values():
        yield from in_order(below)
    yield tree


def remove(directory: Path) -> None:
    """Removes what was unpacked. Idempotent."""
    shutil.rmtree(directory, ignore_errors=True)
