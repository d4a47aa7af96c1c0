"""The logs of a record that have ended, each followed by the next (armitage.log.succession)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from armitage.log import store as log_store
from armitage.log.errors import LogError
from armitage.log.note import Reader, parse_public_key
from armitage.log.store import LogStore
from armitage.log.succession import check_succession
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
                last = log.entry(log.checkpoint.size - 1)
                check_succession(last, following.entry(0), log.signed_checkpoint, following.key)
            except (LogError, OSError) as error:
                problem = f"{path}: {error}"
                opened.pop().close()
                break
            following = log
        yield Past(tuple(reversed(opened)), problem)
    finally:
        for log in opened:
            log.close()
