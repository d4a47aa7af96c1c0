"""scripts/lib/setup.sh, with stubs in place of the system's programs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def stub(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def stubs() -> Iterator[Path]:
    """Programs that are found before the system's. `known` is the only installed package."""
    with tempfile.TemporaryDirectory() as made:  # Unlike tmp_path, below what others may enter.
        Path(made).chmod(0o755)
        directory = Path(made) / "bin"
        directory.mkdir()
        stub(directory, "dpkg-query", 'case "$*" in *known) echo "install ok installed";; esac')
        shutil.copy(ROOT / "scripts" / "lib" / "setup.sh", made)  # A home may be closed to others.
        stub(directory, "apt-get", f'echo "$*" >> {made}/apt.log; exit "${{APT_CODE:-0}}"')
        yield directory


def shell(
    stubs: Path, code: str, *, as_root: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f"source {stubs.parent}/setup.sh; {code}"]
    if os.geteuid() == 0 and not as_root:
        command = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", *command]
    path = f"{stubs}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=stubs,
    )


def test_installed_packages_cost_nothing(stubs: Path) -> None:
    done = shell(stubs, "setup_debian known")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (stubs.parent / "apt.log").exists()


def test_without_root_missing_packages_are_listed(stubs: Path) -> None:
    done = shell(stubs, "setup_debian one known two", as_root=False)

    assert done.returncode == 1
    assert done.stderr == "Missing Debian packages; as root: apt-get install one two\n"
    assert not (stubs.parent / "apt.log").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_root_installs_just_what_is_missing(stubs: Path) -> None:
    done = shell(stubs, "setup_debian one known")

    assert done.returncode == 0
    assert (stubs.parent / "apt.log").read_text() == "install -y -qq --no-install-recommends one\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_a_failed_installation_is_tried_with_fresh_lists_and_then_told(stubs: Path) -> None:
    done = shell(stubs, "setup_debian one", APT_CODE="100")

    assert done.returncode == 1
    assert done.stderr.endswith("apt-get could not install: one\n")
    calls = (stubs.parent / "apt.log").read_text().splitlines()
    assert calls == ["install -y -qq --no-install-recommends one", "update -qq"]


@pytest.mark.parametrize(
    ("headers", "missing"),
    [("/usr/include/python9.9", "one libpython3-dev"), ("/opt/include/python9.9", "one")],
)
def test_headers_are_asked_for_where_the_python_is_debians(
    stubs: Path, headers: str, missing: str
) -> None:
    stub(stubs, "cc", "exit 0")
    stub(stubs, "some-python", f"echo {headers}")

    done = shell(
        stubs, "setup_tools one", as_root=False, ARMITAGE_PYTHON=str(stubs / "some-python")
    )

    assert done.stderr == f"Missing Debian packages; as root: apt-get install {missing}\n"


def test_an_old_python_is_passed_over(stubs: Path) -> None:
    stub(stubs, "old-python", "exit 1")

    done = shell(stubs, 'setup_python && echo "$python"', ARMITAGE_PYTHON=str(stubs / "old-python"))

    assert done.returncode == 0
    assert done.stdout.strip() not in {"", str(stubs / "old-python")}


def test_without_a_python_that_is_new_enough_it_says_so(stubs: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        stub(stubs, name, "exit 1")

    done = shell(stubs, "setup_python")

    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed and was not found; ")


@pytest.mark.parametrize("lock", ["runtime", "dev", "build"])
def test_locks_pin_every_file_and_name_no_place(lock: str) -> None:
    text = (ROOT / "scripts" / "lock" / f"{lock}.txt").read_text()
    requirements = text.replace("\\\n", " ").splitlines()

    assert requirements
    for requirement in requirements:
        assert "==" in requirement, requirement
        assert "--hash=sha256:" in requirement, requirement
    for word in ("://", "file:", "@", "index-url", "find-links", str(ROOT)):
        assert word not in text, word


def test_locks_agree() -> None:
    """One environment holds build and runtime, or build and dev."""
    pins: dict[str, set[str]] = {}
    for lock in ("runtime", "dev", "build"):
        for line in (ROOT / "scripts" / "lock" / f"{lock}.txt").read_text().splitlines():
            if "==" in line:
                name, _, rest = line.partition("==")
                pins.setdefault(name, set()).add(rest.split()[0])

    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}
