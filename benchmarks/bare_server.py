"""A bare grpc.aio server: the least that grpcio can do, as the named peer of the benchmarks.

It looks nothing up and stores nothing. Its handlers take and return raw bytes and answer canned
messages, with the same channel arguments as Armitage's own server:

- `GetActionResult`: the bytes of `--action-result FILE` (a serialised ActionResult) or a small one.
- `FindMissingBlobs`: an empty response, that is, everything is present.
- `ByteStream.Read`: as many zero bytes as the resource name says, in messages of `--chunk-bytes`,
  all of them the same one in memory. With `--read FILE` they are the file's, read for each message.
- `ByteStream.Write`: reads everything; `committed_size` is the size in the resource name. With
  `--store DIR` it does the least that a store of blobs must: SHA-256, a file, fdatasync, rename.

Use: start it, read its first line of output, which is its address, and point the client under test
at it and at Armitage in turn, with the same bytes:

    python benchmarks/bare_server.py --listen 127.0.0.1:0 --action-result result.binpb

SIGTERM or SIGINT stops it; it then prints the CPU seconds (user and system) that it used since the
first line, as `cpu_s 1.234`. To measure a stretch, read /proc/PID/stat before and after.
"""

# ruff: noqa: ARG002 (grpc calls every handler with a request and a context)
from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs
from armitage.transport.grpcio import channel_arguments
from armitage.transport.options import GrpcOptions


def size_in(name: str) -> int:
    """The size in `[INSTANCE/]blobs/[FUNCTION/]HASH/SIZE` or in an upload's name."""
    parts = name.split("/")
    after = parts[parts.index("blobs") + 1 :]
    return int(next(part for part in after[1:] if part.isdecimal() and len(part) < 20))


class BareHandlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Canned answers by path."""

    def __init__(
        self,
        action_result: bytes,
        chunk_bytes: int,
        store: Path | None = None,
        file: Path | None = None,
    ) -> None:
        self._action_result = action_result
        self._store = store
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._chunk = bytestream.ReadResponse(data=bytes(chunk_bytes)).SerializeToString()
        self._handlers = {
            rpcs.GET_ACTION_RESULT.path: grpc.unary_unary_rpc_method_handler(self._get),
            rpcs.FIND_MISSING_BLOBS.path: grpc.unary_unary_rpc_method_handler(self._find),
            rpcs.READ.path: grpc.unary_stream_rpc_method_handler(
                self._read if file is None else self._read_file
            ),
            rpcs.WRITE.path: grpc.stream_unary_rpc_method_handler(
                self._write if store is None else self._write_and_store
            ),
        }

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)

    async def _get(self, request: bytes, context: Any) -> bytes:
        return self._action_result

    async def _find(self, request: bytes, context: Any) -> bytes:
        return b""

    async def _read(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        size = size_in(bytestream.ReadRequest.FromString(request).resource_name)
        for _ in range(size // self._chunk_bytes):
            yield self._chunk
        if size % self._chunk_bytes:
            rest = bytes(size % self._chunk_bytes)
            yield bytestream.ReadResponse(data=rest).SerializeToString()

    async def _read_file(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        assert self._file is not None
        with self._file.open("rb", buffering=0) as file:
            while data := file.read(self._chunk_bytes):
                yield bytestream.ReadResponse(data=data).SerializeToString()

    async def _write(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        size = 0
        async for request in requests:
            if not size:
                size = size_in(bytestream.WriteRequest.FromString(request).resource_name)
        return bytestream.WriteResponse(committed_size=size).SerializeToString()

    async def _write_and_store(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        assert self._store is not None
        hasher, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._store, buffering=0, delete=False) as file:
            async for request in requests:
                data = bytestream.WriteRequest.FromString(request).data
                hasher.update(data)
                file.write(data)
                size += len(data)
            os.fdatasync(file.fileno())
        os.rename(file.name, self._store / hasher.hexdigest())
        return bytestream.WriteResponse(committed_size=size).SerializeToString()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve(listen: str, handlers: BareHandlers, tls: tuple[Path, Path] | None) -> None:
    server = grpc.aio.server(options=channel_arguments(GrpcOptions()))
    server.add_generic_rpc_handlers((handlers,))
    if tls is None:
        port = server.add_insecure_port(listen)
    else:
        certificate, key = (path.read_bytes() for path in tls)
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        port = server.add_secure_port(listen, credentials)
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"{listen.rpartition(':')[0]}:{port}", flush=True)
    before = cpu_s()
    await stop.wait()
    print(f"cpu_s {cpu_s() - before:.3f}", flush=True)
    await server.stop(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--action-result", type=Path, metavar="FILE")
    parser.add_argument("--chunk-bytes", type=int, default=1 << 20)
    parser.add_argument("--read", type=Path, metavar="FILE")
    parser.add_argument("--store", type=Path, metavar="DIR")
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"))
    arguments = parser.parse_args()
    result = reapi.ActionResult(exit_code=0, stdout_raw=b"ok\n").SerializeToString()
    if arguments.action_result:
        result = arguments.action_result.read_bytes()
    handlers = BareHandlers(result, arguments.chunk_bytes, arguments.store, arguments.read)
    asyncio.run(serve(arguments.listen, handlers, arguments.tls))


if __name__ == "__main__":
    main()
