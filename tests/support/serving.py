"""`armitage serve` as a process of its own, which can be killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 60


class ServedDaemon:
    """A daemon with its data below `directory`. A context manager.

    The port is the daemon's choice the first time, and the same ever after: one that is killed and
    started again must be found where its clients look for it.
    """

    def __init__(self, directory: Path, *, port: int = 0, settings: str = "") -> None:
        """`settings` is more TOML for the configuration file."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._directory = directory
        self._settings = settings
        self._ready = directory / "ready.json"
        self._log = directory / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`HOST:PORT` of its gRPC services."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id, while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it serves."""
        assert self._process is None
        config = self._directory / "armitage.toml"
        config.write_text(
            f'data_dir = "{self._directory / "data"}"\n'
            f"{self._settings}\n"
            f'[grpc]\naddresses = ["{self.address}"]\n'
            '[web]\naddresses = ["127.0.0.1:0"]\n'
        )
        self._ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "armitage", "serve"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", config, "--ready-file", self._ready],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not self._ready.is_file():
            assert self._process.poll() is None, f"the daemon ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the daemon does not serve:\n{self.log()}"
            time.sleep(0.02)
        address = json.loads(self._ready.read_text())["grpc"][0]
        self.port = int(address.rpartition(":")[2])

    def kill(self) -> None:
        """kill -9, and waits for the end of it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """SIGTERM, and waits for a clean end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None
        assert status == 0, f"the daemon ended with status {status}:\n{self.log()}"

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

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
