"""Where the launcher's program is."""

from __future__ import annotations

import os
from pathlib import Path

from executor.errors import SandboxUnavailable

BINARY = Path(__file__).with_name("armitage-launcher")
REMEDY = (
    "install a wheel of armitage that has it, or with a C compiler (apt-get install gcc libc6-dev)"
    " run `python hatch_build.py` in a checkout"
)


def find_launcher(program: Path = BINARY) -> Path:
    """Answers the program's path. Raises SandboxUnavailable."""
    if not os.access(program, os.X_OK):
        raise SandboxUnavailable(f"armitage's own launcher is not at {program}; {REMEDY}")
    return program
