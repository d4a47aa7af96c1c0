"""Directories and Trees: strict reading, canonical writing (REAPI `Directory`, `Tree`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi.wire import length_delimited
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest
from executor.errors import InvalidInput
from executor.spec import Directory, DirectoryNode, FileNode, SymlinkNode, Work

MAX_NAME_BYTES = 255
"""What Linux's file systems take for one name."""


class DirectoryCodec:
    """The protobuf TreeCodec (executor.ports).

    Reading is strict in names, duplicates across the three lists and digests, and lenient in order
    and in node properties, which are ignored. Writing sorts each list by name and sets known fields
    only, so that a client that encodes what it decoded gets the same digest.
    """

    def __init__(self, *, allow_absolute_symlinks: bool = True) -> None:
        """Takes the `SymlinkAbsolutePathStrategy` that Capabilities advertises."""
        self._allow_absolute_symlinks = allow_absolute_symlinks

    def decode_directory(self, data: bytes, work: Work) -> Directory:
        """Parses and checks one Directory. Raises executor.errors.InvalidInput, naming what is
        wrong.
        """
        return self.parse(data, work.digest_function)

    def parse(self, data: bytes, function: DigestFunction) -> Directory:
        """Parses and checks one Directory whose digests take the function. Raises InvalidInput."""
        try:
            wire = reapi.Directory.FromString(data)
        except DecodeError as error:
            raise InvalidInput(f"a directory of {len(data)} bytes is malformed: {error}") from error
        directory = Directory(
            files=tuple(
                FileNode(node.name, _digest(function, node), node.is_executable)
                for node in wire.files
            ),
            directories=tuple(
                DirectoryNode(node.name, _digest(function, node)) for node in wire.directories
            ),
            symlinks=tuple(SymlinkNode(node.name, node.target) for node in wire.symlinks),
        )
        _check_names(directory)
        for link in directory.symlinks:
            self._check_target(link)
        return directory

    def encode_directory(self, directory: Directory) -> bytes:
        """Encodes canonically."""
        wire = reapi.Directory(
            files=[
                reapi.FileNode(
                    name=node.name, digest=_wire(node.digest), is_executable=node.is_executable
                )
                for node in sorted(directory.files, key=_name)
            ],
            directories=[
                reapi.DirectoryNode(name=node.name, digest=_wire(node.digest))
                for node in sorted(directory.directories, key=_name)
            ],
            symlinks=[
                reapi.SymlinkNode(name=node.name, target=node.target)
                for node in sorted(directory.symlinks, key=_name)
            ],
        )
        return wire.SerializeToString(deterministic=True)

    def encode_tree(self, root: bytes, children: Sequence[bytes]) -> bytes:
        """Encodes a Tree of encoded directories, kept byte for byte and in order."""
        records = [length_delimited(1, root)]
        records += [length_delimited(2, child) for child in children]
        return b"".join(records)

    def _check_target(self, link: SymlinkNode) -> None:
        if not link.target or "\0" in link.target:
            raise InvalidInput(f"symlink {link.name!r} has the impossible target {link.target!r}")
        if link.target.startswith("/") and not self._allow_absolute_symlinks:
            raise InvalidInput(
                f"symlink {link.name!r} has the absolute target {link.target!r}, which is"
                " disallowed here"
            )


def _check_names(directory: Directory) -> None:
    seen: set[str] = set()
    for name in _names(directory):
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidInput(f"{name!r} cannot be the name of a file or directory")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidInput(f"name {name[:40]!r}... is over {MAX_NAME_BYTES} bytes")
        if name in seen:
            raise InvalidInput(f"name {name!r} is in a directory twice")
        seen.add(name)


def _names(directory: Directory) -> Iterator[str]:
    yield from (node.name for node in directory.files)
    yield from (node.name for node in directory.directories)
    yield from (node.name for node in directory.symlinks)


def _digest(function: DigestFunction, node: reapi.FileNode | reapi.DirectoryNode) -> Digest:
    try:
        return Digest(function, node.digest.hash, node.digest.size_bytes)
    except InvalidDigest as error:
        raise InvalidInput(f"{node.name!r} has a bad digest: {error}") from error


def _wire(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def _name(node: FileNode | DirectoryNode | SymlinkNode) -> str:
    return node.name
