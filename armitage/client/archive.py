"""Blobs as a tar stream: `cas/FUNCTION/HH/HASH`, the layout of a bucket."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from armitage.client.blobs import batches as batches_of
from armitage.client.blobs import find_missing, fits_batch, hash_file, read_batch, stream, upload
from armitage.client.errors import BlobMissing, UsageError
from armitage.client.remote import Remote
from cas.digest import Digest, DigestFunction

_SPOOL_BYTES = 64 << 20
_IMPORT_BYTES = 16 << 20
_IMPORT_BLOBS = 2000
_NAME = re.compile(r"cas/([a-z0-9]+)/([0-9a-f]{2})/([0-9a-f]+)")


@dataclass
class Exported:
    """What an export came to."""

    blobs: int = 0
    size_bytes: int = 0
    missing: list[Digest] = field(default_factory=list)


@dataclass
class Imported:
    """What an import came to."""

    blobs: int = 0
    uploaded_blobs: int = 0
    uploaded_bytes: int = 0


async def export(remote: Remote, digests: Collection[Digest], out: IO[bytes]) -> Exported:
    """Writes blobs, each verified before any of it is written. Raises CallFailed,
    UntrustworthyAnswer, OSError.
    """
    exported = Exported()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for function in dict.fromkeys(digest.function for digest in digests):
            spoken = replace(remote, function=function)
            some = [digest for digest in digests if digest.function is function]
            await _export(spoken, some, archive, exported)
    return exported


async def _export(
    remote: Remote, digests: Collection[Digest], archive: tarfile.TarFile, exported: Exported
) -> None:
    for batch in batches_of(remote, [d for d in digests if fits_batch(remote, d)]):
        missing = set(await find_missing(remote, batch))
        there = [digest for digest in batch if digest not in missing]
        exported.missing += missing
        for digest, data in (await read_batch(remote, there)).items() if there else ():
            _add(archive, digest, io.BytesIO(data), exported)
    for digest in digests:
        if not fits_batch(remote, digest):
            with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
                try:
                    async for chunk in stream(remote, digest):
                        spool.write(chunk)
                except BlobMissing:
                    exported.missing.append(digest)
                    continue
                spool.seek(0)
                _add(archive, digest, spool, exported)


def _add(archive: tarfile.TarFile, digest: Digest, data: IO[bytes], exported: Exported) -> None:
    member = tarfile.TarInfo(f"cas/{digest.function}/{digest.hash[:2]}/{digest.hash}")
    member.size = digest.size_bytes
    member.mode = 0o444
    archive.addfile(member, data)
    exported.blobs += 1
    exported.size_bytes += digest.size_bytes


async def import_(remote: Remote, source: IO[bytes]) -> Imported:
    """Uploads the blobs of a tar stream that the server lacks. Raises UsageError for a stream that
    is none or holds something else, and CallFailed.
    """
    imported = Imported()
    with tempfile.TemporaryDirectory(prefix="armitage-import-") as folder:
        group = _Group(Path(folder))
        try:
            with tarfile.open(fileobj=source, mode="r|*") as archive:
                for member in archive:
                    if group.is_full or group.function not in (None, _function_of(member)):
                        await _upload(remote, group, imported)
                        group = _Group(Path(folder))
                    if not member.isdir():
                        await asyncio.to_thread(group.take, archive, member)
                        imported.blobs += 1
        except tarfile.TarError as error:
            raise UsageError(f"this is not a tar stream: {error}") from None
        await _upload(remote, group, imported)
    return imported


def _function_of(member: tarfile.TarInfo) -> str:
    parts = _NAME.fullmatch(member.name)
    return parts[1] if parts else ""


class _Group:
    """Blobs of one digest function that are uploaded together; large ones are in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.blobs: dict[Digest, bytes | Path] = {}
        self.function: str | None = None
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return self._bytes >= _IMPORT_BYTES or len(self.blobs) >= _IMPORT_BLOBS

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Reads and verifies a member. Blocks. Raises UsageError."""
        parts = _NAME.fullmatch(member.name)
        data = archive.extractfile(member) if member.isfile() else None
        if not parts or data is None or parts[1] not in set(DigestFunction):
            raise UsageError(f"{member.name!r} in the archive is no blob: not cas/FUNCTION/HH/HASH")
        function = DigestFunction(parts[1])
        if member.size <= _IMPORT_BYTES:
            content = data.read()
            blob: bytes | Path = content
            digest = function.digest(content)
        else:
            path = self._folder / parts[3]
            with path.open("wb") as out:
                shutil.copyfileobj(data, out)
            blob = path
            digest = hash_file(path, function)
        if (digest.hash, digest.hash[:2], digest.size_bytes) != (parts[3], parts[2], member.size):
            raise UsageError(f"{member.name!r} in the archive holds other bytes than it says")
        self.blobs[digest] = blob
        self.function = parts[1]
        self._bytes += member.size


async def _upload(remote: Remote, group: _Group, imported: Imported) -> None:
    if group.function is None:
        return
    uploaded = await upload(replace(remote, function=DigestFunction(group.function)), group.blobs)
    imported.uploaded_blobs += uploaded.blobs
    imported.uploaded_bytes += uploaded.size_bytes
    for blob in group.blobs.values():
        if isinstance(blob, Path):
            blob.unlink(missing_ok=True)
