"""What a call costs on the wire: Armitage's transports beside grpc.aio, C++ gRPC and real peers.

All servers answer the same requests with the same bytes, one after the other in each round, so that
whatever else the machine does hits them alike. grpc.aio (bare_server.py) and C++ gRPC (grpc_cpp/)
look nothing up and store nothing, but where their name says so: they are the floor of their
libraries. buildbox-casd and BuildGrid are real servers, for calls only. The load is h2load, in C.
Before each measurement a client of grpcio compares the answer; afterwards the bytes that h2load
received are counted.

    tests/e2e/prepare && tests/e2e/prepare buildgrid
    apt-get install nghttp2-client g++ pkg-config libgrpc++-dev
    .venv/bin/python benchmarks/transport.py [--only calls,latency,read,write,memory] [--tls]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import h2load
import peers
from common import cpu_s, print_table, resident_bytes
from peers import Peer
from support.certificates import Authority
from support.http2 import PREFACE, SETTINGS, frame

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs

MIB = 1 << 20
CHUNKS = (64 << 10, 256 << 10, 1 << 20, 2 << 20)
FLOOR = "C++ gRPC"
DISK = "the disk alone"
SHARES = {"grpc.aio": 0.1, "Armitage, grpcio": 0.1, "buildbox-casd": 0.1, "BuildGrid": 0.02}
"""Of the calls of a round, so that slow servers take no longer than fast ones."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Figures:
    """What one server needed for one kind of load, a value a round."""

    rate: list[float] = field(default_factory=list)
    """Requests or bytes a second."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds a request, or a byte."""
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    """Bytes of memory afterwards."""

    def median(self, name: str) -> float:
        values: list[float] = getattr(self, name)
        return statistics.median(values)


def channel(peer: Peer, authority: bytes) -> grpc.Channel:
    if not peer.tls:
        return grpc.insecure_channel(peer.address, UNLIMITED)
    return grpc.secure_channel(peer.address, grpc.ssl_channel_credentials(authority), UNLIMITED)


def digest_of(data: bytes) -> reapi.Digest:
    return reapi.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


class Requests:
    """The requests of all loads, with the answers that are due."""

    def __init__(self) -> None:
        self.blobs = [f"blob {number}".encode() * 20 for number in range(100)]
        self.action = reapi.Action(command_digest=digest_of(self.blobs[0])).SerializeToString()
        self.result = reapi.ActionResult(exit_code=0)
        self.result.output_files.add(path="out/some/program.o", digest=digest_of(self.blobs[0]))
        self.result.execution_metadata.worker = "worker"
        action = digest_of(self.action)
        self.get = reapi.GetActionResultRequest(action_digest=action).SerializeToString()
        find = reapi.FindMissingBlobsRequest(blob_digests=[digest_of(b) for b in self.blobs])
        self.find = find.SerializeToString()

    def populate(self, calls: grpc.Channel) -> None:
        """Stores what the requests ask for."""
        update = reapi.BatchUpdateBlobsRequest()
        for blob in [*self.blobs, self.action]:
            update.requests.add(digest=digest_of(blob), data=blob)
        calls.unary_unary(rpcs.BATCH_UPDATE_BLOBS.path)(update.SerializeToString())
        store = reapi.UpdateActionResultRequest(
            action_digest=digest_of(self.action), action_result=self.result
        )
        calls.unary_unary(rpcs.UPDATE_ACTION_RESULT.path)(store.SerializeToString())

    def check(self, calls: grpc.Channel) -> tuple[int, int]:
        """Holds the answers to what was stored; their sizes, of a result and of nothing missing."""
        result = calls.unary_unary(rpcs.GET_ACTION_RESULT.path)(self.get)
        parsed = reapi.ActionResult.FromString(result)
        assert parsed.output_files == self.result.output_files, parsed
        missing = calls.unary_unary(rpcs.FIND_MISSING_BLOBS.path)(self.find)
        assert not reapi.FindMissingBlobsResponse.FromString(missing).missing_blob_digests
        return len(result), len(missing)


def fill_index(calls: grpc.Channel, count: int) -> None:
    """Stores so many small blobs, so that look-ups have something to look through."""
    batch = 20_000
    update_blobs = calls.unary_unary(rpcs.BATCH_UPDATE_BLOBS.path)
    for start in range(0, count, batch):
        update = reapi.BatchUpdateBlobsRequest()
        for number in range(start, min(start + batch, count)):
            blob = b"%d of the index" % number
            update.requests.add(digest=digest_of(blob), data=blob)
        update_blobs(update.SerializeToString())


