"""FastCDC 2020, held to the vectors that the remote-apis project publishes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pyfastcdc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.conformance import fastcdc
from cas.chunking import ChunkSizes, Cutter

VECTORS = Path(__file__).parents[1] / "vectors" / "fastcdc"
SIZES = ChunkSizes(average=16384, smallest=4096, largest=65535)  # As the vectors' file has them.
SMALL = ChunkSizes.of_average(1024)


def cut(data: bytes, sizes: ChunkSizes, *, seed: int = 0, piece: int = 1 << 20) -> list[bytes]:
    cutter = Cutter(sizes, seed=seed)
    chunks: list[bytes] = []
    for at in range(0, len(data), piece):
        chunks += cutter.feed(data[at : at + piece])
    return [*chunks, *cutter.finish()]


def published() -> Iterator[tuple[int, list[tuple[int, int, str]]]]:
    text = (VECTORS / "fastcdc2020_test_vectors.txt").read_text()
    for part in text.split("# Seed: ")[1:]:
        seed, *lines = part.splitlines()
        rows = [line.split() for line in lines if line]
        yield int(seed), [(int(row[0]), int(row[1]), row[2]) for row in rows]


@pytest.mark.parametrize(("seed", "wanted"), list(published()))
@pytest.mark.parametrize("piece", [1 << 20, 5000])
def test_the_published_vectors_are_met(
    seed: int, wanted: list[tuple[int, int, str]], piece: int
) -> None:
    picture = (VECTORS / "SekienAkashita.jpg").read_bytes()

    chunks = cut(picture, SIZES, seed=seed, piece=piece)

    found, offset = [], 0
    for chunk in chunks:
        found.append((offset, len(chunk), hashlib.sha256(chunk).hexdigest()))
        offset += len(chunk)
    assert found == wanted


@given(st.data())
def test_chunks_are_the_data_however_it_is_split(draw: st.DataObject) -> None:
    size = draw.draw(st.integers(0, 20_000))
    data = random.Random(draw.draw(st.integers(0, 99))).randbytes(size)
    piece = draw.draw(st.integers(1, 9000))

    chunks = cut(data, SMALL, piece=piece)

    assert b"".join(chunks) == data
    assert chunks == cut(data, SMALL, piece=size + 1)
    assert all(SMALL.smallest < len(chunk) <= SMALL.largest for chunk in chunks[:-1])


@given(st.integers(0, 99), st.integers(0, 40_000))
def test_the_cut_points_are_those_of_the_plain_algorithm(seed: int, size: int) -> None:
    data = random.Random(seed).randbytes(size)

    assert [len(chunk) for chunk in cut(data, SMALL)] == fastcdc.chunk_sizes(data, 1024)


def test_data_without_a_cut_point_is_cut_at_the_largest() -> None:
    assert [len(chunk) for chunk in cut(bytes(10_000), SMALL)] == [4096, 4096, 1808]


def test_an_insertion_changes_only_the_chunks_around_it() -> None:
    data = random.Random(1).randbytes(200_000)
    changed = data[:100_000] + b"inserted" + data[100_000:]

    before, after = set(cut(data, SMALL)), set(cut(changed, SMALL))

    assert len(after - before) <= 3


@pytest.mark.parametrize("average", [0, 512, 1025, 3 << 10, 8 << 20])
def test_an_average_that_the_algorithm_does_not_take_is_refused(average: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ChunkSizes.of_average(average)


def test_the_compiled_library_is_installed() -> None:
    """Its Python fallback would be some two hundred times slower."""
    assert ".cy." in pyfastcdc.FastCDC.__module__
