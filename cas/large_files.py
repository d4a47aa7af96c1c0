"""Large blobs on disk: a file for each, named after its digest.

    blobs/FUNCTION/H/HASH-SIZE        the blob, by the first digit of its hash
    drafts/N                          a blob on its way in; cleared away at the next start
    damaged/                          the last few files that did not hold their blob

A file that is shorter than its blob is a zstd stream of it, as it was sent (see
cas.store.ZstdStore). No other file may have another size than its blob.

A file is trusted only while its identity (inode, size, mtime, ctime) is one that this process has
verified: by writing it, or by hashing it whole before the first byte is served. Its mtime is the
store time at which it was put.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from cas import files
from cas.compression import Codec
from cas.digest import Digest, DigestFunction
from cas.errors import BadCompressedData, InvalidDigest
from cas.log import Draft
from cas.records import Damaged
from cas.store import FileExport
from cas.volume import File, FileId, Found, Volume

_log = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024
"""Blobs up to this size are records, and are hashed and copied on the event loop, sooner than hop
to a thread for it.
"""
TOP = "blobs"
DRAFTS = "drafts"
DAMAGED = "damaged"
_PIECE_BYTES = 1 << 20
_PACKED_PIECE_BYTES = 256 << 10
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_KEPT_DAMAGED = 16
_NAME = re.compile(r"blobs/([a-z0-9]+)/[0-9a-f]/([0-9a-f]+)-([0-9]+)")


class DamagedFile(Damaged):
    """A file that is not the blob that it should be; None stands for no file at all."""

    def __init__(self, file_id: FileId | None, what: str) -> None:
        super().__init__(what)
        self.file_id = file_id


class FoundBlob(NamedTuple):
    """A blob's file that was there at the start."""

    digest: Digest
    touched: float


class LargeFiles:
    """The files of one store. All methods block, but `name` and `draft_names`."""

    def __init__(self, volume: Volume) -> None:
        """Makes the folders and clears drafts away. Raises OSError."""
        self._volume = volume
        self._numbers = itertools.count()
        for folder in (TOP, DRAFTS, DAMAGED):
            volume.make_folder(folder)
        volume.sync_folder("")
        for found in volume.scan(DRAFTS):
            volume.remove(found.name)

    def scan(self, *, sync: bool) -> tuple[list[FoundBlob], int]:
        """Answers the blobs that there are, and how many files were damaged."""
        if sync:
            # The process that made them may not have come to that.
            for folder in self._volume.folders(TOP):
                self._volume.sync_folder(folder)
        blobs: list[FoundBlob] = []
        damaged = 0
        for found in self._volume.scan(TOP):
            try:
                digest = _parse(found.name)
            except InvalidDigest:
                _log.warning("file %s/%s is none of the store's", self._volume.root, found.name)
                continue
            if self._may_hold(digest, found):
                blobs.append(FoundBlob(digest, found.id.mtime_ns / 1e9))
            else:
                _log.warning("dropped blob %s: its file has %d bytes", digest, found.id.size_bytes)
                self.quarantine(digest, None)
                damaged += 1
        return blobs, damaged

    def _may_hold(self, digest: Digest, found: Found) -> bool:
        if not is_packed(found.id, digest):
            return True
        if found.id.size_bytes > digest.size_bytes:
            return False
        return self._volume.open(found.name).read(len(_ZSTD_MAGIC), 0) == _ZSTD_MAGIC

    @staticmethod
    def name(digest: Digest) -> str:
        """Where a blob is, if it is."""
        return f"{TOP}/{digest.function}/{digest.hash[0]}/{digest.hash}-{digest.size_bytes}"

    def create(self) -> tuple[File, str]:
        """Starts a draft, and answers it with its name."""
        name = f"{DRAFTS}/{next(self._numbers)}"
        return self._volume.create(name), name

    def finish(self, file: File, draft: str, digest: Digest, now: float) -> Draft:
        """Dates a draft that is written and synced; it is ready to be published."""
        file.set_mtime(now)
        return Draft(file, draft, self.name(digest))

    def drop(self, file: File, draft: str) -> None:
        """Ends a draft that will not be published."""
        file.close()
        with suppress(OSError):
            self._volume.remove(draft)

    def open(self, digest: Digest) -> File:
        """Opens a blob's file. Raises DamagedFile when there is none, OSError."""
        try:
            return self._volume.open(self.name(digest))
        except FileNotFoundError:
            raise DamagedFile(None, "its file is gone") from None

    def verify(self, digest: Digest, known: FileId | None) -> tuple[File, FileId]:
        """Opens a blob's file, hashes it unless it is the known one, and answers which it is.

        Raises DamagedFile, OSError.
        """
        file = self.open(digest)
        file_id = file.id()
        if file_id != known:
            check(file, file_id, digest)
        return file, file_id

    def quarantine(self, digest: Digest, file_id: FileId | None) -> bool:
        """Moves a damaged file aside for whoever wants to look, and answers whether nobody should
        use the name any more: False when another file has it by now.

        None stands for whatever file has the name.
        """
        name = self.name(digest)
        try:
            if file_id is not None and self._volume.open(name).id().inode != file_id.inode:
                return False
            self.make_room()
            self._volume.rename(name, f"{DAMAGED}/{name.replace('/', '-')}")
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("cannot move damaged file %s/%s aside: %s", self._volume.root, name, error)
        return True

    def keep_damaged(self, digest: Digest, data: bytes) -> None:
        """Puts bytes that should have been a blob aside."""
        name = f"{DAMAGED}/{self.name(digest).replace('/', '-')}"
        try:
            self.make_room()
            self._volume.remove(name)
            self._volume.create(name).write([data], 0)
        except OSError as error:
            _log.warning("cannot put damaged blob %s aside: %s", digest, error)

    def make_room(self) -> None:
        """Removes the oldest of what is put aside when there is a lot."""
        kept = sorted(self._volume.scan(DAMAGED), key=lambda found: found.id.ctime_ns)
        for found in kept[: max(0, len(kept) - _KEPT_DAMAGED + 1)]:
            self._volume.remove(found.name)

    def remove_all(self, digests: Iterable[Digest]) -> list[str]:
        """Answers the names of blobs' files, for a job that removes them."""
        return [self.name(digest) for digest in digests]


