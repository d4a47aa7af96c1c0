"""Writes what a server sent into a local directory, without trusting it.

Rules:
- Nothing is written outside the destination: every directory on the way is opened without following
  symlinks, names are single components, and a file comes under a temporary name that is new.
- A file appears under its own name only when its bytes have proven right, replacing a file or
  symlink of that name, never a directory.
- Symlinks come last. One that leads outside the destination is refused, unless the caller allows
  it. A target may climb (`..`) only at its start: then each component it climbs through is a
  directory that we made, and no chain of links can lead out.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from armitage.client.blobs import (
    CONCURRENCY,
    batches,
    fits_batch,
    read_batch,
    run_all,
    stream,
)
from armitage.client.errors import InTheWay, UntrustworthyAnswer
from armitage.client.remote import Remote
from armitage.client.trees import RemoteTree
from cas.digest import Digest
from executor.spec import Directory

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_ENTRIES = 5_000_000
"""A small tree can name itself into any number of paths (each level twice the one below)."""


@dataclass(frozen=True, slots=True)
class FileToWrite:
    """A file by the components of its path below the destination."""

    parts: tuple[str, ...]
    digest: Digest
    is_executable: bool


@dataclass(frozen=True, slots=True)
class LinkToWrite:
    """A symlink by the components of its path below the destination."""

    parts: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be written; parents of files and links need not be listed."""

    directories: tuple[tuple[str, ...], ...] = ()
    files: tuple[FileToWrite, ...] = ()
    links: tuple[LinkToWrite, ...] = ()

    def __add__(self, other: Plan) -> Plan:
        return Plan(
            self.directories + other.directories,
            self.files + other.files,
            self.links + other.links,
        )


def split_path(path: str) -> tuple[str, ...]:
    """Splits a relative path that a server named into components.

    Raises UntrustworthyAnswer when it is absolute, climbs, or holds what no name may.
    """
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise UntrustworthyAnswer(f"the server named {path!r}, which is not a path below the root")
    return parts


def plan_tree(tree: RemoteTree, at: tuple[str, ...] = (), *, limit: int = MAX_ENTRIES) -> Plan:
    """Lays a tree out below `at`. Raises UntrustworthyAnswer for one that is absurdly large."""
    directories, files, links = [], [], []
    pending = [(at, tree.root)]
    while pending:
        here, digest = pending.pop()
        directory: Directory = tree.directories[digest]
        directories.append(here)
        files += [FileToWrite((*here, f.name), f.digest, f.is_executable) for f in directory.files]
        links += [LinkToWrite((*here, link.name), link.target) for link in directory.symlinks]
        pending += [((*here, child.name), child.digest) for child in directory.directories]
        if len(directories) + len(files) + len(links) + len(pending) > limit:
            raise UntrustworthyAnswer(f"tree {tree.root.hash} has over {limit} entries")
    return Plan(tuple(directories), tuple(files), tuple(links))


async def write(
    remote: Remote, plan: Plan, destination: Path, *, allow_outside_links: bool = False
) -> None:
    """Writes a plan into a directory, which is made when it is not there.

    Raises UntrustworthyAnswer, BlobMissing, InTheWay, CallFailed. Files written before a failure
    stay.
    """
    if not allow_outside_links:
        for link in plan.links:
            _check_stays_inside(link)
    root = _open_destination(destination)
    try:
        for parts in plan.directories:
            with _opened(root, parts):
                pass
        await _write_files(remote, root, plan.files)
        for link in plan.links:
            _write_link(root, link)
    except OSError as error:
        raise InTheWay(error.filename or destination, error.strerror or str(error)) from None
    finally:
        os.close(root)


async def write_file(remote: Remote, digest: Digest, path: Path) -> None:
    """Writes one blob to a path of the user's own choice. Raises as `write` does."""
    await write(
        remote, Plan(files=(FileToWrite((path.name,), digest, is_executable=False),)), path.parent
    )


def _open_destination(destination: Path) -> int:
    try:
        destination.mkdir(parents=True, exist_ok=True)
        return os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InTheWay(destination, error.strerror or str(error)) from None


async def _write_files(remote: Remote, root: int, files: Sequence[FileToWrite]) -> None:
    limit = asyncio.Semaphore(CONCURRENCY)
    by_digest: dict[Digest, list[FileToWrite]] = {}
    for file in files:
        by_digest.setdefault(file.digest, []).append(file)

    async def together(batch: list[Digest]) -> None:
        async with limit:
            for digest, data in (await read_batch(remote, batch)).items():
                for file in by_digest[digest]:
                    await _write_file(root, file, _whole(data))

    async def alone(digest: Digest) -> None:
        async with limit:
            for file in by_digest[digest]:
                await _write_file(root, file, stream(remote, digest))

    small = [d for d in by_digest if fits_batch(remote, d) and not d.is_empty]
    others = by_digest.keys() - set(small)
    await run_all([together(b) for b in batches(remote, small)] + [alone(d) for d in others])


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _write_file(root: int, file: FileToWrite, chunks: AsyncIterator[bytes]) -> None:
    with _opened(root, file.parts[:-1]) as parent:
        temporary = f".armitage-{secrets.token_hex(8)}"
        mode = 0o777 if file.is_executable else 0o666
        descriptor = os.open(temporary, _NEW_FILE, mode, dir_fd=parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                async for chunk in chunks:
                    out.write(chunk)
            _replace(temporary, parent, file.parts)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise


def _write_link(root: int, link: LinkToWrite) -> None:
    with _opened(root, link.parts[:-1]) as parent:
        temporary = f".armitage-{secrets.token_hex(8)}"
        os.symlink(link.target, temporary, dir_fd=parent)
        try:
            _replace(temporary, parent, link.parts)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise


def _replace(temporary: str, parent: int, parts: tuple[str, ...]) -> None:
    try:
        os.replace(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
    except IsADirectoryError:
        raise InTheWay("/".join(parts), "a directory is in the way; remove it") from None


@contextmanager
def _opened(root: int, parts: tuple[str, ...]) -> Iterator[int]:
    """Opens a directory below the root, making what is not there, following no symlink."""
    current = os.dup(root)
    try:
        for index, part in enumerate(parts):
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=current)
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=current)
            except NotADirectoryError:
                shown = "/".join(parts[: index + 1])
                raise InTheWay(shown, "is not a directory; remove it") from None
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _check_stays_inside(link: LinkToWrite) -> None:
    target = PurePosixPath(link.target)
    climbs = 0
    for part in target.parts:
        if part != "..":
            break
        climbs += 1
    later = ".." in target.parts[climbs:]
    if target.is_absolute() or later or climbs >= len(link.parts):
        name = "/".join(link.parts)
        raise UntrustworthyAnswer(
            f"symlink {name} -> {link.target} may lead outside the destination; allow it with"
            " --outside-links"
        )
