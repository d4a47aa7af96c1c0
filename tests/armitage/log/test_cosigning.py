"""armitage.log.cosigning, both sides of C2SP tlog-witness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from armitage.log.checkpoint import Checkpoint
from armitage.log.cosigning import NAMES, Cosigner, cosign_request, with_cosignatures
from armitage.log.errors import InvalidSignature
from armitage.log.note import KeyType, Signer, sign_note
from armitage.log.store import NAMES as LOG_NAMES
from armitage.log.store import LogStore
from cas.volume import DiskVolume

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))
WITNESS = Signer("witness.example/w1", KeyType.COSIGNATURE, bytes(range(32, 64)))
NOW = 1_700_000_000.9


def new_cosigner(directory: Path) -> tuple[DiskVolume, Cosigner]:
    volume = DiskVolume(directory, NAMES)
    known = {LOG.public.name: LOG.public}
    return volume, Cosigner(volume, WITNESS, known, lambda: NOW)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(DiskVolume(tmp_path / "log", LOG_NAMES), LOG)
    store.append([b"a", b"b", b"c"])
    yield store
    store.close()


@pytest.fixture
def cosigner(tmp_path: Path) -> Iterator[Cosigner]:
    volume, made = new_cosigner(tmp_path / "witness")
    yield made
    volume.close()


def ask(log: LogStore, old: int) -> bytes:
    return cosign_request(old, log.consistency(old), log.signed_checkpoint)


def test_a_growing_log_is_cosigned_each_time(log: LogStore, cosigner: Cosigner) -> None:
    for old in (0, 3, 5, 5):
        answer = cosigner.add_checkpoint(ask(log, old))
        assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
        signed = with_cosignatures(
            log.signed_checkpoint, answer.body.encode(), LOG.public, WITNESS.public
        )
        assert signed.cosigned == {WITNESS.public.name: 1_700_000_000}
        if old < 5:
            log.append([b"more", b"more"] if log.checkpoint.size == 3 else [])


def test_what_was_signed_is_remembered_after_a_restart(log: LogStore, tmp_path: Path) -> None:
    for expected in (200, 409):
        volume, cosigner = new_cosigner(tmp_path / "witness")
        assert cosigner.add_checkpoint(ask(log, 0)).status == expected
        volume.close()


def test_whoever_does_not_know_the_size_is_told_it(log: LogStore, cosigner: Cosigner) -> None:
    cosigner.add_checkpoint(ask(log, 0))
    log.append([b"d"])

    answer = cosigner.add_checkpoint(ask(log, 0))

    assert (answer.status, answer.body, answer.content_type) == (409, "3\n", "text/x.tlog.size")


def forked(log: LogStore, size: int) -> bytes:
    text = Checkpoint(LOG.public.name, size, bytes(32)).text()
    return sign_note(text, [LOG.sign(text)]).encode()


def test_a_fork_is_not_cosigned(log: LogStore, cosigner: Cosigner) -> None:
    cosigner.add_checkpoint(ask(log, 0))

    same_size = cosigner.add_checkpoint(cosign_request(3, [], forked(log, 3)))
    grown = cosigner.add_checkpoint(cosign_request(3, [bytes(32)] * 2, forked(log, 4)))

    assert (same_size.status, same_size.body) == (409, "3\n")
    assert grown.status == 422
    assert cosigner.add_checkpoint(ask(log, 3)).status == 200


def test_a_log_does_not_shrink(log: LogStore, cosigner: Cosigner) -> None:
    cosigner.add_checkpoint(ask(log, 0))

    assert cosigner.add_checkpoint(cosign_request(3, [], forked(log, 2))).status == 400
    assert cosigner.add_checkpoint(cosign_request(2, [], forked(log, 2))).status == 409


def test_nothing_is_proven_from_nothing(log: LogStore, cosigner: Cosigner) -> None:
    body = cosign_request(0, [bytes(32)], log.signed_checkpoint)

    assert cosigner.add_checkpoint(body).status == 422


def test_a_stranger_is_not_cosigned(log: LogStore, cosigner: Cosigner) -> None:
    stranger = Signer("log.example/other", KeyType.ED25519, bytes(32))
    forger = Signer(LOG.public.name, KeyType.ED25519, bytes(32))
    for signer, status in ((stranger, 404), (forger, 403)):
        text = Checkpoint(signer.public.name, 1, bytes(32)).text()
        signed = sign_note(text, [signer.sign(text)]).encode()
        assert cosigner.add_checkpoint(cosign_request(0, [], signed)).status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 0\n\n",
        b"old 00\n\nx",
        b"old -1\n\nx",
        b"old 0\n!\n\nx",
        b"old 0\n" + b"AAAA\n" * 64 + b"\nx",
        b"\xff\n\nx",
        b"x" * 1_000_001,
    ],
)
def test_what_is_no_request_is_refused(cosigner: Cosigner, body: bytes) -> None:
    assert cosigner.add_checkpoint(body).status == 400


def test_a_logs_key_cosigns_nothing(tmp_path: Path) -> None:
    volume = DiskVolume(tmp_path / "witness", NAMES)
    with pytest.raises(ValueError, match="never with a log's"):
        Cosigner(volume, LOG, {}, lambda: NOW)
    volume.close()


def test_a_damaged_memory_signs_nothing(log: LogStore, tmp_path: Path) -> None:
    volume, cosigner = new_cosigner(tmp_path / "witness")
    cosigner.add_checkpoint(ask(log, 0))
    volume.close()
    (seen,) = (tmp_path / "witness" / "seen").iterdir()
    seen.write_bytes(seen.read_bytes().replace(b"\n3\n", b"\n2\n"))

    with pytest.raises(InvalidSignature):
        new_cosigner(tmp_path / "witness")


def test_only_the_witness_that_was_asked_counts(log: LogStore, cosigner: Cosigner) -> None:
    other = Signer("witness.example/w2", KeyType.COSIGNATURE, bytes(32))
    answer = cosigner.add_checkpoint(ask(log, 0)).body.encode()

    with pytest.raises(InvalidSignature):
        with_cosignatures(log.signed_checkpoint, answer, LOG.public, other.public)
