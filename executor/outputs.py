"""What a command left at its output paths: found, checked, named and stored (REAPI
`Command.output_paths`, `ActionResult`).

Runs after every process of the action is dead, so nothing changes under it; links are nevertheless
never followed by the kernel (see executor.paths).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from cas.digest import Digest, DigestFunction
from cas.errors import BlobTooLarge, StoreFull
from cas.store import BlobImporter, BlobStore, Measured
from executor.concurrency import Threads, for_each
from executor.errors import InvalidOutput
from executor.layers import parents_first
from executor.paths import (
    DIRECTORY_FLAGS,
    join,
    locate,
    make_readable,
    open_directory,
    open_readable,
)
from executor.ports import TreeCodec
from executor.spec import (
    Directory,
    DirectoryNode,
    FileNode,
    OutputDirectory,
    OutputFile,
    OutputKind,
    OutputRequest,
    OutputSymlink,
    SymlinkNode,
    Work,
)
from executor.staging import TreeLimits

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: should the file turn out to be a fifo after all, opening it does not wait."""
_BATCH = 1_000
_BATCH_BYTES = 4 << 20
_CONCURRENT_BATCHES = 4
"""Taken in at the same time, in the store's threads; each has one file open at a time."""
_CONCURRENT_PUTS = 16
_READ_BYTES = 1 << 20
_WHOLE_BYTES = 256 * 1024
_PATH_MAX = 4_095


@dataclass(frozen=True, slots=True)
class Outputs:
    """All outputs, each with its path as asked; what was absent is left out."""

    files: tuple[OutputFile, ...] = ()
    directories: tuple[OutputDirectory, ...] = ()
    symlinks: tuple[OutputSymlink, ...] = ()


