"""What does the remote tier cost? Packs before a bucket of a local S3 server.

- memory: how much does the process grow while a large blob is copied to the bucket and brought
  back? (the blob's size is what it must not depend on)
- FindMissing of 100 digests: asked of the bucket one after the other, asked as the tiers do, and
  remembered
- how many requests reach the bucket when 1,000 readers want one blob at once?
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from common import print_table, reset_peak, resident_bytes
from support.s3 import open_bucket, s3_server

from cas.digest import Digest, DigestFunction
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pending import DiskPending
from cas.s3 import S3Bucket
from cas.s3_action_cache import S3ActionCache
from cas.s3_store import S3Store, S3StoreOptions
from cas.store import BlobStore
from cas.tiered import TierOptions, WriteMode
from cas.tiers import Elsewhere, Here, Tiers

MIB = 1024 * 1024
PIECE = os.urandom(MIB)


@asynccontextmanager
async def tiers(directory: Path, bucket: S3Bucket) -> AsyncIterator[Tiers]:
    """Fresh packs before the bucket."""
    os.mkdir(directory)
    clocks = Clocks(time.monotonic, time.time)  # noqa: TID251 (a benchmark has no other)
    here = await PackStorage.open(directory / "cas", StorageOptions(), clocks)
    store = S3Store(bucket, S3StoreOptions(), spool=directory, wall=clocks.wall)
    made = Tiers(
        Here(here.store, here.cache),
        Elsewhere(store, S3ActionCache(bucket)),
        TierOptions(mode=WriteMode.WRITE_THROUGH),
        await DiskPending.open(directory / "pending"),
        monotonic=time.monotonic,
        chance=lambda: 0.0,
    )
    async with made:
        yield made
    await here.close()


async def copy_and_bring(directory: Path, bucket: S3Bucket, mebibytes: int) -> None:
    hasher = hashlib.sha256()
    for _ in range(mebibytes):
        hasher.update(PIECE)
    digest = Digest(DigestFunction.SHA256, hasher.hexdigest(), mebibytes * MIB)
    rows = []

    async def write(made: Tiers) -> None:
        writer = await made.store.open_writer([digest])
        for _ in range(mebibytes):
            await writer.write(PIECE)
        await writer.commit()

    async def read(made: Tiers) -> None:
        async for _ in made.store.read(digest):
            pass

    for number, (what, work) in enumerate((("to the bucket", write), ("from it", read))):
        async with tiers(directory / f"large{number}", bucket) as made:
            before = resident_bytes(os.getpid())
            reset_peak(os.getpid())
            started = time.perf_counter()
            await work(made)
            took = time.perf_counter() - started
            grown = (resident_bytes(os.getpid(), "VmHWM") - before) / MIB
        rows.append([f"{mebibytes} MiB {what}", f"{mebibytes / took:.0f}", f"{grown:.0f} MiB"])
    print_table("one large blob", ["", "MiB/s", "growth at its peak"], rows)


async def find(directory: Path, bucket: S3Bucket) -> None:
    async with tiers(directory / "find", bucket) as made:
        blobs = [os.urandom(100) for _ in range(500)]
        digests = [DigestFunction.SHA256.digest(data) for data in blobs]
        async with asyncio.TaskGroup() as group:
            for digest, data in zip(digests, blobs, strict=True):
                group.create_task(made.store.put([digest], data))
    one_by_one, at_once, again = [], [], []
    store = S3Store(bucket, S3StoreOptions(), spool=directory, wall=lambda: 0.0)
    async with tiers(directory / "found", bucket) as made:
        for start in range(0, 500, 100):
            hundred = digests[start : start + 100]
            one_by_one.append(await timed(store, hundred, together=False))
            at_once.append(await timed(made.store, hundred))
            again.append(await timed(made.store, hundred))
    slow = median(one_by_one)
    rows = [
        [name, f"{median(times) * 1e3:.2f} ms", f"{slow / median(times):.1f}x"]
        for name, times in (
            ("one after the other", one_by_one),
            ("as the tiers ask", at_once),
            ("remembered", again),
        )
    ]
    print_table("FindMissing of 100 digests that only the bucket has", ["", "time", "faster"], rows)


async def timed(store: BlobStore, digests: list[Digest], *, together: bool = True) -> float:
    started = time.perf_counter()
    for some in [digests] if together else [[digest] for digest in digests]:
        assert await store.find_missing(some) == []
    return time.perf_counter() - started


async def crowd(directory: Path, bucket: S3Bucket, readers: int) -> None:
    rows = []
    for size in (4096, 8 * MIB):
        data = os.urandom(size)
        digest = DigestFunction.SHA256.digest(data)
        async with tiers(directory / f"filled{size}", bucket) as made:
            await made.store.put([digest], data)
        async with tiers(directory / f"crowd{size}", bucket) as made:

            async def read(made: Tiers = made, digest: Digest = digest) -> None:
                async for _ in made.store.read(digest, max(0, digest.size_bytes - 4096)):
                    pass

            before, started = bucket.stats.requests, time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(readers):
                    group.create_task(read())
            took = time.perf_counter() - started
        requests = bucket.stats.requests - before
        rows.append([f"{size} bytes", str(requests), f"{took:.2f} s"])
    print_table(f"{readers} readers of one blob at once", ["", "requests", "time"], rows)


async def measure(mebibytes: int, readers: int) -> None:
    with s3_server() as server, tempfile.TemporaryDirectory(prefix="armitage-bench-") as made:
        bucket = open_bucket(server.endpoint)
        await copy_and_bring(Path(made), bucket, mebibytes)
        await find(Path(made), bucket)
        await crowd(Path(made), bucket, readers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--readers", type=int, default=1000)
    args = parser.parse_args()
    asyncio.run(measure(args.mebibytes, args.readers))


if __name__ == "__main__":
    main()
