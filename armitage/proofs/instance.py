"""Runs a WebAssembly module that imports nothing, each time in an instance of its own.

wasmtime's package for Python looks up and makes more for each call than the checker takes to
decide: an object for every export, the types of the function that is called. So the few functions
of its C API that a call takes are called here, as the package declares them. They are over sooner
than the interpreter's lock is handed on and got back, and keep it; what runs the module's code lets
go of it.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Final, Self

import wasmtime
from wasmtime import _ffi as ffi

_library: Final = ctypes.PyDLL(str(ffi.filename))


def _keeping_the_lock(name: str) -> Any:
    declared = getattr(ffi.dll, name)
    return ctypes.PYFUNCTYPE(declared.restype, *declared.argtypes)((name, _library))


_store_new: Final = _keeping_the_lock("wasmtime_store_new")
_store_delete: Final = _keeping_the_lock("wasmtime_store_delete")
_store_context: Final = _keeping_the_lock("wasmtime_store_context")
_store_limiter: Final = _keeping_the_lock("wasmtime_store_limiter")
_set_fuel: Final = _keeping_the_lock("wasmtime_context_set_fuel")
_export_get: Final = _keeping_the_lock("wasmtime_instance_export_get")
_memory_data: Final = _keeping_the_lock("wasmtime_memory_data")
_memory_size: Final = _keeping_the_lock("wasmtime_memory_data_size")
_instance_new: Final = ffi.wasmtime_instance_new
_func_call: Final = ffi.wasmtime_func_call

_NO_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()
_Trap: Final = ctypes.POINTER(ffi.wasm_trap_t)
_I32: Final = ffi.WASMTIME_I32.value
_FUNC: Final = ffi.WASMTIME_EXTERN_FUNC.value
_MEMORY: Final = ffi.WASMTIME_EXTERN_MEMORY.value


class Instance:
    """One instance, with fuel and memory of its own. A context manager, for one thread.

    Everything raises wasmtime.WasmtimeError or wasmtime.Trap for what the module does wrong.
    """

    def __init__(
        self, engine: wasmtime.Engine, module: wasmtime.Module, *, fuel: int, max_memory_bytes: int
    ) -> None:
        """`engine` must be one that consumes fuel."""
        self._store = _store_new(engine.ptr(), None, _NO_FINALIZER)
        try:
            self._context = _store_context(self._store)
            _raise(_set_fuel(self._context, fuel))
            _store_limiter(self._store, max_memory_bytes, -1, 1, -1, 1)
            self._instance, trap = ffi.wasmtime_instance_t(), _Trap()
            made = ctypes.byref(self._instance)
            failed = _instance_new(self._context, module.ptr(), None, 0, made, ctypes.byref(trap))
            _raise(failed, trap)
            self._memory = self._export("memory", _MEMORY).memory
        except BaseException:
            _store_delete(self._store)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _store_delete(self._store)

    def call(self, name: str, *arguments: int) -> int:
        """Calls a function of 32-bit numbers that answers one, which is read without a sign."""
        function = self._export(name, _FUNC).func
        given, trap = (ffi.wasmtime_val_t * len(arguments))(), _Trap()
        result: Any = ffi.wasmtime_val_t()
        for place, argument in zip(given, arguments, strict=True):
            place.kind, place.of.i32 = _I32, argument
        # It holds the number and the kinds of both against the function's type.
        failed = _func_call(
            self._context,
            ctypes.byref(function),
            given,
            len(arguments),
            ctypes.byref(result),
            1,
            ctypes.byref(trap),
        )
        _raise(failed, trap)
        if result.kind != _I32:
            raise wasmtime.WasmtimeError(f"{name} answers something else than a 32-bit number")
        return int(result.of.i32) & 0xFFFFFFFF

    def write(self, at: int, data: bytes) -> None:
        """Writes into the module's memory. Raises IndexError for what is not within it."""
        ctypes.memmove(self._place(at, len(data)), data, len(data))

    def read(self, at: int, size: int) -> bytes:
        """Reads from the module's memory. Raises IndexError for what is not within it."""
        return ctypes.string_at(self._place(at, size), size)

    def _place(self, at: int, size: int) -> int:
        memory = ctypes.byref(self._memory)
        if at + size > _memory_size(self._context, memory):
            raise IndexError(f"{size} bytes at {at} are not in its memory")
        return ctypes.addressof(_memory_data(self._context, memory).contents) + at

    def _export(self, name: str, kind: int) -> Any:
        found: Any = ffi.wasmtime_extern_t()
        called = name.encode()
        inside, item = ctypes.byref(self._instance), ctypes.byref(found)
        is_there = _export_get(self._context, inside, called, len(called), item)
        if not is_there or found.kind != kind:
            what = "memory" if kind == _MEMORY else "function"
            raise wasmtime.WasmtimeError(f"the module has no {what} called {name}")
        return found.of


def _raise(error: Any, trap: Any = None) -> None:
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001 (there is no other way)
    if trap:
        raise wasmtime.Trap._from_ptr(trap)  # noqa: SLF001


def fault_of(error: Exception) -> str:
    """What went wrong, of which the last line tells; the others say where."""
    return str(error).strip().splitlines()[-1].strip()
