"""What lies on a disk is copied as far as a guest says, and no further than we allow."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.microvm.printed import Printed


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def disk(directory: Path, data: bytes) -> Path:
    path = directory / "stdout.img"
    path.write_bytes(data)
    return path


async def test_stream_is_copied_step_by_step_and_never_again(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    printed = Printed(disk(tmp_path, b"one two three"), pipe[1], 100)

    printed.reach(3)
    assert os.read(pipe[0], 100) == b"one"
    printed.reach(2)
    printed.reach(7)
    assert os.read(pipe[0], 100) == b" two"
    printed.end()
    printed.end()

    await printed.ended
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 100)


@pytest.mark.parametrize(("says", "limit", "copied"), [(10**17, 5, 5), (10**17, 100, 13)])
async def test_guest_that_says_too_much_gets_no_further_than_limit_and_disk(
    tmp_path: Path, pipe: tuple[int, int], says: int, limit: int, copied: int
) -> None:
    data = b"one two three"
    printed = Printed(disk(tmp_path, data), pipe[1], limit)

    printed.reach(says)
    printed.end()

    await printed.ended
    assert os.read(pipe[0], 100) == data[:copied]


async def test_reader_that_is_slow_gets_all(tmp_path: Path, pipe: tuple[int, int]) -> None:
    data = os.urandom(1_000_001)
    printed = Printed(disk(tmp_path, data), pipe[1], len(data))
    printed.reach(len(data))
    printed.end()
    assert not printed.ended.done()

    got = b""
    while len(got) < len(data):
        got += await asyncio.to_thread(os.read, pipe[0], 50_000)

    await printed.ended
    assert got == data


async def test_failure_is_told_and_closes_the_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    printed = Printed(disk(tmp_path, b"one"), writer, 100)
    os.close(reader)
    os.close(writer)

    printed.reach(3)
    printed.end()

    with pytest.raises(BrokenPipeError):
        await printed.ended
