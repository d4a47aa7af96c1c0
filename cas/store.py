"""The BlobStore protocol: what every store of blobs promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import CasError


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds and has been through since it was opened."""

    blobs: int
    bytes: int
    """Of stored blobs, without what is being written."""
    max_bytes: int
    reserved_bytes: int
    """Set aside for blobs that are being written."""
    holders: int
    held: int
    """Digests that some holder keeps, stored or not."""
    evicted_blobs: int
    evicted_bytes: int
    damaged_blobs: int
    """Found damaged or vanished, and dropped."""
    refused_evictions: int = 0
    """Writes refused since only what is leased or held could have made room for them."""
    garbage_bytes: int = 0
    """On disk, of blobs that have gone; compaction frees them."""


class BlobWriter(Protocol):
    """One blob on its way in. Invisible to readers until commit returns; abort (or the end of the
    process) leaves nothing.

    Not for concurrent use. Cancelling a method leaves the writer fit only for abort.
    """

    async def write(self, data: Buffer) -> None:
        """Appends bytes.

        Raises DigestMismatch at once when more bytes come than any candidate has, StoreFull,
        StoreUnavailable.
        """

    async def commit(self) -> Digest:
        """Verifies, makes the blob durable and visible, and answers the candidate that the bytes
        matched.

        Committing a blob that is already stored succeeds and stores it once. Raises DigestMismatch
        (nothing is stored), StoreFull.
        """

    async def abort(self) -> None:
        """Drops the bytes and frees their space. Idempotent; does nothing after commit."""


class BlobStore(Protocol):
    """Immutable blobs by digest.

    Every method treats the empty blob of every function as present. What is read is exactly what
    was written: a blob found
    damaged is dropped and reads as missing. find_missing, get and read renew the lease of what they
    find (see Retention).
    Writers and put take candidates: digests of equal size and different functions of which the
    bytes must match one
    (a client that does not say its digest function, REAPI `DigestFunction`); usually there is just
    one.
    """

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Answers those that are not stored, in the order given.

        What is being written but uncommitted is missing.
        """

    async def get(self, digest: Digest) -> bytes:
        """Answers a whole blob (the caller minds its size). Raises BlobNotFound."""

    def read(
        self, digest: Digest, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[Buffer]:
        """Streams bytes [offset, offset+limit) in chunks of at most 1 MiB; offset == size gives
        nothing.

        The blob cannot be evicted from under a running read. Raises BlobNotFound or
        OffsetOutOfRange before the first chunk.
        """

    async def put(self, candidates: Sequence[Digest], data: Buffer) -> Digest:
        """Stores a whole blob, durably.

        Raises DigestMismatch, BlobTooLarge, StoreFull. Concurrent puts share their disk syncs.
        """

    async def open_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """Starts a streamed write.

        Raises BlobTooLarge, StoreFull when the announced size cannot fit.
        """


@runtime_checkable
class Glimpse(Protocol):
    """A store that knows at once, without an await, what it is asked most. Keys are cas.keys's."""

    def all_fresh(self, keys: Collection[bytes]) -> bool:
        """Whether all of these blobs are stored and none needs its lease renewed, so that nothing
        has to be done but to say so. False says nothing: ask find_missing.

        One pass in C; pass a list or a set.
        """

    def hold_keys(self, holder: str, keys: Collection[bytes]) -> None:
        """See Retention.hold."""


class BatchPut(NamedTuple):
    """One blob of a put_many."""

    candidates: Sequence[Digest]
    data: Buffer
    zstd: Buffer | None = None
    """A zstd stream of these very bytes, as the caller has made sure; a ZstdStore keeps it in their
    place where it is shorter.
    """


class BatchStore(Protocol):
    """A store that takes many blobs in one go, with one sync for all."""

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """Stores each as put does and answers, in the order given, its digest or why it is not
        stored.
        """