@dataclass(slots=True)
class _Folder:
    """One directory as found on disk; files are named once they are hashed."""

    path: tuple[str, ...]
    files: list[tuple[str, bool]] = field(default_factory=list)
    symlinks: list[SymlinkNode] = field(default_factory=list)
    folders: list[tuple[str, _Folder]] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """What a look at the output paths gave, before anything was read."""

    files: list[tuple[str, tuple[str, ...], bool]] = field(default_factory=list)
    folders: list[tuple[str, _Folder]] = field(default_factory=list)
    symlinks: list[OutputSymlink] = field(default_factory=list)
    paths: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Every regular file, each once, and its size."""


@dataclass(frozen=True, slots=True)
class _Size:
    """How large files are, holes included: they are stored as they read."""

    total_bytes: int
    largest: str
    largest_bytes: int

    @classmethod
    def of(cls, sizes: Mapping[tuple[str, ...], int]) -> _Size:
        largest = max(sizes, key=lambda place: sizes[place], default=())
        return cls(sum(sizes.values()), "/".join(largest), sizes.get(largest, 0))

    def __str__(self) -> str:
        return (
            f"{self.total_bytes} bytes in all, of which {self.largest[-200:]!r} has"
            f" {self.largest_bytes}"
        )


def requests_of(work: Work) -> list[tuple[tuple[str, ...], OutputRequest]]:
    """Answers each distinct output request with its place below the input root.

    One path asked for as a file and as a directory may be either (Buck2's compatibility mode).
    Raises InvalidInput for a path that is absolute or leaves the root.
    """
    kinds: dict[str, set[OutputKind]] = {}
    for request in work.outputs:
        kinds.setdefault(request.path, set()).add(request.kind)
    return [
        (
            join(work.working_directory, path),
            OutputRequest(path, next(iter(wanted)) if len(wanted) == 1 else OutputKind.ANY),
        )
        for path, wanted in kinds.items()
    ]


class OutputCollector:
    """Collects the outputs of actions into a store."""

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        limits: TreeLimits,
        in_thread: Threads,
        *,
        limit_bytes: int | None = None,
    ) -> None:
        """`limit_bytes` is for all files of an action together."""
        self._limit_bytes = limit_bytes
        self._store = store
        self._codec = codec
        self._limits = limits
        self._in_thread = in_thread

    async def collect(
        self,
        root: str,
        requests: Sequence[tuple[tuple[str, ...], OutputRequest]],
        mounted_at: str,
        function: DigestFunction,
    ) -> Outputs:
        """Stores everything found at the requested paths below the directory `root`.

        `mounted_at` is where the command saw it. Raises InvalidOutput, OSError when the host fails.
        """
        if not requests:
            return Outputs()
        found = await self._in_thread(_find, root, requests, mounted_at, self._limits)
        size = _Size.of(found.paths)
        self._check(size)
        try:
            digests = await self._store_files(root, found.paths, function)
        except BlobTooLarge as error:
            raise InvalidOutput(f"an output is too large to be stored: {error}; {size}") from error
        except StoreFull as error:
            if size.total_bytes <= self._capacity_bytes():
                raise
            raise InvalidOutput(f"the outputs do not fit the store: {error}; {size}") from error
        blobs: dict[Digest, bytes] = {}
        directories = []
        for path, folder in found.folders:
            tree, top = await self._in_thread(self._name, folder, digests, function, blobs)
            directories.append(OutputDirectory(path, tree, top))
        await self._put_all(blobs)
        return Outputs(
            files=tuple(
                OutputFile(path, digests[place], executable)
                for path, place, executable in found.files
            ),
            directories=tuple(directories),
            symlinks=tuple(found.symlinks),
        )

    def _check(self, size: _Size) -> None:
        """Raises InvalidOutput before anything is read of what cannot be stored."""
        if self._limit_bytes is not None and size.total_bytes > self._limit_bytes:
            raise InvalidOutput(
                f"the outputs are over the limit of {self._limit_bytes} bytes"
                f" (executor.outputs_bytes): {size}"
            )
        capacity_bytes = self._capacity_bytes()
        if size.largest_bytes > capacity_bytes:
            raise InvalidOutput(
                f"an output does not fit the store, which has room for {capacity_bytes} bytes at"
                f" most: {size}"
            )

    def _capacity_bytes(self) -> int:
        if hasattr(self._store, "capacity_bytes"):
            return cast("Measured", self._store).capacity_bytes()
        return sys.maxsize

    async def _store_files(
        self, root: str, sizes: Mapping[tuple[str, ...], int], function: DigestFunction
    ) -> dict[tuple[str, ...], Digest]:
        digests: dict[tuple[str, ...], Digest] = {}

        async def store(batch: list[tuple[str, ...]]) -> None:
            paths = ["/".join((root, *place)) for place in batch]
            for path in paths:
                if len(path) > _PATH_MAX // 4 and len(os.fsencode(path)) > _PATH_MAX:
                    raise InvalidOutput(
                        f"an output has too long a path: {path[len(root) :][:60]!r}..."
                    )
            digests.update(zip(batch, await self._import(function, paths), strict=True))

        batches = list(_batches(sizes))
        if len(batches) == 1:
            await store(batches[0])
        else:
            await for_each(_CONCURRENT_BATCHES, store, batches)
        return digests

    async def _import(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        if hasattr(self._store, "import_files"):
            return await cast("BlobImporter", self._store).import_files(function, paths)
        digests = await self._in_thread(_hash_files, function, paths)
        by_digest = dict(zip(digests, paths, strict=True))
        missing = await self._store.find_missing(by_digest)

        async def upload(digest: Digest) -> None:
            await self._upload(digest, by_digest[digest])

        await for_each(_CONCURRENT_PUTS, upload, missing)
        return digests

    async def _upload(self, digest: Digest, path: str) -> None:
        if digest.size_bytes <= _WHOLE_BYTES:
            await self._store.put([digest], await self._in_thread(_read_whole, path))
            return
        writer = await self._store.open_writer([digest])
        fd = os.open(path, _FILE_FLAGS)
        try:
            while chunk := await self._in_thread(os.read, fd, _READ_BYTES):
                await writer.write(chunk)
            await writer.commit()
        finally:
            os.close(fd)
            await writer.abort()

    def _name(
        self,
        top: _Folder,
        files: dict[tuple[str, ...], Digest],
        function: DigestFunction,
        blobs: dict[Digest, bytes],
    ) -> tuple[Digest, Digest]:
        """Encodes a folder and all below it, bottom up; answers the digests of Tree and root.

        Adds the bytes of both and of every Directory to `blobs`.
        """
        named: dict[tuple[str, ...], Digest] = {}
        children: dict[Digest, tuple[Digest, ...]] = {}
        for folder in reversed(list(_walk(top))):
            directory = Directory(
                files=tuple(
                    FileNode(name, files[*folder.path, name], executable)
                    for name, executable in folder.files
                ),
                directories=tuple(
                    DirectoryNode(name, named[below.path]) for name, below in folder.folders
                ),
                symlinks=tuple(folder.symlinks),
            )
            data = self._codec.encode_directory(directory)
            digest = named[folder.path] = function.digest(data)
            blobs[digest] = data
            children[digest] = tuple(named[below.path] for _, below in folder.folders)
        root = named[top.path]
        order = parents_first(root, children)
        tree = self._codec.encode_tree(blobs[root], [blobs[digest] for digest in order[1:]])
        tree_digest = function.digest(tree)
        blobs[tree_digest] = tree
        return tree_digest, root

    async def _put_all(self, blobs: dict[Digest, bytes]) -> None:
        async def put(digest: Digest) -> None:
            await self._store.put([digest], blobs[digest])

        missing = await self._store.find_missing(blobs)
        await for_each(_CONCURRENT_PUTS, put, missing)


def _batches(sizes: Mapping[tuple[str, ...], int]) -> Iterator[list[tuple[str, ...]]]:
    """Divides files into groups of some bytes, or one large file."""
    batch: list[tuple[str, ...]] = []
    size_bytes = 0
    for place, size in sizes.items():
        if batch and (len(batch) >= _BATCH or size_bytes + size > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(place)
        size_bytes += size
    if batch:
        yield batch


def _find(
    root: str,
    requests: Sequence[tuple[tuple[str, ...], OutputRequest]],
    mounted_at: str,
    limits: TreeLimits,
) -> _Found:
    make_readable(root.removesuffix("/."))  # A view's own name, which takes no search of it.
    root_fd = os.open(root, DIRECTORY_FLAGS)
    try:
        search = _Search(root_fd, mounted_at, limits)
        for parts, request in requests:
            search.look(parts, request)
    finally:
        os.close(root_fd)
    return search.found


class _Search:
    """One look at all output paths of an action. Reads no file and changes nothing but modes that
    would keep files from being read.
    """

    def __init__(self, root_fd: int, mounted_at: str, limits: TreeLimits) -> None:
        self._root_fd = root_fd
        self._mounted_at = mounted_at
        self._limits = limits
        self._entries = 0
        self.found = _Found()

    def look(self, parts: Sequence[str], request: OutputRequest) -> None:
        place = locate((self._root_fd,), parts, self._mounted_at, follow_last=False)
        if place is None or place.status is None:
            return
        mode = place.status.st_mode
        if stat.S_ISLNK(mode):
            self._take_link(place.parts, request)
        elif stat.S_ISREG(mode):
            if request.kind is OutputKind.DIRECTORY:
                raise _wrong_kind(request, "a file")
            self._make_readable(place.parts)
            self.found.paths[place.parts] = place.status.st_size
            self.found.files.append((request.path, place.parts, bool(mode & stat.S_IXUSR)))
        elif stat.S_ISDIR(mode):
            if request.kind is OutputKind.FILE:
                raise _wrong_kind(request, "a directory")
            self.found.folders.append((request.path, self._read_tree(place.parts)))
        else:
            raise InvalidOutput(f"output {request.path!r} is {_name_type(mode)}")

    def _take_link(self, parts: Sequence[str], request: OutputRequest) -> None:
        target = os.readlink("/".join(parts), dir_fd=self._root_fd)
        _check_text(request.path, target)
        leads_to = self._leads_to(parts)
        if request.kind is not OutputKind.ANY and leads_to not in (None, request.kind):
            raise _wrong_kind(request, f"a symbolic link to a {leads_to.value}")
        self.found.symlinks.append(OutputSymlink(request.path, target, leads_to))

    def _leads_to(self, parts: Sequence[str]) -> OutputKind | None:
        end = locate((self._root_fd,), parts, self._mounted_at, follow_last=True)
        if end is None or end.status is None:
            return None
        if stat.S_ISDIR(end.status.st_mode):
            return OutputKind.DIRECTORY
        return OutputKind.FILE if stat.S_ISREG(end.status.st_mode) else None

    def _make_readable(self, parts: Sequence[str]) -> None:
        directory = open_directory(self._root_fd, parts[:-1])
        try:
            os.close(open_readable(directory, parts[-1], _FILE_FLAGS))
        finally:
            os.close(directory)

    def _read_tree(self, parts: Sequence[str]) -> _Folder:
        """Reads a directory and all below it, depth first, with at most two descriptors."""
        top = _Folder(tuple(parts))
        fd = open_directory(self._root_fd, parts)
        try:
            self._read_folder(fd, top)
            trail = [(_identity(fd), list(reversed(top.folders)))]
            while trail:
                _, pending = trail[-1]
                if pending:
                    name, folder = pending.pop()
                    fd = _step(fd, name)
                    if len(trail) > self._limits.max_depth:
                        raise InvalidOutput(
                            f"an output is over {self._limits.max_depth} directories deep"
                        )
                    self._read_folder(fd, folder)
                    trail.append((_identity(fd), list(reversed(folder.folders))))
                else:
                    trail.pop()
                    if trail:
                        fd = _step(fd, "..")
                        if _identity(fd) != trail[-1][0]:
                            raise InvalidOutput(f"{'/'.join(parts)!r} changed while it was read")
        finally:
            os.close(fd)
        return top

    def _read_folder(self, fd: int, folder: _Folder) -> None:
        with os.scandir(fd) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
        self._entries += len(entries)
        if self._entries > self._limits.max_entries:
            raise InvalidOutput(f"the outputs hold over {self._limits.max_entries} files")
        for entry in entries:
            _check_text("/".join((*folder.path, entry.name)))
            self._take_entry(fd, entry, folder)

    def _take_entry(self, fd: int, entry: os.DirEntry[str], folder: _Folder) -> None:
        path = (*folder.path, entry.name)
        status = entry.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISREG(mode):
            if not mode & stat.S_IRUSR:
                os.close(open_readable(fd, entry.name, _FILE_FLAGS))
            folder.files.append((entry.name, bool(mode & stat.S_IXUSR)))
            self.found.paths[path] = status.st_size
        elif stat.S_ISDIR(mode):
            folder.folders.append((entry.name, _Folder(path)))
        elif stat.S_ISLNK(mode):
            target = os.readlink(entry.name, dir_fd=fd)
            _check_text("/".join(path), target)
            folder.symlinks.append(SymlinkNode(entry.name, target))
        else:
            raise InvalidOutput(f"output {'/'.join(path)!r} is {_name_type(mode)}")


def _wrong_kind(request: OutputRequest, seen: str) -> InvalidOutput:
    return InvalidOutput(
        f"output {request.path!r} was asked for as {request.kind.value}, is {seen}"
    )


def _step(fd: int, name: str) -> int:
    """Goes from one open directory to another, closing the first, whatever happens.

    On failure the first stays open, for the caller's own clean-up to close.
    """
    below = open_readable(fd, name, DIRECTORY_FLAGS)
    os.close(fd)
    return below


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _check_text(path: str, target: str = "") -> None:
    for what, text in (("name", path), ("symbolic link target", target)):
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(text)[-200:]
            raise InvalidOutput(
                f"output {os.fsencode(path)[-200:]!r}: its {what} {shown!r} is not UTF-8"
            ) from None


def _name_type(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a fifo, which cannot be an output"
    if stat.S_ISSOCK(mode):
        return "a socket, which cannot be an output"
    return "a device, which cannot be an output"


def _walk(top: _Folder) -> Iterable[_Folder]:
    """Every folder, parents before children."""
    pending = [top]
    while pending:
        folder = pending.pop()
        yield folder
        pending.extend(below for _, below in reversed(folder.folders))


def _hash_files(function: DigestFunction, paths: Iterable[str]) -> list[Digest]:
    return [_hash_file(function, path) for path in paths]


def _hash_file(function: DigestFunction, path: str) -> Digest:
    hasher = function.hasher()
    size = 0
    for chunk in _chunks(path):
        hasher.update(chunk)
        size += len(chunk)
    return Digest(function, hasher.hexdigest(), size)


def _read_whole(path: str) -> bytes:
    return b"".join(_chunks(path))


def _chunks(path: str) -> Iterable[bytes]:
    fd = os.open(path, _FILE_FLAGS)
    try:
        while chunk := os.read(fd, _READ_BYTES):
            yield chunk
    finally:
        os.close(fd)
