"""Records: what the segments of a log are made of (see cas.log). Bytes to values and back, no I/O.

    segment  = header, records, then, once it is sealed, one record of kind TABLE and a trailer
    header   = "ARMPACK1", salt (8 random bytes), the salt again, zeros to 32 bytes
    record   = header of 24 bytes, key, body, zeros to a multiple of 16
       0  u32  CRC-32 of the rest of the header, the key and, unless a digest vouches for it, the
       body 4  u8   kind 5  u8   encoding of the body 6  u16  size of the key 8  u32  size of the
       body
      12  u32  store time in whole seconds, rounded up
      16  8    the segment's salt
    trailer  = "ARMTABLE", offset of the TABLE record (u64), the salt, CRC-32 of all that (u32),
    zeros

All numbers are little-endian; records start at multiples of 16. A BLOB as it is has no other
checksum than its digest, which is its key. The salt is known to nobody who sends blobs, so no body
contains what passes for a record of its segment, nor does a block that had another use before.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import NamedTuple

from cas.digest import Buffer
from cas.keys import names

ALIGNMENT = 16
SEGMENT_HEADER_BYTES = 32
TRAILER_BYTES = 32
SALT_BYTES = 8
MAX_BODY_BYTES = 1 << 30

_HEADER = struct.Struct("<IBBHII8s")
HEADER_BYTES = _HEADER.size
_REST = struct.Struct("<BBHII8s")
_TRAILER = struct.Struct("<8sQ8s")
_COUNT = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
_PLACE = struct.Struct("<QH")
_KEY_BYTES = struct.Struct("<H")
_MAGIC = b"ARMPACK1"
_TABLE_MAGIC = b"ARMTABLE"
_PADDING = [bytes(-size % ALIGNMENT) for size in range(ALIGNMENT)]


class Kind(IntEnum):
    """What a record says."""

    BLOB = 1
    """The key's blob is the body, encoded."""
    RESULT = 2
    """The body is the result of the key's action. Supersedes those before it."""
    GONE = 3
    """The records at the locations in the body are not current any more."""
    TOUCHED = 4
    """The blobs of the keys in the body were in use at that time."""
    TABLE = 5
    """What the records before it are (see Table)."""


class Encoding(IntEnum):
    """How a blob's bytes are kept."""

    IDENTITY = 0
    ZSTD = 1
    """One or more zstd frames that give exactly the blob: what a client sent, as it sent it."""


class Damaged(Exception):
    """Bytes that are not the record that they should be."""


class Record(NamedTuple):
    """One record, in memory."""

    kind: Kind
    key: bytes
    body: Buffer
    time: int = 0
    encoding: Encoding = Encoding.IDENTITY

    @property
    def size_bytes(self) -> int:
        """In a segment, with header and padding."""
        return record_bytes(len(self.key), len(self.body))


def record_bytes(key_bytes: int, body_bytes: int) -> int:
    """The size of a record in a segment, with header and padding."""
    return (HEADER_BYTES + key_bytes + body_bytes + ALIGNMENT - 1) & -ALIGNMENT


def encode(record: Record, salt: bytes) -> list[Buffer]:
    """Answers a record's bytes, piece by piece; their sum is its size_bytes."""
    kind, key, body, time, encoding = record
    size_bytes = len(body)
    rest = _REST.pack(kind, encoding, len(key), size_bytes, time, salt) + key
    crc = zlib.crc32(rest)
    if kind is not Kind.BLOB or encoding:
        crc = zlib.crc32(body, crc)
    pad = _PADDING[HEADER_BYTES + len(key) + size_bytes & ALIGNMENT - 1]
    return [_CRC.pack(crc) + rest, body, pad] if pad else [_CRC.pack(crc) + rest, body]


class Header(NamedTuple):
    """The first bytes of a record."""

    crc: int
    kind: int
    encoding: int
    key_bytes: int
    body_bytes: int
    time: int
    salt: bytes

    @property
    def size_bytes(self) -> int:
        """Of the whole record, with padding."""
        return record_bytes(self.key_bytes, self.body_bytes)


def decode_header(data: Buffer, offset: int = 0) -> Header:
    """Takes a record's header apart, whatever it holds."""
    return Header(*_HEADER.unpack_from(data, offset))


