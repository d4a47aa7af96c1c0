"""Directories and Trees: strict reading, canonical writing (REAPI `Directory`, `Tree`)."""

from __future__ import annotations

from collections.abc import Sequence

from cas.digest import DigestFunction
from executor.spec import Directory, Work


class DirectoryCodec:
    """The protobuf TreeCodec (executor.ports).

    Reading is strict in names, duplicates across the three lists and digests, and lenient in order
    and node properties,
    which are ignored. Writing sorts each list by name and sets known fields only.
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
        raise NotImplementedError

    def encode_directory(self, directory: Directory) -> bytes:
        """Encodes canonically."""
        raise NotImplementedError

    def encode_tree(self, root: bytes, children: Sequence[bytes]) -> bytes:
        """Encodes a Tree of encoded directories, kept byte for byte and in order."""
        raise NotImplementedError
