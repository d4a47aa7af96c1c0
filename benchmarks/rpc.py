"""CPU of the server for each call, against a bare grpc.aio server that answers the same bytes.

Both servers run side by side and take turns with the same client (grpc.aio, raw bytes), so that
what else the machine does hits both alike. The figure is utime + stime of the server's process; the
ratio of the medians is what counts. What is written is thrown away by the bare server; the row
"stored" has a bare server that does with it the least that a store must (SHA-256, file, fdatasync).

    python benchmarks/rpc.py [--rounds 5] [--calls 3000] [--blob-mib 256] [--storage disk|memory]
                             [--transport fast|grpcio]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from common import bare_server, cpu_s, daemon, print_table

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs

CONCURRENCY = 64
CHUNK = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Sample:
    """One round of one kind of call on one server."""

    cpu_s: float
    wall_s: float
    units: float


class Client:
    """Raw calls to one server."""

    def __init__(self, address: str, pid: int) -> None:
        self.pid = pid
        self._channel = grpc.aio.insecure_channel(address, options=UNLIMITED)

    async def close(self) -> None:
        await self._channel.close()

    async def unary(self, path: str, request: bytes) -> bytes:
        answer: bytes = await self._channel.unary_unary(path)(request)
        return answer

    async def many(self, path: str, request: bytes, calls: int) -> None:
        """So many calls of one kind, CONCURRENCY at a time."""
        method = self._channel.unary_unary(path)

        async def worker(count: int) -> None:
            for _ in range(count):
                await method(request)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker(calls // CONCURRENCY))

    async def read(self, request: bytes, size: int) -> None:
        """A whole blob; a message has a few bytes of framing."""
        received = 0
        async for message in self._channel.unary_stream(rpcs.READ.path)(request):
            received += len(message)
        assert size <= received < size * 1.01, (size, received)

    async def write(self, name: str, data: bytes) -> None:
        """A whole blob in messages of CHUNK bytes."""

        async def requests() -> AsyncIterator[bytes]:
            for start in range(0, len(data), CHUNK):
                yield bytestream.WriteRequest(
                    resource_name=name if start == 0 else "",
                    write_offset=start,
                    data=data[start : start + CHUNK],
                    finish_write=start + CHUNK >= len(data),
                ).SerializeToString()

        answer = await self._channel.stream_unary(rpcs.WRITE.path)(requests())
        assert bytestream.WriteResponse.FromString(answer).committed_size == len(data)

    async def sample(self, units: float, work: Awaitable[None]) -> Sample:
        """Times some work and what it cost the server."""
        cpu, started = cpu_s(self.pid), time.perf_counter()
        await work
        # The server may still be freeing what the call left behind.
        wall = time.perf_counter() - started
        await asyncio.sleep(0.05)
        return Sample(cpu_s(self.pid) - cpu, wall, units)


def digest_of(data: bytes) -> reapi.Digest:
    return reapi.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def populate(client: Client) -> tuple[bytes, bytes]:
    """A hundred blobs and an action result; gives the requests that ask for them."""
    blobs = [f"blob {number}".encode() * 20 for number in range(100)]
    output = blobs[0]
    action = reapi.Action(command_digest=digest_of(output)).SerializeToString()
    update = reapi.BatchUpdateBlobsRequest()
    for blob in [*blobs, action]:
        update.requests.add(digest=digest_of(blob), data=blob)
    await client.unary(rpcs.BATCH_UPDATE_BLOBS.path, update.SerializeToString())
    result = reapi.ActionResult(exit_code=0)
    result.output_files.add(path="out/some/program.o", digest=digest_of(output))
    result.execution_metadata.worker = "worker"
    store = reapi.UpdateActionResultRequest(action_digest=digest_of(action), action_result=result)
    await client.unary(rpcs.UPDATE_ACTION_RESULT.path, store.SerializeToString())
    get = reapi.GetActionResultRequest(action_digest=digest_of(action))
    find = reapi.FindMissingBlobsRequest(blob_digests=[digest_of(blob) for blob in blobs])
    return get.SerializeToString(), find.SerializeToString()


async def compare(arguments: argparse.Namespace) -> list[list[str]]:
    settings = f'storage = "{arguments.storage}"\ntransport = "{arguments.transport}"'
    with daemon(settings) as armitage, tempfile.TemporaryDirectory() as scratch:
        ours = Client(armitage.address, armitage.pid)
        get, find = await populate(ours)
        canned = Path(scratch) / "result"
        canned.write_bytes(await ours.unary(rpcs.GET_ACTION_RESULT.path, get))
        with (
            bare_server("--action-result", str(canned)) as bare_address,
            bare_server("--store", scratch) as storing_address,
        ):
            bare, storing = Client(*bare_address), Client(*storing_address)
            rows = await measure(ours, bare, storing, get, find, arguments)
            await bare.close()
            await storing.close()
        await ours.close()
    return rows


async def measure(
    ours: Client,
    bare: Client,
    storing: Client,
    get: bytes,
    find: bytes,
    arguments: argparse.Namespace,
) -> list[list[str]]:
    calls = arguments.calls // CONCURRENCY * CONCURRENCY
    size = arguments.blob_mib << 20
    # One byte of every round is its own, so that every write is a new blob.
    filler = os.urandom(size - 16)
    stored = filler + os.urandom(16)
    digest = digest_of(stored)
    await ours.write(f"uploads/{uuid.uuid4()}/blobs/{digest.hash}/{size}", stored)
    read = bytestream.ReadRequest(resource_name=f"blobs/{digest.hash}/{size}").SerializeToString()

    async def write(client: Client) -> Sample:
        data = filler + os.urandom(16)
        name = f"uploads/{uuid.uuid4()}/blobs/{digest_of(data).hash}/{size}"
        return await client.sample(size / 2**30, client.write(name, data))

    async def unary(client: Client, path: str, request: bytes) -> Sample:
        return await client.sample(calls, client.many(path, request, calls))

    gib = size / 2**30
    kinds: dict[str, tuple[Client, str, float, Callable[[Client], Awaitable[Sample]]]] = {
        "GetActionResult": (
            bare,
            "us/call",
            1e6,
            lambda client: unary(client, rpcs.GET_ACTION_RESULT.path, get),
        ),
        "FindMissingBlobs(100)": (
            bare,
            "us/call",
            1e6,
            lambda client: unary(client, rpcs.FIND_MISSING_BLOBS.path, find),
        ),
        f"Read {arguments.blob_mib} MiB": (
            bare,
            "s/GiB",
            1,
            lambda client: client.sample(gib, client.read(read, size)),
        ),
        f"Write {arguments.blob_mib} MiB": (bare, "s/GiB", 1, write),
        f"Write {arguments.blob_mib} MiB, stored": (storing, "s/GiB", 1, write),
    }
    rows = []
    for kind, (peer, unit, scale, work) in kinds.items():
        samples: dict[Client, list[Sample]] = {ours: [], peer: []}
        for client in samples:
            await work(client)  # Warm: connections, caches, first allocations.
        for _ in range(arguments.rounds):
            for client, done in samples.items():
                done.append(await work(client))
        cost = {c: statistics.median(s.cpu_s / s.units for s in samples[c]) for c in samples}
        rate = {c: statistics.median(s.units / s.wall_s for s in samples[c]) for c in samples}
        rows.append(
            [
                kind,
                f"{cost[ours] * scale:.3g} {unit}",
                f"{cost[peer] * scale:.3g} {unit}",
                f"{cost[ours] / cost[peer]:.2f}x",
                f"{rate[ours]:.3g}",
                f"{rate[peer]:.3g}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000, help="calls of a unary round")
    parser.add_argument("--blob-mib", type=int, default=256)
    parser.add_argument("--storage", choices=("disk", "memory"), default="disk")
    parser.add_argument("--transport", choices=("fast", "grpcio"), default="fast")
    arguments = parser.parse_args()
    rows = asyncio.run(compare(arguments))
    header = ["call", "Armitage", "bare grpc.aio", "ratio", "Armitage /s", "bare /s"]
    title = f"CPU of the server, {arguments.storage} storage, transport {arguments.transport}"
    print_table(title, header, rows)
    print("\n/s: calls, or GiB, in a second of wall time; client and server share the machine.")


if __name__ == "__main__":
    main()
