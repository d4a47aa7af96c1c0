"""The space that actions take in scratch: one has no more than its limit, and where the disk gets
short, whoever has most goes first.

The kernel tells of no directory what is in it, so all of this is sampled: the files of actions are
looked at now and then where there is a limit, else only when space is short. What an action has
deleted and holds open is not seen.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from executor.paths import DIRECTORY_FLAGS
from executor.process import Ending
from executor.scratch import Shortage

_LOOK_S = 1.0
"""How long the files of actions may be looked at, at one time; what lies beyond is not counted."""
_PAUSES = 20
"""After a look at an action comes a pause of so many times its length."""
_KERNELS_OWN = "root.work"
"""Where the kernel keeps what an overlay takes, in a directory that is closed to all."""
_BLOCK_BYTES = 512
"""What st_blocks counts, whatever the filesystem (stat(3type))."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What lies in a directory, as far as that was looked at."""

    size_bytes: int = 0
    """As allocated: holes take nothing."""
    entries: int = 0
    is_hidden: bool = False
    """Whether there is a directory that we cannot look into: its owner has closed it."""


class Space:
    """What all running actions take. Owned by one event loop, which all their executors share."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        """The filesystem (st_dev) of each action's directory."""
        self._leaving: dict[int, tuple[str, Taken]] = {}
        """The one that goes, or is going, to leave room on a filesystem, and what it took."""
        self._choosing = asyncio.Lock()

    @contextmanager
    def running(self, directory: str) -> Iterator[None]:
        """Counts an action while its command runs and asks must_go."""
        self._running[directory] = os.stat(directory).st_dev
        try:
            yield
        finally:
            del self._running[directory]
        self.gone(directory)  # It has ended by itself, and may keep its files for long.

    def gone(self, directory: str) -> None:
        """Tells that an action has left no files."""
        for device, (leaving, _) in list(self._leaving.items()):
            if leaving == directory:
                del self._leaving[device]

    async def must_go(
        self, directory: str, shortage: Callable[[], Shortage | None]
    ) -> Taken | None:
        """Answers what a running action takes, if it is the one to go while something is short:
        that with most, and another only when its files are gone and did not do.
        """
        device = self._running[directory]
        async with self._choosing:
            if device not in self._leaving and (short := shortage()) is not None:
                await self._choose(device, is_of_files=short.is_of_files)
        leaving, taken = self._leaving.get(device, ("", None))
        return taken if leaving == directory else None

    async def _choose(self, device: int, *, is_of_files: bool) -> None:
        directories = [path for path, where in self._running.items() if where == device]
        sizes = await asyncio.to_thread(_measure_all, directories)

        def weight(path: str) -> tuple[bool, int]:
            taken = sizes[path]
            return taken.is_hidden, taken.entries if is_of_files else taken.size_bytes

        left = [path for path in directories if path in self._running]
        if left:
            worst = max(left, key=weight)
            self._leaving[device] = worst, sizes[worst]


class SpaceWatch:
    """Says of one action whether it may go on."""

    def __init__(
        self,
        space: Space,
        directory: str,
        limit_bytes: int | None,
        shortage: Callable[[], Shortage | None],
        save_room: Callable[[], Awaitable[None]],
    ) -> None:
        """`save_room` frees what can be done without, when something is short."""
        self._space = space
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._shortage = shortage
        self._save_room = save_room
        self._next_look = 0.0

    async def stop(self) -> Ending | str:
        """Answers how the action is to end at its limit, or why it must go although it is at none;
        empty while it may go on.
        """
        if self._limit_bytes is not None and (taken := await self._look(self._limit_bytes)):
            return Ending(
                128 + 9,
                f"killed: it took {taken >> 20} MiB of scratch space, over the limit of"
                f" {self._limit_bytes >> 20} MiB (executor.scratch_bytes)",
                is_over_limit=True,
            )
        if self._shortage() is None:
            return ""
        await self._save_room()
        short = self._shortage()
        if short is None:
            return ""
        most = await self._space.must_go(self._directory, self._shortage)
        if most is None:
            return ""
        took = f"{most.entries} files" if short.is_of_files else f"{most.size_bytes >> 20} MiB"
        return f"{short.complaint}; of the actions that ran, this one took most there: {took}"

    async def _look(self, limit_bytes: int) -> int:
        """Answers what the action takes, if that is over its limit and it is time to look."""
        began = time.monotonic()
        if began < self._next_look:
            return 0
        taken = await asyncio.to_thread(measure, self._directory, _LOOK_S)
        ended = time.monotonic()
        self._next_look = ended + _PAUSES * (ended - began)
        return taken.size_bytes if taken.size_bytes > limit_bytes else 0


def _measure_all(directories: Sequence[str]) -> dict[str, Taken]:
    return {path: measure(path, _LOOK_S / len(directories)) for path in directories}


def measure(directory: str, limit_s: float) -> Taken:
    """Looks at all files below a directory that still change, for so long at most. Follows no link
    and leaves every mode as it is.
    """
    deadline = time.monotonic() + limit_s
    size_bytes = entries = 0
    is_hidden = False
    pending: list[tuple[str, ...]] = [()]
    linked: set[int] = set()
    try:
        top = os.open(directory, DIRECTORY_FLAGS)
    except OSError:
        return Taken()  # It has left.
    try:
        device = os.fstat(top).st_dev
        while pending and time.monotonic() < deadline:
            parts = pending.pop()
            try:
                for name, status in _statuses(top, parts):
                    if time.monotonic() >= deadline:
                        break
                    entries += 1
                    if stat.S_ISDIR(status.st_mode):
                        if status.st_dev == device and (*parts, name) != (_KERNELS_OWN,):
                            pending.append((*parts, name))
                    elif status.st_nlink > 1:
                        if status.st_ino in linked:
                            continue
                        linked.add(status.st_ino)
                    size_bytes += status.st_blocks * _BLOCK_BYTES
            except PermissionError:
                is_hidden = True
            except OSError:
                continue  # It has gone, or is no directory any more.
    finally:
        os.close(top)
    return Taken(size_bytes, entries, is_hidden)


def _statuses(top: int, parts: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Answers all entries of a directory, opened one component at a time: a command that swaps one
    for a link leads us nowhere. Raises OSError.
    """
    fd = os.open(".", DIRECTORY_FLAGS, dir_fd=top)
    try:
        for part in parts:
            below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        with os.scandir(fd) as found:
            for entry in found:
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)
    finally:
        os.close(fd)
