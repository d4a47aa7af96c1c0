"""Runs one program as a worker would, in this process, and prints what came of it as JSON.

For `armitage doctor`; it confines this process for good.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from executor.wasm.confinement import confine
from executor.wasm.engine import Run
from executor.wasm.program import Machine

_PROGRAM = bytes.fromhex(
    "0061736d01000000"  # Magic and version.
    "010401600000"  # Type 0: no parameters, no results.
    "03020100"  # Function 0 is of type 0,
    "070a01065f73746172740000"  # is exported as _start,
    "0a040102000b"  # and does nothing.
)


def main(scratch: Path) -> None:
    """Prints what the process could give up, or fails. `scratch` is a directory for it alone."""
    taken = confine(scratch, {})
    machine = Machine()
    ended = machine.run(machine.prepare(_PROGRAM), Run(("trial",), 1 << 20, 1000))
    sys.stdout.write(json.dumps({"exit_code": ended.exit_code, "confinement": taken}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
