"""Digests of which a blob must have one: what writers are given (see cas.store.BlobStore)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobTooLarge, DigestMismatch


class Lately:
    """Which of several functions named a blob when this had last to be found out; the next blob is
    likely named by the same. For any thread.
    """

    __slots__ = ("function",)

    def __init__(self) -> None:
        self.function: DigestFunction | None = None


class Candidates:
    """The digests that one blob on its way in may turn out to have. The hash of the likeliest one
    runs along with the bytes; others are made only of a blob that does not have that.

    Raises BlobTooLarge when their size is over the limit.
    """

    def __init__(
        self, digests: Sequence[Digest], limit_bytes: int | None, lately: Lately | None = None
    ) -> None:
        self.digests = tuple(digests)
        self.size_bytes = self.digests[0].size_bytes
        assert all(digest.size_bytes == self.size_bytes for digest in self.digests)
        if limit_bytes is not None and self.size_bytes > limit_bytes:
            raise BlobTooLarge(self.digests[0], limit_bytes)
        self._lately = lately or Lately()
        functions = [digest.function for digest in self.digests]
        likeliest = self._lately.function
        self._function = likeliest if likeliest in functions else functions[0]
        self._hasher = self._function.hasher()
        self._hashed_bytes = 0

    def update(self, data: Buffer) -> None:
        """Feeds more bytes."""
        self._hashed_bytes += len(data)
        self._hasher.update(data)

    def likely_match(self) -> Digest | None:
        """Answers the likeliest candidate if all bytes fed so far have it; None leaves it to
        `match`. Raises DigestMismatch for too few bytes.
        """
        self.check_size(self._hashed_bytes, final=True)
        digest = self._hashed()
        return digest if digest in self.digests else None

    def match(self, again: Callable[[], Iterable[Buffer]]) -> Digest:
        """Answers the candidate that all bytes fed so far have. `again` gives these once more, if
        they have to be hashed once more, which takes time. Raises DigestMismatch.
        """
        return self.likely_match() or self._other_match(again)

    def _hashed(self) -> Digest:
        return Digest(self._function, self._hasher.hexdigest(), self._hashed_bytes)

    def _other_match(self, again: Callable[[], Iterable[Buffer]]) -> Digest:
        actual = [self._hashed()]
        others = {digest.function for digest in self.digests} - {self._function}
        hashers = {function: function.hasher() for function in sorted(others)}
        if hashers:
            for data in again():
                for hasher in hashers.values():
                    hasher.update(data)
        for function, hasher in hashers.items():
            digest = Digest(function, hasher.hexdigest(), self._hashed_bytes)
            if digest in self.digests:
                self._lately.function = function
                return digest
            actual.append(digest)
        raise DigestMismatch(self.digests, "it is " + " or ".join(map(str, actual)))

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

    def likely_match(self) -> Digest:
        """Answers the digest of all bytes fed so far."""
        return self._hashed()

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
    return candidates.match(lambda: [data])
