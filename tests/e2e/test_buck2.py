"""The Buck2 project of this repository, built by a real Buck2 where there is one on PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import pytorch
from support.bazel import WASM
from support.daemon import ServedDaemon

ROOT = Path(__file__).resolve().parents[2]
BUILDERS = ROOT / "executor" / "isospin" / "builders"

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

    def __init__(self, project: Path, address: str, settings: str = "") -> None:
        shutil.copytree(ROOT / "buck2", project / "buck2")
        shutil.copy(ROOT / ".buckconfig", project)
        services = ("engine_address", "action_cache_address", "cas_address")
        lines = ["[buck2_re_client]", *(f"{name} = grpc://{address}" for name in services)]
        (project / ".buckconfig.local").write_text("\n".join(lines) + f"\n{settings}\n")
        self.example = project / "buck2" / "example"
        self._project = project

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `buck2`, whatever comes of it."""
        return subprocess.run(
            ["buck2", *arguments],
            cwd=self._project,
            # Buck2 keeps the state of its daemons in ~/.buck.
            env={**os.environ, "HOME": str(self._project.parent)},
            capture_output=True,
            text=True,
            check=False,
        )

    def add_engine(self, version: str) -> Path:
        """Adds //models:engine, of `model.pt2` in the directory that it answers, and another for
        hardware that nobody has.
        """
        shutil.copytree(BUILDERS, self._project / BUILDERS.relative_to(ROOT))
        models = self._project / "models"
        models.mkdir()
        rule = (
            'trt_engine(name="{name}", builder="aotinductor", model="model.pt2", arch="{arch}",'
            ' driver="", version="{version}", python="{python}")\n'
        )
        targets = (("engine", "cpu"), ("engine-for-another", "sm_1"))
        (models / "BUCK").write_text(
            'load("//buck2/rules:trt_engine.bzl", "trt_engine")\n'
            + "".join(
                rule.format(name=name, arch=arch, version=version, python=pytorch.PYTHON)
                for name, arch in targets
            )
        )
        return models

    def build(self) -> dict[str, Path]:
        """Builds the example; gives the outputs by target."""
        done = self.run("build", "//buck2/example/...", "--show-full-output")
        assert done.returncode == 0, done.stderr
        outputs = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        return {target.rpartition(":")[2]: Path(path) for target, path in outputs.items()}

    def forget(self) -> None:
        """Removes the outputs and ends the daemon, so that nothing is known any more."""
        for command in ("clean", "kill"):
            done = self.run(command)
            assert done.returncode == 0, done.stderr

    def executors(self) -> list[str]:
        """Where each action of the last build ran."""
        done = self.run("log", "what-ran", "--format", "json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["reproducer"]["executor"] for line in done.stdout.splitlines()]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ServedDaemon]:
    with ServedDaemon(tmp_path / "daemon") as daemon:
        yield daemon


@pytest.fixture
def buck2(tmp_path: Path, daemon: ServedDaemon, request: pytest.FixtureRequest) -> Iterator[Buck2]:
    project = tmp_path / "project"
    project.mkdir()
    buck2 = Buck2(project, daemon.address, getattr(request, "param", ""))
    try:
        yield buck2
    finally:
        buck2.run("kill")


@pytest.mark.parametrize(
    "buck2",
    [
        pytest.param("", id="defaults"),
        pytest.param("[buck2]\ndigest_algorithms = BLAKE3", id="blake3"),
        pytest.param("[buck2]\ndigest_algorithms = SHA1", id="sha1"),
        # Without capabilities Buck2 knows of no compressor.
        pytest.param("[buck2_re_client]\ncapabilities = false", id="uncompressed"),
    ],
    indirect=True,
)
def test_example_is_built_remotely_and_then_taken_from_the_cache(buck2: Buck2) -> None:
    # Case 109.
    outputs = buck2.build()
    cold = buck2.executors()
    greeting = subprocess.run([outputs["greet"], "Ada"], capture_output=True, text=True, check=True)

    buck2.forget()
    again = buck2.build()
    cached = buck2.executors()

    assert greeting.stdout == "Good day, Ada.\n"
    assert cold
    assert set(cold) == {"Re"}
    assert cached == ["Cache"] * len(cold)
    assert again["guests"].read_text().splitlines()[0] == "Good day, Ada."


@pytest.mark.skipif(
    not WASM.exists(), reason="Brotli was not built for WASI: run tests/e2e/prepare"
)
def test_webassembly_program_of_the_worker_runs(tmp_path: Path) -> None:
    settings = f'[executor.wasm.toolchains]\n"brotli.wasm" = "{WASM}"\n'
    with ServedDaemon(tmp_path / "daemon", settings=settings) as daemon:
        (tmp_path / "project").mkdir()
        buck2 = Buck2(tmp_path / "project", daemon.address)
        coeffects = ("-c", "armitage.coeffects=sandbox:wasm")
        try:
            done = buck2.run("build", *coeffects, "//buck2/wasm:packed", "--show-full-output")
            assert done.returncode == 0, done.stderr
            assert buck2.executors() == ["Re"]
        finally:
            buck2.run("kill")


@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(pytorch.MISSING), reason=pytorch.MISSING)
def test_engine_is_built_by_its_rule(tmp_path: Path) -> None:
    settings = f"[executor]\ntoolchain = {json.dumps(pytorch.toolchain())}\n"
    with ServedDaemon(tmp_path / "daemon", settings=settings) as daemon:
        (tmp_path / "project").mkdir()
        buck2 = Buck2(tmp_path / "project", daemon.address)
        models = buck2.add_engine(version=pytorch.version())
        subprocess.run([pytorch.PYTHON, "-c", pytorch.SAVE_MODEL], cwd=models, check=True)
        try:
            done = buck2.run("build", "//models:engine[info]", "--show-full-output")
            assert done.returncode == 0, done.stderr
            info = json.loads(Path(done.stdout.split(" ", 1)[1].strip()).read_text())
            refused = buck2.run("build", "//models:engine-for-another")
        finally:
            buck2.run("kill")

    assert (info["builder"], info["arch"]) == ("aotinductor", "cpu")
    assert refused.returncode != 0
    assert "engines do not move between them" in refused.stderr


