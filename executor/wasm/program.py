"""One WASI preview 1 program, run to its end in this process under limits.

Blocks its thread; whoever calls it decides which process and thread that is. The timeout stops
wasm code alone: a program that waits in a host call (`poll_oneoff`) is only stopped by killing the
process. The clocks and the random numbers are the host's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import wasmtime

from executor.errors import InvalidInput

_TRAPPED = 128 + 6
"""Exit code of a program that trapped: as a shell reports an abort."""


class End(Enum):
    """Why a program stopped."""

    EXITED = "exited"
    TRAPPED = "trapped"
    OUT_OF_FUEL = "out of fuel"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Preopen:
    """A host directory that the program sees, and all below it."""

    host: Path
    guest: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the program is given; it has nothing else, and no sockets."""

    arguments: tuple[str, ...]
    """The first is the program's own name."""
    stdout: Path
    stderr: Path
    """Files, made or emptied."""
    timeout_s: float
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
    message: str = ""


def new_engine() -> wasmtime.Engine:
    """An engine for one program at a time: its epoch is that program's timeout."""
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def run(engine: wasmtime.Engine, module: wasmtime.Module, what: Run) -> Ended:
    """Runs the module's `_start`.

    Raises InvalidInput when the module is no WASI command or wants more than it is given.
    """
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=what.memory_bytes)
    store.set_fuel(what.fuel)
    store.set_epoch_deadline(1)
    store.set_wasi(_wasi(what))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    alarm = threading.Timer(what.timeout_s, engine.increment_epoch)
    alarm.start()
    try:
        end, exit_code, message = _start(linker, store, module)
    finally:
        alarm.cancel()
        alarm.join()
    return Ended(end, exit_code, what.fuel - store.get_fuel(), message)


def _start(
    linker: wasmtime.Linker, store: wasmtime.Store, module: wasmtime.Module
) -> tuple[End, int, str]:
    try:
        instance = linker.instantiate(store, module)
        start = instance.exports(store).get("_start")
        if not isinstance(start, wasmtime.Func):
            raise InvalidInput("the module exports no function _start: it is no WASI command")
        start(store)
    except wasmtime.ExitTrap as stop:
        return End.EXITED, stop.code, ""
    except wasmtime.Trap as trap:
        return _of_trap(trap)
    except wasmtime.WasmtimeError as error:
        raise InvalidInput(f"the module cannot be run: {error}") from error
    return End.EXITED, 0, ""


def _of_trap(trap: wasmtime.Trap) -> tuple[End, int, str]:
    ends = {
        wasmtime.TrapCode.OUT_OF_FUEL: End.OUT_OF_FUEL,
        wasmtime.TrapCode.INTERRUPT: End.TIMED_OUT,
    }
    code = trap.trap_code
    return (End.TRAPPED if code is None else ends.get(code, End.TRAPPED)), _TRAPPED, trap.message


def _wasi(what: Run) -> wasmtime.WasiConfig:
    wasi = wasmtime.WasiConfig()
    wasi.argv = what.arguments
    wasi.env = what.environment
    wasi.stdout_file = str(what.stdout)
    wasi.stderr_file = str(what.stderr)
    for preopen in what.preopens:
        wasi.preopen_dir(str(preopen.host), preopen.guest, fs_mutable=preopen.writable)
    return wasi
