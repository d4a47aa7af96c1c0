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
        "restart": lambda directory: measure_restart(directory, 1_000_000),
        "huge": lambda directory: measure_restart(directory, 10_000_000),
    }
    for part in arguments.parts:
        with temporary(arguments.directory) as directory:
            parts[part](directory)


# Many small durable writes


def measure_puts(directory: Path) -> None:
    """Rounds of each in turn, so that what else the machine does hits all alike."""
    plain_rates: list[float] = []
    single_rates: list[float] = []
    batch_rates: list[float] = []
    disk_rates: list[float] = []
    for number in range(_ROUNDS):
        folder = directory / str(number)
        folder.mkdir()
        disk_rates.append(syncs_a_second(folder / "disk"))
        plain_rates.append(put_files(folder / "files", 1500))
        single_rates.append(asyncio.run(put_blobs(folder / "single", 20_000, 1)))
        batch_rates.append(asyncio.run(put_blobs(folder / "batch", 40_000, 50)))
        shutil.rmtree(folder)
    plain = median(plain_rates)
    bound = median(disk_rates) * _WRITERS
    rows = [
        (name, f"{median(rates):,.0f}", f"{median(rates) / plain:.1f}x", f"{best:,.0f}")
        for name, rates, best in [
            ("file, fsync, rename: 32 threads", plain_rates, max(plain_rates)),
            ("put, 32 writers", single_rates, max(single_rates)),
            ("put_many of 50, 32 writers", batch_rates, max(batch_rates)),
        ]
    ]
    rows.append(("limit for put: 32 a sync of the disk, no other work", f"{bound:,.0f}", "", ""))
    print_table("Durable puts of 4 KiB a second", ["way", "median", "ratio", "best"], rows)


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


def put_files(directory: Path, count: int) -> float:
    """The simple way: a temporary file, synced and renamed, for each blob."""
    for byte in range(256):
        (directory / f"{byte:02x}").mkdir(parents=True)
    blobs = [(f"{directory}/{d.hash[:2]}/{d.hash}", data) for d, data in make_blobs(count)]
    threads = [
        threading.Thread(target=lambda part=blobs[n::_WRITERS]: [put_file(*b) for b in part])  # type: ignore[misc]
        for n in range(_WRITERS)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - start)


def put_file(path: str, data: bytes) -> None:
    assert hashlib.sha256(data).hexdigest() == path[-64:]
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{path}.new", path)


async def put_blobs(directory: Path, count: int, batch: int) -> float:
    blobs = [BatchPut((digest,), data) for digest, data in make_blobs(count)]
    async with opened(directory) as storage:
        work = iter(blobs)

        async def put_one_by_one() -> None:
            for blob in work:
                await storage.store.put(blob.candidates, blob.data)

        async def put_by_batches() -> None:
            while group := list(islice(work, batch)):
                await storage.store.put_many(group)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(put_one_by_one() if batch == 1 else put_by_batches())
        return count / (time.perf_counter() - start)


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
    rows = [
        (name, f"{median(times) * 1e6:.1f} us", f"{median(times) / median(bare):.1f}x")
        for name, times in [
            ("a bare set of the same keys: issuperset", bare),
            ("all_fresh, by keys as they are on the wire", fresh),
            ("find_missing, by Digests", found),
        ]
    ]
    print_table("100 random digests of a million blobs, all there", ["way", "time", "ratio"], rows)


async def touch(store: PackStore, count: int) -> None:
    """Lets every blob be of the current window, as those that builds ask for are."""
    for start in range(0, count, 10_000):
        keys = map(synthetic_key, range(start, start + 10_000))
        assert not await store.find_missing([digest_from(key) for key in keys])


# Large blobs


def measure_large(directory: Path) -> None:
    data = random.Random(2).randbytes(_MIB) * (_LARGE_BYTES // _MIB)
    digest = _SHA256.digest(data)
    hashing, storing, copying, reading = [], [], [], []
    for number in range(_ROUNDS):
        folder = directory / str(number)
        hashing.append(seconds(lambda: _SHA256.digest(data)))
        store_s, copy_s, read_s = asyncio.run(store_and_read(folder, digest, data))
        storing.append(store_s)
        copying.append(copy_s)
        reading.append(read_s)
        shutil.rmtree(folder)
    rows = [
        ("sha256 alone", rate(hashing), "1.00"),
        ("verified, stored, durable", rate(storing), f"{median(hashing) / median(storing):.2f}"),
        ("sendfile of a file to a socket", rate(copying), "1.00"),
        (
            "read of the store to a socket",
            rate(reading),
            f"{median(copying) / median(reading):.2f}",
        ),
    ]
    print_table("A blob of 256 MiB", ["way", "rate", "ratio"], rows)


async def store_and_read(
    directory: Path, digest: Digest, data: bytes
) -> tuple[float, float, float]:
    async with opened(directory) as storage:
        start = time.perf_counter()
        writer = await storage.store.open_writer((digest,))
        view = memoryview(data)
        for at in range(0, len(data), _MIB):
            await writer.write(view[at : at + _MIB])
        await writer.commit()
        stored = time.perf_counter() - start
        path = file_of(directory, digest)
        with drained_socket() as sender:
            copying = seconds(lambda: send_file(path, sender))
            start = time.perf_counter()
            async for piece in storage.store.read(digest):
                sender.sendall(piece)
            return stored, copying, time.perf_counter() - start


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


def rate(times: Sequence[float]) -> str:
    return f"{_LARGE_BYTES / median(times) / 1e6:,.0f} MB/s"


# Starting


def measure_restart(directory: Path, count: int) -> None:
    """The blobs' bytes are holes in the segments: a start reads only what says which there are."""
    write_synthetic(directory, count)
    answers = [open_elsewhere(directory) for _ in range(3)]
    took, blobs, grown = (median(column) for column in zip(*answers, strict=True))
    assert blobs == count
    rows = [
        ("time to open", f"{took:.2f} s"),
        ("memory it takes", f"{grown / _MIB:,.0f} MiB"),
        ("memory a blob", f"{grown / count:.0f} bytes"),
    ]
    print_table(f"A start with {count:,} blobs", ["", ""], rows)


def open_elsewhere(directory: Path) -> tuple[float, float, float]:
    """In a process of its own, whose memory is then its own."""
    command = [sys.executable, __file__, "--open", str(directory)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    took, blobs, grown = map(float, out.split())
    return took, blobs, grown


async def print_opening(directory: Path) -> None:
    gc.collect()
    before = resident_bytes(os.getpid())
    start = time.perf_counter()
    async with opened(directory) as storage:
        took = time.perf_counter() - start
        gc.collect()
        grown = resident_bytes(os.getpid()) - before
        print(took, storage.store.stats().blobs, grown)


def write_synthetic(directory: Path, count: int) -> None:
    """Makes the segments of a store of that many blobs of 4 KiB, without their bytes."""
    (directory / FOLDER).mkdir()
    per_segment = SEGMENT_BYTES // (_BLOB_BYTES + 256)
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
