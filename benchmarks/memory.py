"""Growth of the daemon's resident memory while a blob far bigger than it goes in and comes out.

    python benchmarks/memory.py [--gib 5]

Needs as much disk as the blob. The bytes are made up while they are sent, so the client stays small
too; they are checked by their hash when they come back.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import grpc.aio
from common import daemon, print_table, reset_peak, resident_bytes

from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs

CHUNK = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
FILLER = bytes(range(256)) * (CHUNK // 256 - 1)


def chunks(gib: int) -> Iterator[bytes]:
    """The blob, a mebibyte at a time, no two alike."""
    for number in range(gib << 10):
        yield struct.pack(">Q", number) * 32 + FILLER


async def write(channel: grpc.aio.Channel, name: str, gib: int) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for number, chunk in enumerate(chunks(gib)):
            yield bytestream.WriteRequest(
                resource_name=name if number == 0 else "",
                write_offset=number * CHUNK,
                data=chunk,
                finish_write=number == (gib << 10) - 1,
            ).SerializeToString()

    answer = await channel.stream_unary(rpcs.WRITE.path)(requests())
    assert bytestream.WriteResponse.FromString(answer).committed_size == gib << 30


async def read(channel: grpc.aio.Channel, name: str) -> str:
    hasher = hashlib.sha256()
    request = bytestream.ReadRequest(resource_name=name).SerializeToString()
    async for message in channel.unary_stream(rpcs.READ.path)(request):
        hasher.update(bytestream.ReadResponse.FromString(message).data)
    return hasher.hexdigest()


async def measure(address: str, pid: int, gib: int) -> list[list[str]]:
    hasher = hashlib.sha256()
    for chunk in chunks(gib):
        hasher.update(chunk)
    blob = f"{hasher.hexdigest()}/{gib << 30}"
    rows = []
    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        # A small blob first: what the first call of a kind loads is no cost of a big blob.
        small = hashlib.sha256(next(chunks(1))).hexdigest()
        await warm(channel, small)
        for step in ("write", "read"):
            before = resident_bytes(pid)
            reset_peak(pid)
            started = time.perf_counter()
            if step == "write":
                await write(channel, f"uploads/{uuid.uuid4()}/blobs/{blob}", gib)
            else:
                assert await read(channel, f"blobs/{blob}") == hasher.hexdigest()
            seconds = time.perf_counter() - started
            growth = resident_bytes(pid, "VmHWM") - before
            rows.append(
                [
                    f"{step} {gib} GiB",
                    f"{before / 2**20:.0f} MiB",
                    f"{growth / 2**20:.1f} MiB",
                    f"{gib * 1024 / seconds:.0f} MiB/s",
                ]
            )
    return rows


async def warm(channel: grpc.aio.Channel, small: str) -> None:
    request = bytestream.WriteRequest(
        resource_name=f"uploads/{uuid.uuid4()}/blobs/{small}/{CHUNK}",
        data=next(chunks(1)),
        finish_write=True,
    )
    for _ in range(20):
        await channel.stream_unary(rpcs.WRITE.path)(iter([request.SerializeToString()]))
        await read(channel, f"blobs/{small}/{CHUNK}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=int, default=5)
    gib = parser.parse_args().gib
    with daemon() as served:
        rows = asyncio.run(measure(served.address, served.pid, gib))
    header = ["step", "resident before", "growth at its peak", "rate"]
    print_table("Resident memory of the daemon", header, rows)


if __name__ == "__main__":
    main()
