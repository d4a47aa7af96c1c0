"""Ends a record's log and begins the next, with another key (armitage.log.succession).

    rotation/       what is being made: the next log.key and log, and `ready` once they are whole
    past/0001/      a log that has ended: log, log.pub (its public key), cosigned

In this order, each durable before the next begins: the next key; the entry that ends the log; the
next log with its first entry; `ready`; the logs change places; the next key takes the place of the
one before, which is gone with that. Interrupted before `ready`, it is begun again by the same
command, which takes up the key that was made; after that, opening the record finishes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from armitage.errors import ConfigError
from armitage.log import store as log_store
from armitage.log.keys import SEED_BYTES, read_key, write_key
from armitage.log.note import KeyType, PublicKey, Signer
from armitage.log.store import LogStore
from armitage.log.succession import beginning, ending
from armitage.log.witnessed import COSIGNED
from armitage.private_file import read_private, replace_file, sync_folder, write_private
from cas.errors import StoreUnavailable
from cas.volume import DiskVolume

STAGED, PAST, PUBLIC = "rotation", "past", "log.pub"
TAGS = "tags.key"
"""What the hashes of redacted values are keyed with, once that does not follow from log.key."""
_TAGS_TEXT = "armitage: what the hashes of redacted values are keyed with\n"
_READY, _KEY, _LOG = "ready", "log.key", "log"


@dataclass(frozen=True, slots=True)
class Rotated:
    """The log that ended, and the one that follows."""

    before: PublicKey
    size: int
    following: PublicKey
    past: Path


def rotate_log(directory: Path, origin: str) -> Rotated:
    """For whoever alone uses the record, with its log closed. `origin` names the next log.

    Raises ConfigError, LogError, OSError, cas.errors.StoreUnavailable when somebody uses it.
    """
    with _alone(directory):
        return _rotate(directory, origin)


def _rotate(directory: Path, origin: str) -> Rotated:
    signer = read_key(directory / _KEY)
    if origin == signer.public.name:
        raise ConfigError(f"{origin}: is the log that ends; give the next one another name")
    staged = directory / STAGED
    staged.mkdir(mode=0o700, exist_ok=True)
    following = _following(staged, origin)
    if not (directory / TAGS).exists():
        write_private(directory / TAGS, tags_of(directory, signer))
    final, size = _end(directory / _LOG, signer, following.public)
    _begin(staged / _LOG, following, beginning(final, signer.public))
    past = _next_past(directory)
    replace_file(staged / _READY, past.name.encode())
    _finish(directory)
    return Rotated(signer.public, size, following.public, past)


def tags_of(directory: Path, signer: Signer) -> bytes:
    """What the hashes of redacted values are keyed with: a signature of the record's first key that
    nobody else ever sees, and so a secret of its owner. Raises ConfigError.
    """
    path = directory / TAGS
    return read_private(path) if path.exists() else signer.sign(_TAGS_TEXT).data


def _following(staged: Path, origin: str) -> Signer:
    path = staged / _KEY
    if not path.exists():
        return write_key(path, origin, KeyType.ED25519, secrets.token_bytes(SEED_BYTES))
    found = read_key(path)
    if found.public.name != origin:
        raise ConfigError(
            f"{path}: a rotation to {found.public.name} was interrupted; name that again"
        )
    return found


def _end(path: Path, signer: Signer, following: PublicKey) -> tuple[bytes, int]:
    """Answers the final checkpoint and its size."""
    log, last = LogStore(DiskVolume(path, log_store.NAMES), signer), ending(following)
    try:
        size = log.checkpoint.size
        if not size or log.entry(size - 1) != last:
            log.append([last])
        return log.signed_checkpoint, log.checkpoint.size
    finally:
        log.close()


def _begin(path: Path, signer: Signer, first: bytes) -> None:
    log = LogStore(DiskVolume(path, log_store.NAMES), signer)
    try:
        if not log.checkpoint.size:
            log.append([first])
    finally:
        log.close()


def _next_past(directory: Path) -> Path:
    around = directory / PAST
    around.mkdir(mode=0o700, exist_ok=True)
    numbers = [int(path.name) for path in around.iterdir() if path.name.isdecimal()]
    return around / f"{max(numbers, default=0) + 1:04}"


def finish_rotation(directory: Path) -> None:
    """Finishes a rotation that was interrupted, if one was. Raises StoreUnavailable when it must be
    begun again, and OSError.
    """
    if (directory / STAGED).exists():
        with _alone(directory):
            _finish(directory)


def _finish(directory: Path) -> None:
    staged = directory / STAGED
    if not staged.exists():
        return  # Somebody else has finished it meanwhile.
    try:
        past = directory / PAST / (staged / _READY).read_text()
    except FileNotFoundError:
        raise StoreUnavailable(
            f"{staged}: the log's rotation was interrupted; run armitage key rotate-log again"
        ) from None
    past.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (staged / _LOG).exists():
        if not (past / _LOG).exists():
            (directory / _LOG).rename(past / _LOG)
        (staged / _LOG).rename(directory / _LOG)
    if (staged / _KEY).exists():
        before = read_key(directory / _KEY).public
        replace_file(past / PUBLIC, f"{before}\n".encode())
        with suppress(FileNotFoundError):
            (directory / COSIGNED).rename(past / COSIGNED)
        for folder in (past, past.parent, directory, staged):
            sync_folder(folder)
        (staged / _KEY).rename(directory / _KEY)
        sync_folder(directory)
    shutil.rmtree(staged)
    sync_folder(directory)


def past_logs(directory: Path) -> list[Path]:
    """The logs that have ended, the oldest first."""
    around = directory / PAST
    return sorted(around.iterdir()) if around.exists() else []


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps others from rotating, or finishing a rotation, meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