def test_changed_source_rebuilds_what_depends_on_it(buck2: Buck2) -> None:
    buck2.build()
    source = buck2.example / "greeting.c"
    source.write_text(source.read_text().replace("Good day", "Good evening"))

    outputs = buck2.build()

    assert outputs["guests"].read_text().splitlines()[0] == "Good evening, Ada."
    # Compile, archive and link, for the target and for what runs in the genrule; and the genrule.
    # The other source is not compiled again in either.
    assert buck2.executors() == ["Re"] * 7


def test_other_coeffects_count_though_there_are_outputs(buck2: Buck2) -> None:
    # Buck2 itself does not look at the platform's properties; our rules' environment has them.
    buck2.build()

    refused = buck2.run("build", "-c", "armitage.coeffects=netwrok", "//buck2/example:guests")

    assert refused.returncode != 0
    assert "'netwrok' begins with no known word; did you mean network" in refused.stderr


def test_new_buck2_daemon_recovers_from_a_server_that_lost_everything(
    buck2: Buck2, daemon: ServedDaemon, tmp_path: Path
) -> None:
    # Case 110. The old one trusts what it was told for hours, and says what is missing.
    buck2.build()
    daemon.kill()
    shutil.rmtree(tmp_path / "daemon" / "data")
    daemon.start()
    guests = buck2.example / "guests.txt"
    guests.write_text(guests.read_text() + "Barbara\n")

    lost = buck2.run("build", "//buck2/example:guests")
    buck2.forget()
    outputs = buck2.build()

    assert lost.returncode != 0
    assert re.search(r"blobs are missing.*sha256:[0-9a-f]{64}/\d+", lost.stderr), lost.stderr
    assert outputs["guests"].read_text().splitlines()[-1] == "Good day, Barbara."
