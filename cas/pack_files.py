"""Files in and out of a pack store, many at a time (cas.store: BlobExporter, BlobImporter)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from cas import files, large_files
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.large_files import SMALL_BYTES, DamagedFile, LargeFiles
from cas.log import store_error
from cas.records import Damaged
from cas.store import FileExport
from cas.volume import File, FileId

if TYPE_CHECKING:
    from cas.pack_store import PackStore

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024
_EXPORT_FILES = 256
_IMPORT_BYTES = 4 * _CHUNK

Content = Buffer | tuple[File, str]
"""The bytes of a small blob, or the draft of a large one."""


class Source(NamedTuple):
    """A stored blob as a thread sees it."""

    digest: Digest
    key: bytes
    location: int | None
    """Of a small one."""
    verified: FileId | None
    """The identity of a large one's file that needs no hashing."""


Learned = tuple[Source, FileExport, FileId | Damaged]
"""What an export found out about a blob: the identity of its verified file, or that it is none."""


class Exporter:
    """Lays out blobs as files."""

    def __init__(self, store: PackStore, large: LargeFiles) -> None:
        self._store = store
        self._large = large

    async def export(self, wanted_files: Sequence[FileExport]) -> list[Digest]:
        """See BlobExporter. Makes no more files once it has raised or was cancelled."""
        store = self._store
        missing = dict.fromkeys(await store.find_missing([file.digest for file in wanted_files]))
        wanted = [
            (store.source_of(file.digest), file)
            for file in wanted_files
            if file.digest not in missing
        ]
        stop = threading.Event()
        if files.are_little([file.digest.size_bytes for _, file in wanted]):
            await self._learn(self._export(wanted, stop), missing)
            return list(missing)
        exporting = [
            store.submit(self._export, wanted[start : start + _EXPORT_FILES], stop)
            for start in range(0, len(wanted), _EXPORT_FILES)
        ]
        try:
            for part in exporting:
                learned = await asyncio.wrap_future(part)
                await self._learn(learned, missing)
        finally:
            stop.set()
            for part in exporting:
                part.cancel()
            await _wait_for(exporting)
        return list(missing)

    async def _learn(self, learned: Sequence[Learned], missing: dict[Digest, None]) -> None:
        """Takes in what was found out, and adds what was lost meanwhile to what is missing."""
        for source, file, outcome in learned:
            if isinstance(outcome, FileId):
                self._store.trust(source.key, outcome)
            elif not await self._export_again(source, file, outcome):
                missing[source.digest] = None

    def _export(
        self, wanted: Sequence[tuple[Source, FileExport]], stop: threading.Event
    ) -> list[Learned]:
        """Makes files. Runs in a thread, unless they are little."""
        learned: list[Learned] = []
        for source, file in wanted:
            if stop.is_set():
                break
            try:
                file_id = self._export_one(source, file, stop)
            except Damaged as damage:
                learned.append((source, file, damage))
            else:
                if file_id is not None and file_id != source.verified:
                    learned.append((source, file, file_id))
        return learned

    def _export_one(self, source: Source, file: FileExport, stop: threading.Event) -> FileId | None:
        digest, key, location, verified = source
        if digest.size_bytes <= SMALL_BYTES:
            data = b"" if digest.is_empty else self._store.content_at(key, location)
            files.write_new_file(file.path, file.mode, data)
            return None
        opened, file_id = as_store_error(self._large.verify, digest, verified)
        large_files.copy_out(opened, digest, file, stop)
        return file_id

    async def _export_again(self, source: Source, file: FileExport, damage: Damaged) -> bool:
        """Exports what could not be read where it was thought to be, if it is anywhere."""
        if isinstance(damage, DamagedFile):
            self._store.condemn_file(source.key, damage)
            return False
        try:
            data = await self._store.read_small(source.digest, source.key)
        except BlobNotFound:
            return False
        await self._store.run(files.write_new_file, file.path, file.mode, data)
        return True


