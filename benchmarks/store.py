"""What the disk store does a second, and what a blob costs it, beside what this machine's disk,
hash and copies allow in the same run.

    .venv/bin/python benchmarks/store.py                 # all but the last, about three minutes
    .venv/bin/python benchmarks/store.py puts large
    .venv/bin/python benchmarks/store.py huge            # 10 million blobs: 4 GiB of memory

Run it on the disk in question: --directory names a place on it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import print_table, resident_bytes

from cas.digest import Digest, DigestFunction
from cas.keys import key_of
from cas.log import FOLDER, SEGMENT_BYTES
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackStore
from cas.records import (
    ALIGNMENT,
    SEGMENT_HEADER_BYTES,
    Kind,
    Record,
    Table,
    encode,
    segment_header,
    trailer,
)
from cas.store import BatchPut

_SHA256 = DigestFunction.SHA256
_MIB = 1 << 20
_WRITERS = 32
_BLOB_BYTES = 4096
_LARGE_BYTES = 256 * _MIB
_ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["puts", "existence", "large", "restart"])
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        asyncio.run(print_opening(arguments.open))
        return
    parts: dict[str, Callable[[Path], None]] = {
        "puts": measure_puts,
        "existence": measure_existence,
        "large": measure_large,
        "restart": lambda directory: measure_restart(directory, 1_000_000, 3),
        "huge": lambda directory: measure_restart(directory, 10_000_000, 1),
    }
    for part in arguments.parts:
        with temporary(arguments.directory) as directory:
            parts[part](directory)


# Many small durable writes


class Puts(NamedTuple):
    """What came of a round."""

    rate: float
    cpu_us: float
    """Of all threads, for a blob."""


def measure_puts(directory: Path) -> None:
    """Rounds of each in turn, so that what else the machine does hits all alike."""
    files, single, batch, disk = [], [], [], []
    for number in range(_ROUNDS):
        folder = directory / str(number)
        folder.mkdir()
        disk.append(syncs_a_second(folder / "disk"))
        files.append(put_files(folder / "files", 1500))
        single.append(asyncio.run(put_blobs(folder / "single", 20_000, 1)))
        batch.append(asyncio.run(put_blobs(folder / "batch", 40_000, 50)))
        shutil.rmtree(folder)
    plain = median(puts.rate for puts in files)
    rows = [
        (
            name,
            f"{median(puts.rate for puts in rounds):,.0f}",
            f"{median(puts.rate for puts in rounds) / plain:.1f}x",
            f"{max(puts.rate for puts in rounds):,.0f}",
            f"{median(puts.cpu_us for puts in rounds):.0f} us",
        )
        for name, rounds in [
            ("file, fsync, rename: 32 threads", files),
            ("put, 32 writers", single),
            ("put_many of 50, 32 writers", batch),
        ]
    ]
    header = ["way", "a second", "ratio", "best", "CPU of one"]
    print_table("Durable puts of 4 KiB", header, rows)
    print(
        f"\nThe disk syncs an append of 32 of them {median(disk):,.0f} times a second (best"
        f" {max(disk):,.0f}): no more than 32 times as many can be put by 32 writers one at a time."
    )


def syncs_a_second(path: Path) -> float:
    """How often the disk makes an append of what 32 writers put durable."""
    data = os.urandom(_WRITERS * (_BLOB_BYTES + 112))
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        start = time.perf_counter()
        for number in range(100):
            os.pwrite(fd, data, number * len(data))
            os.fdatasync(fd)
        return 100 / (time.perf_counter() - start)
    finally:
        os.close(fd)


def put_files(directory: Path, count: int) -> Puts:
    """The simple way: a temporary file, synced and renamed, for each blob."""
    for byte in range(256):
        (directory / f"{byte:02x}").mkdir(parents=True)
    blobs = [(f"{directory}/{d.hash[:2]}/{d.hash}", data) for d, data in make_blobs(count)]
    threads = [
        threading.Thread(target=put_each, args=[blobs[number::_WRITERS]])
        for number in range(_WRITERS)
    ]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return puts_since(start, cpu, count)


def puts_since(start: float, cpu: float, count: int) -> Puts:
    rate = count / (time.perf_counter() - start)
    return Puts(rate, (time.process_time() - cpu) / count * 1e6)


def put_each(blobs: Sequence[tuple[str, bytes]]) -> None:
    for path, data in blobs:
        assert hashlib.sha256(data).hexdigest() == path[-64:]
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(f"{path}.new", path)


async def put_blobs(directory: Path, count: int, batch: int) -> Puts:
    blobs = [BatchPut((digest,), data) for digest, data in make_blobs(count)]
    async with opened(directory) as storage:
        work = iter(blobs)

        async def put_one_by_one() -> None:
            for blob in work:
                await storage.store.put(blob.candidates, blob.data)

        async def put_by_batches() -> None:
            while group := list(islice(work, batch)):
                await storage.store.put_many(group)

        start, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(put_one_by_one() if batch == 1 else put_by_batches())
        return puts_since(start, cpu, count)


def make_blobs(count: int) -> list[tuple[Digest, bytes]]:
    noise = random.Random(0).randbytes(_BLOB_BYTES)
    blobs = (n.to_bytes(8, "little") + noise[8:] for n in range(count))
    return [(_SHA256.digest(data), data) for data in blobs]


# Whether blobs are there


def measure_existence(directory: Path) -> None:
    count, calls = 1_000_000, 2000
    write_synthetic(directory, count)
    asyncio.run(ask(directory, count, calls))


async def ask(directory: Path, count: int, calls: int) -> None:
    chosen = random.Random(1)
    async with opened(directory) as storage:
        store = storage.store
        every = [synthetic_key(number) for number in chosen.choices(range(count), k=100 * calls)]
        groups = [every[at : at + 100] for at in range(0, len(every), 100)]
        await touch(store, count)
        fresh = timed_each(groups, store.all_fresh)
        digests = [[digest_from(key) for key in group] for group in groups]
        found = [await timed(store.find_missing, group) for group in digests]
        plain = set(map(synthetic_key, range(count)))
        copied = [[bytes(bytearray(key)) for key in group] for group in groups]
        bare = timed_each(copied, plain.issuperset)
        again = timed_each([*copied[:20]] * 100, store.all_fresh)
        once = timed_each([*copied[:20]] * 100, plain.issuperset)
    rows = [
        (name, f"{median(times) * 1e6:.1f} us", f"{min(times) * 1e6:.1f} us")
        for name, times in [
            ("a bare set of the same keys", bare),
            ("all_fresh, by keys as they are on the wire", fresh),
            ("find_missing, by Digests", found),
            ("a bare set, of 2,000 digests that are asked for again and again", once),
            ("all_fresh, of these", again),
        ]
    ]
    print_table("100 random digests of a million blobs, all there", ["way", "median", "best"], rows)


async def touch(store: PackStore, count: int) -> None:
    """Lets every blob be of the current window, as those that builds ask for are."""
    for start in range(0, count, 10_000):
        keys = map(synthetic_key, range(start, start + 10_000))
        assert not await store.find_missing([digest_from(key) for key in keys])


# Large blobs


class LargeTimes(NamedTuple):
    """Seconds of one round."""

    hashing: float
    writing: float
    storing: float
    sending: float
    copying: float
    serving: float
    reading: float


def measure_large(directory: Path) -> None:
    data = random.Random(2).randbytes(_MIB) * (_LARGE_BYTES // _MIB)
    digest = _SHA256.digest(data)
    rounds = []
    for number in range(2 * _ROUNDS):
        folder = directory / str(number)
        folder.mkdir()
        rounds.append(asyncio.run(large_round(folder, digest, data)))
        shutil.rmtree(folder)
    times = LargeTimes(*(median(column) for column in zip(*rounds, strict=True)))
    best = LargeTimes(*(min(column) for column in zip(*rounds, strict=True)))
    rows = [
        (
            name,
            rate(getattr(times, field)),
            against(times, field, other),
            against(best, field, other),
        )
        for name, field, other in [
            ("sha256 alone", "hashing", "hashing"),
            ("written and synced, not verified", "writing", "hashing"),
            ("verified, stored and durable", "storing", "hashing"),
            ("sendfile to a socket: no copy in user memory", "sending", "copying"),
            ("pread and send: one", "copying", "copying"),
            ("read of the store and send", "serving", "copying"),
            ("read of the store alone", "reading", "copying"),
        ]
    ]
    print_table("A blob of 256 MiB", ["way", "rate", "ratio", "of the best"], rows)


def against(times: LargeTimes, field: str, other: str) -> str:
    ratio: float = getattr(times, other) / getattr(times, field)
    return f"{ratio:.2f} of {'sha256' if other == 'hashing' else 'pread and send'}"


async def large_round(directory: Path, digest: Digest, data: bytes) -> LargeTimes:
    hashing = seconds(lambda: _SHA256.digest(data))
    writing = seconds(lambda: write_plainly(directory / "plain", data))
    async with opened(directory / "store") as storage:
        start = time.perf_counter()
        writer = await storage.store.open_writer((digest,))
        view = memoryview(data)
        for at in range(0, len(data), _MIB):
            await writer.write(view[at : at + _MIB])
        await writer.commit()
        storing = time.perf_counter() - start
        path = file_of(directory, digest)
        with drained_socket() as sender:
            sending = seconds(lambda: send_file(path, sender))
            copying = seconds(lambda: copy_file(path, sender))
            start = time.perf_counter()
            async for piece in storage.store.read(digest):
                sender.sendall(piece)
            serving = time.perf_counter() - start
        start = time.perf_counter()
        async for _ in storage.store.read(digest):
            pass
        reading = time.perf_counter() - start
    return LargeTimes(hashing, writing, storing, sending, copying, serving, reading)


def write_plainly(path: Path, data: bytes) -> None:
    view = memoryview(data)
    with path.open("xb", buffering=0) as file:
        for at in range(0, len(data), _MIB):
            file.write(view[at : at + _MIB])
        os.fdatasync(file.fileno())
    path.unlink()


def copy_file(path: Path, sender: socket.socket) -> None:
    with path.open("rb", buffering=0) as file:
        while data := file.read(_MIB):
            sender.sendall(data)


def file_of(directory: Path, digest: Digest) -> Path:
    (path,) = directory.rglob(f"{digest.hash}*")
    return path


def send_file(path: Path, sender: socket.socket) -> None:
    with path.open("rb") as file:
        sender.sendfile(file)


@contextmanager
def drained_socket() -> Iterator[socket.socket]:
    """A socket whose other end throws away what comes."""
    sender, receiver = socket.socketpair()
    buffer = bytearray(_MIB)

    def drain() -> None:
        while receiver.recv_into(buffer):
            pass

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield sender
    finally:
        sender.close()
        thread.join()
        receiver.close()


def rate(took: float) -> str:
    return f"{_LARGE_BYTES / took / 1e6:,.0f} MB/s"


# Starting


def measure_restart(directory: Path, count: int, rounds: int) -> None:
    """The blobs' bytes are holes in the segments: a start reads only what says which there are."""
    write_synthetic(directory, count)
    answers = [open_elsewhere(directory) for _ in range(rounds)]
    took, cpu, blobs, grown = (median(column) for column in zip(*answers, strict=True))
    assert blobs == count
    rows = [
        ("time to open", f"{took:.2f} s"),
        ("CPU to open", f"{cpu:.2f} s"),
        ("memory it takes", f"{grown / _MIB:,.0f} MiB"),
        ("memory a blob", f"{grown / count:.0f} bytes"),
    ]
    print_table(f"A start with {count:,} blobs", ["", ""], rows)


