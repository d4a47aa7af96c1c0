"""What can go wrong in a store. One class for each thing that a caller does differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cas.digest import Digest


class CasError(Exception):
    """The root of this package's errors."""


class InvalidDigest(CasError, ValueError):
    """A digest that cannot name any blob."""


class BlobNotFound(CasError):
    """The blob is not stored (never was, was evicted, or was found damaged and dropped)."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {digest} is not stored")
        self.digest = digest


class DigestMismatch(CasError):
    """The bytes written do not have the digest that they were announced under.

    Nothing was stored.
    """

    def __init__(self, expected: Sequence[Digest], actual: str) -> None:
        names = " or ".join(str(digest) for digest in expected)
        super().__init__(f"the data written is not blob {names}: {actual}")
        self.expected = tuple(expected)


class BlobTooLarge(CasError):
    """The blob is larger than this store takes, whatever room there is."""

    def __init__(self, digest: Digest, limit_bytes: int) -> None:
        super().__init__(f"blob {digest} is over the limit of {limit_bytes} bytes for one blob")
        self.digest = digest
        self.limit_bytes = limit_bytes


class BadCompressedData(CasError):
    """Compressed data that is no whole stream of its codec, or not of the announced size."""


class StoreFull(CasError):
    """There is no room: the disk or the configured size is used up and nothing may be evicted.

    May pass.
    """


class StoreUnavailable(CasError):
    """The store cannot work at all: read-only, I/O error, used by another daemon, closed."""


class StoreDenied(StoreUnavailable):
    """The remote refuses us, and will go on until somebody changes something: credentials, rights,
    the bucket's name, or the clock of this host.

    `code` is the remote's own word for it (S3 error code), empty where it gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class OffsetOutOfRange(CasError):
    """A read was to start before the blob's beginning or after its end."""

    def __init__(self, digest: Digest, offset: int) -> None:
        super().__init__(f"offset {offset} is outside blob {digest}")
        self.digest = digest
        self.offset = offset
