"""What a WASI program is given, and what stops it."""

import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.wasi_programs import ENDLESS, component, exiting, from_text, module

from executor.errors import InvalidInput
from executor.wasm.engine import End, Ended, Kind, Preopen, Run
from executor.wasm.program import Machine, Program, Stale

_OPEN = """(module
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "made")
  (func (export "_start") (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0)
    (i32.const 4) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))))"""
"""Makes the file `made` in the first preopened directory; exits with WASI's errno."""


@functools.cache
def shared() -> Machine:
    """One engine for all tests."""
    return Machine()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    shared.cache_clear()


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


def load(binary: bytes, machine: Machine | None = None) -> Program:
    return (machine or shared()).prepare(binary)


def run(
    binary: bytes,
    *preopens: Preopen,
    fuel: int = 10**6,
    memory_bytes: int = 1 << 20,
    machine: Machine | None = None,
) -> Ended:
    what = Run(("program",), memory_bytes, fuel, preopens=preopens)
    machine = machine or shared()
    return machine.run(load(binary, machine), what)


def opening(path: Path, *, writable: bool = False, text: str = _OPEN) -> Ended:
    return run(from_text(text), Preopen(str(path), ".", writable))


def test_end_without_an_exit_code_is_success() -> None:
    ended = run(module("nop"))

    assert (ended.end, ended.exit_code, ended.memory_bytes) == (End.EXITED, 0, 1 << 16)


def test_exit_code_is_told() -> None:
    assert run(exiting(7)).exit_code == 7


def test_endless_program_stops_when_fuel_is_spent() -> None:
    ended = run(module(ENDLESS))

    assert (ended.end, ended.exit_code, ended.fuel_used) == (End.OUT_OF_FUEL, 152, 10**6)


@pytest.mark.parametrize(
    "binary", [module(ENDLESS), component(f"{ENDLESS} unreachable")], ids=["module", "component"]
)
def test_endless_program_stops_when_interrupted(binary: bytes) -> None:
    machine = Machine()
    program = load(binary, machine)
    alarm = threading.Timer(0.05, machine.interrupt)
    alarm.start()

    ended = machine.run(program, Run(("program",), 1 << 20, 1 << 62))

    alarm.join()
    assert ended.end is End.INTERRUPTED


def test_interrupted_machine_runs_the_next_program() -> None:
    machine = Machine()
    machine.interrupt()

    assert run(exiting(3), machine=machine).exit_code == 3


def test_trap_is_told_from_an_exit() -> None:
    ended = run(module("unreachable"))

    assert (ended.end, ended.exit_code) == (End.TRAPPED, 134)
    assert "unreachable" in ended.message


def test_memory_stops_growing_at_its_limit() -> None:
    grow = "(if (i32.ne (memory.grow (i32.const {})) (i32.const -1)) (then unreachable))"

    assert run(module(grow.format(15))).end is End.TRAPPED
    assert run(module(grow.format(16))).end is End.EXITED


def test_program_that_begins_over_its_memory_is_refused() -> None:
    with pytest.raises(InvalidInput, match="memory"):
        run(module("nop"), memory_bytes=1)


def test_read_only_directory_takes_no_file(given: Path) -> None:
    assert opening(given).exit_code != 0
    assert list(given.iterdir()) == []


@pytest.mark.parametrize("flags", [0, 8])
def test_file_of_a_read_only_directory_is_not_opened_for_writing(given: Path, flags: int) -> None:
    (given / "made").write_bytes(b"input")
    text = _OPEN.replace("(i32.const 1) (i64.const 64)", f"(i32.const {flags}) (i64.const 64)")

    assert opening(given, text=text).exit_code != 0
    assert (given / "made").read_bytes() == b"input"
    assert opening(given, writable=True, text=text).exit_code == 0


def test_writable_directory_takes_a_file(given: Path) -> None:
    assert opening(given, writable=True).exit_code == 0
    assert [path.name for path in given.iterdir()] == ["made"]


def test_module_without_start_is_refused() -> None:
    with pytest.raises(InvalidInput, match="_start"):
        run(from_text("(module)"))


def test_module_that_wants_more_than_wasi_is_refused() -> None:
    with pytest.raises(InvalidInput, match="more than WASI"):
        run(module("nop", imports='(import "env" "more" (func))'))


@pytest.mark.parametrize("binary", [b"", b"#!/bin/sh\n", b"\0asm\x02\0\0\0"])
def test_what_is_no_program_is_refused(binary: bytes) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        shared().compile(binary)


def test_damaged_program_is_refused() -> None:
    with pytest.raises(InvalidInput, match="compiled"):
        shared().compile(exiting(0)[:-3])


def test_what_was_not_compiled_is_stale(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x7fELF and so on")

    with pytest.raises(Stale):
        shared().load(Kind.MODULE, str(tmp_path / "file"))


@pytest.mark.parametrize("target", ["../outside", "{absolute}"])
def test_symlink_out_of_a_directory_leads_nowhere(given: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (given / "inside").write_bytes(b"input")
    reading = _OPEN.replace("(i32.const 3) (i32.const 0)", "(i32.const 3) (i32.const 1)").replace(
        "(i32.const 1) (i64.const 64)", "(i32.const 0) (i64.const 2)"
    )
    (given / "made").symlink_to(target.format(absolute=tmp_path / "outside"))

    assert opening(given, text=reading).exit_code != 0

    (given / "made").unlink()
    (given / "made").symlink_to("inside")
    assert opening(given, text=reading).exit_code == 0


def test_file_of_a_read_only_directory_is_not_removed(given: Path) -> None:
    (given / "made").write_bytes(b"input")
    removing = """(module
      (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink
        (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "made")
      (func (export "_start")
        (call $exit (call $unlink (i32.const 3) (i32.const 0) (i32.const 4)))))"""

    assert opening(given, text=removing).exit_code != 0
    assert (given / "made").exists()
    assert opening(given, writable=True, text=removing).exit_code == 0
    assert not (given / "made").exists()


class TestComponents:
    @pytest.mark.parametrize(
        ("body", "exit_code"),
        [
            ("(i32.const 0)", 0),
            ("(i32.const 1)", 1),
            ("(call $exit (i32.const 0)) unreachable", 0),
            ("(call $exit (i32.const 1)) unreachable", 1),
        ],
    )
    def test_result_and_exit_are_the_exit_code(self, body: str, exit_code: int) -> None:
        ended = run(component(body))

        assert (ended.end, ended.exit_code) == (End.EXITED, exit_code)

    def test_trap_and_spent_fuel_are_told_apart(self) -> None:
        assert run(component("unreachable")).end is End.TRAPPED
        assert run(component(f"{ENDLESS} unreachable")).end is End.OUT_OF_FUEL

    def test_component_without_run_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="wasi:cli/run"):
            run(from_text("(component)"))