def decode(data: bytes) -> Record:
    """Takes a record apart and checks it all. Raises Damaged."""
    if len(data) < HEADER_BYTES:
        raise Damaged("the segment ends in mid-record")
    header = Header(*_HEADER.unpack_from(data))
    body_at = HEADER_BYTES + header.key_bytes
    end = body_at + header.body_bytes
    if end > len(data):
        raise Damaged("the segment ends in mid-record")
    try:
        kind, encoding = Kind(header.kind), Encoding(header.encoding)
    except ValueError:
        raise Damaged("no such record is known") from None
    key = data[HEADER_BYTES:body_at]
    body = memoryview(data)[body_at:end]
    crc = zlib.crc32(memoryview(data)[_CRC.size : body_at])
    is_plain_blob = kind is Kind.BLOB and not encoding
    if not is_plain_blob:
        crc = zlib.crc32(body, crc)
    if crc != header.crc:
        raise Damaged("its checksum is wrong")
    if is_plain_blob and not names(key, body):
        raise Damaged("it holds something else")
    return Record(kind, key, body, header.time, encoding)


def plain_blob_at(data: bytes, offset: int, key: bytes, size_bytes: int) -> bytes | None:
    """Answers the key's blob out of the record at an offset of what was read; None where there is
    no such record, or not a whole one, or it is encoded.
    """
    body_at = offset + HEADER_BYTES + len(key)
    if body_at + size_bytes > len(data):
        return None
    crc, kind, encoding, key_bytes, body_bytes, _, _ = _HEADER.unpack_from(data, offset)
    if (kind, encoding, key_bytes, body_bytes) != (Kind.BLOB, 0, len(key), size_bytes):
        return None
    head, body = data[offset + _CRC.size : body_at], data[body_at : body_at + size_bytes]
    whole = head.endswith(key) and zlib.crc32(head) == crc and names(key, body)
    return body if whole else None


def segment_header(salt: bytes) -> bytes:
    """What a segment starts with."""
    return (_MAGIC + salt + salt).ljust(SEGMENT_HEADER_BYTES, b"\0")


def salt_of(data: bytes) -> bytes | None:
    """Answers the salt in a segment's header, or None when it is none."""
    salt = data[len(_MAGIC) : len(_MAGIC) + SALT_BYTES]
    return salt if data[:SEGMENT_HEADER_BYTES] == segment_header(salt) else None


def trailer(table_offset: int, salt: bytes) -> bytes:
    """What a sealed segment ends with."""
    start = _TRAILER.pack(_TABLE_MAGIC, table_offset, salt)
    return (start + _CRC.pack(zlib.crc32(start))).ljust(TRAILER_BYTES, b"\0")


def parse_trailer(data: bytes) -> tuple[int, bytes] | None:
    """Answers where a segment with that trailer has its table, and its salt, or None when it is
    none.
    """
    if len(data) != TRAILER_BYTES:
        return None
    _, offset, salt = _TRAILER.unpack_from(data)
    return (int(offset), salt) if data == trailer(offset, salt) else None


