"""cpio archives of the kind `newc`: what Linux takes as an initramfs, and what our guest answers.

Kernel documentation, "initramfs buffer format". What is read may be hostile; what is written not.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

_MAGIC = b"070701"
_FIELDS = 13
_HEADER_BYTES = len(_MAGIC) + 8 * _FIELDS
_END = "TRAILER!!!"
_PATH_MAX = 4096
_PIECE_BYTES = 1 << 20


class BadArchive(Exception):
    """The bytes are no archive, or one that ends too early."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file, directory, link or device node to be archived."""

    name: str
    mode: int
    """With the type, as stat has it."""
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Item:
    """A directory."""
    return Item(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Item:
    """A regular file."""
    return Item(name, stat.S_IFREG | mode, data)


def link(name: str, target: str) -> Item:
    """A symbolic link."""
    return Item(name, stat.S_IFLNK | 0o777, target.encode())


def device(name: str, major: int, minor: int, mode: int = 0o600) -> Item:
    """A character device."""
    return Item(name, stat.S_IFCHR | mode, device=(major, minor))


def pack(items: Iterable[Item]) -> bytes:
    """Answers an archive; equal items give equal bytes, and archives may be put end to end."""
    parts: list[bytes] = []
    for number, item in enumerate((*items, Item(_END, 0)), 1):
        name = item.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(item.mode) else 1
        fields = (number, item.mode, 0, 0, links, 0, len(item.data), 0, 0, *item.device)
        header = _MAGIC + b"".join(b"%08X" % one for one in (*fields, len(name), 0))
        parts += [_padded(header + name), _padded(item.data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive that is read."""

    name: str
    mode: int
    mtime_s: int
    links: int
    inode: int
    size_bytes: int


class Reader:
    """Reads an archive from where the stream stands to its end mark."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        """Bytes of the current entry's data, with padding, that nobody has read."""
        self._padding = 0

    def entries(self) -> Iterator[Entry]:
        """Answers each entry; its data is to be read before the next, if at all.

        Raises BadArchive.
        """
        while True:
            for _ in self.data():
                pass
            entry = self._header()
            if entry.name == _END:
                return
            yield entry

    def data(self) -> Iterator[bytes]:
        """Answers what is left of the current entry's data, in pieces. Raises BadArchive."""
        while self._left:
            piece = self._exactly(min(self._left, _PIECE_BYTES))
            self._left -= len(piece)
            yield piece
        self._exactly(self._padding)
        self._padding = 0

    def _header(self) -> Entry:
        header = self._exactly(_HEADER_BYTES)
        if not header.startswith(_MAGIC):
            raise BadArchive("an entry does not begin like one")
        try:
            fields = [int(header[at : at + 8], 16) for at in range(6, _HEADER_BYTES, 8)]
        except ValueError:
            raise BadArchive("a header holds what is no number") from None
        inode, mode, _, _, links, mtime_s, size_bytes, *_, name_bytes, _ = fields
        if not 1 <= name_bytes <= _PATH_MAX:
            raise BadArchive(f"a name has {name_bytes} bytes")
        name = self._exactly(name_bytes)
        self._exactly(-(_HEADER_BYTES + name_bytes) % 4)
        if not name.endswith(b"\0") or b"\0" in name[:-1]:
            raise BadArchive("a name does not end where it should")
        self._left, self._padding = size_bytes, -size_bytes % 4
        text = name[:-1].decode("utf-8", "surrogateescape")
        return Entry(text, mode, mtime_s, links, inode, size_bytes)

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise BadArchive("the archive ends too early")
        return data