def write_stream(name: str, data: bytes, chunk: int) -> Iterator[bytes]:
    for start in range(0, len(data), chunk):
        yield bytestream.WriteRequest(
            resource_name=name if start == 0 else "",
            write_offset=start,
            data=data[start : start + chunk],
            finish_write=start + chunk >= len(data),
        ).SerializeToString()


def write_file(path: Path, size: int, figures: Figures) -> None:
    """The least that it takes to have so many new bytes on disk."""
    piece = os.urandom(MIB)
    before, began = time.process_time(), time.perf_counter()
    with path.open("wb", buffering=0) as out:
        for _ in range(size // MIB):
            out.write(piece)
        os.fdatasync(out.fileno())
    figures.rate.append(size / (time.perf_counter() - began))
    figures.cpu.append((time.process_time() - before) / size)
    path.unlink()


class Bench:
    """Runs loads against servers that are up."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.arguments = arguments
        self.scratch = scratch
        self.requests = Requests()
        self.authority = b""
        self.tls: tuple[Path, Path] | None = None
        if arguments.tls:
            authority = Authority()
            self.authority = authority.certificate
            self.tls = authority.issue("server").write(scratch, "server")

    def file(self, name: str, messages: Sequence[bytes] | Iterator[bytes]) -> Path:
        path = self.scratch / name
        with path.open("wb") as out:
            out.writelines(map(h2load.message, messages))
        return path

    def sample(
        self,
        figures: Figures,
        peer: Peer,
        path: str,
        body: Path,
        count: int,
        shape: tuple[int, int] = (1, 1),
        units: float = 0,
    ) -> h2load.Load:
        """So many calls, over so many connections and streams, and what they cost the server.

        `units` is what the figures are of: calls, or else bytes.
        """
        units = units or count
        before = cpu_s(peer.pid)
        load = h2load.run(
            peer.address,
            path,
            body,
            requests=count,
            connections=shape[0],
            streams=shape[1],
            tls=peer.tls,
        )
        figures.cpu.append((cpu_s(peer.pid) - before) / units)
        figures.rate.append(units / load.wall_s)
        figures.p50.append(load.quantile_s(0.5))
        figures.p99.append(load.quantile_s(0.99))
        figures.resident.append(resident_bytes(peer.pid))
        return load

    def calls(self, servers: Sequence[Peer], connections: int, streams: int, calls: int) -> None:
        """Unary calls."""
        kinds = {
            "GetActionResult": (rpcs.GET_ACTION_RESULT.path, self.requests.get, 0),
            "FindMissingBlobs(100)": (rpcs.FIND_MISSING_BLOBS.path, self.requests.find, 1),
        }
        for kind, (path, request, index) in kinds.items():
            body = self.file(kind, [request])
            table: dict[str, Figures] = {peer.name: Figures() for peer in servers}
            for attempt in range(self.arguments.rounds + 1):
                for peer in servers:
                    with closing(channel(peer, self.authority)) as checked:
                        size = self.requests.check(checked)[index] + 5
                    share = SHARES.get(peer.name, 1.0)
                    count = max(connections * streams, int(calls * share))
                    figures = table[peer.name] if attempt else Figures()  # The first is to warm.
                    load = self.sample(figures, peer, path, body, count, (connections, streams))
                    assert load.data_bytes == count * size, (peer.name, load.data_bytes)
            self.print_calls(f"{kind}, {connections} x {streams}", table, servers)

    def print_calls(
        self, title: str, table: Mapping[str, Figures], servers: Sequence[Peer]
    ) -> None:
        floor = table[FLOOR]
        rows = []
        for peer in servers:
            each = table[peer.name]
            rows.append(
                [
                    peer.name,
                    f"{each.median('rate'):,.0f}",
                    f"{each.median('rate') / floor.median('rate'):.2f}x",
                    f"{each.median('p50') * 1e6:,.0f}",
                    f"{each.median('p50') / floor.median('p50'):.2f}x",
                    f"{each.median('p99') * 1e6:,.0f}",
                    f"{each.median('cpu') * 1e6:.1f}",
                    f"{each.median('resident') / MIB:.0f}",
                ]
            )
        header = ["server", "calls/s", f"to {FLOOR}", "p50 us", f"to {FLOOR}", "p99 us"]
        print_table(self._named(title), [*header, "CPU us/call", "RSS MiB"], rows)

    def _named(self, title: str) -> str:
        return f"{title}, {'TLS' if self.tls else 'h2c'}"

    def read(self, ours: Sequence[Peer], canned: Path) -> None:
        """One blob, whole, by a single call."""
        size = self.arguments.blob_mib * MIB
        data = os.urandom(size)
        name = f"blobs/{hashlib.sha256(data).hexdigest()}/{size}"
        for peer in ours:
            with closing(channel(peer, self.authority)) as calls:
                upload = f"uploads/{uuid.uuid4()}/{name}"
                calls.stream_unary(rpcs.WRITE.path)(write_stream(upload, data, 2 * MIB))
                self._check_read(calls, name, data)
        body = self.file("read", [bytestream.ReadRequest(resource_name=name).SerializeToString()])
        stored = self.scratch / "blob"
        stored.write_bytes(data)
        with ExitStack() as stack:
            servers = {peer.name: peer for peer in ours}
            for chunk in CHUNKS:
                flags = ["--chunk-bytes", str(chunk), *self.tls_flags()]
                floors = {
                    "grpc.aio": peers.grpc_aio(canned, *flags),
                    "grpc.aio of a file": peers.grpc_aio(canned, "--read", str(stored), *flags),
                    "C++ gRPC": peers.grpc_cpp(canned, chunk, self.tls),
                }
                for name, floor in floors.items():
                    servers[f"{name}, {chunk >> 10} KiB"] = stack.enter_context(floor)
            table = self._stream(servers, size, lambda: body, rpcs.READ.path)
        title = f"Read {size // MIB} MiB"
        self._print_streams(title, table, "grpc.aio,", "grpc.aio of a file,")

    def _check_read(self, calls: grpc.Channel, name: str, data: bytes) -> None:
        request = bytestream.ReadRequest(resource_name=name).SerializeToString()
        digest = hashlib.sha256()
        for message in calls.unary_stream(rpcs.READ.path)(request):
            digest.update(bytestream.ReadResponse.FromString(message).data)
        assert digest.digest() == hashlib.sha256(data).digest()

    def write(self, ours: Sequence[Peer], canned: Path) -> None:
        """A new blob by a single call; the peers throw it away, `stored` ones keep it. The disk
        alone is a file of as many bytes, written and synced.
        """
        size = self.arguments.blob_mib * MIB
        filler = os.urandom(size - 16)
        with ExitStack() as stack:
            stored = self.scratch / "stored"
            stored.mkdir()
            throwing = stack.enter_context(peers.grpc_aio(canned, *self.tls_flags()))
            storing = stack.enter_context(
                peers.grpc_aio(canned, "--store", str(stored), *self.tls_flags())
            )
            cpp = stack.enter_context(peers.grpc_cpp(canned, 1 << 20, self.tls))
            for chunk in CHUNKS:
                servers = {peer.name: peer for peer in ours}
                servers |= {
                    "grpc.aio, stored": storing,
                    "grpc.aio, thrown away": throwing,
                    "C++ gRPC, thrown away": cpp,
                }

                def fresh(chunk: int = chunk) -> Path:
                    for old in stored.iterdir():
                        old.unlink()
                    data = filler + os.urandom(16)
                    name = f"blobs/{hashlib.sha256(data).hexdigest()}/{size}"
                    upload = f"uploads/{uuid.uuid4()}/{name}"
                    return self.file("write", write_stream(upload, data, chunk))

                table = self._stream(servers, size, fresh, rpcs.WRITE.path, disk=stored)
                title = f"Write {size // MIB} MiB in {chunk >> 10} KiB"
                self._print_streams(title, table, "grpc.aio, stored", DISK)

    def tls_flags(self) -> list[str]:
        return [] if self.tls is None else ["--tls", str(self.tls[0]), str(self.tls[1])]

    def _stream(
        self,
        servers: Mapping[str, Peer],
        size: int,
        body: Callable[[], Path],
        path: str,
        disk: Path | None = None,
    ) -> dict[str, Figures]:
        table = {name: Figures() for name in (*servers, *([DISK] if disk else []))}
        for attempt in range(self.arguments.rounds + 1):
            if disk is not None:
                write_file(disk / "alone", size, table[DISK] if attempt else Figures())
            for name, peer in servers.items():
                figures = table[name] if attempt else Figures()
                load = self.sample(figures, peer, path, body(), 1, units=size)
                if path == rpcs.READ.path:
                    assert size < load.data_bytes < size * 1.01, (name, load.data_bytes)
        return table

    def _print_streams(self, title: str, table: Mapping[str, Figures], *rivals: str) -> None:
        bests = [
            max(each.median("rate") for name, each in table.items() if name.startswith(rival))
            for rival in rivals
        ]
        rows = [
            [
                name,
                f"{each.median('rate') / 1e9:.2f}",
                *[f"{each.median('rate') / best:.2f}x" for best in bests],
                f"{each.median('cpu') * 2**30:.2f}",
                f"{each.median('resident') / MIB:.0f}" if each.resident else "",
            ]
            for name, each in table.items()
        ]
        columns = [f"to the best {rival.rstrip(',')}" for rival in rivals]
        header = ["server", "GB/s", *columns, "CPU s/GiB", "RSS MiB"]
        print_table(self._named(title), header, rows)


def memory(bench: Bench) -> None:
    """What idle connections cost servers that have done nothing yet."""
    count = 1000
    canned = bench.scratch / "action_result"
    fresh = [
        peers.armitage("Armitage", "fast", tls=bench.tls),
        peers.grpc_cpp(canned, tls=bench.tls),
        peers.grpc_aio(canned, *bench.tls_flags()),
    ]
    if bench.arguments.real:
        fresh += [peers.buildbox_casd(), peers.buildgrid()]
    rows = []
    for starting in fresh:
        with starting as peer, ExitStack() as stack:
            with closing(channel(peer, bench.authority)) as calls:
                grpc.channel_ready_future(calls).result(timeout=30)
            before = resident_bytes(peer.pid)
            for _ in range(count):
                stack.enter_context(_greeted(peer))
            grown = resident_bytes(peer.pid) - before
            rows.append([peer.name, f"{before / MIB:.0f}", f"{grown / MIB:.1f}"])
    title = f"{count} idle connections, {'TLS' if bench.tls else 'h2c'}"
    print_table(title, ["server", "RSS MiB before", "growth MiB"], rows)


def _greeted(peer: Peer) -> socket.socket:
    """A connection that has seen the server's settings."""
    host, port = peer.address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    if peer.tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        connection = context.wrap_socket(connection)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    assert connection.recv(9)[3] == SETTINGS
    return connection


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory, ExitStack() as stack:
        bench = Bench(arguments, Path(directory))
        fast = stack.enter_context(peers.armitage("Armitage", "fast", tls=bench.tls))
        ours = [fast]
        if arguments.grpcio:
            slow = peers.armitage("Armitage, grpcio", "grpcio", tls=bench.tls)
            ours.append(stack.enter_context(slow))
        canned = bench.scratch / "action_result"
        canned.touch()
        only = arguments.only.split(",")
        if "memory" in only:
            memory(bench)
        for peer in ours:
            with closing(channel(peer, bench.authority)) as calls:
                bench.requests.populate(calls)
                fill_index(calls, arguments.index)
                result = calls.unary_unary(rpcs.GET_ACTION_RESULT.path)(bench.requests.get)
                canned.write_bytes(result)
        servers = list(ours)
        servers.append(stack.enter_context(peers.grpc_cpp(canned, tls=bench.tls)))
        servers.append(stack.enter_context(peers.grpc_aio(canned, *bench.tls_flags())))
        if arguments.real:
            for real in (peers.buildbox_casd(), peers.buildgrid()):
                peer = stack.enter_context(real)
                with closing(channel(peer, b"")) as calls:
                    bench.requests.populate(calls)
                servers.append(peer)
        if "calls" in only:
            bench.calls(servers, 8, 8, arguments.calls)
        if "latency" in only:
            bench.calls(servers, 1, 1, arguments.calls // 10)
        if "read" in only:
            bench.read(ours, canned)
        if "write" in only:
            bench.write(ours, canned)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=40_000, help="a round; slow servers get less")
    parser.add_argument("--index", type=int, default=100_000, help="further blobs in our store")
    parser.add_argument("--blob-mib", type=int, default=256)
    parser.add_argument("--tls", action="store_true", help="TLS, without the real peers")
    parser.add_argument("--grpcio", action="store_true", help="also Armitage over grpcio")
    parser.add_argument("--only", default="memory,calls,latency,read,write", metavar="PART,...")
    arguments = parser.parse_args()
    parts = set(arguments.only.split(","))
    arguments.real = not arguments.tls and not parts.isdisjoint({"memory", "calls", "latency"})
    if absent := peers.missing(real=arguments.real):
        sys.exit("\n".join(absent))
    run(arguments)


if __name__ == "__main__":
    main()
