"""Header blocks (RFC 7541), read fast.

Theory of operation. We ask every peer for a dynamic table of size 0. Until it has acknowledged
that, a full HPACK decoder reads its blocks, slowly, so a peer must not take for ever. From then on
blocks have no state: the same bytes always mean the same fields. So whole blocks, and the encoded
bytes of each field, are looked up in memories shared by all connections, and only what was never
seen is decoded.

A peer is asked to begin the first such block with a table size update (RFC 9113 section 4.3.1).
Peers whose encoder never had a table to shrink leave it out, and we let them: no block that could
mean two things gets through, since references to a dynamic table are refused either way.
"""

from __future__ import annotations

from typing import Generic, NoReturn, Protocol, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from armitage.transport.http2.codes import ConnectionFault, ErrorCode
from armitage.transport.http2.huffman import InvalidHuffman
from armitage.transport.http2.huffman import decode as decode_huffman
from armitage.transport.http2.memo import Memo

Field = TypeVar("Field")
Head = TypeVar("Head")
Head_co = TypeVar("Head_co", covariant=True)

_LONG = 0x7F
"""Lengths from here on take more than a byte."""
_NEW_NAME, _SHORT_INDEX, _LONG_INDEX = range(3)
_FORMS = bytes(
    _NEW_NAME if not index else _LONG_INDEX if index == mask else _SHORT_INDEX
    for first in range(0x80)
    for mask in [0x3F if first >= 0x40 else 0x0F]
    for index in [first & mask]
)
"""How a literal field says its name, by its first byte (RFC 7541 section 6.2)."""
_FIELD_OVERHEAD = 32
"""RFC 9113 section 6.5.2."""
_BOMB_FACTOR = 4
"""How far over the limit a list is still decoded, to keep the dynamic table right."""

_PATIENCE_BYTES = 512 << 10
"""How much in blocks is decoded the slow way, until the peer must have heard of our settings."""

_BLOCKS = 512
_BLOCK_BYTES = 2048
_FIELDS = 4096
_FIELD_BYTES = 1024

_LAST_STATIC = 61
_STATIC = (
    (b"", b""),
    *(HeaderTable.STATIC_TABLE[index] for index in range(_LAST_STATIC)),
)


class HeadersTooLarge(Exception):
    """The list is over the limit; the connection can go on."""


class Rules(Protocol[Field, Head_co]):
    """What the fields of a request mean to the layer above."""

    def classify(self, name: bytes, value: bytes) -> Field:
        """One field. Its answer is remembered, so it must depend on nothing else."""
        ...

    def assemble(self, fields: list[Field]) -> Head_co:
        """All fields of a request. Remembered too. Raises StreamFault if it is malformed."""
        ...

    def check_trailers(self, fields: list[Field]) -> None:
        """Those after the body. Raises StreamFault if they are malformed."""
        ...


class HeaderMemory(Generic[Field, Head]):
    """What all connections of a server know of header blocks."""

    def __init__(self, rules: Rules[Field, Head], list_limit: int) -> None:
        self.rules = rules
        self.list_limit = list_limit
        self.heads: Memo[Head] = Memo(_BLOCKS, _BLOCK_BYTES)
        self.fields: Memo[tuple[Field, int]] = Memo(_FIELDS, _FIELD_BYTES)
        self.static = tuple(self.weighed(*field) for field in _STATIC)

    def weighed(self, name: bytes, value: bytes) -> tuple[Field, int]:
        """A field with what it counts for in the limit."""
        size = len(name) + len(value) + _FIELD_OVERHEAD
        return self.rules.classify(name, value), size