class Importer:
    """Takes files in: small ones are read many at a time, large ones streamed."""

    def __init__(self, store: PackStore, large: LargeFiles) -> None:
        self._store = store
        self._large = large

    async def import_(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        """See BlobImporter."""
        store = self._store
        digests: list[Digest] = []
        while len(digests) < len(paths):
            group = await asyncio.wrap_future(
                store.submit(_read_group, function, paths[len(digests) :])
            )
            if group:
                await store.put_verified(group)
                digests += [digest for digest, _ in group]
            else:
                digests.append(await self._import_large(function, paths[len(digests)]))
        return digests

    async def _import_large(self, function: DigestFunction, path: str) -> Digest:
        store = self._store
        fd = files.open_regular(path)
        size_bytes = os.fstat(fd).st_size
        try:
            if store.is_too_large(size_bytes):
                store.check_size(await store.run(_digest_of_file, function, fd, size_bytes))
            store.reserve(size_bytes)
        except BaseException:
            os.close(fd)
            raise
        try:
            copying = store.submit(self._copy_in, function, fd, size_bytes)
        except BaseException:
            store.drop(None, size_bytes)
            os.close(fd)
            raise
        try:
            digest, content = await asyncio.wrap_future(copying)
        except BaseException:
            store.drop(None, size_bytes)
            copying.add_done_callback(partial(self._abandon, fd))
            raise
        store.drop(None, size_bytes - digest.size_bytes)
        await store.take(digest, content)
        return digest

    def _copy_in(
        self, function: DigestFunction, fd: int, limit_bytes: int
    ) -> tuple[Digest, Content]:
        """Copies a file's first bytes to a synced draft; closes the file. Runs in a thread."""
        try:
            draft = as_store_error(self._large.create)
            try:
                digest = self._copy_to(draft[0], function, fd, limit_bytes)
            except BaseException:
                self._large.drop(*draft)
                raise
        finally:
            os.close(fd)
        if digest.size_bytes > SMALL_BYTES:
            return digest, draft
        data = draft[0].read(digest.size_bytes, 0)  # It was cut short while it was read.
        self._large.drop(*draft)
        return digest, data

    def _copy_to(self, draft: File, function: DigestFunction, fd: int, limit_bytes: int) -> Digest:
        hasher = function.hasher()
        copied_bytes = 0
        while data := os.pread(fd, min(_CHUNK, limit_bytes - copied_bytes), copied_bytes):
            hasher.update(data)
            as_store_error(draft.write, [data], copied_bytes)
            copied_bytes += len(data)
        if self._store.sync:
            as_store_error(draft.sync)
        return Digest(function, hasher.hexdigest(), copied_bytes)

    def _abandon(self, fd: int, copied: ThreadFuture[tuple[Digest, Content]]) -> None:
        """Cleans up after a copy that nobody waits for any more; runs where the copy ended."""
        if copied.cancelled():
            os.close(fd)
        elif copied.exception() is None:
            content = copied.result()[1]
            if isinstance(content, tuple):
                self._large.drop(*content)


async def _wait_for(parts: Sequence[ThreadFuture[T]]) -> None:
    running = [asyncio.wrap_future(part) for part in parts if not part.done()]
    if running:
        await asyncio.wait(running)
    for part in running:
        if not part.cancelled():
            part.exception()  # Taken note of: the first failure is what the caller hears of.


def _read_group(function: DigestFunction, paths: Sequence[str]) -> list[tuple[Digest, bytes]]:
    """Reads the first few files, up to the first large one."""
    group = []
    total_bytes = 0
    for path in paths:
        fd = files.open_regular(path)
        try:
            size_bytes = os.fstat(fd).st_size
            if size_bytes > _CHUNK:
                break
            data = files.read_all(fd, 0, size_bytes)
        finally:
            os.close(fd)
        group.append((function.digest(data), data))
        total_bytes += len(data)
        if total_bytes >= _IMPORT_BYTES:
            break
    return group


def _digest_of_file(function: DigestFunction, fd: int, size_bytes: int) -> Digest:
    hasher = function.hasher()
    offset = 0
    while data := os.pread(fd, min(_CHUNK, size_bytes - offset), offset):
        hasher.update(data)
        offset += len(data)
    return Digest(function, hasher.hexdigest(), offset)


def as_store_error(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function whose errors are the store's, not the caller's."""
    try:
        return function(*args, **kwargs)
    except OSError as error:
        raise store_error(error) from error
