"""WASI programs, compiled and run to their end in this process under limits.

Blocks its thread; whoever calls it decides which process and thread that is. A program is stopped
from outside by `interrupt`, which reaches wasm code alone: one that waits in a host call is only
stopped by killing the process. There are no sockets: preview 1 opens none, and for components the
engine's network stays switched off (docs/wasm.md, "No network").
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import wasmtime
from wasmtime import component

from executor.errors import InvalidInput
from executor.wasm.determinism import Determinism
from executor.wasm.engine import OUT_OF_FUEL, SETTINGS, TRAPPED, End, Ended, Kind, Run
from executor.wasm.interfaces import Interfaces

_MODULE = b"\0asm\x01\0\0\0"
_COMPONENT = b"\0asm\x0d\0\x01\0"
_COMMAND = re.compile(r"wasi:cli/run@0\.2\.\d+")
_INTERRUPTED = "wasm trap: interrupt"


@dataclass(frozen=True, slots=True)
class _Instance:
    """A program with its memory, about to start."""

    call: Callable[[], bool]
    """Runs it; answers whether it went well."""
    memory: wasmtime.Memory | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled program, ready to run as often as wanted."""

    instantiate: Callable[[wasmtime.Store], _Instance]


class Stale(Exception):
    """A compiled program is not this engine's: another version's, or for another processor."""


class Machine:
    """An engine, and what it lets programs import. For one program at a time."""

    def __init__(self, *, deterministic: bool = True) -> None:
        """Deterministic: programs find the same clocks and random numbers in every run (see
        Determinism).
        """
        config = wasmtime.Config()
        for name, value in SETTINGS.items():
            setattr(config, name, value)
        self._engine = wasmtime.Engine(config)
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        self._interfaces: Interfaces | None = None
        if deterministic:
            determinism = Determinism()
            determinism.define(self._linker)
            self._interfaces = Interfaces(self._engine, determinism)

    def compile(self, binary: bytes) -> tuple[Kind, bytes]:
        """Compiles to what load takes. Raises InvalidInput."""
        try:
            if binary.startswith(_COMPONENT):
                made = component.Component(self._engine, binary)
                return Kind.COMPONENT, bytes(made.serialize())
            if binary.startswith(_MODULE):
                return Kind.MODULE, bytes(wasmtime.Module(self._engine, binary).serialize())
        except wasmtime.WasmtimeError as error:
            raise InvalidInput(f"the program cannot be compiled: {error}") from error
        raise InvalidInput("the program is neither a WebAssembly module nor a component")

    def load(self, kind: Kind, path: str) -> Program:
        """Loads a file of what compile made.

        It is executed as it is: only ever pass one that is known to be ours. Raises Stale,
        InvalidInput when the program is no WASI command or wants more than it is given.
        """
        try:
            if kind is Kind.COMPONENT:
                return self._component(component.Component.deserialize_file(self._engine, path))
            return self._module(wasmtime.Module.deserialize_file(self._engine, path))
        except wasmtime.WasmtimeError as error:
            raise Stale(str(error)) from error

    def prepare(self, binary: bytes) -> Program:
        """Compiles a program and loads it, for who keeps nothing. Raises InvalidInput."""
        kind, compiled = self.compile(binary)
        file = os.memfd_create("compiled")
        try:
            os.write(file, compiled)
            return self.load(kind, f"/proc/self/fd/{file}")
        finally:
            os.close(file)

    def run(self, program: Program, what: Run) -> Ended:
        """Runs a program. Raises InvalidInput when it cannot even be started."""
        store = wasmtime.Store(self._engine)
        try:
            store.set_limits(memory_size=what.memory_bytes)
            store.set_fuel(what.fuel)
            store.set_epoch_deadline(1)
            store.set_wasi(_wasi(what))
            if self._interfaces is not None:
                self._interfaces.reset()
            return _run(program, store, what.fuel)
        finally:
            store.close()

    def interrupt(self) -> None:
        """Stops what runs, at its next loop or call. From any thread."""
        self._engine.increment_epoch()

    def _module(self, module: wasmtime.Module) -> Program:
        if not any(export.name == "_start" for export in module.exports):
            raise InvalidInput("the module exports no function _start: it is no WASI command")
        try:
            pre = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise InvalidInput(f"the program wants more than WASI gives it: {error}") from error

        def instantiate(store: wasmtime.Store) -> _Instance:
            exports = pre.instantiate(store).exports(store)
            start, memory = exports["_start"], exports.get("memory")
            if not isinstance(start, wasmtime.Func):
                raise InvalidInput("the module's _start is no function: it is no WASI command")

            def call() -> bool:
                start(store)
                return True

            return _Instance(call, memory if isinstance(memory, wasmtime.Memory) else None)

        return Program(instantiate)

    def _component(self, found: component.Component) -> Program:
        names = found.type.exports(self._engine)
        command = next((name for name in names if _COMMAND.fullmatch(name)), None)
        if command is None:
            raise InvalidInput(
                "the component exports no wasi:cli/run of version 0.2: it is no WASI command"
            )
        linker = component.Linker(self._engine)
        linker.add_wasip2()
        if self._interfaces is not None:
            self._interfaces.define(linker, found)

        def instantiate(store: wasmtime.Store) -> _Instance:
            instance = linker.instantiate(store, found)
            interface = instance.get_export_index(store, command)
            index = instance.get_export_index(store, "run", interface)
            run = None if index is None else instance.get_func(store, index)
            if run is None:
                raise InvalidInput(f"the component's {command} has no function run")
            # WIT: run: func() -> result
            return _Instance(lambda: getattr(run(store), "tag", "ok") == "ok")

        return Program(instantiate)


def _run(program: Program, store: wasmtime.Store, fuel: int) -> Ended:
    instance = None
    try:
        instance = program.instantiate(store)
        end, exit_code, message = End.EXITED, 0 if instance.call() else 1, ""
    except wasmtime.ExitTrap as stop:
        end, exit_code, message = End.EXITED, stop.code, ""
    except (wasmtime.Trap, wasmtime.WasmtimeError) as trap:
        if instance is None and not isinstance(trap, wasmtime.Trap):
            raise InvalidInput(f"the program cannot be started: {trap}") from trap
        end, exit_code, message = _of_trap(trap, store)
    memory = None if instance is None else instance.memory
    memory_bytes = None if memory is None else memory.data_len(store)
    return Ended(end, exit_code, fuel - store.get_fuel(), memory_bytes, message)


def _of_trap(
    trap: wasmtime.Trap | wasmtime.WasmtimeError, store: wasmtime.Store
) -> tuple[End, int, str]:
    """A component's trap is an error without a code, so that only its words tell."""
    text = str(trap)
    code = trap.trap_code if isinstance(trap, wasmtime.Trap) else None
    if code is wasmtime.TrapCode.OUT_OF_FUEL or (code is None and store.get_fuel() == 0):
        return End.OUT_OF_FUEL, OUT_OF_FUEL, text
    if code is wasmtime.TrapCode.INTERRUPT or (code is None and _INTERRUPTED in text):
        return End.INTERRUPTED, TRAPPED, text
    return End.TRAPPED, TRAPPED, text


def _wasi(what: Run) -> wasmtime.WasiConfig:
    wasi = wasmtime.WasiConfig()
    wasi.argv = what.arguments
    wasi.env = what.environment
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for preopen in what.preopens:
        wasi.preopen_dir(preopen.host, preopen.guest, fs_mutable=preopen.writable)
    return wasi
