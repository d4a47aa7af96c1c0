"""Pants 2.17 caches its processes in the daemon and runs them on it (case 112)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import ServedDaemon

ROOT = Path(__file__).resolve().parents[2]
PANTS = ROOT / ".cache" / "e2e" / "pants" / "bin" / "pants"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(
        not PANTS.is_file(),
        reason="Pants is not there: tests/e2e/prepare sets it up where Python 3.9 is (its last"
        " release on the package index runs on no other)",
    ),
]


class Pants:
    """One user of Pants, whose own caches are empty."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.project = directory / "project"
        shutil.copytree(ROOT / "tests" / "e2e" / "pants", self.project)
        self._directory = directory
        self._flags = flags

    def export(self) -> dict[str, int]:
        """Makes the generated file; gives Pants' own counters."""
        done = subprocess.run(
            [
                PANTS,
                f"--local-store-dir={self._directory / 'store'}",
                f"--named-caches-dir={self._directory / 'caches'}",
                f"--pants-workdir={self._directory / 'work'}",
                "--stats-log",
                *self._flags,
                "export-codegen",
                "::",
            ],
            cwd=self.project,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._directory), "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert (self.project / "dist/codegen/joined.txt").read_text() == "one\ntwo\n"
        counters = re.findall(r"^  (\w+): (\d+)$", done.stdout, re.MULTILINE)
        return {name: int(number) for name, number in counters}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    with ServedDaemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


def test_second_user_takes_the_process_from_the_cache(daemon: ServedDaemon, tmp_path: Path) -> None:
    flags = [
        f"--remote-store-address=grpc://{daemon.address}",
        "--remote-cache-read",
        "--remote-cache-write",
    ]

    first = Pants(tmp_path / "first", *flags).export()
    second = Pants(tmp_path / "second", *flags).export()

    assert (first["remote_cache_requests_cached"], first["remote_cache_write_successes"]) == (0, 1)
    assert (second["remote_cache_requests_cached"], second["remote_cache_read_errors"]) == (1, 0)


@pytest.mark.sandbox
def test_processes_run_on_the_daemon(daemon: ServedDaemon, tmp_path: Path) -> None:
    address = f"grpc://{daemon.address}"
    pants = Pants(
        tmp_path,
        "--remote-execution",
        f"--remote-execution-address={address}",
        f"--remote-store-address={address}",
    )

    counters = pants.export()

    assert counters["remote_execution_success"] == counters["remote_execution_requests"] > 0
    assert counters["local_execution_requests"] == 0
