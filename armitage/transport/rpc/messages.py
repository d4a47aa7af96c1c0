"""Messages on the wire (gRPC over HTTP/2, "Length-Prefixed-Message"): a byte that says whether it
is compressed, four bytes of length, the message.
"""

from __future__ import annotations

import zlib
from struct import Struct

from armitage.transport.port import Code
from armitage.transport.rpc.failure import RpcFailure

PREFIX = Struct(">BI")
PREFIX_BYTES = 5
_WBITS_GZIP = 31
_SMALL = 4096
_LITTLE = 4
"""Of a chunk: less than a quarter."""


class Compressed:
    """A message that came compressed with gzip."""

    __slots__ = ("_limit_bytes", "data")

    def __init__(self, data: bytes, limit_bytes: int) -> None:
        self.data = data
        self._limit_bytes = limit_bytes

    def __len__(self) -> int:
        return len(self.data)

    def expand(self) -> bytes:
        """The message. Takes time in proportion to it and touches nothing shared: call it in a
        thread. Raises RpcFailure when it is larger than the limit or no gzip.
        """
        inflater = zlib.decompressobj(_WBITS_GZIP)
        try:
            message = inflater.decompress(self.data, self._limit_bytes + 1)
        except zlib.error:
            raise RpcFailure(Code.INTERNAL, "the message is no valid gzip") from None
        if len(message) > self._limit_bytes:
            raise too_large(self._limit_bytes)
        if not inflater.eof or inflater.unused_data:
            raise RpcFailure(Code.INTERNAL, "the message is no valid gzip")
        return message


Message = bytes | Compressed


def too_large(limit_bytes: int) -> RpcFailure:
    """What a message over the limit fails with."""
    return RpcFailure(
        Code.RESOURCE_EXHAUSTED, f"the message is larger than the limit of {limit_bytes} bytes"
    )


class MessageReader:
    """Puts messages together from pieces split anywhere."""

    __slots__ = (
        "_compressed",
        "_fresh",
        "_gzip",
        "_limit_bytes",
        "_pieces",
        "_prefix",
        "_viewed_bytes",
        "left",
        "size",
    )

    def __init__(self, limit_bytes: int, *, gzip: bool) -> None:
        self._limit_bytes = limit_bytes
        self._gzip = gzip
        self._prefix = b""
        self._compressed = False
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._fresh = 0
        self._viewed_bytes = 0
        self.left = 0
        """How many bytes an incomplete message lacks; 0 while that is not known."""
        self.size = 0
        """How many bytes of an incomplete message it holds."""

    @property
    def is_between(self) -> bool:
        """Whether a message is due to begin, with none half read."""
        return not self._prefix

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """Takes a piece and answers the messages that it completes. Refers to large views until
        their message is complete, or `let_go`.

        Raises RpcFailure for a prefix that is refused; then it is of no more use.
        """
        messages: list[Message] = []
        at = 0
        end = len(data)
        while at < end:
            if len(self._prefix) < PREFIX_BYTES:
                take = PREFIX_BYTES - len(self._prefix)
                self._prefix += data[at : at + take]
                at += take
                if len(self._prefix) < PREFIX_BYTES:
                    break
                self._begin()
            if self.left:
                piece = data[at : at + self.left]
                at += len(piece)
                self.add(piece)
            if self.left == 0:
                messages.append(self._complete())
        return messages

    def _begin(self) -> None:
        flag, self.left = PREFIX.unpack(self._prefix)
        if flag > 1:
            raise RpcFailure(Code.INTERNAL, f"a message with the flags {flag:#x}")
        if flag and not self._gzip:
            raise RpcFailure(Code.INTERNAL, "a compressed message without grpc-encoding")
        if self.left > self._limit_bytes:
            raise too_large(self._limit_bytes)
        self._compressed = flag == 1

    def add(self, piece: bytes | memoryview) -> None:
        """Takes a piece of at most `left` bytes; of less, unless `feed` calls.

        Small pieces are put together at once: each by itself would take several times the memory
        that its sender paid for.
        """
        size = len(piece)
        self.left -= size
        self.size += size
        pieces = self._pieces
        if size >= _SMALL:
            pieces.append(piece)
            self._viewed_bytes += size
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        elif piece:
            pieces.append(bytearray(piece))

    def let_go(self, chunk_bytes: int) -> None:
        """Ends a turn: copies what it keeps of a chunk of that size, if that is little of it, so
        that a sender cannot make us hold large chunks for small pieces.
        """
        if 0 < self._viewed_bytes * _LITTLE < chunk_bytes:
            pieces = self._pieces
            pieces[self._fresh :] = [b"".join(pieces[self._fresh :])]
        self._fresh = len(self._pieces)
        self._viewed_bytes = 0

    def _complete(self) -> Message:
        pieces, self._pieces = self._pieces, []
        self._prefix = b""
        self.size = self._fresh = self._viewed_bytes = 0
        only = pieces[0] if len(pieces) == 1 else None
        data = only if isinstance(only, bytes) else b"".join(pieces)
        return Compressed(data, self._limit_bytes) if self._compressed else data
