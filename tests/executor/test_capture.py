"""Tests of what is kept of a command's output."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from cas.digest import DigestFunction
from cas.memory import MemoryStore
from executor.capture import Capture

SHA256 = DigestFunction.SHA256
LIMIT_BYTES = 1 << 20


def capture(place: Path, heard: list[bytes]) -> Capture:
    return Capture(SHA256, str(place / "spool"), LIMIT_BYTES, heard.append)


async def test_what_was_printed_before_the_end_is_kept_and_heard_of(tmp_path: Path) -> None:
    heard: list[bytes] = []
    stream, store = capture(tmp_path, heard), MemoryStore()
    os.write(stream.write_fd, b"quick")
    stream.close_write_end()

    stream.drain()

    assert stream.ended.done()
    assert heard == [b"quick"]
    assert await store.get(await stream.store(store)) == b"quick"


async def test_a_command_that_prints_more_than_a_pipe_holds_goes_on(tmp_path: Path) -> None:
    heard: list[bytes] = []
    stream = capture(tmp_path, heard)
    data = b"x" * 500_000

    try:
        async with asyncio.timeout(2):
            await asyncio.to_thread(os.write, stream.write_fd, data)
        stream.close_write_end()
        stream.drain()
    finally:
        stream.close()  # Which ends a write that nobody reads.

    assert b"".join(heard) == data


async def test_output_that_scratch_space_has_no_room_for_is_not_taken_for_whole(
    tmp_path: Path,
) -> None:
    """A full disk takes part of a write before it refuses."""
    stream = capture(tmp_path, [])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        async with asyncio.timeout(5):
            await asyncio.to_thread(os.write, stream.write_fd, b"x" * 320_000)
        stream.close_write_end()
        stream.drain()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(OSError, match="File too large"):
        await stream.store(MemoryStore())
    stream.close()


async def test_what_others_print_after_the_command_is_read_until_they_end(tmp_path: Path) -> None:
    heard: list[bytes] = []
    stream = capture(tmp_path, heard)
    other = os.dup(stream.write_fd)
    stream.close_write_end()
    stream.drain()
    assert not stream.ended.done()

    os.write(other, b"late")
    os.close(other)
    await asyncio.wait_for(stream.ended, 2)

    assert heard == [b"late"]


async def test_nothing_is_read_once_it_is_stopped(tmp_path: Path) -> None:
    heard: list[bytes] = []
    stream = capture(tmp_path, heard)
    os.write(stream.write_fd, b"never")

    stream.close()
    await asyncio.sleep(0.01)

    assert heard == []
