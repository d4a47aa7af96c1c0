"""armitage.log.merkle against the definitions of RFC 6962, written down as they stand."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest

from armitage.log.errors import InvalidProof
from armitage.log.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_hash,
    verify_consistency,
    verify_inclusion,
)

LARGEST = 70
ENTRIES = [f"entry {number}".encode() for number in range(LARGEST)]
A, B, C = (leaf_hash(name) for name in (b"a", b"b", b"c"))


def mth(entries: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\0" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return sha256(b"\1" + mth(entries[:split]) + mth(entries[split:])).digest()


def subtrees(level: int, index: int) -> bytes:
    return mth(ENTRIES[index << level : (index + 1) << level])


def of(*entries: bytes) -> Frontier:
    tree = Frontier(0, [])
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree


def test_hashes_are_those_of_the_standard() -> None:
    assert A.hex() == "022a6979e6dab7aa5ae4c3e5e45f7e977112a7e63593820dbec1ec738a24f93c"
    assert node_hash(A, B).hex() == (
        "b137985ff484fb600db93107c77b0365c80d78f5b429ded0fd97361d077999eb"
    )
    assert of(b"a", b"b", b"c").root().hex() == (
        "36642e73c2540ab121e3a6bf9545b0a24982cd830eb13d3cd19de3ce6c021ec1"
    )
    assert of().root() == EMPTY_ROOT


@pytest.mark.parametrize("size", range(LARGEST + 1))
def test_every_root_is_the_one_that_the_definition_gives(size: int) -> None:
    expected = mth(ENTRIES[:size])

    assert root_hash(size, subtrees) == expected
    assert of(*ENTRIES[:size]).root() == expected
    assert Frontier.at(size, subtrees) == of(*ENTRIES[:size])


def test_appending_tells_each_subtree_once_when_it_is_complete() -> None:
    tree, told = Frontier(0, []), {}
    for entry in ENTRIES:
        for level, index, hashed in tree.append(leaf_hash(entry)):
            assert (level, index) not in told
            told[level, index] = hashed

    assert told == {
        (level, index): subtrees(level, index)
        for level in range(7)
        for index in range(LARGEST >> level)
    }


def test_a_copy_grows_apart() -> None:
    tree = of(b"a")
    other = tree.copy()
    other.append(B)

    assert (tree.size, tree.root()) == (1, A)


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
def test_every_entry_is_proven_and_no_other(size: int) -> None:
    root = mth(ENTRIES[:size])
    for index in range(size):
        proof = inclusion_proof(index, size, subtrees)
        leaf = leaf_hash(ENTRIES[index])

        verify_inclusion(leaf, index, size, proof, root)

        with pytest.raises(InvalidProof):
            verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
        with pytest.raises(InvalidProof):
            verify_inclusion(leaf, index, size, [*proof, leaf], root)
        if proof:
            with pytest.raises(InvalidProof):
                verify_inclusion(leaf, index, size, proof[:-1], root)
        other = (index + 1) % size
        if other != index:
            with pytest.raises(InvalidProof):
                verify_inclusion(leaf, other, size, proof, root)


@pytest.mark.parametrize("new", range(1, LARGEST + 1))
def test_every_growth_is_proven_and_no_other(new: int) -> None:
    root = mth(ENTRIES[:new])
    for old in range(new + 1):
        proof = consistency_proof(old, new, subtrees)
        old_root = mth(ENTRIES[:old])

        verify_consistency(old, new, proof, old_root, root)

        with pytest.raises(InvalidProof):
            verify_consistency(old, new, [*proof, root], old_root, root)
        with pytest.raises(InvalidProof):
            verify_consistency(old, new, proof, mth([b"forged"]), root)
        if proof:
            with pytest.raises(InvalidProof):
                verify_consistency(old, new, proof[:-1], old_root, root)
            with pytest.raises(InvalidProof):
                verify_consistency(old, new, proof, old_root, mth([b"forged"]))


def test_no_changed_bit_of_a_proof_is_taken() -> None:
    chance = random.Random(6962)
    for _ in range(300):
        new = chance.randrange(2, LARGEST + 1)
        old = chance.randrange(1, new)
        proof = consistency_proof(old, new, subtrees)
        place, bit = chance.randrange(len(proof)), chance.randrange(256)
        changed = bytearray(proof[place])
        changed[bit // 8] ^= 1 << bit % 8
        proof[place] = bytes(changed)
        with pytest.raises(InvalidProof):
            verify_consistency(old, new, proof, mth(ENTRIES[:old]), mth(ENTRIES[:new]))


def test_proofs_are_those_of_the_standard() -> None:
    leaves = {(0, 0): A, (0, 1): B, (0, 2): C, (1, 0): node_hash(A, B)}

    def three(level: int, index: int) -> bytes:
        return leaves[level, index]

    assert inclusion_proof(0, 3, three) == [B, C]
    assert inclusion_proof(2, 3, three) == [node_hash(A, B)]
    assert consistency_proof(2, 3, three) == [C]
    assert consistency_proof(1, 3, three) == [B, C]


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_an_entry_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has none at"):
        inclusion_proof(index, size, subtrees)
    with pytest.raises(InvalidProof, match="has none at"):
        verify_inclusion(A, index, size, [], A)


def test_a_shrinking_tree_has_no_proof() -> None:
    with pytest.raises(ValueError, match="does not grow"):
        consistency_proof(3, 2, subtrees)
    with pytest.raises(InvalidProof, match="does not grow"):
        verify_consistency(3, 2, [], A, B)


def test_two_trees_of_one_size_are_told_apart() -> None:
    with pytest.raises(InvalidProof, match="two different trees"):
        verify_consistency(2, 2, [], A, B)
    with pytest.raises(InvalidProof, match="empty tree"):
        verify_consistency(0, 2, [], A, B)


def test_a_hash_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidProof, match="32 bytes"):
        verify_inclusion(A, 0, 2, [B[:-1]], node_hash(A, B[:-1]))
