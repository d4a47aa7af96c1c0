"""The logs of a record that have ended, each followed by the next (armitage.log.succession)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from armitage.log import store as log_store
from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import LogDamaged, LogError, NotLogged
from armitage.log.growth import verify_growth
from armitage.log.merkle import Frontier, leaf_hash, verify_consistency
from armitage.log.note import PublicKey, Reader, parse_public_key
from armitage.log.store import LogStore
from armitage.log.succession import check_succession
from armitage.log.tiles import WIDTH, Tile, decode_entries, subtrees_of
from armitage.witness.rotation import PUBLIC, past_logs
from cas.errors import StoreUnavailable
from cas.volume import DiskVolume


@dataclass(frozen=True, slots=True)
class Past:
    """The logs that lead to the one that goes on."""

    logs: tuple[LogStore, ...] = ()
    """The oldest first. Each is whole up to its last checkpoint, and ends in naming the next one,
    which begins with that very checkpoint: what whoever has the old key signs after is not in it.
    """
    problem: str = ""
    """Why there are not more: one that is damaged, or leads elsewhere, and all before it."""


@contextmanager
def open_past(directory: Path, current: LogStore) -> Iterator[Past]:
    """Opens those of the record in a directory. Blocks. Does not raise."""
    opened: list[LogStore] = []
    problem, following = "", current
    try:
        for path in reversed(past_logs(directory)):
            try:
                public = parse_public_key((path / PUBLIC).read_text())
                log = LogStore(DiskVolume(path / "log", log_store.NAMES), Reader(public))
            except (LogError, OSError, StoreUnavailable) as error:
                problem = f"{path}: {error}"
                break
            opened.append(log)
            try:
                size = log.checkpoint.size
                [last] = proven_entries(log, size - 1, size)
                [beginning] = proven_entries(following, 0, 1)
                check_succession(last, beginning, log.signed_checkpoint, following.key)
            except (LogError, OSError) as error:
                problem = f"{path}: {error}"
                opened.pop().close()
                break
            following = log
        yield Past(tuple(reversed(opened)), problem)
    finally:
        for log in opened:
            log.close()


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a log, which a daemon may have open."""

    directory: Path
    key: PublicKey
    final: bytes
    """Its last checkpoint, signed."""
    size: int

    def check(self, then: bytes) -> None:
        """Checks that a signed checkpoint is of this log at its end or before. Raises LogError."""
        verify_growth(then, self.final, self.key, self._tile)

    def entry(self, index: int) -> bytes:
        """Answers an entry. Raises LogError."""
        number = index // WIDTH
        width = min(WIDTH, self.size - number * WIDTH)
        return decode_entries(self._tile(Tile(None, number, width)))[index % WIDTH]

    def _tile(self, tile: Tile) -> bytes:
        try:
            return log_store.read_tile(self.directory, self.size, tile)
        except OSError as error:
            raise LogDamaged(f"{self.directory}: {error}") from error


def read_past(directory: Path, current: PublicKey) -> list[Files]:
    """The same logs as `open_past` answers, the newest first, for whoever has not opened the
    record: it may be a running daemon's. Whoever can write to the files is believed. Blocks. Raises
    LogError for one that is damaged or leads elsewhere, and OSError.
    """
    found: list[Files] = []
    paths = past_logs(directory)
    if not paths:
        return found
    following = _files(directory / "log", current)
    for path in reversed(paths):
        files = _files(path / "log", parse_public_key((path / PUBLIC).read_text()))
        last = files.entry(files.size - 1)
        check_succession(last, following.entry(0), files.final, following.key)
        found.append(files)
        following = files
    return found


def _files(directory: Path, key: PublicKey) -> Files:
    final = (directory / log_store.CHECKPOINT).read_bytes()
    size = open_checkpoint(final, key).checkpoint.size
    if not size:
        raise LogDamaged(f"{directory}: has no entries")
    return Files(directory, key, final, size)


def proven_entries(log: LogStore, first: int, end: int) -> list[bytes]:
    """Answers entries of a log, from one index up to another, and proves that they are those that
    its checkpoint has there. For a log that does not grow meanwhile. Blocks. Raises LogError and
    OSError.
    """
    last = log.checkpoint
    if not 0 <= first < end <= last.size:
        raise NotLogged(f"the log has {last.size} entries, none from {first} to {end}")
    entries = log.entries(first, end)
    tree = Frontier.at(first, subtrees_of(last.size, log.read))
    for entry in entries:
        tree.append(leaf_hash(entry))
    verify_consistency(end, last.size, log.consistency(end), tree.root(), last.root)
    return entries
