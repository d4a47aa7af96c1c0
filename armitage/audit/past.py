"""The logs of a record that have ended, each followed by the next (armitage.log.succession)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from armitage.audit.source import ArchiveSource
from armitage.log import store as log_store
from armitage.log.note import Reader, parse_public_key
from armitage.log.store import LogStore
from armitage.log.succession import check_succession
from armitage.witness.archive import Archive
from armitage.witness.rotation import PUBLIC, past_logs
from cas.volume import DiskVolume


@contextmanager
def past_sources(archive: Archive) -> Iterator[list[ArchiveSource]]:
    """What verifies each, the newest first. Blocks. Raises LogError when one does not lead to the
    next, or is damaged, and OSError.
    """
    opened: list[LogStore] = []
    try:
        following = archive.log.store
        for path in reversed(past_logs(archive.directory)):
            public = parse_public_key((path / PUBLIC).read_text())
            log = LogStore(DiskVolume(path / "log", log_store.NAMES), Reader(public))
            opened.append(log)
            last = log.entry(log.checkpoint.size - 1)
            check_succession(last, following.entry(0), log.signed_checkpoint, following.key)
            following = log
        yield [ArchiveSource(archive, log) for log in opened]
    finally:
        for log in opened:
            log.close()
