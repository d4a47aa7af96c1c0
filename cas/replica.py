"""A store that another one keeps copies in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, cast

from cas.digest import Buffer, Digest
from cas.store import BlobStore


class Replica(Protocol):
    """What makes copies of large blobs cheaper than a store's own methods: neither direction needs
    room for a whole blob on the way.
    """

    def read_unverified(self, digest: Digest) -> AsyncIterator[Buffer]:
        """Streams a whole blob that the reader must verify, and `condemn` when it is not right.

        Raises BlobNotFound.
        """

    def condemn(self, digest: Digest) -> None:
        """A blob was read and was not right, several times: it counts as missing until it is
        written again.
        """

    async def upload(self, digest: Digest, read: Callable[[], AsyncIterator[Buffer]]) -> None:
        """Stores a blob whose bytes `read` gives, verified, and anew for each attempt.

        What it raises ends the upload and is raised.
        """


def replica_of(store: BlobStore) -> Replica:
    """A store as it is, if it is a Replica; else in terms of its own methods."""
    return cast("Replica", store) if hasattr(store, "read_unverified") else _Plain(store)


class _Plain:
    """A Replica of any store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def read_unverified(self, digest: Digest) -> AsyncIterator[Buffer]:
        return self._store.read(digest)

    def condemn(self, digest: Digest) -> None:
        """The store verifies what it gives out, and knows what it has found."""

    async def upload(self, digest: Digest, read: Callable[[], AsyncIterator[Buffer]]) -> None:
        writer = await self._store.open_writer([digest])
        try:
            async for piece in read():
                await writer.write(piece)
            await writer.commit()
        finally:
            await writer.abort()
