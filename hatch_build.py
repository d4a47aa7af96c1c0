"""Builds the sandbox launcher and the compiled modules, for wheels and editable checkouts alike.

    python hatch_build.py    builds them in place

For the launcher, any C compiler that links statically will do; without one, PyPI's `ziglang`. A
package that was built without either has no launcher, and its daemon uses bubblewrap. What the
modules need, hatch_modules.py says; a package without them is slower.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))  # A build system does not.
import hatch_modules

SOURCES = Path("executor/launcher")
BINARY = SOURCES / "armitage-launcher"
FLAGS = ("-std=c11", "-O2", "-static", "-s", "-fstack-protector-strong", "-Wall", "-Wextra")
ZIG_TARGETS = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl"}


class NativeHook(BuildHookInterface[Any]):
    """Puts what is native into what is built, which is then for one machine only; with modules,
    also for one C library and one version of Python.
    """

    def dependencies(self) -> list[str]:
        """Asks for a compiler where the host has none, and for what the modules need."""
        if not hatch_modules.host_compilers():
            return ["ziglang>=0.13,<0.16"]
        return [] if os.environ.get("ARMITAGE_PURE") else ["mypy>=2,<3", "setuptools>=77"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds it."""
        root = Path(self.root)
        artifacts: list[str] = build_data["artifacts"]
        without_launcher = build(root)
        if without_launcher:
            self.app.display_warning(f"without the sandbox launcher: {without_launcher}")
        else:
            artifacts.append(f"/{BINARY}")
        without_modules = hatch_modules.build(root)
        if without_modules:
            self.app.display_warning(f"without compiled modules: {without_modules}")
        else:
            artifacts += [f"/{name}" for name in hatch_modules.made(root)]
        if version == "editable" or (without_launcher and without_modules):
            return
        build_data["pure_python"] = False
        if without_modules:
            # The launcher is static: it needs no C library of either family.
            machine = platform.machine()
            build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
        else:
            build_data["infer_tag"] = True


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


def _compilers() -> list[list[str]]:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", ZIG_TARGETS[platform.machine()]]
    ours = [[compiler] for compiler in hatch_modules.host_compilers()]
    return [*ours, *([zig] if importlib.util.find_spec("ziglang") else [])]


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    problems = [build(here), hatch_modules.build(here)]
    sys.exit("\n".join(filter(None, problems)) or None)
