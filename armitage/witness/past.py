"""The logs of a record that have ended, each followed by the next (armitage.log.succession)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

from armitage.log import store as log_store
from armitage.log.checkpoint import Checkpoint, open_checkpoint
from armitage.log.errors import LogDamaged, LogError, NotLogged
from armitage.log.growth import verify_growth
from armitage.log.merkle import Frontier, consistency_proof, leaf_hash, verify_consistency
from armitage.log.note import PublicKey, Reader, parse_public_key
from armitage.log.store import LogStore
from armitage.log.succession import check_succession
from armitage.log.tiles import Tile, read_entries, subtrees_of
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


class Readable(Protocol):
    """A log as the walk to those before it, and a proof of its entries, take it."""

    @property
    def key(self) -> PublicKey:
        """Whose signature its checkpoints bear."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Its last one."""

    @property
    def signed_checkpoint(self) -> bytes:
        """The same as a signed note."""

    def read(self, tile: Tile) -> bytes:
        """A tile of its tree. Blocks. Raises LogError and OSError."""


L = TypeVar("L", bound=Readable)


@contextmanager
def open_past(directory: Path, current: LogStore) -> Iterator[Past]:
    """Opens those of the record in a directory. Blocks. Does not raise."""
    with ExitStack() as opened:

        def open_log(path: Path, key: PublicKey) -> LogStore:
            log = LogStore(DiskVolume(path, log_store.NAMES), Reader(key))
            opened.callback(log.close)
            return log

        logs: list[LogStore] = []
        problem = ""
        try:
            for log in _before(directory, current, open_log):
                logs.append(log)  # noqa: PERF402 (those that were answered stay)
        except LogError as error:
            problem = str(error)
        yield Past(tuple(reversed(logs)), problem)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a log, which a daemon may have open."""

    directory: Path
    key: PublicKey
    signed_checkpoint: bytes
    checkpoint: Checkpoint

    @classmethod
    def of(cls, directory: Path, key: PublicKey) -> Self:
        """Those in a directory. Raises LogError and OSError."""
        signed = (directory / log_store.CHECKPOINT).read_bytes()
        return cls(directory, key, signed, open_checkpoint(signed, key).checkpoint)

    def check(self, then: bytes) -> None:
        """Checks that a signed checkpoint is of this log at its end or before. Raises LogError."""
        verify_growth(then, self.signed_checkpoint, self.key, self.read)

    def read(self, tile: Tile) -> bytes:
        """See Readable."""
        try:
            return log_store.read_tile(self.directory, self.checkpoint.size, tile)
        except OSError as error:
            raise LogDamaged(f"{self.directory}: {error}") from error


def read_past(directory: Path, current: PublicKey) -> list[Files]:
    """The same logs as `open_past` answers, the newest first, for whoever has not opened the
    record: it may be a running daemon's. Blocks. Raises LogError for one that is damaged or leads
    elsewhere, and OSError.
    """
    if not past_logs(directory):
        return []
    return list(_before(directory, Files.of(directory / "log", current), Files.of))


def _before(
    directory: Path, current: Readable, opened: Callable[[Path, PublicKey], L]
) -> Iterator[L]:
    """The logs of a record that ended, the newest first, each proven to lead to the one after.
    Raises LogError, having answered those after one that is damaged or leads elsewhere.
    """
    following = current
    for path in reversed(past_logs(directory)):
        try:
            log = opened(path / "log", parse_public_key((path / PUBLIC).read_text()))
            size = log.checkpoint.size
            [last] = proven_entries(log, size - 1, size)
            [first] = proven_entries(following, 0, 1)
            check_succession(last, first, log.signed_checkpoint, following.key)
        except (LogError, OSError, StoreUnavailable) as error:
            raise LogDamaged(f"{path}: {error}") from error
        yield log
        following = log


def proven_entries(log: Readable, first: int, end: int) -> list[bytes]:
    """Answers entries of a log, from one index up to another, and proves that they are those that
    its checkpoint has there. For a log that does not grow meanwhile. Blocks. Raises LogError and
    OSError.
    """
    last = log.checkpoint
    if not 0 <= first < end <= last.size:
        raise NotLogged(f"the log has {last.size} entries, none from {first} to {end}")
    entries, subtrees = read_entries(log.read, first, end), subtrees_of(last.size, log.read)
    tree = Frontier.at(first, subtrees)
    for entry in entries:
        tree.append(leaf_hash(entry))
    proof = consistency_proof(end, last.size, subtrees)
    verify_consistency(end, last.size, proof, tree.root(), last.root)
    return entries
