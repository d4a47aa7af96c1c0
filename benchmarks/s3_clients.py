"""Which S3 client for the data path: obstore (Rust, asyncio) or boto3 in threads?

Both talk to the same local S3 server in turns. CPU is that of this process, threads included, and
so does not depend on how fast the server is.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING, Protocol, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from common import print_table
from obstore.store import S3Store
from support.s3 import BUCKET, OWNER, REGION, s3_server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

MIB = 1024 * 1024
SMALL = os.urandom(4096)
PIECE = os.urandom(MIB)
PART_BYTES = 8 * MIB
PARTS_AT_ONCE = 4
ROUNDS = 3


class Client(Protocol):
    """What a data path does: each method one object."""

    async def put(self, key: str) -> object: ...

    async def get(self, key: str) -> object: ...

    async def head(self, key: str) -> object: ...

    async def upload(self, key: str, mebibytes: int) -> object: ...

    async def download(self, key: str) -> str: ...


class Threads:
    """boto3, one thread for each request in flight."""

    def __init__(self, endpoint: str, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers)
        self._client: S3Client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=OWNER.access,
            aws_secret_access_key=OWNER.secret,
            config=Config(
                max_pool_connections=workers,
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._transfer = TransferConfig(
            multipart_chunksize=PART_BYTES,
            multipart_threshold=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
        )

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def put(self, key: str) -> object:
        return await self._run(lambda: self._client.put_object(Bucket=BUCKET, Key=key, Body=SMALL))

    async def get(self, key: str) -> object:
        def run() -> bytes:
            return self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

        return await self._run(run)

    async def head(self, key: str) -> object:
        return await self._run(lambda: self._client.head_object(Bucket=BUCKET, Key=key))

    async def upload(self, key: str, mebibytes: int) -> object:
        return await self._run(
            lambda: self._client.upload_fileobj(
                io.BytesIO(PIECE * mebibytes), BUCKET, key, Config=self._transfer
            )
        )

    async def download(self, key: str) -> str:
        def run() -> str:
            hasher = hashlib.sha256()
            body = self._client.get_object(Bucket=BUCKET, Key=key)["Body"]
            for chunk in body.iter_chunks(MIB):
                hasher.update(chunk)
            return hasher.hexdigest()

        return await self._run(run)


class Obstore:
    """obstore, one event loop."""

    def __init__(self, endpoint: str) -> None:
        self._store = S3Store(
            BUCKET,
            endpoint=endpoint,
            access_key_id=OWNER.access,
            secret_access_key=OWNER.secret,
            region=REGION,
            client_options={"allow_http": True, "timeout": "120s"},
        )

    async def put(self, key: str) -> object:
        return await self._store.put_async(key, SMALL)

    async def get(self, key: str) -> object:
        return await (await self._store.get_async(key)).bytes_async()

    async def head(self, key: str) -> object:
        return await self._store.head_async(key)

    async def upload(self, key: str, mebibytes: int) -> object:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(mebibytes):
                yield PIECE

        return await self._store.put_async(
            key, pieces(), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )

    async def download(self, key: str) -> str:
        hasher = hashlib.sha256()
        async for chunk in (await self._store.get_async(key)).stream(min_chunk_size=MIB):
            hasher.update(chunk)
        return hasher.hexdigest()


async def many(call: Callable[[str], Awaitable[object]], count: int, at_once: int) -> None:
    """Calls with that many keys, so many in flight."""
    keys = iter(range(count))

    async def work() -> None:
        for key in keys:
            await call(f"small/{key}")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


async def timed(work: Awaitable[object]) -> tuple[float, float]:
    """Seconds and CPU seconds of this process."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await work
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu


async def measure(endpoint: str, count: int, at_once: int, mebibytes: int) -> None:
    clients: dict[str, Client] = {
        "boto3": Threads(endpoint, at_once),
        "obstore": Obstore(endpoint),
    }
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    expected = hashlib.sha256(PIECE * mebibytes).hexdigest()
    for _ in range(ROUNDS):
        for name, client in clients.items():
            for what in ("put", "get", "head"):
                work = many(getattr(client, what), count, at_once)
                figures.setdefault((what, name), []).append(await timed(work))
            up = await timed(client.upload("large", mebibytes))
            figures.setdefault(("upload", name), []).append(up)
            found: list[str] = []

            async def download(client: Client = client, found: list[str] = found) -> None:
                found.append(await client.download("large"))

            figures.setdefault(("download", name), []).append(await timed(download()))
            assert found == [expected]
    small = []
    for what in ("put", "get", "head"):
        best = {name: figures[what, name] for name in clients}
        cpu = {name: median(c for _, c in runs) / count * 1e6 for name, runs in best.items()}
        rate = {name: count / median(t for t, _ in runs) for name, runs in best.items()}
        small.append(
            [f"{what} 4 KiB" if what != "head" else what]
            + [f"{rate[name]:.0f}" for name in clients]
            + [f"{cpu[name]:.0f}" for name in clients]
            + [f"{cpu['boto3'] / cpu['obstore']:.1f}x"]
        )
    print_table(
        f"{count} objects, {at_once} in flight",
        ["", "boto3 /s", "obstore /s", "boto3 CPU us", "obstore CPU us", "CPU boto3 : obstore"],
        small,
    )
    large = []
    for what in ("upload", "download"):
        rows = {name: figures[what, name] for name in clients}
        rate = {name: mebibytes / median(t for t, _ in runs) for name, runs in rows.items()}
        cpu = {name: median(c for _, c in runs) / mebibytes * 1024 for name, runs in rows.items()}
        large.append(
            [f"{what} {mebibytes} MiB"]
            + [f"{rate[name]:.0f}" for name in clients]
            + [f"{cpu[name]:.2f}" for name in clients]
            + [f"{cpu['boto3'] / cpu['obstore']:.1f}x"]
        )
    print_table(
        f"one object in parts of 8 MiB, {PARTS_AT_ONCE} at once; downloads are hashed",
        ["", "boto3 MiB/s", "obstore MiB/s", "boto3 CPU s/GiB", "obstore", "boto3 : obstore"],
        large,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--mebibytes", type=int, default=128)
    args = parser.parse_args()
    with s3_server() as server:
        asyncio.run(measure(server.endpoint, args.count, args.at_once, args.mebibytes))


if __name__ == "__main__":
    main()
