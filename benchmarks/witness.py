"""The witness proxy: large bodies, small requests, and what both do to its memory.

    python benchmarks/witness.py [--body 2GiB] [--requests 5000] [--connections 32]

`armitage proxy` stands between curl and a TLS origin of this benchmark's own, and keeps all bodies
and records durably. Each large download is compared with the same download by the same curl without
a proxy, and with the disk: no proxy that keeps bodies durably is faster than that writes. What is
kept in memory (tmpfs) shows what the proxy costs apart from the disk. Small
requests are compared with the same requests without a proxy, over connections that stay, and with a
TLS handshake for each.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import cpu_s, print_table, reset_peak, resident_bytes, until_all_end_s

from armitage.clock import SystemClock
from armitage.settings import parse_size
from armitage.witness.authority import SessionAuthority

HOST = "origin.example"
USER = "bench:bench-secret"
CHUNK = os.urandom(1 << 20)
SMALL = b"x" * 2000
MEMORY = Path("/dev/shm")


async def serve_origin(directory: Path) -> None:
    """Answers /SIZE with so many bytes, for ever."""
    authority = SessionAuthority("origin", SystemClock().wall())
    (directory / "origin.pem").write_bytes(authority.certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.split(b" ", 2)[1].lstrip(b"/"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                for first in range(0, size, len(CHUNK)):
                    writer.write(CHUNK[: size - first])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    tls = authority.context(HOST)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@dataclass
class Bench:
    """An origin and a proxy, each a process of its own."""

    directory: Path
    origin_port: int
    proxy_port: int
    proxy_pid: int

    def curl(self, size: int, *, proxied: bool) -> float:
        """Seconds for one download."""
        url = f"https://{HOST}:{self.origin_port}/{size}"
        trusted = self.directory / ("evidence/ca.pem" if proxied else "origin.pem")
        command = ["curl", "-sSf", "-o", "/dev/null", "--cacert", str(trusted), url]
        if proxied:
            command += ["-x", f"http://{USER}@127.0.0.1:{self.proxy_port}"]
        else:
            command += ["--noproxy", "*", "--resolve", f"{HOST}:{self.origin_port}:127.0.0.1"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - began

    def disk(self, size: int) -> float:
        """Seconds to write and sync so many bytes."""
        began = time.perf_counter()
        with (self.directory / "written").open("wb", buffering=0) as out:
            for first in range(0, size, len(CHUNK)):
                out.write(CHUNK[: size - first])
            os.fdatasync(out.fileno())
        spent = time.perf_counter() - began
        (self.directory / "written").unlink()
        return spent

    async def requests(self, count: int, connections: int, *, proxied: bool) -> float:
        """Seconds for so many small requests, over connections that stay."""
        trusted = self.directory / ("evidence/ca.pem" if proxied else "origin.pem")
        tls = ssl.create_default_context(cafile=str(trusted))
        numbers = iter(range(count))
        host = f"{HOST}:{self.origin_port}"
        user = base64.b64encode(USER.encode()).decode()
        connect = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {user}"
        request = f"GET /{len(SMALL)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

        async def caller() -> None:
            port = self.proxy_port if proxied else self.origin_port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if proxied:
                writer.write(f"{connect}\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            await writer.start_tls(tls, server_hostname=HOST)
            for _ in numbers:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readexactly(len(SMALL))
            writer.close()

        return await until_all_end_s(caller, connections)

    async def handshakes(self, count: int, connections: int) -> float:
        """Seconds for as many connections to the origin, each with one request."""
        tls = ssl.create_default_context(cafile=str(self.directory / "origin.pem"))
        numbers = iter(range(count))
        request = f"GET /{len(SMALL)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

        async def caller() -> None:
            for _ in numbers:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.origin_port, ssl=tls, server_hostname=HOST
                )
                writer.write(request)
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(SMALL))
                writer.close()

        return await until_all_end_s(caller, connections)


@contextmanager
def process(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Runs a program; gives the first line that it prints, and its id."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.stdout.readline(), running.pid
        finally:
            running.terminate()


@contextmanager
def bench(around: str | None = None) -> Iterator[Bench]:
    """What the proxy keeps lies below `around`, or else in the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="armitage-bench-", dir=around) as made:
        directory = Path(made)
        users = directory / "users"
        users.write_text(f"{USER}\n")
        users.chmod(0o600)
        origin = [sys.executable, __file__, "--origin", made]
        with process(origin) as (port, _):
            proxy = [
                *(sys.executable, "-m", "armitage", "proxy", "--json", "--users", str(users)),
                *("--listen", "127.0.0.1:0", "--data-dir", str(directory / "evidence")),
                *("--authorities", str(directory / "origin.pem")),
                *("--allow-network", "127.0.0.0/8", "--resolve", f"{HOST}:127.0.0.1"),
            ]
            with process(proxy) as (told, pid):
                address = json.loads(told)["address"]
                yield Bench(directory, int(port), int(address.rpartition(":")[2]), pid)


