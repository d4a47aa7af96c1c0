from __future__ import annotations

from pathlib import Path

import pytest
from support.attested import LOG

from armitage.log.errors import InvalidProof, InvalidSignature
from armitage.log.growth import verify_growth
from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore
from cas.volume import DiskVolume


def log(path: Path, signer: Signer = LOG) -> LogStore:
    path.mkdir(exist_ok=True)
    return LogStore(DiskVolume(path, NAMES), signer)


def test_a_log_that_grew_begins_with_what_it_was(tmp_path: Path) -> None:
    store = log(tmp_path)
    store.append([b"%d" % number for number in range(300)])
    then = store.signed_checkpoint
    store.append([b"%d" % number for number in range(300)])

    assert verify_growth(then, store.signed_checkpoint, LOG.public, store.read).size == 600
    assert verify_growth(then, then, LOG.public, store.read).size == 300


def test_a_log_that_was_set_back_or_forked_is_noticed(tmp_path: Path) -> None:
    store, fork = log(tmp_path / "a"), log(tmp_path / "b")
    store.append([b"one"])
    shorter = store.signed_checkpoint
    store.append([b"two"])
    fork.append([b"one", b"other", b"three"])

    with pytest.raises(InvalidProof, match="it was set back"):
        verify_growth(store.signed_checkpoint, shorter, LOG.public, store.read)
    with pytest.raises(InvalidProof):
        verify_growth(store.signed_checkpoint, fork.signed_checkpoint, LOG.public, fork.read)


def test_another_logs_checkpoint_is_refused(tmp_path: Path) -> None:
    other = log(tmp_path, Signer(LOG.public.name, KeyType.ED25519, bytes(32)))

    with pytest.raises(InvalidSignature):
        verify_growth(other.signed_checkpoint, other.signed_checkpoint, LOG.public, other.read)
