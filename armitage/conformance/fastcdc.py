"""FastCDC as the API pins it down (`FastCdc2020Params`): normalisation level 2, bounds derived from
the average. Plain and slow on purpose: it is the yardstick that a server's chunker is held to.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

_NORMALISATION = 2
_WORD = (1 << 64) - 1
# The text has "MD5(byte(i))"; the implementations that it names hash that byte 64 times over.
_GEAR = tuple(
    int.from_bytes(hashlib.md5(bytes([value]) * 64, usedforsecurity=False).digest()[:8], "big")
    for value in range(256)
)
# The bit patterns of the paper's reference implementation, by number of bits set; 5 is the first.
_MASKS = dict(
    enumerate(
        (
            0x0000000001804110,
            0x0000000001803110,
            0x0000000018035100,
            0x0000001800035300,
            0x0000019000353000,
            0x0000590003530000,
            0x0000D90003530000,
            0x0000D90103530000,
            0x0000D90303530000,
            0x0000D90313530000,
            0x0000D90F03530000,
            0x0000D90303537000,
            0x0000D90703537000,
            0x0000D90707537000,
            0x0000D91707537000,
            0x0000D91747537000,
            0x0000D91767537000,
            0x0000D93767537000,
            0x0000D93777537000,
            0x0000D93777577000,
            0x0000DB3777577000,
        ),
        start=5,
    )
)


def chunk_sizes(data: bytes, average: int, *, minimum: int = 0, maximum: int = 0) -> list[int]:
    """Answers the sizes that the data is cut into.

    `minimum` and `maximum` follow from the average unless given.
    """
    return list(_cut(data, minimum or average // 4, average, maximum or average * 4))


def _cut(data: bytes, minimum: int, average: int, maximum: int) -> Iterator[int]:
    bits = round(math.log2(average))
    strict, loose = _MASKS[bits + _NORMALISATION], _MASKS[bits - _NORMALISATION]
    at = 0
    while at < len(data):
        size = _next(data[at : at + maximum], minimum, average, strict, loose)
        yield size
        at += size


def _next(window: bytes, minimum: int, average: int, strict: int, loose: int) -> int:
    if len(window) <= minimum:
        return len(window)
    rolling = 0
    # The implementations take bytes in pairs, and so never look at an odd last one.
    for position in range(minimum // 2 * 2, len(window) // 2 * 2):
        rolling = ((rolling << 1) + _GEAR[window[position]]) & _WORD
        if not rolling & (strict if position < average // 2 * 2 else loose):
            return position
    return len(window)
