"""The engine without loading it: plain values that supervisor and worker share."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata

from executor.errors import SandboxUnavailable

SETTINGS: Mapping[str, bool] = {
    "consume_fuel": True,
    "epoch_interruption": True,
    "cranelift_nan_canonicalization": True,
    "wasm_relaxed_simd_deterministic": True,
    "wasm_threads": False,
}
"""Properties of wasmtime.Config; all of them decide about compiled code."""

TRAPPED = 128 + 6
"""Exit code of a program that trapped: as a shell reports an abort."""
OUT_OF_FUEL = 128 + 24
"""As a shell reports that the limit of CPU time was passed."""


class Kind(Enum):
    """What a program is."""

    MODULE = "module"
    """Of WASI preview 1: a core module with the function `_start`."""
    COMPONENT = "component"
    """Of WASI 0.2 (preview 2): it exports `wasi:cli/run`."""


class End(Enum):
    """Why a program stopped."""

    EXITED = "exited"
    TRAPPED = "trapped"
    OUT_OF_FUEL = "out of fuel"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Preopen:
    """A host directory that the program sees, and all below it."""

    host: str
    guest: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the program is given; it has nothing else. It prints on the process's stdout
    and stderr.
    """

    arguments: tuple[str, ...]
    """The first is the program's own name."""
    memory_bytes: int
    """The most that each linear memory may grow to."""
    fuel: int
    """About one a wasm instruction: the same program on the same input uses the same."""
    environment: tuple[tuple[str, str], ...] = ()
    preopens: tuple[Preopen, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it."""

    end: End
    exit_code: int
    fuel_used: int
    memory_bytes: int | None = None
    """How large its linear memory was in the end, which is its largest; None where unknown."""
    message: str = ""


def engine_name() -> str:
    """Names all that decides about compiled code: the engine, how it is set, the processor.

    Raises SandboxUnavailable where there is no engine.
    """
    try:
        version = metadata.version("wasmtime")
    except metadata.PackageNotFoundError as error:
        raise SandboxUnavailable("wasmtime is not installed: pip install wasmtime") from error
    chosen = " ".join(f"{name}={int(value)}" for name, value in sorted(SETTINGS.items()))
    return f"wasmtime {version} {platform.machine()} {chosen}"
