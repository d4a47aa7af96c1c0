"""Directory trees: made from local files, and fetched from a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.blobs import Source, hash_file, read, read_small
from armitage.client.errors import UntrustworthyAnswer, UsageError
from armitage.client.remote import Remote
from armitage.reapi.trees import DirectoryCodec
from cas.digest import Digest, DigestFunction
from executor.errors import InvalidInput
from executor.spec import Directory, DirectoryNode, FileNode, SymlinkNode

_CODEC = DirectoryCodec()
_MAX_DIRECTORIES = 1_000_000


@dataclass(frozen=True, slots=True)
class LocalTree:
    """A directory as a tree of blobs, ready to upload."""

    root: Digest
    blobs: dict[Digest, Source] = field(default_factory=dict)
    """Every Directory and file, the root included."""
    files: int = 0
    size_bytes: int = 0
    """Of files, each as often as it occurs."""


@dataclass(frozen=True, slots=True)
class RemoteTree:
    """A tree fetched and checked: every Directory below the root is here."""

    root: Digest
    directories: Mapping[Digest, Directory]


def build_tree(directory: Path, function: DigestFunction) -> LocalTree:
    """Reads a directory (blocks): files, symlinks verbatim, empty directories, executable bits.

    Raises UsageError for what a tree cannot hold (a socket, a name that is not UTF-8) or what
    cannot be read.
    """
    try:
        return _Builder(function).build(directory)
    except OSError as error:
        name = error.filename or directory
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None


class _Builder:
    def __init__(self, function: DigestFunction) -> None:
        self._function = function
        self._blobs: dict[Digest, Source] = {}
        self._files = 0
        self._size_bytes = 0

    def build(self, directory: Path) -> LocalTree:
        if not directory.is_dir():
            raise UsageError(f"{directory}: is not a directory")
        # Parents come before their children here, so that reversed each child is done first.
        entries: list[tuple[str, list[os.DirEntry[str]]]] = []
        pending = [os.fspath(directory)]
        while pending:
            path = pending.pop()
            with os.scandir(path) as scan:
                listed = list(scan)
            entries.append((path, listed))
            pending += [e.path for e in listed if e.is_dir(follow_symlinks=False)]
        digests: dict[str, Digest] = {}
        for path, listed in reversed(entries):
            digests[path] = self._directory(listed, digests)
        root = digests[os.fspath(directory)]
        return LocalTree(root, self._blobs, self._files, self._size_bytes)

    def _directory(self, listed: list[os.DirEntry[str]], digests: Mapping[str, Digest]) -> Digest:
        files, directories, symlinks = [], [], []
        for entry in listed:
            _check_text(entry.name, entry.path)
            if entry.is_symlink():
                target = os.readlink(entry.path)
                _check_text(target, entry.path)
                symlinks.append(SymlinkNode(entry.name, target))
            elif entry.is_dir(follow_symlinks=False):
                directories.append(DirectoryNode(entry.name, digests[entry.path]))
            elif entry.is_file(follow_symlinks=False):
                files.append(self._file(entry))
            else:
                raise UsageError(f"{entry.path}: is neither file, directory nor symlink; remove it")
        directory = Directory(tuple(files), tuple(directories), tuple(symlinks))
        return self._add(_CODEC.encode_directory(directory))

    def _file(self, entry: os.DirEntry[str]) -> FileNode:
        digest = hash_file(Path(entry.path), self._function)
        self._blobs.setdefault(digest, Path(entry.path))
        self._files += 1
        self._size_bytes += digest.size_bytes
        is_executable = bool(entry.stat(follow_symlinks=False).st_mode & 0o111)
        return FileNode(entry.name, digest, is_executable)

    def _add(self, data: bytes) -> Digest:
        digest = self._function.digest(data)
        self._blobs[digest] = data
        return digest


async def fetch_tree(remote: Remote, root: Digest) -> RemoteTree:
    """Fetches every Directory below a root, level by level, each once and verified.

    Raises BlobMissing, UntrustworthyAnswer (a malformed Directory), CallFailed.
    """
    known: dict[Digest, Directory] = {}
    level: Iterable[Digest] = [root]
    while level := [digest for digest in dict.fromkeys(level) if digest not in known]:
        async for digest, data in read_small(remote, level):
            known[digest] = _parse(data, digest)
            if len(known) > _MAX_DIRECTORIES:
                raise UntrustworthyAnswer(f"tree {root.hash} has over {_MAX_DIRECTORIES} levels")
        level = [child.digest for digest in level for child in known[digest].directories]
    return RemoteTree(root, known)


async def read_tree_blob(remote: Remote, digest: Digest) -> RemoteTree:
    """Reads a Tree message (`OutputDirectory.tree_digest`), complete and without strays followed.

    Raises BlobMissing, UntrustworthyAnswer, CallFailed.
    """
    data = await read(remote, digest)
    try:
        tree = reapi.Tree.FromString(data)
    except DecodeError:
        raise UntrustworthyAnswer(f"blob {digest.hash} is not a Tree") from None
    known = {}
    encoded = [tree.root.SerializeToString(), *(c.SerializeToString() for c in tree.children)]
    for one in encoded:
        name = digest.function.digest(one)
        known[name] = _parse(one, name)
    for directory in known.values():
        for child in directory.directories:
            if child.digest not in known:
                raise UntrustworthyAnswer(f"Tree {digest.hash} lacks directory {child.name!r}")
    return RemoteTree(digest.function.digest(encoded[0]), known)


def _parse(data: bytes, digest: Digest) -> Directory:
    try:
        return _CODEC.parse(data, digest.function)
    except InvalidInput as error:
        raise UntrustworthyAnswer(f"directory {digest.hash}: {error}") from None


def _check_text(name: str, path: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path)
        raise UsageError(f"{shown!r}: is not UTF-8, which trees demand; rename it") from None
