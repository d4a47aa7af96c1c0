"""scripts/up in a fresh clone, with an environment of its own, and all of Python as it is."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def run(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(clone / "scripts" / "up"), *arguments],
        env={**os.environ, "XDG_DATA_HOME": str(clone.parent / "xdg"), "ARMITAGE_PURE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=clone.parent,
    )


def is_running(pid: int) -> bool:
    """Whether it does anything; the dead that nobody has buried have no command line left."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is nothing to clone")
    path = tmp_path_factory.mktemp("fresh") / "armitage"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(path)], check=True)
    yield path
    run(path, "--stop")


def test_a_fresh_clone_is_up_with_one_command_and_down_with_another(clone: Path) -> None:
    ports = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    first = run(clone, "--detach", *ports)
    facts = json.loads((clone / ".cache" / "up" / "ready.json").read_text())
    with urllib.request.urlopen(f"http://{facts['http'][0]}/readyz", timeout=10) as response:
        ready = response.read()
    again = run(clone, "--detach", *ports)
    stopped = run(clone, "--stop")
    gone = run(clone, "--stop")

    assert first.returncode == 0, first.stderr
    assert f"  data       {clone.parent}/xdg/armitage\n" in first.stdout
    assert f"engine_address = grpc://{facts['grpc'][0]}\n" in first.stdout
    assert re.search(r"running as pid \d+; log: \S+; stop with: scripts/up --stop\n$", first.stdout)
    assert ready == b"ready\n"
    assert (again.returncode, again.stdout) == (
        0,
        f"already running as pid {facts['pid']}; scripts/up --stop stops it\n",
    )
    assert stopped.stdout == f"stopped daemon {facts['pid']}\n"
    assert gone.stdout == "no daemon of scripts/up --detach is running here\n"
    assert not is_running(facts["pid"])
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


def test_a_daemon_that_cannot_start_hands_its_reason_and_exit_code_on(clone: Path) -> None:
    done = run(clone, "--detach", "--set", "disk.max_byts=1")

    assert done.returncode == 3
    assert done.stderr == ("armitage: disk.max_byts: unknown setting; did you mean max_bytes?\n")


def test_help_says_what_there_is_without_setting_up() -> None:
    done = run(ROOT, "--help")

    assert done.returncode == 0
    assert done.stdout.startswith("usage: scripts/up [--detach | --stop | --setup-only | --help] ")
