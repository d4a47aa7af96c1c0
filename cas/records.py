"""Records: what the segments of a log are made of (see cas.log). Bytes to values and back, no I/O.

    segment  = header, records, each at a multiple of 16 bytes
    header   = "ARMPACK1", salt (8 random bytes), zeros to 32 bytes
    record   = header of 32 bytes, key, body, zeros to a multiple of 16
       0  u32  CRC-32 of the salt, the rest of the header, key and body
       4  u8   kind
       5  u8   encoding of the body
       6  u16  size of the key
       8  u32  size of the body
      12  u32  time: store time in whole seconds
      16  u64  sequence number: one more than the record before, over all segments
      24  u64  the segment's salt

All numbers are little-endian. The salt is known to nobody who sends blobs, so no body can contain
what passes for a record of its segment; nor can what a file system left in a block that a segment
got.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from cas.digest import Buffer


class Kind(IntEnum):
    """What a record says."""

    BLOB = 1
    """The key's blob is the body, encoded. Supersedes earlier records of the key."""
    FORGOTTEN = 2
    """The blobs of the keys in the body are not stored any more."""
    RESULT = 3
    """The body is the action result of the key. Supersedes earlier records of the key."""
    RESULT_FORGOTTEN = 4
    """The results of the keys in the body are not remembered any more."""


class Encoding(IntEnum):
    """How a blob's bytes are kept."""

    IDENTITY = 0
    ZSTD = 1
    """One or more zstd frames that give exactly the blob: what a client sent, as it sent it."""


class Record(NamedTuple):
    """One record, in memory."""

    kind: Kind
    key: bytes
    body: Buffer
    encoding: Encoding = Encoding.IDENTITY
    time: int = 0
