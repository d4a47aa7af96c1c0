"""Streaming compression for blobs on the wire (REAPI `Compressor`): zstd, raw deflate, brotli.

The one file that knows the codec libraries. Everything is bounded: a decompressor gives out pieces
of about `PIECE_BYTES` and stops at the size that was announced, so that a bomb costs a
piece or two of memory and never its whole size.
"""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import brotli
import zstandard

from cas.digest import Buffer
from cas.errors import BadCompressedData

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 20

_ZSTD_WINDOW_LOG = 23
"""8 MiB, what RFC 8878 asks every decoder to take; more would let a client choose our memory."""

_ZSTD_SLICE_BYTES = 32 << 10
_MAX_EMPTY_FRAMES = 1024
"""Each costs some 30 us and announces nothing, so the size limit alone would not end them."""

_LEVELS = {"zstd": 1, "deflate": 1, "brotli": 1}


class Codec(StrEnum):
    """A compression format; the value is its name in resource names."""

    ZSTD = "zstd"
    DEFLATE = "deflate"
    BROTLI = "brotli"

    def compressor(self) -> Compressor:
        """Starts a stream at the fastest level."""
        return _COMPRESSORS[self]()

    def decompressor(self, size_bytes: int) -> Decompressor:
        """Starts reading a stream that must give exactly `size_bytes`."""
        return Decompressor(self, size_bytes)

    def compress(self, data: Buffer) -> bytes:
        """Compresses a whole blob as one self-contained stream."""
        if self is Codec.ZSTD:
            return _contexts.compressor.compress(data)
        compressor = self.compressor()
        return compressor.compress(data) + compressor.finish()

    def decompress(self, data: Buffer, size_bytes: int) -> bytes:
        """Decompresses a whole stream of exactly `size_bytes`. Raises BadCompressedData."""
        if self is Codec.ZSTD and (whole := _decompress_frame(data, size_bytes)) is not None:
            return whole
        decompressor = self.decompressor(size_bytes)
        pieces = list(decompressor.feed(data))
        decompressor.finish()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Contexts(threading.local):
    """Of each thread its own. Making one costs as much as a small blob."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVELS["zstd"])
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def _decompress_frame(data: Buffer, size_bytes: int) -> bytes | None:
    """Decompresses what most zstd streams of small blobs are: one frame that says its size.

    Three times as fast as the general way, to which None leaves all else, and all errors.
    """
    try:
        # First: what the frame says is what the library makes room for.
        if not size_bytes or zstandard.frame_content_size(data) != size_bytes:
            return None
        return _contexts.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


class Compressor(Protocol):
    """One stream on its way out."""

    def compress(self, data: Buffer) -> bytes:
        """Takes bytes in; answers what is ready to go, often nothing."""

    def finish(self) -> bytes:
        """Ends the stream and answers its rest."""


class Decompressor:
    """One stream on its way in, split anywhere. A zstd stream may be of many frames, as clients
    that compress chunk by chunk send them.

    Raises BadCompressedData at once for what is no such stream, for bytes after its end, and for
    more output than announced. Of no use after that.
    """

    def __init__(self, codec: Codec, size_bytes: int) -> None:
        self._codec = codec
        self._left = size_bytes
        self._stream = _STREAMS[codec]()

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Takes bytes in and gives out what they decompress to, piece by piece.

        Must be read to its end before the next call.
        """
        piece = self._next(data)
        while piece or self._stream.has_more:
            if piece:
                yield piece
            piece = self._next(b"")

    def finish(self) -> None:
        """Checks that the stream has ended whole, with all that was announced."""
        if not self._stream.is_whole:
            raise BadCompressedData(f"the {self._codec} data ends in mid-stream")
        if self._left:
            raise BadCompressedData(
                f"the {self._codec} data decompresses to {self._left} bytes less than announced"
            )

    def _next(self, data: Buffer) -> bytes:
        # One byte over what is left, so that too much output shows without being made.
        try:
            piece = self._stream.step(data, min(PIECE_BYTES, self._left + 1))
        except (zstd.ZstdError, zlib.error, brotli.error) as error:
            raise BadCompressedData(f"the data is not a {self._codec} stream: {error}") from error
        if len(piece) > self._left:
            raise BadCompressedData(f"the {self._codec} data decompresses to more than announced")
        self._left -= len(piece)
        return piece


class _Stream(Protocol):
    """A codec's decoder behind one face."""

    @property
    def has_more(self) -> bool:
        """Whether step with no data may still give output."""

    @property
    def is_whole(self) -> bool:
        """Whether the stream may end here."""

    def step(self, data: Buffer, limit: int) -> bytes:
        """Takes data in and answers at most about `limit` bytes."""


