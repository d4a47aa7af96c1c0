"""BuildStream 2.8 shares artifacts through the daemon and builds on it (case 112)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import buildstream
from support.buildstream import BuildStream
from support.daemon import ServedDaemon

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(
        buildstream.unavailable() is not None, reason=str(buildstream.unavailable())
    ),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    with ServedDaemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


def test_artifact_pushed_by_one_user_is_pulled_by_another(
    daemon: ServedDaemon, tmp_path: Path
) -> None:
    first = BuildStream(tmp_path / "first", daemon.address)
    second = BuildStream(tmp_path / "second", daemon.address)

    pushed = first.run("build", "greeting.bst")
    pulled = second.run("artifact", "pull", "greeting.bst")

    assert pushed.returncode == 0, pushed.stdout
    assert re.search(r"Push Queue:\s+processed 1", pushed.stdout), pushed.stdout
    assert pulled.returncode == 0, pulled.stdout
    assert re.search(r"Pull Queue:\s+processed 1", pulled.stdout), pulled.stdout
    made = first.check_out("greeting.bst", tmp_path / "made")
    got = second.check_out("greeting.bst", tmp_path / "got")
    assert (got / "src/greeting.sh").read_bytes() == (made / "src/greeting.sh").read_bytes()


def test_unknown_artifact_is_a_plain_miss(daemon: ServedDaemon, tmp_path: Path) -> None:
    user = BuildStream(tmp_path / "user", daemon.address)
    (user.project / "files/greeting/greeting.sh").write_text("echo never pushed\n")

    missed = user.run("artifact", "pull", "greeting.bst")

    assert missed.returncode == 0, missed.stdout
    assert re.search(r"Pull Queue:\s+processed 0, skipped 1, failed 0", missed.stdout), (
        missed.stdout
    )


@pytest.mark.sandbox
def test_element_is_built_on_the_daemon_inside_its_own_root(
    daemon: ServedDaemon, tmp_path: Path
) -> None:
    user = BuildStream(tmp_path / "user", daemon.address, execute=True)

    built = user.run("build", "image.bst")

    assert built.returncode == 0, built.stdout
    assert "Waiting for the remote build to complete" in built.stdout
    program = user.check_out("program.bst", tmp_path / "out") / "usr/bin/program"
    said = subprocess.run([program, "Ada"], capture_output=True, text=True, check=True)
    assert said.stdout == "Good day, Ada.\n"
    assert (program.parent / "alias").readlink() == Path("program")


@pytest.mark.sandbox
def test_second_remote_build_is_taken_from_the_action_cache(
    daemon: ServedDaemon, tmp_path: Path
) -> None:
    users = [
        BuildStream(tmp_path / name, daemon.address, share=False, execute=True)
        for name in ("first", "second")
    ]

    first, second = (user.run("build", "program.bst") for user in users)

    assert first.returncode == 0, first.stdout
    assert second.returncode == 0, second.stdout
    assert "Action result found in action cache" in second.stdout
    outputs = [
        user.check_out("program.bst", tmp_path / f"out-{number}") / "usr/bin/program"
        for number, user in enumerate(users)
    ]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
