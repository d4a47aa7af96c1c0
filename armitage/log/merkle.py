"""The Merkle tree of RFC 6962 section 2.1 (RFC 9162 section 2.1): hashes, proofs, and how to check
these.

The tree is addressed by its complete subtrees: `(level, index)` is the hash over the entries
[index * 2**level, (index + 1) * 2**level). That is what tiles hold, so every root and every proof
is a combination of few of them, and the hash of a complete subtree never changes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from armitage.log.errors import InvalidProof

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Subtrees = Callable[[int, int], bytes]
"""Answers the hash of the complete subtree `(level, index)`."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbouring subtrees."""
    return sha256(b"\x01" + left + right).digest()


def parents(row: bytes) -> bytes:
    """The hashes over each two neighbours of a row of hashes, which is even."""
    pairs = range(0, len(row), 2 * HASH_BYTES)
    return b"".join([sha256(b"\x01" + row[at : at + 2 * HASH_BYTES]).digest() for at in pairs])


def complete_subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that make up [start, end), from the left, as the tree over them splits.

    `start` must be a multiple of the largest power of two that is at most `end - start`.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over neighbouring complete subtrees of shrinking size, given from the left."""
    *rest, folded = hashes
    for left in reversed(rest):
        folded = node_hash(left, folded)
    return folded


def _range_hash(start: int, end: int, subtrees: Subtrees) -> bytes:
    return fold([subtrees(level, index) for level, index in complete_subtrees(start, end)])


def root_hash(size: int, subtrees: Subtrees) -> bytes:
    """MTH of the first `size` entries."""
    return _range_hash(0, size, subtrees) if size else EMPTY_ROOT


def _split(size: int) -> int:
    """The largest power of two strictly below `size` (which is at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """PATH(index, D[size]), from the leaf up. Raises ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} entries has none at {index}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return [_range_hash(*sibling, subtrees) for sibling in reversed(path)]


def consistency_proof(old: int, new: int, subtrees: Subtrees) -> list[bytes]:
    """PROOF(old, D[new]), from the leaves up; empty for equal sizes and from the empty tree.

    Raises ValueError unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} entries does not grow from one of {old}")
    if old in {0, new}:
        return []
    start, end, path = 0, new, []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:  # Otherwise the verifier knows this subtree: it is the whole old tree.
        path.append((start, end))
    return [_range_hash(*sibling, subtrees) for sibling in reversed(path)]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks that `leaf` is entry `index` of the tree (RFC 9162 section 2.1.3.2).

    Raises InvalidProof.
    """
    if not 0 <= index < size:
        raise InvalidProof(f"a tree of {size} entries has none at {index}")
    _check_hashes([leaf, *proof, root])
    number, last, hashed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise InvalidProof("the inclusion proof is too long")
        if number & 1 or number == last:
            hashed = node_hash(sibling, hashed)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise InvalidProof("the inclusion proof is too short")
    if hashed != root:
        raise InvalidProof(f"the inclusion proof of entry {index} leads to another root")


def verify_consistency(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Checks that the tree of `new` entries begins with that of `old` (RFC 9162 section 2.1.4.2).

    Raises InvalidProof.
    """
    if not 0 <= old <= new:
        raise InvalidProof(f"a tree of {new} entries does not grow from one of {old}")
    _check_hashes([*proof, old_root, new_root])
    if old in {0, new}:
        _check_trivial(old, new, proof, old_root, new_root)
        return
    hashes = iter(proof if old & (old - 1) else [old_root, *proof])
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    from_old = from_new = next(hashes, None)
    if from_old is None or from_new is None:
        raise InvalidProof("the consistency proof is empty")
    for sibling in hashes:
        if last == 0:
            raise InvalidProof("the consistency proof is too long")
        if number & 1 or number == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise InvalidProof("the consistency proof is too short")
    if (from_old, from_new) != (old_root, new_root):
        raise InvalidProof(f"the tree of {new} entries does not begin with that of {old}")


def _check_trivial(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    if proof:
        raise InvalidProof(f"nothing is to be proven from {old} to {new} entries")
    if old == new and old_root != new_root:
        raise InvalidProof(f"two different trees of {new} entries")
    if (old == 0 and old_root != EMPTY_ROOT) or (new == 0 and new_root != EMPTY_ROOT):
        raise InvalidProof("this is not the root of the empty tree")


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(hashed) != HASH_BYTES for hashed in hashes):
        raise InvalidProof(f"every hash of a proof has {HASH_BYTES} bytes")


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: enough to append and to tell the root, in O(log size)."""

    size: int
    edge: list[bytes]
    """The complete subtrees that make up the tree, from the left."""

    @classmethod
    def at(cls, size: int, subtrees: Subtrees) -> Frontier:
        """The edge of a tree whose subtrees are known."""
        return cls(size, [subtrees(*each) for each in complete_subtrees(0, size)])

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Adds a leaf's hash and answers the subtrees that are complete now: (level, index, hash),
        the leaf first.
        """
        done = [(0, self.size, leaf)]
        hashed, index, level = leaf, self.size, 0
        while index & 1:
            hashed = node_hash(self.edge.pop(), hashed)
            index, level = index >> 1, level + 1
            done.append((level, index, hashed))
        self.edge.append(hashed)
        self.size += 1
        return done

    def root(self) -> bytes:
        """MTH of everything appended."""
        return fold(self.edge) if self.edge else EMPTY_ROOT

    def copy(self) -> Frontier:
        """One that grows apart."""
        return Frontier(self.size, list(self.edge))
