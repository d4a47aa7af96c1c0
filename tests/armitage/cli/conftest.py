from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Cli, Done
from support.daemon import DaemonProcess, daemon_process

from armitage.cli.entry import main


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One for all: tests tell their things apart by content."""
    directory = tmp_path_factory.mktemp("daemon")
    with daemon_process(directory, "--accept-unsandboxed", "--storage", "memory") as running:
        yield running


@pytest.fixture
def armitage(
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Cli:
    """Runs a command line in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARMITAGE_SERVER", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")

    def run(*arguments: object) -> Done:
        capsysbinary.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return Done(code, out.decode(), err.decode())

    return run


@pytest.fixture
def online(armitage: Cli, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The same, talking to the daemon."""
    monkeypatch.setenv("ARMITAGE_SERVER", daemon.url)
    return armitage
