"""The short form of benchmarks/churn.py, which runs for as long as one likes by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHURN = Path(__file__).parents[2] / "benchmarks" / "churn.py"


@pytest.mark.slow
def test_a_full_store_that_is_killed_again_and_again_loses_nothing_it_owes(tmp_path: Path) -> None:
    # A kill takes nothing that was not synced; a power failure does, and tests/cas/test_crashes.py.
    flags = ["--minutes", "0.17", "--capacity-mib", "2", "--day-s", "4", "--longest-life-s", "4"]
    flags += ["--durability", "none"]

    done = subprocess.run(
        [sys.executable, CHURN, *flags, "--where", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["lives"] >= 3
    assert seen["evicted"] > 0
    assert seen["checked_leases"] > 0
    assert list(tmp_path.iterdir()) == []
