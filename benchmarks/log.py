"""The transparency log: durable appends by many callers, and verifying all of it.

    python benchmarks/log.py [--entries 100000] [--callers 256] [--directory DIR]

Appends are compared with the least that a durable log can do: the same bytes, in batches of the
same size, written to one file with one `fdatasync` each. Verifying is compared with hashing the
entries alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from common import print_table

from armitage.log.note import KeyType, Signer
from armitage.log.service import Log
from armitage.log.store import NAMES, LogStore
from armitage.log.verify import verified_entries
from cas.volume import DiskVolume

ENTRY_BYTES = 300


def made_up(number: int) -> bytes:
    """Like an evidence record: small, and no two alike."""
    return (b"%d " % number).ljust(ENTRY_BYTES, b".")


async def append_all(log: Log, count: int, callers: int) -> tuple[float, list[float]]:
    """Answers the seconds in all, and those that each append took."""
    numbers, took = iter(range(count)), []

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await log.append(made_up(number))
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return time.perf_counter() - began, took


def bare_appends(path: Path, count: int, batch: int) -> float:
    """Seconds for the same bytes in one file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    began = time.perf_counter()
    for first in range(0, count, batch):
        os.write(fd, b"".join(map(made_up, range(first, min(count, first + batch)))))
        os.fdatasync(fd)
    took = time.perf_counter() - began
    os.close(fd)
    return took


def verify(store: LogStore) -> float:
    """Seconds to read and hash everything again."""
    began = time.perf_counter()
    for _ in verified_entries(store.checkpoint, store.read):
        pass
    return time.perf_counter() - began


def hash_alone(count: int) -> float:
    """Seconds to hash as many entries."""
    entry = made_up(0)
    began = time.perf_counter()
    for _ in range(count):
        sha256(entry).digest()
    return time.perf_counter() - began


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--directory", help="where to write (default: the temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as made, ThreadPoolExecutor(1) as pool:
        signer = Signer("log.example/benchmark", KeyType.ED25519, bytes(32))
        store = LogStore(DiskVolume(Path(made) / "log", NAMES), signer)
        count = options.entries
        seconds, took = asyncio.run(append_all(Log(store, pool), count, options.callers))
        bare = bare_appends(Path(made) / "bare", count, options.callers)
        verified, hashed = verify(store), hash_alone(count)
        store.close()
    took.sort()
    p99 = took[int(len(took) * 0.99)] * 1000
    appends = [f"{count / seconds:.0f}", f"{count / bare:.0f}", f"{seconds / bare:.1f}x"]
    waits = [f"{statistics.median(took) * 1000:.1f} / {p99:.1f}", "", ""]
    checks = [f"{count / verified:.0f}", f"{count / hashed:.0f}", f"{verified / hashed:.1f}x"]
    print_table(
        f"{count} entries of {ENTRY_BYTES} bytes, {options.callers} callers",
        ["", "log", "least", "time, ratio"],
        [
            ["appends a second", *appends],
            ["append p50 / p99, ms", *waits],
            ["entries verified a second", *checks],
        ],
    )


if __name__ == "__main__":
    main()