def large(world: Bench, size: int, medium: str) -> list[list[object]]:
    world.curl(1 << 20, proxied=True)
    reset_peak(world.proxy_pid)
    before = resident_bytes(world.proxy_pid)
    plain = world.curl(size, proxied=False)
    cpu = cpu_s(world.proxy_pid)
    proxied = world.curl(size, proxied=True)
    spent = cpu_s(world.proxy_pid) - cpu
    grown = resident_bytes(world.proxy_pid, "VmHWM") - before
    mib = size / 2**20
    written = world.disk(size)
    return [
        ["curl alone", f"{mib / plain:.0f} MiB/s", "1.00", "", ""],
        [
            *(f"written {medium}, alone", f"{mib / written:.0f} MiB/s", f"{plain / written:.2f}"),
            *("", ""),
        ],
        [
            f"curl through the proxy, kept {medium}",
            f"{mib / proxied:.0f} MiB/s",
            f"{plain / proxied:.2f}",
            f"{1000 * spent / mib:.2f} ms",
            f"{grown / 2**20:.0f} MiB",
        ],
    ]


def small(world: Bench, count: int, connections: int) -> list[list[object]]:
    asyncio.run(world.requests(min(count, 500), connections, proxied=True))
    reset_peak(world.proxy_pid)
    before = resident_bytes(world.proxy_pid)
    plain = asyncio.run(world.requests(count, connections, proxied=False))
    bare = asyncio.run(world.handshakes(count, connections))
    cpu = cpu_s(world.proxy_pid)
    proxied = asyncio.run(world.requests(count, connections, proxied=True))
    spent = cpu_s(world.proxy_pid) - cpu
    grown = resident_bytes(world.proxy_pid, "VmHWM") - before
    return [
        ["request", f"{count / plain:.0f} /s", "1.00", "", ""],
        ["handshake and request", f"{count / bare:.0f} /s", f"{plain / bare:.2f}", "", ""],
        [
            "request through the proxy",
            f"{count / proxied:.0f} /s",
            f"{plain / proxied:.2f}",
            f"{1000 * spent / count:.2f} ms",
            f"{grown / 2**20:.0f} MiB",
        ],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--body", type=parse_size, default=parse_size("2GiB"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--origin", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.origin is not None:
        asyncio.run(serve_origin(args.origin))
        return
    with bench() as world:
        header = ("what", "rate", "ratio", "proxy's CPU for each MiB", "its memory grew by")
        rows = large(world, args.body, "on the disk")
        if MEMORY.is_dir():
            with bench(str(MEMORY)) as apart:
                rows += large(apart, args.body, "in memory")
        print_table("One large body", header, rows)
        header = ("what", "rate", "ratio", "proxy's CPU for each", "its memory grew by")
        rows = small(world, args.requests, args.connections)
        print_table(f"Small requests over {args.connections} connections", header, rows)


if __name__ == "__main__":
    main()
