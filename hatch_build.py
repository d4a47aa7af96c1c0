"""Builds the sandbox launcher, for wheels and for editable checkouts alike.

    python hatch_build.py    builds it in place

Any C compiler that links statically will do; without one, PyPI's `ziglang`. A package that was
built without either has no launcher, and its daemon uses bubblewrap.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("executor/launcher")
BINARY = SOURCES / "armitage-launcher"
FLAGS = ("-std=c11", "-O2", "-static", "-s", "-fstack-protector-strong", "-Wall", "-Wextra")
ZIG_TARGETS = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl"}


class LauncherHook(BuildHookInterface[Any]):
    """Puts the launcher into what is built, which is then for one machine only."""

    def dependencies(self) -> list[str]:
        """Asks for a compiler where the host has none."""
        return [] if _host_compilers() else ["ziglang>=0.13,<0.16"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds it."""
        problem = build(Path(self.root))
        if problem:
            self.app.display_warning(f"without the sandbox launcher: {problem}")
            return
        build_data["artifacts"].append(f"/{BINARY}")
        if version != "editable":
            machine = platform.machine()
            build_data["pure_python"] = False
            # It is static: it needs no C library of either family.
            build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"


def build(root: Path) -> str:
    """Builds the launcher below a checkout; answers why it could not."""
    if sys.platform != "linux" or platform.machine() not in ZIG_TARGETS:
        return f"there is none for {platform.machine()} {sys.platform}"
    sources = sorted(str(path) for path in (root / SOURCES).glob("*.c"))
    target = root / BINARY
    complaints = []
    for compiler in _compilers():
        made = target.with_suffix(f".{os.getpid()}")
        command = [*compiler, *FLAGS, "-o", str(made), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            made.replace(target)  # One that runs cannot be written to.
            return ""
        complaints.append(f"{compiler[0]}: {done.stderr.strip()[-500:]}")
    return "; ".join(complaints) or "no C compiler; install gcc and libc6-dev, or PyPI's ziglang"


def _host_compilers() -> list[list[str]]:
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return [[found] for name in names if name and (found := shutil.which(name))]


def _compilers() -> list[list[str]]:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", ZIG_TARGETS[platform.machine()]]
    return [*_host_compilers(), *([zig] if importlib.util.find_spec("ziglang") else [])]


if __name__ == "__main__":
    sys.exit(build(Path(__file__).resolve().parent) or None)