class Table:
    """What a segment's records are, in their order: columns, since there are very many."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.kinds = array("B")
        self.encodings = array("B")
        self.offsets = array("I")
        """Of records, in units of ALIGNMENT."""
        self.body_bytes = array("I")
        self.times = array("I")

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, record: Record, offset: int) -> None:
        """Enters the next record."""
        self._add(record.key, offset, (record.kind, record.encoding, len(record.body), record.time))

    def extend(self, rows: Sequence[tuple[Record, int]]) -> None:
        """Enters the next records, each with its offset."""
        self.keys += [record.key for record, _ in rows]
        self.kinds.extend([record.kind for record, _ in rows])
        self.encodings.extend([record.encoding for record, _ in rows])
        self.offsets.extend([offset // ALIGNMENT for _, offset in rows])
        self.body_bytes.extend([len(record.body) for record, _ in rows])
        self.times.extend([record.time for record, _ in rows])

    def add_found(self, key: bytes, header: Header, offset: int) -> None:
        """Enters the next record as it was found in a segment."""
        self._add(key, offset, (header.kind, header.encoding, header.body_bytes, header.time))

    def _add(self, key: bytes, offset: int, fields: tuple[int, int, int, int]) -> None:
        self.keys.append(key)
        self.offsets.append(offset // ALIGNMENT)
        kind, encoding, body_bytes, time = fields
        self.kinds.append(kind)
        self.encodings.append(encoding)
        self.body_bytes.append(body_bytes)
        self.times.append(time)

    def part(self, start: int, end: int) -> Table:
        """Answers some of the rows."""
        part = Table()
        part.keys = self.keys[start:end]
        part.kinds, part.encodings = self.kinds[start:end], self.encodings[start:end]
        part.offsets, part.body_bytes = self.offsets[start:end], self.body_bytes[start:end]
        part.times = self.times[start:end]
        return part

    @property
    def size_bytes(self) -> int:
        """Of all records, in a segment."""
        past = HEADER_BYTES + ALIGNMENT - 1
        return sum(
            [
                (past + len(key) + body_bytes) & -ALIGNMENT
                for key, body_bytes in zip(self.keys, self.body_bytes, strict=True)
            ]
        )

    def rows(self) -> Iterator[tuple[bytes, int, int, int, int, int]]:
        """Answers key, kind, encoding, offset / ALIGNMENT, size of the body and time of each."""
        return zip(
            self.keys,
            self.kinds,
            self.encodings,
            self.offsets,
            self.body_bytes,
            self.times,
            strict=True,
        )

    def encode(self) -> bytes:
        """Answers the body of a TABLE record."""
        joined = b"".join(self.keys)
        sizes = array("H", map(len, self.keys))
        columns = (sizes, self.kinds, self.encodings, self.offsets, self.body_bytes, self.times)
        return b"".join(
            [_COUNT.pack(len(self.keys), len(joined)), joined, *map(_little_endian, columns)]
        )

    @classmethod
    def decode(cls, body: Buffer) -> Table:
        """Takes the body of a TABLE record apart. Raises Damaged."""
        view = memoryview(body)
        if len(view) < _COUNT.size:
            raise Damaged("the table is cut short")
        count, joined_bytes = _COUNT.unpack_from(view)
        at = _COUNT.size + joined_bytes
        if len(view) != at + count * 16:
            raise Damaged("the table is cut short")
        joined = bytes(view[_COUNT.size : at])
        columns = []
        for code in ("H", "B", "B", "I", "I", "I"):
            column = array(code)
            end = at + count * column.itemsize
            column.frombytes(view[at:end])
            if _IS_BIG_ENDIAN:
                column.byteswap()
            columns.append(column)
            at = end
        self = cls()
        sizes, self.kinds, self.encodings, self.offsets, self.body_bytes, self.times = columns
        ends = accumulate(sizes, initial=0)
        self.keys = [joined[start:end] for start, end in pairwise(ends)]
        return self


_IS_BIG_ENDIAN = array("H", [1]).tobytes() != b"\1\0"


def _little_endian(column: array[int]) -> bytes:
    if _IS_BIG_ENDIAN:
        column = column[:]
        column.byteswap()
    return column.tobytes()


def encode_gone(places: Iterable[tuple[int, bytes]]) -> bytes:
    """Answers the body of a GONE record: locations with their keys."""
    return b"".join([_PLACE.pack(location, len(key)) + key for location, key in places])


def decode_gone(body: Buffer) -> Iterator[tuple[int, bytes]]:
    """Takes the body of a GONE record apart."""
    data, at = bytes(body), 0
    while at < len(data):
        location, key_bytes = _PLACE.unpack_from(data, at)
        at += _PLACE.size + key_bytes
        yield location, data[at - key_bytes : at]


def encode_touched(keys: Iterable[bytes]) -> bytes:
    """Answers the body of a TOUCHED record."""
    return b"".join([_KEY_BYTES.pack(len(key)) + key for key in keys])


def decode_touched(body: Buffer) -> Iterator[bytes]:
    """Takes the body of a TOUCHED record apart."""
    data, at = bytes(body), 0
    while at < len(data):
        (key_bytes,) = _KEY_BYTES.unpack_from(data, at)
        at += _KEY_BYTES.size + key_bytes
        yield data[at - key_bytes : at]
