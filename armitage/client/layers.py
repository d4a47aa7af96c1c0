"""The layers of a container image as one tree (OCI image-spec, layer.md), without ever making a
path of a name in them.

Each file's content goes to a numbered file of a private directory; names only become names of a
tree in memory, where links are resolved too. So nothing in a layer can name a place outside.
"""

from __future__ import annotations

import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from armitage.client.blobs import Source
from armitage.client.errors import UsageError
from armitage.client.trees import LocalTree
from armitage.reapi.trees import DirectoryCodec
from armitage.tar_headers import BoundedHeader
from cas.digest import Digest, DigestFunction
from executor.spec import Directory, DirectoryNode, FileNode, SymlinkNode

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_SLICE_BYTES = 1 << 20
_MAX_DEPTH = 200
_MAX_NAME_BYTES = 255
_MAX_TARGET_BYTES = 4095
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an image may hold, over all of its layers."""

    size_bytes: int
    entries: int = 2_000_000


@dataclass(frozen=True, slots=True)
class _File:
    digest: Digest
    is_executable: bool
    layer: int


@dataclass(frozen=True, slots=True)
class _Link:
    target: str
    layer: int


@dataclass(slots=True)
class _Folder:
    layer: int
    """The last that has it as an entry of its own."""
    depth: int
    nodes: dict[str, _File | _Link | _Folder] = field(default_factory=dict)


class Layers:
    """The tree that layers make, applied from the lowest on. Blocks; for a thread."""

    def __init__(self, directory: Path, function: DigestFunction, bounds: Bounds) -> None:
        self._directory = directory
        self._function = function
        self._bounds = bounds
        self._left = self._left_packed = bounds.size_bytes
        self._entries = 0
        self._layer = 0
        self._root = _Folder(0, 0)
        self._blobs: dict[Digest, Source] = {}
        self.left_out: list[str] = []
        """Devices and the like, which a tree cannot hold."""

    def apply(self, layer: IO[bytes]) -> None:
        """Applies one layer, an uncompressed tar. Raises UsageError, tarfile.TarError, OSError."""
        self._layer += 1
        with tarfile.open(fileobj=layer, mode="r|", tarinfo=BoundedHeader) as packed:
            for member in packed:
                packed.members = []  # type: ignore[attr-defined]  # It would remember them all.
                self._add(packed, member)

    def _add(self, packed: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name)
        if not parts:
            if member.isdir():
                return
            raise UsageError(f"{member.name!r} of a layer names the root itself")
        self._count()
        *above, last = parts
        folder = self._walk(above, member.name)
        if last.startswith(_WHITEOUT):
            self._hide(folder, last, member.name)
        elif member.isdir():
            self._make_folder(folder, last, member.name)
        elif member.issym():
            folder.nodes[last] = _Link(_target(member), self._layer)
        elif member.islnk():
            folder.nodes[last] = self._linked(member)
        elif member.isreg():
            content = packed.extractfile(member)
            assert content is not None
            digest = self._keep(content)
            folder.nodes[last] = _File(digest, bool(member.mode & stat.S_IXUSR), self._layer)
        else:
            folder.nodes.pop(last, None)
            self.left_out.append("/".join(parts))

    def _make_folder(self, above: _Folder, name: str, path: str) -> _Folder:
        known = above.nodes.get(name)
        if isinstance(known, _Folder):
            known.layer = self._layer
            return known
        if above.depth >= _MAX_DEPTH:
            raise UsageError(f"{path[:200]!r} of a layer is over {_MAX_DEPTH} directories deep")
        made = above.nodes[name] = _Folder(self._layer, above.depth + 1)
        return made

    def _walk(self, parts: list[str], path: str) -> _Folder:
        """Answers a directory, made where it is not there. Links lead on inside the tree alone."""
        stack = [self._root]
        pending = parts[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part in {"", "."}:
                continue
            if part == "..":  # Of a link; above the root is the root.
                del stack[max(1, len(stack) - 1) :]
                continue
            node = stack[-1].nodes.get(part)
            if isinstance(node, _Link):
                links += 1
                if links > _MAX_LINKS:
                    raise UsageError(f"{path!r} of a layer goes through too many links")
                if node.target.startswith("/"):
                    del stack[1:]
                pending += node.target.split("/")[::-1]
            elif isinstance(node, _File):
                raise UsageError(f"{path!r} of a layer goes through {part!r}, which is a file")
            else:
                if node is None:
                    self._count()
                    node = self._make_folder(stack[-1], part, path)
                stack.append(node)
        return stack[-1]

    def _hide(self, folder: _Folder, mark: str, path: str) -> None:
        """Removes what lower layers have, for a whiteout; what this one has stays."""
        if mark == _OPAQUE:
            names = list(folder.nodes)
        elif mark.startswith(_WHITEOUT * 2):
            return  # aufs's own notes.
        else:
            names = [mark.removeprefix(_WHITEOUT)]
            if names[0] in {"", ".", ".."}:
                raise UsageError(f"{path!r} of a layer is a whiteout of nothing")
        for name in names:
            if name in folder.nodes and not self._has_new(folder.nodes[name]):
                del folder.nodes[name]

    def _has_new(self, node: _File | _Link | _Folder) -> bool:
        """Drops what is of lower layers, and tells whether anything is left."""
        if isinstance(node, _Folder):
            for name, below in list(node.nodes.items()):
                if not self._has_new(below):
                    del node.nodes[name]
            return bool(node.nodes) or node.layer == self._layer
        return node.layer == self._layer

    def _linked(self, member: tarfile.TarInfo) -> _File | _Link:
        parts = _parts(member.linkname)
        source = self._walk(parts[:-1], member.name).nodes.get(parts[-1]) if parts else None
        match source:
            case _File(digest, is_executable):
                return _File(digest, is_executable, self._layer)
            case _Link(target):
                return _Link(target, self._layer)
        raise UsageError(
            f"{member.name!r} of a layer is a link to {member.linkname!r}, which is not there"
        )

    def _keep(self, content: IO[bytes]) -> Digest:
        path = self._directory / str(self._entries)
        hasher, size = self._function.hasher(), 0
        with path.open("xb") as file:
            while data := content.read(_SLICE_BYTES):
                # Apart from what the layer itself holds: its files may be sparse.
                self._left -= len(data)
                self._check_room(self._left)
                size += len(data)
                hasher.update(data)
                file.write(data)
        digest = Digest(self._function, hasher.hexdigest(), size)
        if digest in self._blobs:
            path.unlink()
        else:
            self._blobs[digest] = path
        return digest

    def count_bytes(self, size_bytes: int) -> None:
        """Counts what layers hold, uncompressed. Raises UsageError when it is too much."""
        self._left_packed -= size_bytes
        self._check_room(self._left_packed)

    def _check_room(self, left: int) -> None:
        if left < 0:
            raise UsageError(
                f"the image holds over {self._bounds.size_bytes} bytes; allow more with --max-bytes"
            )

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise UsageError(f"the image has over {self._bounds.entries} entries")

    def tree(self) -> LocalTree:
        """Answers the tree of all layers so far, with the blobs that are still in it."""
        return _Encoder(self._function, self._blobs).encode(self._root)


class _Encoder:
    def __init__(self, function: DigestFunction, contents: dict[Digest, Source]) -> None:
        self._function = function
        self._contents = contents
        self._encode = DirectoryCodec().encode_directory
        self._blobs: dict[Digest, Source] = {}
        self._files: list[int] = []

    def encode(self, root: _Folder) -> LocalTree:
        digest = self._folder(root)
        return LocalTree(digest, self._blobs, len(self._files), sum(self._files))

    def _folder(self, folder: _Folder) -> Digest:
        files, directories, links = [], [], []
        for name, node in folder.nodes.items():
            match node:
                case _File(digest, is_executable):
                    files.append(FileNode(name, digest, is_executable))
                    self._blobs[digest] = self._contents[digest]
                    self._files.append(digest.size_bytes)
                case _Link(target):
                    links.append(SymlinkNode(name, target))
                case _Folder():
                    directories.append(DirectoryNode(name, self._folder(node)))
        data = self._encode(Directory(tuple(files), tuple(directories), tuple(links)))
        digest = self._function.digest(data)
        self._blobs[digest] = data
        return digest


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise UsageError(f"{name!r} of a layer leads out of it")
    if len(parts) > _MAX_DEPTH or any(len(_encoded(part)) > _MAX_NAME_BYTES for part in parts):
        raise UsageError(f"{name[:200]!r} of a layer is too deep or too long")
    return parts


def _target(member: tarfile.TarInfo) -> str:
    target = member.linkname
    if not target or "\0" in target or len(_encoded(target)) > _MAX_TARGET_BYTES:
        raise UsageError(f"{member.name!r} of a layer is a link to nothing")
    return target


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{text!r} of a layer is not UTF-8, which trees demand; make the image without it"
        ) from None
