"""Where each blob's bytes are, in about twelve bytes of memory a blob.

Theory of operation. An open-addressing hash table of 64-bit words, in shards so that none takes
long to grow. A word holds a location, 16 bits of the key's hash and nothing else: the key itself is
at the location, so whoever reads there checks it. Two keys of a shard may share those 16 bits, and
then `find` answers two locations for each; of a quarter of a million blobs to a shard's 64 Ki
values that is seldom. The rest of the hash chooses the shard. The hash is Python's own of bytes,
which is keyed by a secret of the process (and cached in the key), so nobody can choose blobs that
collide.

A location is a number from 1 to 2**48 - 1; its meaning is its owner's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

_SHARD_BITS = 12
_SHARD_MASK = (1 << _SHARD_BITS) - 1
_PRINT_BITS = 16
_PRINT_MASK = (1 << _PRINT_BITS) - 1
_EMPTY = 0
_FEWEST_WORDS = 4
LOCATION_BITS = 64 - _PRINT_BITS


class Locations:
    """A multimap from keys to locations. Not for concurrent use."""

    def __init__(self) -> None:
        self._shards = [array("Q", [_EMPTY]) * _FEWEST_WORDS for _ in range(1 << _SHARD_BITS)]
        self._used = [0] * (1 << _SHARD_BITS)

    def __len__(self) -> int:
        return sum(self._used)

    def find(self, key: bytes) -> list[int]:
        """Answers where the key may be: its location, seldom with those of a few others."""
        hashed = hash(key)
        words = self._shards[hashed & _SHARD_MASK]
        mask = len(words) - 1
        wanted = hashed >> _SHARD_BITS & _PRINT_MASK
        at = wanted & mask
        found = []
        while word := words[at]:
            if word & _PRINT_MASK == wanted:
                found.append(word >> _PRINT_BITS)
            at = at + 1 & mask
        return found

    def add(self, key: bytes, location: int) -> None:
        """Enters a location beside any that the key has."""
        hashed = hash(key)
        number = hashed & _SHARD_MASK
        words = self._shards[number]
        used = self._used[number] = self._used[number] + 1
        if 3 * used > 2 * len(words):
            words = self._shards[number] = _grown(words)
        _insert(words, location << _PRINT_BITS | hashed >> _SHARD_BITS & _PRINT_MASK)

    def add_many(self, keys: Sequence[bytes], locations: Iterable[int]) -> None:
        """Enters the location of each key: what `add` does, in less than half the time."""
        shards, counts = self._shards, self._used
        for key, location in zip(keys, locations, strict=True):
            hashed = hash(key)
            number = hashed & _SHARD_MASK
            words = shards[number]
            used = counts[number] = counts[number] + 1
            if 3 * used > 2 * len(words):
                words = shards[number] = _grown(words)
            wanted = hashed >> _SHARD_BITS & _PRINT_MASK
            mask = len(words) - 1
            at = wanted & mask
            while words[at]:
                at = at + 1 & mask
            words[at] = location << _PRINT_BITS | wanted

    def replace(self, key: bytes, old: int, new: int) -> None:
        """Exchanges a location that find has answered."""
        words, at = self._at(key, old)
        words[at] = new << _PRINT_BITS | words[at] & _PRINT_MASK

    def remove(self, key: bytes, location: int) -> None:
        """Strikes out a location that find has answered."""
        words, hole = self._at(key, location)
        mask = len(words) - 1
        self._used[hash(key) & _SHARD_MASK] -= 1
        # What was pushed past the hole moves into it, so that searches may go on to end at holes.
        at = hole + 1 & mask
        while word := words[at]:
            if (at - (word & mask)) & mask >= (at - hole) & mask:
                words[hole] = word
                hole = at
            at = at + 1 & mask
        words[hole] = _EMPTY

    def _at(self, key: bytes, location: int) -> tuple[array[int], int]:
        hashed = hash(key)
        words = self._shards[hashed & _SHARD_MASK]
        mask = len(words) - 1
        wanted = location << _PRINT_BITS | hashed >> _SHARD_BITS & _PRINT_MASK
        at = wanted & mask
        while words[at] != wanted:
            assert words[at], f"key {key!r} is not at {location}"
            at = at + 1 & mask
        return words, at


def _insert(words: array[int], word: int) -> None:
    mask = len(words) - 1
    at = word & _PRINT_MASK & mask
    while words[at]:
        at = at + 1 & mask
    words[at] = word


def _grown(words: array[int]) -> array[int]:
    """Inlines _insert: a start spends a good part of its time here."""
    grown = array("Q", [_EMPTY]) * (2 * len(words))
    mask = len(grown) - 1
    for word in words:
        if word:
            at = word & _PRINT_MASK & mask
            while grown[at]:
                at = at + 1 & mask
            grown[at] = word
    return grown
