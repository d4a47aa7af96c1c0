"""Actions a second when the actions do nothing, and where the time of one goes.

    python benchmarks/noop_actions.py [--actions 200] [--concurrency 16] [--inputs 0,20] [--differ]

A client with one gRPC connection uploads Action, Command and inputs of all actions first, then
executes them, so many at a time. Every action is new to the server; each is `true` in a sandbox.
All have the same input tree, or with --differ each one in which one file is its own.
The breakdown is from the ExecutedActionMetadata of the results.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import time
import uuid

from common import cpu_s, daemon, print_table

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import Channel
from armitage.reapi import rpcs


def digest_of(data: bytes) -> reapi.Digest:
    return reapi.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def upload(channel: Channel, blobs: list[bytes]) -> None:
    for start in range(0, len(blobs), 500):
        request = reapi.BatchUpdateBlobsRequest()
        for blob in blobs[start : start + 500]:
            request.requests.add(digest=digest_of(blob), data=blob)
        answer = await channel.call(rpcs.BATCH_UPDATE_BLOBS, request)
        assert all(entry.status.code == 0 for entry in answer.responses)


def tree_of(files: list[bytes]) -> bytes:
    root = reapi.Directory()
    for number, data in enumerate(files):
        root.files.add(name=f"{number:04}", digest=digest_of(data))
    return root.SerializeToString()


def prepare(count: int, inputs: int, differ: bool) -> tuple[list[reapi.Digest], list[bytes]]:
    """So many different actions; gives their digests and all blobs."""
    files = [f"input {number}".encode() for number in range(inputs)]
    root = tree_of(files)
    blobs = [*files, root]
    actions = []
    run = uuid.uuid4().hex
    for number in range(count):
        if differ and files:
            own = f"{run} {number}".encode()
            root = tree_of([*files[1:], own])
            blobs += [own, root]
        command = reapi.Command(arguments=["/bin/true"])
        command.environment_variables.add(name="RUN", value=f"{run} {number}")
        encoded = command.SerializeToString()
        action = reapi.Action(
            command_digest=digest_of(encoded), input_root_digest=digest_of(root)
        ).SerializeToString()
        actions.append((digest_of(action), encoded, action))
    blobs += [blob for _, *pair in actions for blob in pair]
    return [digest for digest, *_ in actions], blobs


async def execute(channel: Channel, digest: reapi.Digest) -> reapi.ActionResult:
    async for operation in channel.stream(rpcs.EXECUTE, reapi.ExecuteRequest(action_digest=digest)):
        if operation.done:
            response = reapi.ExecuteResponse.FromString(operation.response.value)
            assert response.status.code == 0, response.status
            assert response.result.exit_code == 0, response.result
            assert not response.cached_result
            return response.result
    raise AssertionError("the stream ended before the action")


async def run_all(
    channel: Channel, digests: list[reapi.Digest], concurrency: int
) -> tuple[float, list[float], list[reapi.ExecutedActionMetadata]]:
    waiting = list(reversed(digests))
    latencies: list[float] = []
    metadata: list[reapi.ExecutedActionMetadata] = []

    async def worker() -> None:
        while waiting:
            started = time.perf_counter()
            result = await execute(channel, waiting.pop())
            latencies.append(time.perf_counter() - started)
            metadata.append(result.execution_metadata)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return time.perf_counter() - started, latencies, metadata


# In the order of their start; between two of them the worker does what no timestamp names.
SPANS = {
    "queue": ("queued_timestamp", "worker_start_timestamp"),
    "scratch space": ("worker_start_timestamp", "input_fetch_start_timestamp"),
    "staging": ("input_fetch_start_timestamp", "input_fetch_completed_timestamp"),
    "sandbox start": ("input_fetch_completed_timestamp", "execution_start_timestamp"),
    "command": ("execution_start_timestamp", "execution_completed_timestamp"),
    "command to upload": ("execution_completed_timestamp", "output_upload_start_timestamp"),
    "output upload": ("output_upload_start_timestamp", "output_upload_completed_timestamp"),
    "cleaning up": ("output_upload_completed_timestamp", "worker_completed_timestamp"),
    "worker in all": ("worker_start_timestamp", "worker_completed_timestamp"),
}


def span_ms(metadata: reapi.ExecutedActionMetadata, names: tuple[str, str]) -> float:
    start, end = (getattr(metadata, name).ToNanoseconds() for name in names)
    return float(end - start) / 1e6


def percentiles(values: list[float]) -> list[str]:
    ordered = sorted(values)
    return [
        f"{statistics.median(ordered):.2f}",
        f"{ordered[int(len(ordered) * 0.9)]:.2f}",
        f"{ordered[-1]:.2f}",
    ]


async def measure(address: str, pid: int, arguments: argparse.Namespace) -> None:
    shapes = [(int(inputs), arguments.concurrency) for inputs in arguments.inputs.split(",")]
    async with Channel(address) as channel:
        for inputs, concurrency in [*shapes, (shapes[0][0], 1)]:
            warm, blobs = prepare(20, inputs, arguments.differ)
            await upload(channel, blobs)
            await run_all(channel, warm, concurrency)

            digests, blobs = prepare(arguments.actions, inputs, arguments.differ)
            await upload(channel, blobs)
            cpu = cpu_s(pid)
            wall, latencies, metadata = await run_all(channel, digests, concurrency)
            cpu = cpu_s(pid) - cpu
            rows = [
                [name, *percentiles([span_ms(entry, names) for entry in metadata])]
                for name, names in SPANS.items()
            ]
            rows.append(["seen by the client", *percentiles([s * 1000 for s in latencies])])
            title = (
                f"{arguments.actions} no-op actions, {inputs} input files each, "
                f"{concurrency} at a time: {arguments.actions / wall:.0f} actions/s, "
                f"{cpu / arguments.actions * 1000:.2f} ms CPU of the daemon each"
            )
            print_table(title, ["ms", "median", "p90", "max"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actions", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--inputs", default="0,20", help="files of an action's input tree")
    parser.add_argument("--differ", action="store_true", help="no two input trees are the same")
    arguments = parser.parse_args()
    with daemon() as served:
        asyncio.run(measure(served.address, served.pid, arguments))


if __name__ == "__main__":
    main()
