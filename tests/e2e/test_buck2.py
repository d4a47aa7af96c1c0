"""The Buck2 project of this repository, built by a real Buck2 where there is one on PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import ServedDaemon

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.sandbox,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("buck2") is None,
        reason="buck2 is not on PATH, and no package registry carries it; test_buck2_calls.py"
        " replays its calls",
    ),
]


class Buck2:
    """A Buck2 daemon of our own on a copy of the project."""

    def __init__(self, project: Path, address: str) -> None:
        shutil.copytree(ROOT / "buck2", project / "buck2")
        shutil.copy(ROOT / ".buckconfig", project)
        services = ("engine_address", "action_cache_address", "cas_address")
        lines = ["[buck2_re_client]", *(f"{name} = grpc://{address}" for name in services)]
        (project / ".buckconfig.local").write_text("\n".join(lines) + "\n")
        self._project = project

    def run(self, *arguments: str) -> str:
        """Runs `buck2`; gives its standard output."""
        done = subprocess.run(
            ["buck2", *arguments], cwd=self._project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self) -> dict[str, Path]:
        """Builds the example; gives the outputs by target."""
        lines = self.run("build", "//buck2/example/...", "--show-full-output").splitlines()
        outputs = dict(line.split(" ", 1) for line in lines if " " in line)
        return {target.rpartition(":")[2]: Path(path) for target, path in outputs.items()}

    def executors(self) -> list[str]:
        """Where each action of the last build ran."""
        lines = self.run("log", "what-ran", "--format", "json").splitlines()
        return [json.loads(line)["reproducer"]["executor"] for line in lines]


@pytest.fixture
def buck2(tmp_path: Path) -> Iterator[Buck2]:
    project = tmp_path / "project"
    project.mkdir()
    with ServedDaemon(tmp_path / "daemon") as daemon:
        buck2 = Buck2(project, daemon.address)
        try:
            yield buck2
        finally:
            buck2.run("killall")


def test_example_is_built_remotely_and_then_taken_from_the_cache(buck2: Buck2) -> None:
    outputs = buck2.build()
    cold = buck2.executors()
    greeting = subprocess.run([outputs["greet"], "Ada"], capture_output=True, text=True, check=True)

    buck2.run("clean")
    buck2.run("killall")
    again = buck2.build()
    cached = buck2.executors()

    assert greeting.stdout == "Good day, Ada.\n"
    assert cold
    assert set(cold) == {"Re"}
    assert set(cached) == {"Cache"}
    assert again["guests"].read_text().splitlines()[0] == "Good day, Ada."
