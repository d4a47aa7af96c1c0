"""Where a record is read from by those who verify it: an archive, or a daemon's HTTP port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

from armitage.attest.keyring import RING
from armitage.audit.rows import Named
from armitage.log.note import PublicKey
from armitage.log.store import LogStore
from armitage.log.tiles import Tile
from armitage.log.witnessed import COSIGNED
from armitage.witness.archive import Archive
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.large_files import SMALL_BYTES


class Source(Protocol):
    """What a verification needs. It believes nothing of what is answered."""

    async def key(self) -> PublicKey:
        """Whose log this claims to be."""

    async def attestation_keys(self) -> bytes:
        """The public list of keys for attestations (armitage.attest.keyring); empty where there is
        none. Raises OSError.
        """

    async def checkpoint(self) -> bytes:
        """The signed note. Raises LogError, OSError."""

    def tile(self, tile: Tile) -> bytes:
        """Blocks; for a thread. Raises LogError, OSError."""

    async def records(self, first: int, named: Sequence[Named | None]) -> list[bytes | None]:
        """What the entries from `first` on name; None for what is not there, or not named. Raises
        OSError.
        """

    async def get(self, digest: Digest) -> bytes:
        """A small blob. Raises BlobNotFound, OSError."""

    def read(self, named: Named) -> AsyncIterator[Buffer]:
        """A blob in pieces. Raises BlobNotFound, OSError."""


class ArchiveSource:
    """An archive that is open here."""

    def __init__(self, archive: Archive, log: LogStore | None = None) -> None:
        """`log` is one of the archive's that has ended; without it, the one that goes on."""
        self._archive = archive
        self._log = log or archive.log.store

    async def key(self) -> PublicKey:
        """See Source."""
        return self._log.key

    async def attestation_keys(self) -> bytes:
        """See Source."""
        return await asyncio.to_thread(read_attestation_keys, self._archive)

    async def checkpoint(self) -> bytes:
        """See Source. Of the newest tree, with its cosignatures if there are any."""
        return await asyncio.to_thread(self._newest)

    def _newest(self) -> bytes:
        newest = self._log.signed_checkpoint
        try:
            cosigned = (self._archive.directory / COSIGNED).read_bytes()
        except FileNotFoundError:
            return newest
        return cosigned if cosigned.startswith(newest) else newest

    def tile(self, tile: Tile) -> bytes:
        """See Source."""
        return self._log.read(tile)

    async def records(self, _: int, named: Sequence[Named | None]) -> list[bytes | None]:
        """See Source."""
        store, found = self._archive.store, list[bytes | None]([None] * len(named))
        digests = {at: _digest(each) for at, each in enumerate(named) if each is not None}
        small = [at for at, each in digests.items() if 0 < each.size_bytes <= SMALL_BYTES]
        # Without leases, which nothing here needs.
        read = await store.read_together([digests[at] for at in small])
        for at, blob in zip(small, read, strict=True):
            found[at] = blob
        for at in digests.keys() - set(small):
            with suppress(BlobNotFound):
                found[at] = await store.get(digests[at])
        return found

    async def get(self, digest: Digest) -> bytes:
        """See Source."""
        return await self._archive.store.get(digest)

    def read(self, named: Named) -> AsyncIterator[Buffer]:
        """See Source."""
        return self._archive.store.read(_digest(named))


def read_attestation_keys(archive: Archive) -> bytes:
    """See Source. Blocks."""
    try:
        return (archive.directory / RING).read_bytes()
    except FileNotFoundError:
        return b""


def _digest(named: Named) -> Digest:
    return Digest(DigestFunction.SHA256, named.hash, named.size_bytes)
