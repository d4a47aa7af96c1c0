"""The power fails before each operation in turn: what was told stays true.

`ARMITAGE_CRASH_SEEDS` is how many ways of losing a part are tried for each operation (default 1).
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from support.fragile_volume import After, FragileVolume

from armitage.log.cosigning import Cosigner, cosign_request
from armitage.log.merkle import Frontier, leaf_hash
from armitage.log.note import KeyType, Signer
from armitage.log.store import LogStore
from armitage.log.verify import verified_entries

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))
WITNESS = Signer("witness.example/w1", KeyType.COSIGNATURE, bytes(range(32, 64)))
SEEDS = int(os.environ.get("ARMITAGE_CRASH_SEEDS", "1"))
WAYS = [(After.NOTHING, 0), (After.EVERYTHING, 0), *((After.A_PART, n) for n in range(SEEDS))]
BATCHES = [3, 252, 2, 1, 300]


def append_all(volume: FragileVolume) -> list[bytes]:
    """Appends until the end or an error, and answers what was acknowledged."""
    told: list[bytes] = []
    with suppress(OSError):
        store = LogStore(volume, LOG)
        for number, size in enumerate(BATCHES):
            batch = [b"entry %d of %d" % (at, number) for at in range(size)]
            store.append(batch)
            told += batch
    return told


def operations() -> int:
    volume = FragileVolume()
    append_all(volume)
    return volume.operations


def root_of(entries: list[bytes]) -> bytes:
    tree = Frontier(0, [])
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree.root()


def whole(store: LogStore) -> list[bytes]:
    return [entry for _, some in verified_entries(store.checkpoint, store.read) for entry in some]


@pytest.mark.slow
@pytest.mark.parametrize(("after", "seed"), WAYS)
def test_what_was_acknowledged_stays_and_no_fork_is_signed(after: After, seed: int) -> None:
    for fatal in range(operations()):
        volume = FragileVolume(fatal)
        told = append_all(volume)

        left = volume.after(after, seed + fatal)
        store = LogStore(left, LOG)

        found = whole(store)
        assert found[: len(told)] == told, fatal
        store.append([b"afterwards"] * 260)
        assert store.checkpoint.root == root_of(found + [b"afterwards"] * 260), fatal
        again = LogStore(left.after(After.NOTHING), LOG)
        assert whole(again) == found + [b"afterwards"] * 260, fatal


@pytest.mark.slow
@pytest.mark.parametrize(("after", "seed"), WAYS)
def test_no_more_is_left_than_the_tree_needs(after: After, seed: int) -> None:
    clean = FragileVolume()
    append_all(clean)
    for fatal in range(operations()):
        volume = FragileVolume(fatal)
        append_all(volume)
        left = volume.after(after, seed + fatal)

        store = LogStore(left, LOG)
        store.append([b"afterwards"] * (558 - store.checkpoint.size))

        assert left.names.keys() == clean.names.keys(), fatal


@pytest.mark.parametrize(("after", "seed"), WAYS)
def test_a_witness_never_forgets_what_it_signed(after: After, seed: int) -> None:
    log = LogStore(FragileVolume(), LOG)
    log.append([b"a"])
    first = cosign_request(0, [], log.signed_checkpoint)
    log.append([b"b"])
    second = cosign_request(1, log.consistency(1), log.signed_checkpoint)
    known = {LOG.public.name: LOG.public}

    def cosign_all(volume: FragileVolume) -> int:
        size = 0
        with suppress(OSError):
            cosigner = Cosigner(volume, WITNESS, known, lambda: 0.0)
            for request in (first, second):
                assert cosigner.add_checkpoint(request).status == 200
                size += 1
        return size

    whole_volume = FragileVolume()
    assert cosign_all(whole_volume) == 2
    for fatal in range(whole_volume.operations):
        volume = FragileVolume(fatal)
        size = cosign_all(volume)

        cosigner = Cosigner(volume.after(after, seed + fatal), WITNESS, known, lambda: 0.0)

        told = cosigner.add_checkpoint(cosign_request(2, [], log.signed_checkpoint))
        remembered = 2 if told.status == 200 else int(told.body)
        assert remembered in {size, size + 1}, fatal
