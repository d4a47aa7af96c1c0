"""A real daemon for tests: in this process and event loop, or as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from armitage.config import Config, StorageKind, TransportKind
from armitage.daemon import Daemon
from cas.pack_store import Durability
from executor.options import ExecutorOptions, LauncherKind

START_S = 60.0
STOP_S = 60.0

chosen: dict[str, str] = {}
"""Flags (without dashes) for every daemon that a test starts and does not choose them for: what
`pytest --transport` asks for (tests/conftest.py).
"""


def memory_config() -> Config:
    """All defaults, on free ports of loopback, in memory."""
    return on_free_ports(Config(storage=StorageKind.MEMORY))


def without_sandbox(options: ExecutorOptions) -> ExecutorOptions:
    """The same on a host where nothing can make a sandbox."""
    return replace(options, launcher=LauncherKind.BUBBLEWRAP, bubblewrap="/nonexistent/bwrap")


def disk_config(data_dir: Path) -> Config:
    """All defaults, on free ports of loopback, in a directory; without waiting for the disk."""
    config = on_free_ports(Config(data_dir=data_dir))
    return replace(config, disk=replace(config.disk, durability=Durability.NONE))


def on_free_ports(config: Config) -> Config:
    if "transport" in chosen:
        config = replace(config, transport=TransportKind(chosen["transport"]))
    return replace(
        config,
        grpc=replace(config.grpc, addresses=("127.0.0.1:0",)),
        web=replace(config.web, addresses=("127.0.0.1:0",)),
    )


@asynccontextmanager
async def running_daemon(config: Config | None = None) -> AsyncIterator[Daemon]:
    """A daemon in this event loop; use it in the body of a test, not across a fixture's yield."""
    daemon = Daemon(config or memory_config())
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


@dataclass
class DaemonProcess:
    """A daemon started by `armitage serve`."""

    process: subprocess.Popen[bytes]
    facts: dict[str, object]
    log: Path

    @property
    def target(self) -> str:
        """`host:port` of gRPC."""
        return str(self.facts["grpc"][0])  # type: ignore[index]

    @property
    def url(self) -> str:
        return f"grpc://{self.target}"

    @property
    def http(self) -> str:
        """`http://host:port`."""
        return f"http://{self.facts['http'][0]}"  # type: ignore[index]

    def kill(self) -> None:
        """As a crash does it."""
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self) -> int:
        """Drains; answers the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


def serve_command(*flags: str) -> list[str]:
    return [sys.executable, "-P", "-m", "armitage", "serve", *flags]


def start_daemon(
    directory: Path,
    *flags: str,
    env: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> DaemonProcess:
    """Starts `armitage serve` on free ports with its data in `directory/data`, and waits until it
    serves. One that does not is killed.

    Flags come after these, so that they win. `wrapper` is a command that executes the daemon's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ready, log = directory / "ready.json", directory / "daemon.log"
    defaults = ["--data-dir", str(directory / "data"), "--ready-file", str(ready)]
    if "--listen" not in flags:
        defaults += ["--listen", "127.0.0.1:0"]
    if "--http-listen" not in flags:
        defaults += ["--http-listen", "127.0.0.1:0"]
    for name, value in chosen.items():
        defaults += [f"--{name}", value]
    ready.unlink(missing_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*wrapper, *serve_command(*defaults, *flags)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=directory,
        )
    try:
        return DaemonProcess(process, _wait_until_ready(process, ready, log), log)
    except BaseException:
        _end(process)
        raise


@contextmanager
def daemon_process(
    directory: Path,
    *flags: str,
    env: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[DaemonProcess]:
    """Like `start_daemon`, and stops it in the end."""
    daemon = start_daemon(directory, *flags, env=env, wrapper=wrapper)
    try:
        yield daemon
    finally:
        _end(daemon.process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class ServedDaemon:
    """A daemon with its data below `directory`, which can be killed and started again. A context
    manager that asks for a clean end.

    The port is the daemon's choice the first time, and the same ever after: one that is killed and
    started again must be found where its clients look for it.
    """

    def __init__(self, directory: Path, *, port: int = 0, settings: str = "") -> None:
        """`settings` is a configuration file's text."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._directory = directory
        self._config = directory / "armitage.toml"
        self._config.write_text(settings)
        self._running: DaemonProcess | None = None

    @property
    def address(self) -> str:
        """`HOST:PORT` of its gRPC services."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id, while it runs."""
        assert self._running is not None
        return self._running.process.pid

    def start(self) -> None:
        """Starts it and waits until it serves."""
        assert self._running is None
        self._running = start_daemon(
            self._directory, "--config", str(self._config), "--listen", self.address
        )
        self.port = int(self._running.target.rpartition(":")[2])

    def kill(self) -> None:
        """kill -9, and waits for the end of it."""
        assert self._running is not None
        self._running.kill()
        self._running = None

    def stop(self) -> None:
        """SIGTERM, and waits for a clean end."""
        if self._running is None:
            return
        try:
            status = self._running.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._running = None
        assert status == 0, f"the daemon ended with status {status}:\n{self.log()}"

    def log(self) -> str:
        """What it wrote so far."""
        return (self._directory / "daemon.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(count: int) -> Sequence[int]:
    """Ports that were free a moment ago, for a daemon that must come back where it was."""
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready: Path, log: Path
) -> dict[str, object]:
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None:
            said = re.sub(r"\s+", " ", log.read_text())
            raise AssertionError(f"the daemon ended with {process.returncode}: {said}")
        if time.monotonic() > deadline:
            raise AssertionError(f"the daemon does not serve: {log.read_text()}")
        time.sleep(0.02)
    facts: dict[str, object] = json.loads(ready.read_text())
    return facts
