"""Digests of which a blob must have one: what writers are given (see cas.store.BlobStore)."""

from __future__ import annotations

from collections.abc import Sequence

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobTooLarge, DigestMismatch


class Candidates:
    """The digests that one blob on its way in may turn out to have, with a hash running for each.

    Raises BlobTooLarge when their size is over the limit.
    """

    def __init__(self, digests: Sequence[Digest], limit_bytes: int | None) -> None:
        self.digests = tuple(digests)
        self.size_bytes = self.digests[0].size_bytes
        assert all(digest.size_bytes == self.size_bytes for digest in self.digests)
        if limit_bytes is not None and self.size_bytes > limit_bytes:
            raise BlobTooLarge(self.digests[0], limit_bytes)
        self._hashers = [digest.function.hasher() for digest in self.digests]
        self._hashed_bytes = 0

    def update(self, data: Buffer) -> None:
        """Feeds more bytes."""
        self._hashed_bytes += len(data)
        for hasher in self._hashers:
            hasher.update(data)

    def match(self) -> Digest:
        """Answers the candidate that all bytes fed so far have. Raises DigestMismatch."""
        self.check_size(self._hashed_bytes, final=True)
        actual = [
            Digest(digest.function, hasher.hexdigest(), self._hashed_bytes)
            for digest, hasher in zip(self.digests, self._hashers, strict=True)
        ]
        for digest in actual:
            if digest in self.digests:
                return digest
        raise DigestMismatch(self.digests, "it is " + " or ".join(str(digest) for digest in actual))

    def check_size(self, received_bytes: int, *, final: bool = False) -> None:
        """Raises DigestMismatch when that many bytes are too many, or, at the end, too few."""
        if received_bytes > self.size_bytes:
            raise DigestMismatch(self.digests, f"it has {received_bytes} bytes or more")
        if final and received_bytes < self.size_bytes:
            raise DigestMismatch(self.digests, f"it ended after {received_bytes} bytes")


class Unnamed(Candidates):
    """For a blob whose digest is known only once all of it has come."""

    def __init__(self, function: DigestFunction, limit_bytes: int | None) -> None:
        super().__init__([function.empty], None)
        self._limit_bytes = limit_bytes
        self._function = function

    def match(self) -> Digest:
        """Answers the digest of all bytes fed so far."""
        return Digest(self._function, self._hashers[0].hexdigest(), self._hashed_bytes)

    def check_size(self, received_bytes: int, *, final: bool = False) -> None:  # noqa: ARG002
        """Raises BlobTooLarge."""
        if self._limit_bytes is not None and received_bytes > self._limit_bytes:
            so_far = Digest(self._function, "0" * self._function.hex_length, received_bytes)
            raise BlobTooLarge(so_far, self._limit_bytes)


def match(digests: Sequence[Digest], data: Buffer, limit_bytes: int | None) -> Digest:
    """Answers the candidate that names these bytes. Raises BlobTooLarge, DigestMismatch."""
    size_bytes = digests[0].size_bytes
    if len(data) == size_bytes and (limit_bytes is None or size_bytes <= limit_bytes):
        for digest in digests:
            if digest.function.hex_of(data) == digest.hash:
                return digest
    # Whatever is wrong is said there.
    candidates = Candidates(digests, limit_bytes)
    candidates.check_size(len(data), final=True)
    candidates.update(data)
    return candidates.match()
