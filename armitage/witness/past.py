"""The logs of a record that have ended, each followed by the next (armitage.log.succession)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from armitage.log import store as log_store
from armitage.log.errors import LogError, NotLogged
from armitage.log.merkle import Frontier, leaf_hash, verify_consistency
from armitage.log.note import Reader, parse_public_key
from armitage.log.store import LogStore
from armitage.log.succession import check_succession
from armitage.log.tiles import subtrees_of
from armitage.witness.rotation import PUBLIC, past_logs
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
            except (LogError, OSError) as error:
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
