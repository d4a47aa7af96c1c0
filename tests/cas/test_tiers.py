"""What two tiers keep over a crash and a restart."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tiers import until, world

from cas.digest import Digest, DigestFunction
from cas.errors import StoreUnavailable
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pending import DiskPending, Entry

ROOT = Path(__file__).parents[2]


def run_and_kill(directory: Path, after_lines: int) -> list[Entry]:
    """Answers what the program acknowledged before it was killed."""
    program = ROOT / "tests" / "support" / "writing_back.py"
    with subprocess.Popen(
        [sys.executable, str(program), str(directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after_lines)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    return [parse(line.decode()) for line in lines if line.endswith(b"\n")]


def parse(line: str) -> Entry:
    kind, name = line.split()
    function, _, rest = name.partition(":")
    hash_, _, size = rest.partition("/")
    digest = Digest(DigestFunction(function), hash_, int(size))
    return Entry(digest, None if kind == "blob" else "main")


@pytest.mark.slow
@pytest.mark.parametrize("after_lines", [1, 100])
async def test_kill_loses_nothing_acknowledged_that_was_pending(
    tmp_path: Path, after_lines: int
) -> None:
    acknowledged = run_and_kill(tmp_path, after_lines)

    assert len(acknowledged) >= after_lines
    pending = await DiskPending.open(tmp_path / "pending")
    assert set(acknowledged) <= set(pending.entries())
    clocks = Clocks(time.monotonic, lambda: 1_700_000_000.0)
    here = await PackStorage.open(tmp_path / "cas", StorageOptions(), clocks)
    blobs = [entry.digest for entry in acknowledged if entry.is_blob]
    assert await here.store.find_missing(blobs) == []

    made = world()
    made.fast, made.fast_cache = here.store, here.cache  # type: ignore[assignment]
    async with made.tiers(pending) as tiers:
        await until(lambda: tiers.stats().pending == 0)

    assert await made.remote.find_missing(blobs) == []
    for entry in acknowledged:
        if entry.instance is not None:
            assert await made.remote_cache.get(entry.instance, entry.digest)
    await here.close()
    left = await DiskPending.open(tmp_path / "pending")
    assert left.entries() == []
    await left.close()


async def test_clean_end_keeps_what_is_pending(tmp_path: Path) -> None:
    made = world()
    made.remote.trouble.error = StoreUnavailable("down")
    digest = DigestFunction.SHA256.digest(b"data")
    pending = await DiskPending.open(tmp_path / "pending")
    async with made.tiers(pending) as tiers:
        await tiers.store.put([digest], b"data")

    made.remote.trouble.error = None
    pending = await DiskPending.open(tmp_path / "pending")
    async with made.tiers(pending) as tiers:
        assert tiers.stats().pending == 1
        await until(lambda: tiers.stats().pending == 0)

    assert await made.remote.get(digest) == b"data"


async def test_flush_waits_for_what_is_pending() -> None:
    made = world()
    made.remote.trouble.gate.clear()
    digest = DigestFunction.SHA256.digest(b"data")
    async with made.tiers() as tiers:
        assert await tiers.flush(0)
        await tiers.store.put([digest], b"data")
        assert not await tiers.flush(0.01)

        made.remote.trouble.gate.set()
        assert await tiers.flush(10)
        assert tiers.stats().pending == 0

    assert await made.remote.get(digest) == b"data"


async def test_pending_blob_that_is_gone_is_given_up(tmp_path: Path) -> None:
    """A blob noted whose storing a crash cut short, or that was lost here since."""
    digest = DigestFunction.SHA256.digest(b"data")
    pending = await DiskPending.open(tmp_path / "pending")
    await pending.add([Entry(digest)])
    await pending.close()

    async with world().tiers(await DiskPending.open(tmp_path / "pending")) as tiers:
        await until(lambda: tiers.stats().pending == 0)
        assert (tiers.stats().lost, tiers.stats().uploaded) == (1, 0)


async def test_tiers_nest() -> None:
    """Memory before a disk before a bucket, here all in memory."""
    inner = world(max_bytes=1 << 20)
    outer = world(max_bytes=15)
    async with inner.tiers() as below:
        outer.remote = below.store  # type: ignore[assignment]
        async with outer.tiers() as tiers:
            blobs = [DigestFunction.SHA256.digest(b"%010d" % n) for n in range(5)]
            for number, digest in enumerate(blobs):
                await tiers.store.put([digest], b"%010d" % number)
                await until(lambda: tiers.stats().pending == 0)
            await until(lambda: below.stats().pending == 0)

            assert await tiers.store.find_missing(blobs) == []
            assert [await tiers.store.get(digest) for digest in blobs] == [
                b"%010d" % number for number in range(5)
            ]

    assert outer.fast.stats().blobs == 1
    assert await inner.remote.find_missing(blobs) == []
