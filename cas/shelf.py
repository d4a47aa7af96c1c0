"""Durable named files in one directory: what the disk stores stand on.

Theory of operation. A file comes to be under its name whole or not at all: it is written beside
(`drafts/`), synced, renamed, and its directory synced. Drafts that a killed process left are
removed at the next start. One thread applies changes in batches: while a batch is syncing, the next
one gathers, so that concurrent writers share directory syncs, and changes to one name happen in
the order in which they were asked for. A lock file keeps a second process out.

Nothing here knows digests. State is owned by the event loop that opened the shelf, save where a
method says that it runs in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from cas.digest import Buffer
from cas.errors import CasError, StoreFull, StoreUnavailable
from cas.files import write_all

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_BATCH = 128
_QUARANTINED_FILES = 16
_OTHER_NAMES = {"lock", "clock", "clock.new", "drafts", "damaged", "lost+found"}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileId(NamedTuple):
    """What tells a file that was changed or replaced from the one that was looked at before."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileId:
        """Picks the identity out of a stat."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class Found(NamedTuple):
    """A file that was there at the start."""

    name: str
    size_bytes: int
    mtime: float
    inode: int


class Draft(NamedTuple):
    """A file in `drafts/`, on its way to a name."""

    fd: int
    path: str


class Discard(NamedTuple):
    """Files that are to go, and when they are gone."""

    names: Sequence[str]
    done: asyncio.Future[None]


def store_error(error: OSError) -> CasError:
    """Turns an operating system error into the store error that a caller acts on."""
    if error.errno in _NO_ROOM:
        return StoreFull(f"the disk is full: {error}")
    return StoreUnavailable(f"the store's disk does not work: {error}")


@dataclass(eq=False, slots=True)
class _Change:
    name: str
    done: asyncio.Future[FileId | None]
    data: Buffer | None = None
    draft: Draft | None = None
    mtime: float | None = None
    error: OSError | None = None
    file_id: FileId | None = None

    @property
    def removes(self) -> bool:
        return self.data is None and self.draft is None

    def settle(self, outcome: _Change, bug: BaseException | None) -> None:
        """Tells whoever asked what came of this change, or of a later one made in its place."""
        if self.done.done():
            return
        if bug is not None:
            self.done.set_exception(bug)
        elif outcome.error is not None:
            self.done.set_exception(store_error(outcome.error))
        else:
            self.done.set_result(outcome.file_id)


class Shelf:
    """A directory of files by name. Names are relative paths in the folder `top`."""

    def __init__(self, root: Path, top: str, *, sync: bool, threads: int) -> None:
        """Takes the directory over, making it where it is not there. Run it in a thread.

        Raises StoreUnavailable when the directory is used by another process, is something else
        than a shelf, or cannot be written.
        """
        self._root = str(root)
        self._drafts = f"{root}/drafts"
        self._sync = sync
        self._top = top
        self._names = itertools.count()
        self._folder_fds: dict[str, int] = {}
        self._lock_fd = -1
        try:
            self._take_over()
        except OSError as error:
            self._let_go()
            raise StoreUnavailable(
                f"cannot keep data in {root}: {error.strerror}; make it a directory that this"
                " user can write, or choose another"
            ) from error
        except BaseException:
            self._let_go()
            raise
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"shelf-{root.name}")
        self._waiting: list[_Change] = []
        self._discarded: list[Discard] = []
        self._applying: asyncio.Future[None] | None = None
        self._closed = False

    def _take_over(self) -> None:
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        strange = set(os.listdir(self._root)) - {self._top, *_OTHER_NAMES}
        if strange:
            raise StoreUnavailable(
                f"cannot keep data in {self._root}: it holds {min(strange)!r}, which is not"
                " Armitage's; choose an empty directory"
            )
        self._lock()
        with suppress(FileNotFoundError):
            shutil.rmtree(self._drafts)
        for folder in (self._drafts, f"{self._root}/damaged", f"{self._root}/{self._top}"):
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def _lock(self) -> None:
        self._lock_fd = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip()
            raise StoreUnavailable(
                f"{self._root} is in use by process {pid or 'unknown'}; stop that, or choose"
                " another directory"
            ) from None
        os.truncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, b"%d\n" % os.getpid(), 0)

    def _let_go(self) -> None:
        for fd in self._folder_fds.values():
            os.close(fd)
        self._folder_fds.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def scan(self) -> Iterator[Found]:
        """Answers every file on the shelf. Runs in a thread."""
        folders = [self._top]
        while folders:
            folder = folders.pop()
            with os.scandir(f"{self._root}/{folder}") as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    else:
                        stat = entry.stat(follow_symlinks=False)
                        yield Found(name, stat.st_size, stat.st_mtime, stat.st_ino)

    def path(self, name: str) -> str:
        """Where the file of that name is."""
        return f"{self._root}/{name}"

    def free_bytes(self) -> int:
        """How much the disk still takes from an ordinary user."""
        stat = os.statvfs(self._root)
        return stat.f_bavail * stat.f_frsize

    def submit(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> ThreadFuture[T]:
        """Runs a blocking function in one of the shelf's threads, in the order submitted."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return self._pool.submit(function, *args, **kwargs)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for a blocking function in a thread, which goes on when this is cancelled.

        OSErrors come out as the store errors that they mean.
        """
        try:
            return await asyncio.wrap_future(self.submit(function, *args, **kwargs))
        except OSError as error:
            raise store_error(error) from error

    def make_draft(self) -> Draft:
        """Starts a file that is to be put later. Runs in a thread."""
        # No other shelf's name, not even that of the next one on this directory.
        path = f"{self._drafts}/{id(self):x}-{next(self._names)}"
        return Draft(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), path)

    def sync_draft(self, draft: Draft) -> None:
        """Makes a draft's bytes durable, so that putting it holds up no batch. Runs in a thread."""
        if self._sync:
            os.fdatasync(draft.fd)

    def drop_draft(self, draft: Draft) -> None:
        """Ends a draft that will not be put. Runs in a thread."""
        os.close(draft.fd)
        # A draft of a closed shelf may have been cleared away by the next one.
        with suppress(FileNotFoundError):
            os.unlink(draft.path)

    def drop_soon(self, draft: Draft) -> None:
        """Ends a draft without waiting for it."""
        if self._closed:
            self.drop_draft(draft)
        else:
            self._pool.submit(self.drop_draft, draft)

    def put(
        self, name: str, content: Buffer | Draft, mtime: float | None = None
    ) -> asyncio.Future[FileId | None]:
        """Makes a file of that name, in place of any that there is; the future ends when it is
        durable.

        Takes a draft over (synced already). The future raises StoreFull or StoreUnavailable, and
        then nothing has changed.
        """
        if isinstance(content, Draft):
            return self._ask(_Change(name, self._future(), draft=content, mtime=mtime))
        return self._ask(_Change(name, self._future(), data=content, mtime=mtime))

    def remove(self, name: str) -> asyncio.Future[FileId | None]:
        """Removes a file, whether it is there or not; a power failure may undo it."""
        return self._ask(_Change(name, self._future()))

    def discard(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Removes files that nobody refers to any more; cheap for many.

        Happens after all changes that were made and before all that are asked for from now on; a
        name of which a change has been asked for and not made yet must not be among them. Failures
        are logged: the files are found again at the next start.
        """
        discard = Discard(names, self._future())
        self._discarded.append(discard)
        if self._applying is None:
            self._start_batch()
        return discard.done

    def _future(self) -> asyncio.Future[T]:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Whoever asked may have been cancelled, and then nobody reads the exception.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    def _ask(self, change: _Change) -> asyncio.Future[FileId | None]:
        self._waiting.append(change)
        if self._applying is None:
            self._start_batch()
        return change.done

    def _start_batch(self) -> None:
        asked, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        discarded, self._discarded = self._discarded, []
        # Of several changes to one name only the last is made, for all who asked.
        last = {change.name: change for change in asked}
        drafts = [c.draft for c in asked if last[c.name] is not c and c.draft is not None]
        names = [name for discard in discarded for name in discard.names]
        applying = asyncio.wrap_future(
            self._pool.submit(self._apply, list(last.values()), drafts, names)
        )
        applying.add_done_callback(
            lambda done: self._end_batch(asked, last, discarded, done.exception())
        )
        self._applying = applying

    def _end_batch(
        self,
        asked: list[_Change],
        last: dict[str, _Change],
        discarded: list[Discard],
        bug: BaseException | None,
    ) -> None:
        self._applying = None
        for discard in discarded:
            if not discard.done.done():
                discard.done.set_result(None)
        for change in asked:
            change.settle(last[change.name], bug)
        if self._waiting or self._discarded:
            self._start_batch()

    def _apply(
        self, changes: Sequence[_Change], superseded: Sequence[Draft], discarded: Sequence[str]
    ) -> None:
        for name in discarded:
            self._unlink(name)
        for draft in superseded:
            self.drop_draft(draft)
        for step in (self._write, self._sync_data, self._rename):
            for change in changes:
                if change.error is None:
                    try:
                        step(change)
                    except OSError as error:
                        change.error = error
        self._sync_folders(changes)
        for change in changes:
            if change.draft is not None:
                self._clear(change, change.draft)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(self.path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("cannot remove %s: %s", self.path(name), error)

    def _write(self, change: _Change) -> None:
        if change.removes:
            with suppress(FileNotFoundError):
                os.unlink(self.path(change.name))
            return
        if change.draft is None:
            change.draft = self.make_draft()
        if change.data is not None:
            write_all(change.draft.fd, [change.data])
        if change.mtime is not None:
            os.utime(change.draft.fd, (change.mtime, change.mtime))

    def _sync_data(self, change: _Change) -> None:
        if self._sync and change.data is not None and change.draft is not None:
            os.fdatasync(change.draft.fd)

    def _open_folder(self, folder: str) -> int:
        """Answers a descriptor of a folder that is there to stay, made where it was not."""
        fd = self._folder_fds.get(folder)
        if fd is None:
            path = f"{self._root}/{folder}"
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._sync_path_of(folder)
            fd = self._folder_fds[folder] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        return fd

    def _sync_path_of(self, folder: str) -> None:
        parent = folder
        while self._sync and parent:
            parent = parent.rpartition("/")[0]
            fd = os.open(f"{self._root}/{parent}", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _rename(self, change: _Change) -> None:
        if change.draft is not None:
            self._open_folder(change.name.rpartition("/")[0])
            os.rename(change.draft.path, self.path(change.name))
            change.file_id = FileId.of(os.fstat(change.draft.fd))

    def _sync_folders(self, changes: Sequence[_Change]) -> None:
        renamed: dict[str, list[_Change]] = {}
        for change in changes:
            if change.file_id is not None:
                renamed.setdefault(change.name.rpartition("/")[0], []).append(change)
        if not self._sync:
            return
        for folder, within in renamed.items():
            try:
                os.fsync(self._folder_fds[folder])
            except OSError as error:
                for change in within:
                    change.error = error
                    with suppress(FileNotFoundError):
                        os.unlink(self.path(change.name))

    def _clear(self, change: _Change, draft: Draft) -> None:
        if change.file_id is None:
            self.drop_draft(draft)
        else:
            os.close(draft.fd)

    def quarantine(self, name: str, inode: int) -> bool:
        """Moves a damaged file aside for whoever wants to look, and answers whether nobody should
        use the name any more: False when another file has it by now.

        Keeps a few; the oldest goes.
        """
        try:
            if os.stat(self.path(name), follow_symlinks=False).st_ino != inode:
                return False
            kept = sorted(
                os.scandir(f"{self._root}/damaged"), key=lambda entry: entry.stat().st_ctime
            )
            for entry in kept[: max(0, len(kept) - _QUARANTINED_FILES + 1)]:
                os.unlink(entry.path)
            os.rename(self.path(name), f"{self._root}/damaged/{name.replace('/', '-')}")
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("cannot move damaged file %s aside: %s", self.path(name), error)
        return True

    async def close(self) -> None:
        """Waits for what was asked for and lets the directory go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        while self._applying is not None:
            await asyncio.wait([self._applying])
        await asyncio.to_thread(self._pool.shutdown)
        self._let_go()
