"""Digests: the names of blobs (REAPI `Digest`, `DigestFunction`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from blake3 import blake3

from cas.errors import InvalidDigest

Buffer = bytes | bytearray | memoryview

_HEX_DIGITS = b"0123456789abcdef"
_SLICE = 2047
_SLICED = 8 * _SLICE


class Hasher(Protocol):
    """An incremental hash, as hashlib has it."""

    def update(self, data: Buffer, /) -> object:
        """Feeds more bytes."""

    def hexdigest(self) -> str:
        """Answers the hash of all bytes fed so far, in lowercase hex."""


class DigestFunction(StrEnum):
    """A hash function that names blobs; the value is the lowercase REAPI enum name."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"
    SHA1 = "sha1"
    SHA384 = "sha384"
    SHA512 = "sha512"

    def hasher(self) -> Hasher:
        """Starts a new incremental hash."""
        return _HASHERS[self]()

    def hex_of(self, data: Buffer) -> str:
        """Answers the hash of a whole blob, in lowercase hex."""
        if len(data) <= _SLICED and self is not DigestFunction.BLAKE3:
            return _hex_without_waiting(self, data)
        hasher = self.hasher()
        hasher.update(data)
        return hasher.hexdigest()

    @property
    def hex_length(self) -> int:
        """The number of hex characters of a hash."""
        return _HEX_LENGTHS[self]

    @property
    def empty(self) -> Digest:
        """The digest of the empty blob, which every store holds without being given it."""
        return _EMPTY[self]

    def digest(self, data: Buffer) -> Digest:
        """Names a whole blob."""
        return Digest(self, self.hex_of(data), len(data))


class _Fields(NamedTuple):
    function: DigestFunction
    hash: str
    size_bytes: int


class Digest(_Fields):
    """The name of one blob: function, hash and size together. Checked on birth.

    A tuple and not a dataclass because a FindMissingBlobs call makes and hashes hundreds of them.
    Raises InvalidDigest when the hash is not lowercase hex of the function's length or the size is
    negative.
    """

    __slots__ = ()

    def __new__(cls, function: DigestFunction, hash: str, size_bytes: int) -> Self:  # noqa: A002
        """Checks the parts and makes the digest."""
        # A third of what a regular expression costs, and FindMissingBlobs pays it for each digest.
        others = hash.encode("ascii", "replace").translate(None, _HEX_DIGITS)
        if len(hash) != _HEX_LENGTHS[function] or others:
            raise InvalidDigest(
                f"hash {hash[:140]!r} is not {_HEX_LENGTHS[function]} lowercase hex characters"
                f" ({function})"
            )
        if size_bytes < 0:
            raise InvalidDigest(f"size {size_bytes} of blob {hash} is negative")
        return tuple.__new__(cls, (function, hash, size_bytes))

    def __str__(self) -> str:
        return f"{self.function}:{self.hash}/{self.size_bytes}"

    @property
    def is_empty(self) -> bool:
        """Whether this names the empty blob; a zero size with another hash names nothing."""
        return self.size_bytes == 0 and self == _EMPTY[self.function]


def _hex_without_waiting(function: DigestFunction, data: Buffer) -> str:
    """Hashes by slices below hashlib's threshold (2 KiB) for letting go of the interpreter's lock.

    Where another thread wants the lock, getting it back takes far longer than such a hash.
    """
    hasher = function.hasher()
    for start in range(0, len(data), _SLICE):
        hasher.update(data[start : start + _SLICE])
    return hasher.hexdigest()


_HASHERS: dict[DigestFunction, Callable[[], Hasher]] = {
    DigestFunction.SHA256: hashlib.sha256,
    DigestFunction.BLAKE3: blake3,
    DigestFunction.SHA1: lambda: hashlib.sha1(usedforsecurity=False),
    DigestFunction.SHA384: hashlib.sha384,
    DigestFunction.SHA512: hashlib.sha512,
}
_HEX_LENGTHS = {function: len(make().hexdigest()) for function, make in _HASHERS.items()}
_EMPTY = {function: function.digest(b"") for function in DigestFunction}