class _ZstdStream:
    """Frames one after another, each with a decoder of its own.

    Input goes in by slices: a decoder gives back a copy of what follows its frame, which would make
    many small frames in one large message cost their number times its size. `feed` is read to its
    end, so what a decoder gives back always lies in the data fed last.
    """

    def __init__(self) -> None:
        self._frame: zstd.ZstdDecompressor | None = None
        self._frame_is_empty = True
        self._empty_frames = 0
        self._data = memoryview(b"")
        self._taken = 0

    @property
    def has_more(self) -> bool:
        if self._taken < len(self._data):
            return True
        return self._frame is not None and not self._frame.needs_input

    @property
    def is_whole(self) -> bool:
        return self._frame is None and not self.has_more

    def step(self, data: Buffer, limit: int) -> bytes:
        if data:
            self._data = memoryview(data)
            self._taken = 0
        if not self.has_more:
            return b""
        if self._frame is None:
            self._frame_is_empty = True
            self._frame = zstd.ZstdDecompressor(
                options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
            )
        piece = self._frame.decompress(self._take(self._frame.needs_input), limit)
        self._frame_is_empty = self._frame_is_empty and not piece
        if self._frame.eof:
            self._taken -= len(self._frame.unused_data)
            self._frame = None
            self._count_empty()
        return piece

    def _take(self, is_needed: bool) -> memoryview:
        start = self._taken
        if is_needed:
            self._taken = min(start + _ZSTD_SLICE_BYTES, len(self._data))
        return self._data[start : self._taken]

    def _count_empty(self) -> None:
        self._empty_frames += self._frame_is_empty
        if self._empty_frames > _MAX_EMPTY_FRAMES:
            raise zstd.ZstdError(f"more than {_MAX_EMPTY_FRAMES} frames hold nothing")


class _DeflateStream:
    """One raw RFC 1951 stream, without zlib or gzip header."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        self._fed = False
        self._filled = False

    @property
    def has_more(self) -> bool:
        return bool(self._decoder.unconsumed_tail) or (self._filled and not self._decoder.eof)

    @property
    def is_whole(self) -> bool:
        return self._decoder.eof

    def step(self, data: Buffer, limit: int) -> bytes:
        if data and self._decoder.eof:
            raise zlib.error("bytes after the end of the stream")
        piece = self._decoder.decompress(data or self._decoder.unconsumed_tail, limit)
        self._filled = len(piece) == limit
        if self._decoder.unused_data:
            raise zlib.error("bytes after the end of the stream")
        return piece


class _BrotliStream:
    """One stream; the library itself refuses bytes after its end."""

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    @property
    def has_more(self) -> bool:
        return not self._decoder.is_finished() and not self._decoder.can_accept_more_data()

    @property
    def is_whole(self) -> bool:
        finished: bool = self._decoder.is_finished()
        return finished

    def step(self, data: Buffer, limit: int) -> bytes:
        if self._decoder.is_finished():
            if data:
                raise brotli.error("bytes after the end of the stream")
            return b""
        piece: bytes = self._decoder.process(data, output_buffer_limit=limit)
        return piece


class _ZstdCompressor:
    def __init__(self) -> None:
        self._encoder = zstd.ZstdCompressor(level=_LEVELS["zstd"])

    def compress(self, data: Buffer) -> bytes:
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        return self._encoder.flush()


class _DeflateCompressor:
    def __init__(self) -> None:
        self._encoder = zlib.compressobj(_LEVELS["deflate"], zlib.DEFLATED, -zlib.MAX_WBITS)

    def compress(self, data: Buffer) -> bytes:
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        return self._encoder.flush()


class _BrotliCompressor:
    def __init__(self) -> None:
        self._encoder = brotli.Compressor(quality=_LEVELS["brotli"])

    def compress(self, data: Buffer) -> bytes:
        out: bytes = self._encoder.process(data)
        return out

    def finish(self) -> bytes:
        out: bytes = self._encoder.finish()
        return out


_COMPRESSORS: dict[Codec, type[Compressor]] = {
    Codec.ZSTD: _ZstdCompressor,
    Codec.DEFLATE: _DeflateCompressor,
    Codec.BROTLI: _BrotliCompressor,
}
_STREAMS: dict[Codec, type[_Stream]] = {
    Codec.ZSTD: _ZstdStream,
    Codec.DEFLATE: _DeflateStream,
    Codec.BROTLI: _BrotliStream,
}
