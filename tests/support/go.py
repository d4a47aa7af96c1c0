"""The tools of tests/e2e/go: a client on grpc-go, h2spec, and a verifier of logs."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[2] / ".cache" / "e2e" / "go"
CLIENT = DIRECTORY / "grpc_go_client"
H2SPEC = DIRECTORY / "h2spec"
TLOG = DIRECTORY / "tlog"


def unavailable() -> str | None:
    """Why they cannot run here, or None."""
    if all(tool.is_file() for tool in (CLIENT, H2SPEC, TLOG)):
        return None
    return "the Go tools are not there: apt-get install golang-go, then run tests/e2e/prepare"
