"""WASI programs for tests: from C by `ziglang`, kept in .cache/wasi, or from the text format."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import wasmtime

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent / "wasi"
CACHE = ROOT / ".cache" / "wasi"
FLAGS = ("-target", "wasm32-wasi", "-O2", "-s")


def compiler_missing() -> str:
    """Why no C can be compiled to WASI; empty when it can."""
    found = importlib.util.find_spec("ziglang") is not None
    return "" if found else "ziglang is not installed: pip install ziglang"


def build(name: str) -> Path:
    """Compiles `wasi/NAME.c`, once for each of its versions. The first takes a minute, for libc."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    made = CACHE / f"{name}-{digest}.wasm"
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial")
            compiler = [sys.executable, "-m", "ziglang", "cc", *FLAGS]
            zig = str(CACHE / "zig")
            subprocess.run(
                [*compiler, "-o", partial, source],
                env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig},
                check=True,
            )
            partial.rename(made)
    return made


def shell() -> Path:
    """The shell of the executors' contract."""
    return build("shell")


def from_text(text: str) -> bytes:
    """Encodes a module or component from the text format."""
    return bytes(wasmtime.wat2wasm(text))


def module(body: str, *, imports: str = "", more: str = "") -> bytes:
    """A command whose `_start` is the body."""
    return from_text(
        f'(module {imports} (memory (export "memory") 1) {more} (func (export "_start") {body}))'
    )


EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
WRITE = (
    '(import "wasi_snapshot_preview1" "fd_write"'
    " (func $write (param i32 i32 i32 i32) (result i32)))"
)
ENDLESS = "(loop (br 0))"

COMPONENT = """(component
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (core module $m
    (import "e" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) {body}))
  (core func $lowered (canon lower (func $exit "exit")))
  (core instance $i (instantiate $m (with "e" (instance (export "exit" (func $lowered))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"""


def component(body: str) -> bytes:
    """A command of WASI 0.2 whose `run` is the body, which leaves 0 for ok or 1."""
    return from_text(COMPONENT.format(body=body))


def printing(text: str, *, then: str = "") -> bytes:
    """A command that prints a text of up to 100 characters, and then does something else."""
    escaped = "".join(f"\\{byte:02x}" for byte in text.encode())
    length = len(text.encode())
    return module(
        f"(i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const {length}))"
        " (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))"
        f" {then}",
        imports=WRITE,
        more=f'(data (i32.const 100) "{escaped}")',
    )


def exiting(code: int) -> bytes:
    """A command that exits with a code."""
    return module(f"(call $exit (i32.const {code}))", imports=EXIT)
