"""Runs h2load (Debian: nghttp2-client): a client in C, so that the server is what is measured."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HEADERS = ("content-type: application/grpc", "te: trailers")
_TRAFFIC = re.compile(r"\((\d+)\) total, .*\((\d+)\) headers .*\((\d+)\) data")
_FINISHED = re.compile(r"finished in ([0-9.]+)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Load:
    """What one run came to. Every request was answered with HTTP 200."""

    requests: int
    wall_s: float
    data_bytes: int
    """Of DATA frames' payloads."""
    latencies_s: Sequence[float]
    """Sorted."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.wall_s

    def quantile_s(self, share: float) -> float:
        """The latency that this share of the requests does not exceed."""
        return self.latencies_s[min(len(self.latencies_s) - 1, int(len(self.latencies_s) * share))]


def message(data: bytes) -> bytes:
    """A gRPC message as it travels."""
    return struct.pack(">xI", len(data)) + data


def run(
    address: str,
    path: str,
    body: Path,
    *,
    requests: int,
    connections: int,
    streams: int,
    tls: bool = False,
) -> Load:
    """Sends `body` so many times. Raises AssertionError when not all of it was answered."""
    with tempfile.NamedTemporaryFile(prefix="h2load-") as log:
        scheme = "https" if tls else "http"
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-n{requests}"]
        command += [f"--data={body}", f"--log-file={log.name}"]
        command += [word for header in _HEADERS for word in ("-H", header)]
        done = subprocess.run(
            [*command, f"{scheme}://{address}{path}"], capture_output=True, text=True, check=True
        )
        rows = [line.split("\t") for line in Path(log.name).read_text().splitlines()]
    said = done.stdout
    assert len(rows) == requests, said
    assert {status for _, status, _ in rows} == {"200"}, said
    traffic, finished = _TRAFFIC.search(said), _FINISHED.search(said)
    assert traffic is not None, said
    assert finished is not None, said
    wall_s = float(finished[1]) * _SECONDS[finished[2]]
    latencies = sorted(int(microseconds) / 1e6 for _, _, microseconds in rows)
    return Load(requests, wall_s, int(traffic[3]), latencies)
