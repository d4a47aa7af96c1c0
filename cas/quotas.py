"""Quotas: who has stored how much, of a store that many share.

Theory of operation. A blob is charged to the account that first stored it, for as long as it is
stored; others use it for nothing. An account over its limit may store no more until blobs of its
own have gone: least recently used ones whose leases are over are given up first, as if the store
were full for this account alone, and nobody else loses anything.

What was charged is noted in a file, a line a blob, in one write before the client is answered: a
kill loses none of it. A power failure may lose the last lines, which charges somebody a little too
little. At a start, what is stored no more is left out and the file is written anew.

Not for concurrent use; owned by the store's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cas.digest import Digest
from cas.errors import StoreFull
from cas.files import write_all
from cas.keys import key_of, size_of

_log = logging.getLogger(__name__)

_ENCODING = "utf-8"
_FEW_LINES = 10_000


class Shared(Protocol):
    """What quotas need of the store."""

    def shrink_among(self, keys: Collection[bytes], wanted_bytes: int) -> int:
        """Gives up least recently used blobs of these, of that many bytes at least, as far as
        leases and holders let it; answers how many bytes went.
        """


class Quotas:
    """The accounts that have a limit, in bytes. Others are not kept account of."""

    def __init__(
        self,
        limits: Mapping[str, int],
        store: Shared,
        is_stored: Callable[[bytes], bool],
        path: Path,
    ) -> None:
        """Takes up what was charged before. Blocks. Raises OSError."""
        self._limits = dict(limits)
        self._store = store
        self._charged: dict[str, set[bytes]] = {account: set() for account in limits}
        self._bytes = dict.fromkeys(limits, 0)
        self._reserved = dict.fromkeys(limits, 0)
        self._path = path
        self._since: list[bytes] | None = None
        """Lines that came while the file is written anew."""
        for account, key in _read(path):
            if is_stored(key):
                self._enter(account, key)
        self._lines = sum(map(len, self._charged.values()))
        self._fd = self._write_anew(self._snapshot())
        self._draft.replace(path)

    def used_bytes(self, account: str) -> int:
        """How much is charged to an account that has a limit."""
        return self._bytes[account]

    @contextmanager
    def reserve(self, account: str, size_bytes: int) -> Iterator[None]:
        """Sets a part of the account's quota aside for a write. Raises StoreFull."""
        if account not in self._limits:
            yield
            return
        limit = self._limits[account]
        over = self._bytes[account] + self._reserved[account] + size_bytes - limit
        if over > 0:
            over -= self._store.shrink_among(self._charged[account], over)
        if over > 0:
            raise StoreFull(
                f"no room for {size_bytes} more bytes of instance {account!r}: of its quota of"
                f" {limit} bytes {self._bytes[account]} are stored and {self._reserved[account]}"
                " being written, and leases or running builds protect them"
            )
        self._reserved[account] += size_bytes
        try:
            yield
        finally:
            self._reserved[account] -= size_bytes

    def charge(self, account: str, digests: Iterable[Digest]) -> None:
        """Charges blobs that are stored, unless they are charged to somebody already."""
        if account not in self._limits:
            return
        keys = [key_of(digest) for digest in digests if not digest.is_empty]
        new = [key for key in keys if self._enter(account, key)]
        if new:
            lines = b"".join(_line(account, key) for key in new)
            self._lines += len(new)
            if self._since is not None:
                self._since.append(lines)
            try:
                write_all(self._fd, [lines])
            except OSError as error:
                _log.warning("cannot note what is charged to instance %r: %s", account, error)

    def gone(self, keys: Iterable[bytes]) -> None:
        """Blobs are stored no more."""
        for key in keys:
            for account, charged in self._charged.items():
                if key in charged:
                    charged.discard(key)
                    self._bytes[account] -= size_of(key)

    def _enter(self, account: str, key: bytes) -> bool:
        if account not in self._limits or any(key in one for one in self._charged.values()):
            return False
        self._charged[account].add(key)
        self._bytes[account] += size_of(key)
        return True

    async def tidy(self) -> None:
        """Writes the file anew when most of its lines are of blobs that have gone."""
        if self._lines <= 2 * sum(map(len, self._charged.values())) + _FEW_LINES:
            return
        snapshot = self._snapshot()
        self._since = []
        try:
            fd = await asyncio.to_thread(self._write_anew, snapshot)
            write_all(fd, self._since)
            self._draft.replace(self._path)
        except OSError as error:
            _log.warning("cannot write %s anew: %s", self._path, error)
            return
        finally:
            self._since = None
        os.close(self._fd)
        self._fd = fd
        self._lines = sum(map(len, self._charged.values()))

    @property
    def _draft(self) -> Path:
        return self._path.with_suffix(".new")

    def _snapshot(self) -> list[tuple[str, list[bytes]]]:
        return [(account, list(keys)) for account, keys in self._charged.items()]

    def _write_anew(self, charged: Iterable[tuple[str, Iterable[bytes]]]) -> int:
        """Answers the draft, open for more."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._draft, flags, 0o600)
        with open(fd, "wb", closefd=False) as file:
            for account, keys in charged:
                file.writelines(_line(account, key) for key in keys)
        os.fsync(fd)
        return fd

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def _line(account: str, key: bytes) -> bytes:
    return key.hex().encode() + b" " + account.encode(_ENCODING).hex().encode() + b"\n"


def _read(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        key, _, account = line.partition(b" ")
        try:
            yield bytes.fromhex(account.decode()).decode(_ENCODING), bytes.fromhex(key.decode())
        except ValueError:
            _log.warning("a line of %s is damaged and ignored", path)