def open_elsewhere(directory: Path) -> tuple[float, ...]:
    """In a process of its own, whose memory is then its own."""
    command = [sys.executable, __file__, "--open", str(directory)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(map(float, out.split()))


async def print_opening(directory: Path) -> None:
    gc.collect()
    before = resident_bytes(os.getpid())
    start, cpu = time.perf_counter(), time.process_time()
    async with opened(directory) as storage:
        took, spent = time.perf_counter() - start, time.process_time() - cpu
        gc.collect()
        grown = resident_bytes(os.getpid()) - before
        print(took, spent, storage.store.stats().blobs, grown)


def write_synthetic(directory: Path, count: int) -> None:
    """Makes the segments of a store of that many blobs of 4 KiB, without their bytes."""
    (directory / FOLDER).mkdir()
    per_segment, offset = SEGMENT_BYTES // (_BLOB_BYTES + 256), 0
    for number, start in enumerate(range(0, count, per_segment), start=1):
        salt = number.to_bytes(8, "little")
        table, offset = Table(), SEGMENT_HEADER_BYTES
        for blob in range(start, min(start + per_segment, count)):
            record = Record(Kind.BLOB, synthetic_key(blob), _ZEROS, 1)
            table.add(record, offset)
            offset += record.size_bytes
        body = b"".join(encode(Record(Kind.TABLE, b"", table.encode()), salt))
        path = directory / FOLDER / f"{number:08d}.pack"
        with path.open("wb") as file:
            file.write(segment_header(salt))
            file.seek(offset)
            file.write(body + trailer(offset, salt))
    assert offset % ALIGNMENT == 0


_ZEROS = bytes(_BLOB_BYTES)


def synthetic_key(number: int) -> bytes:
    name = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=32).hexdigest()
    return key_of(tuple.__new__(Digest, (_SHA256, name, _BLOB_BYTES)))


def digest_from(key: bytes) -> Digest:
    return tuple.__new__(Digest, (_SHA256, key[:64].decode(), _BLOB_BYTES))


# What all share


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[PackStorage]:
    clocks = Clocks(time.monotonic, time.time)  # noqa: TID251 (a composition root)
    storage = await PackStorage.open(directory, StorageOptions(), clocks)
    try:
        yield storage
    finally:
        await storage.close()


@contextmanager
def temporary(place: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="armitage-bench-", dir=place) as made:
        yield Path(made)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed_each(groups: Sequence[list[bytes]], look: Callable[[list[bytes]], bool]) -> list[float]:
    times = []
    for group in groups:
        start = time.perf_counter()
        is_there = look(group)
        times.append(time.perf_counter() - start)
        assert is_there
    return times


async def timed(
    look: Callable[[list[Digest]], Awaitable[list[Digest]]], group: list[Digest]
) -> float:
    start = time.perf_counter()
    missing = await look(group)
    took = time.perf_counter() - start
    assert not missing
    return took


if __name__ == "__main__":
    main()
