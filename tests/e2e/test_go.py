"""grpc-go as a client, and h2spec, against a real daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import go
from support.daemon import daemon_process
from support.transports import Transport

MISSING = go.unavailable()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=MISSING or ""),
]


def test_client_on_grpc_go_does_all_that_it_tries(transport: Transport, tmp_path: Path) -> None:
    with daemon_process(tmp_path, "--storage", "memory", *transport.flags) as daemon:
        done = subprocess.run(
            [go.CLIENT, daemon.target], capture_output=True, text=True, timeout=90, check=False
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ok health after all that"