def is_packed(file_id: FileId, digest: Digest) -> bool:
    """Whether the file is not the blob itself but a zstd stream of it."""
    return file_id.size_bytes != digest.size_bytes


def check(file: File, file_id: FileId, digest: Digest) -> None:
    """Hashes a whole file. Raises DamagedFile, OSError."""
    if file_id.size_bytes > digest.size_bytes:
        raise DamagedFile(file_id, f"its file has {file_id.size_bytes} bytes")
    hasher = digest.function.hasher()
    try:
        for data in pieces(file, file_id, digest):
            hasher.update(data)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedFile(file_id, str(error)) from error
        raise
    if hasher.hexdigest() != digest.hash:
        raise DamagedFile(file_id, "its file holds something else")


def pieces(file: File, file_id: FileId, digest: Digest) -> Iterator[bytes]:
    """Reads a blob from its file, by about a MiB. Raises DamagedFile, OSError."""
    if not is_packed(file_id, digest):
        for offset in range(0, digest.size_bytes, _PIECE_BYTES):
            yield file.read(_PIECE_BYTES, offset)
        return
    unpacking = Codec.ZSTD.decompressor(digest.size_bytes)
    try:
        for offset in range(0, file_id.size_bytes, _PACKED_PIECE_BYTES):
            yield from unpacking.feed(file.read(_PACKED_PIECE_BYTES, offset))
        unpacking.finish()
    except BadCompressedData as error:
        raise DamagedFile(file_id, str(error)) from error


def copy_out(file: File, digest: Digest, export: FileExport, stop: files.Stop) -> None:
    """Makes a new file with a blob from its file; leaves it half done when told to stop.

    Raises DamagedFile, OSError.
    """
    file_id = file.id()
    if not is_packed(file_id, digest):
        file.copy_to(export.path, export.mode, digest.size_bytes, stop)
        return
    fd = files.create(export.path, export.mode)
    try:
        for data in pieces(file, file_id, digest):
            if stop.is_set():
                return
            files.write_all(fd, [data])
    except OSError as error:
        raise OSError(error.errno, error.strerror, export.path) from error
    finally:
        os.close(fd)


def _parse(name: str) -> Digest:
    parts = _NAME.fullmatch(name)
    if not parts or parts[1] not in set(DigestFunction):
        raise InvalidDigest(name)
    digest = Digest(DigestFunction(parts[1]), parts[2], int(parts[3]))
    if LargeFiles.name(digest) != name:
        raise InvalidDigest(name)
    return digest
