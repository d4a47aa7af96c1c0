"""Streaming compression (cas/compression.py)."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from cas.compression import PIECE_BYTES, Codec, Decompressor
from cas.errors import BadCompressedData

CODECS = pytest.mark.parametrize("codec", list(Codec))


def decompress(decompressor: Decompressor, parts: list[bytes]) -> bytes:
    out = b"".join(b"".join(decompressor.feed(part)) for part in parts)
    decompressor.finish()
    return out


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@CODECS
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split_of_a_stream_round_trips(codec: Codec, data: bytes, cuts: list[int]) -> None:
    stream = codec.compress(data)

    assert decompress(codec.decompressor(len(data)), split(stream, cuts)) == data


@CODECS
@given(parts=st.lists(st.binary(max_size=500), max_size=6))
def test_compressing_in_parts_gives_one_stream(codec: Codec, parts: list[bytes]) -> None:
    compressor = codec.compressor()
    stream = b"".join(compressor.compress(part) for part in parts) + compressor.finish()

    assert codec.decompress(stream, len(b"".join(parts))) == b"".join(parts)


@given(
    frames=st.lists(st.binary(max_size=300), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_zstd_takes_concatenated_frames_split_anywhere(
    frames: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(zstd.compress(frame) for frame in frames)
    data = b"".join(frames)

    assert decompress(Codec.ZSTD.decompressor(len(data)), split(stream, cuts)) == data


@CODECS
@given(data=st.binary(min_size=1, max_size=500), cut=st.integers(0, 10_000))
def test_a_truncated_stream_is_refused(codec: Codec, data: bytes, cut: int) -> None:
    stream = codec.compress(data)

    with pytest.raises(BadCompressedData):
        codec.decompress(stream[: cut % len(stream)], len(data))


@CODECS
@given(garbage=st.binary(min_size=1, max_size=50), apart=st.booleans())
def test_bytes_after_the_end_are_refused(codec: Codec, garbage: bytes, apart: bool) -> None:
    stream = codec.compress(b"data")
    # After a zstd frame comes another, so what follows may be the start of one: refused, too.
    parts = [stream, garbage] if apart else [stream + garbage]

    with pytest.raises(BadCompressedData):
        decompress(codec.decompressor(4), parts)


@CODECS
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_give_data_or_bad_compressed_data(codec: Codec, data: bytes) -> None:
    try:
        out = codec.decompress(data, 100)
    except BadCompressedData:
        return
    assert len(out) == 100


@CODECS
@pytest.mark.parametrize("announced", [0, 99, 101])
def test_another_size_than_announced_is_refused(codec: Codec, announced: int) -> None:
    with pytest.raises(BadCompressedData):
        codec.decompress(codec.compress(bytes(100)), announced)


@CODECS
def test_a_bomb_costs_a_piece_of_memory(codec: Codec) -> None:
    compressor = codec.compressor()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.finish()
    tracemalloc.start()

    with pytest.raises(BadCompressedData, match="more than announced"):
        codec.decompress(bomb, 8)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * PIECE_BYTES


@CODECS
def test_a_huge_honest_stream_comes_in_pieces(codec: Codec) -> None:
    size = 32 << 20
    compressor = codec.compressor()
    stream = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(32)) + compressor.finish()
    decompressor = codec.decompressor(size)

    lengths = [len(piece) for piece in decompressor.feed(stream)]
    decompressor.finish()

    assert sum(lengths) == size
    assert max(lengths) <= 3 * PIECE_BYTES


def test_deflate_refuses_the_zlib_format() -> None:
    with pytest.raises(BadCompressedData):
        Codec.DEFLATE.decompress(zlib.compress(b"data" * 100), 400)


def test_zstd_refuses_a_window_over_the_limit() -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    stream = compressor.compress(bytes(100)) + compressor.flush()

    with pytest.raises(BadCompressedData):
        Codec.ZSTD.decompress(stream, 100)


def test_endless_empty_frames_are_refused() -> None:
    with pytest.raises(BadCompressedData):
        Codec.ZSTD.decompress(zstd.compress(b"") * 2000, 0)


def test_many_small_frames_in_one_message_are_read() -> None:
    stream = b"".join(zstd.compress(bytes([n % 251])) for n in range(5000))

    assert Codec.ZSTD.decompress(stream, 5000) == bytes(n % 251 for n in range(5000))


@given(
    data=st.binary(min_size=1, max_size=300), cut=st.integers(0, 400), change=st.binary(max_size=4)
)
def test_one_frame_is_read_whole_as_it_is_in_pieces(data: bytes, cut: int, change: bytes) -> None:
    """The reused context takes the ordinary stream, and leaves every other to the general way."""
    stream = bytearray(Codec.ZSTD.compress(data))
    stream[cut : cut + len(change)] = change
    try:
        wanted = decompress(Codec.ZSTD.decompressor(len(data)), [bytes(stream)])
    except BadCompressedData:
        with pytest.raises(BadCompressedData):
            Codec.ZSTD.decompress(bytes(stream), len(data))
    else:
        assert Codec.ZSTD.decompress(bytes(stream), len(data)) == wanted


def test_contexts_are_each_threads_own() -> None:
    blobs = [random.Random(n).randbytes(50_000) * 4 for n in range(8)]

    def round_trip(data: bytes) -> bytes:
        return Codec.ZSTD.decompress(Codec.ZSTD.compress(data), len(data))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(round_trip, blobs * 10)) == blobs * 10