@runtime_checkable
class ZstdStore(Protocol):
    """A store that keeps a blob as the zstd stream (one or more frames) that it came in, and gives
    it out so to whoever takes that, without compressing anything itself. All other methods work on
    the blob's own bytes, however it is kept.
    """

    async def open_zstd_writer(self, candidates: Sequence[Digest]) -> BlobWriter:
        """Starts a streamed write of which the bytes are a zstd stream of the blob, verified like
        any other.

        Raises what open_writer does; the writer raises BadCompressedData too.
        """

    async def get_zstd(self, digest: Digest) -> bytes | None:
        """Answers a whole blob's stream if that is how it is kept, else None. Raises BlobNotFound.

        The caller minds the blob's size; the stream is hardly longer.
        """

    async def read_zstd(self, digest: Digest) -> AsyncIterator[Buffer] | None:
        """Answers a blob's stream, in pieces of at most 1 MiB, if that is how it is kept, else
        None. Raises BlobNotFound.
        """


class Retention(Protocol):
    """Who may not lose which blobs. Beside the minimum lease that every touch renews, a holder
    keeps blobs for as long as it lives.

    A holder is any string that names a live thing: `invocation:UUID`, `operation:NAME`. Holding
    what is not (yet) stored is
    allowed and takes effect when it comes. Both methods are synchronous, in memory and cheap
    (called for each digest of each call).
    """

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        """Adds blobs to what the holder keeps."""

    def release(self, holder: str) -> None:
        """Ends the holder; its blobs fall back to their ordinary lease.

        Unknown holders are ignored.
        """


class Lease(NamedTuple):
    """How long a stored blob stays for certain, were nobody to ask for it any more."""

    left_s: float
    """Of the minimum lease."""
    holders: Sequence[str]
    """Who keeps it beside that, for as long as they live."""


class Leases(Protocol):
    """A store that says how long blobs stay."""

    def lease_of(self, digest: Digest) -> Lease | None:
        """Answers a blob's lease without renewing it, None when it is not stored.

        Synchronous, in memory.
        """


class Measured(Protocol):
    """A store that tells how it fares."""

    def stats(self) -> StoreStats:
        """Answers the figures of this moment. Synchronous and cheap."""

    def capacity_bytes(self) -> int:
        """Answers how much may be stored, if all that is there now went: by the size limit, and by
        what the disk has. Raises StoreUnavailable.
        """


class FileExport(NamedTuple):
    """One blob that is to become one file.

    `path` must not exist yet; its directory must. `mode` is the file's permission bits, whatever
    the umask.
    """

    digest: Digest
    path: str
    mode: int


class BlobExporter(Protocol):
    """A store that lays out many blobs as files at once, far cheaper than reading each."""

    async def export_files(self, files: Sequence[FileExport]) -> list[Digest]:
        """Writes each blob to a new file, independent of the store's own copy, and answers those
        that are not stored (in the order given, each once); their files are not made.

        Verified and touched like any read; not synced to disk. When it raises or is cancelled, some
        files may have been made. Raises OSError, naming the path, when a file cannot be made, and
        StoreUnavailable.
        """


class BlobImporter(Protocol):
    """A store that takes many files in at once, far cheaper than putting the bytes of each."""

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """Stores a copy of each file durably and answers their digests, in the order given.

        The last component of a path must be a regular file and not a symbolic link; a file that
        changes while it is read is stored as it was read. When it raises, some files may have been
        stored. Raises OSError, naming the path, when a file cannot be read, and BlobTooLarge,
        StoreFull, StoreUnavailable.
        """


class UnnamedWriter(BlobWriter, Protocol):
    """A writer of a blob whose digest is known only once all of it has come."""

    async def digest(self) -> Digest:
        """Answers the digest of what was written so far. Raises StoreUnavailable."""


class UnnamedStore(Protocol):
    """A store that takes blobs in before their digests are known."""

    async def open_unnamed_writer(self, function: DigestFunction) -> UnnamedWriter:
        """Begins a blob, whose commit answers its digest; otherwise as BlobStore.open_writer.

        Its room is found when it is committed, which raises StoreFull where there is none.
        """