class HeaderReader(Generic[Field, Head]):
    """Reads the blocks of one connection, which must be given to it in their order."""

    def __init__(self, memory: HeaderMemory[Field, Head]) -> None:
        self._memory = memory
        self._heads = memory.heads
        self._decoder: Decoder | None = Decoder(memory.list_limit * _BOMB_FACTOR)
        self._patience_bytes = _PATIENCE_BYTES

    def forget_table(self) -> None:
        """The peer has acknowledged a table size of 0."""
        self._decoder = None

    def head(self, block: bytes) -> Head:
        """The request that a block describes.

        Raises HeadersTooLarge, StreamFault (malformed) or ConnectionFault (not HPACK).
        """
        if self._decoder is not None:
            return self._memory.rules.assemble(self._decode(block))
        head = self._heads.young.get(block) or self._heads.get(block)
        if head is None:
            fields, is_novel = self._scan(block)
            head = self._memory.rules.assemble(fields)
            if not is_novel:
                # A block with a field that nobody sent before will hardly come again, and if it
                # does, it is remembered then.
                self._heads.put(block, head)
        return head

    def trailers(self, block: bytes) -> None:
        """Checks the fields after a request body. Raises like `head`."""
        self._memory.rules.check_trailers(self._fields(block))

    def skip(self, block: bytes) -> None:
        """Reads a block that nobody wants, for the sake of the dynamic table."""
        if self._decoder is not None:
            self._decode(block)

    def _fields(self, block: bytes) -> list[Field]:
        return self._scan(block)[0] if self._decoder is None else self._decode(block)

    def _decode(self, block: bytes) -> list[Field]:
        """With the peer's dynamic table."""
        assert self._decoder is not None
        self._patience_bytes -= len(block)
        if self._patience_bytes < 0:
            raise ConnectionFault(
                ErrorCode.SETTINGS_TIMEOUT, "our SETTINGS were not acknowledged in time"
            )
        try:
            pairs = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "header list far over the limit", "header_bombs"
            ) from None
        except (HPACKError, ValueError, IndexError) as error:
            _refuse(str(error))
        fields = []
        size = 0
        for name, value in pairs:
            field, weight = self._memory.weighed(bytes(name), bytes(value))
            fields.append(field)
            size += weight
        if size > self._memory.list_limit:
            raise HeadersTooLarge
        return fields

    def _scan(self, block: bytes) -> tuple[list[Field], bool]:
        """Without any table but the static one. Tells also whether a field was not known yet."""
        memory = self._memory
        known = memory.fields
        young = known.young
        static = memory.static
        limit = memory.list_limit
        fields: list[Field] = []
        is_novel = False
        size = at = 0
        end = len(block)
        try:
            while at < end:
                first = block[at]
                start = at
                if first >= 0x80:
                    index = first & 0x7F
                    if index > _LAST_STATIC or index == 0:
                        _refuse(f"no header field has index {index}")
                    field, weight = static[index]
                    at += 1
                elif 0x20 <= first < 0x40:
                    at = self._resize(block, at, fields)
                    continue
                else:
                    form = _FORMS[first]
                    at += 1 if form else 2 + (block[at + 1] & _LONG)
                    length = block[at] & _LONG
                    if length == _LONG or form == _LONG_INDEX or at > start + 1 + _LONG:
                        at = _end_of_literal(block, start)
                    else:
                        at += 1 + length
                    raw = block[start:at]
                    found = young.get(raw) or known.get(raw)
                    if found is None:
                        found = memory.weighed(*_decode_literal(raw))
                        known.put(raw, found)
                        young = known.young
                        is_novel = True
                    field, weight = found
                fields.append(field)
                size += weight
                if size > limit:
                    raise HeadersTooLarge
        except IndexError:
            at = end + 1
        if at > end:
            _refuse("truncated header block")
        return fields, is_novel

    @staticmethod
    def _resize(block: bytes, at: int, fields: list[Field]) -> int:
        if fields:
            _refuse("table size update after a field")
        size, at = _read_int(block, at, 0x1F)
        if size:
            _refuse(f"table size update to {size} when 0 is the limit")
        return at


def _refuse(reason: str) -> NoReturn:
    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, reason)


def _read_int(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer (RFC 7541 section 5.1) and where it ends. Raises IndexError past the end."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in (0, 7, 14, 21):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    _refuse("integer too large")


def _end_of_string(block: bytes, at: int) -> int:
    """Where a string literal (RFC 7541 section 5.2) that begins there ends, perhaps past the end of
    the block.
    """
    length = block[at] & 0x7F
    if length < 0x7F:
        return at + 1 + length
    length, at = _read_int(block, at, 0x7F)
    return at + length


def _end_of_literal(block: bytes, at: int) -> int:
    first = block[at]
    mask = 0x3F if first >= 0x40 else 0x0F
    index = first & mask
    if index == mask:
        _, at = _read_int(block, at, mask)
    else:
        at += 1
    if index == 0:
        at = _end_of_string(block, at)
    return _end_of_string(block, at)


def _decode_literal(raw: bytes) -> tuple[bytes, bytes]:
    """The name and value of a literal field that takes up all of `raw`."""
    mask = 0x3F if raw[0] >= 0x40 else 0x0F
    index, at = _read_int(raw, 0, mask)
    if index > _LAST_STATIC:
        _refuse(f"no header name has index {index}")
    if index:
        name = _STATIC[index][0]
    else:
        name, at = _decode_string(raw, at)
    value, _ = _decode_string(raw, at)
    return name, value


def _decode_string(raw: bytes, at: int) -> tuple[bytes, int]:
    length, start = _read_int(raw, at, 0x7F)
    end = start + length
    if end > len(raw):
        raise IndexError
    text = raw[start:end]
    if raw[at] & 0x80:
        try:
            return decode_huffman(text), end
        except InvalidHuffman as error:
            _refuse(str(error))
    return text, end
