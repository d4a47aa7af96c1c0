"""What a WASI program is given, and what stops it."""

from pathlib import Path

import pytest
import wasmtime

from executor.errors import InvalidInput
from executor.wasm.program import End, Ended, Preopen, Run, new_engine, run

_OPEN = """(module
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "made")
  (func (export "_start") (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0)
    (i32.const 4) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))))"""
"""Makes the file `made` in the first preopened directory; exits with WASI's errno."""


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


def _run(
    text: str,
    tmp_path: Path,
    *,
    timeout_s: float = 60,
    fuel: int = 10**6,
    preopens: tuple[Preopen, ...] = (),
) -> Ended:
    engine = new_engine()
    what = Run(
        ("program",),
        tmp_path / "out",
        tmp_path / "err",
        timeout_s,
        1 << 20,
        fuel,
        preopens=preopens,
    )
    return run(engine, wasmtime.Module(engine, text), what)


def _body(body: str) -> str:
    return f'(module (memory 1) (func (export "_start") {body}))'


def test_exit_without_a_code_is_success(tmp_path: Path) -> None:
    ended = _run(_body("nop"), tmp_path)
    assert (ended.end, ended.exit_code) == (End.EXITED, 0)


def test_endless_program_stops_when_fuel_is_spent(tmp_path: Path) -> None:
    ended = _run(_body("(loop (br 0))"), tmp_path)
    assert (ended.end, ended.fuel_used) == (End.OUT_OF_FUEL, 10**6)


def test_endless_program_stops_at_its_timeout(tmp_path: Path) -> None:
    ended = _run(_body("(loop (br 0))"), tmp_path, timeout_s=0.05, fuel=1 << 62)
    assert ended.end is End.TIMED_OUT


def test_trap_is_told_from_an_exit(tmp_path: Path) -> None:
    assert _run(_body("unreachable"), tmp_path).end is End.TRAPPED


def test_memory_stops_growing_at_its_limit(tmp_path: Path) -> None:
    grow = "(if (i32.ne (memory.grow (i32.const {})) (i32.const -1)) (then unreachable))"
    assert _run(_body(grow.format(15)), tmp_path).end is End.TRAPPED
    assert _run(_body(grow.format(16)), tmp_path).end is End.EXITED


def test_read_only_directory_takes_no_file(given: Path, tmp_path: Path) -> None:
    ended = _run(_OPEN, tmp_path, preopens=(Preopen(given, "."),))
    assert ended.exit_code != 0
    assert list(given.iterdir()) == []


def test_file_of_a_read_only_directory_is_not_opened_for_writing(
    given: Path, tmp_path: Path
) -> None:
    (given / "made").write_bytes(b"input")
    writing = _OPEN.replace("(i32.const 1) (i64.const 64)", "(i32.const {}) (i64.const 64)")
    for flags in (0, 8):
        ended = _run(writing.format(flags), tmp_path, preopens=(Preopen(given, "."),))
        assert ended.exit_code != 0
        assert (given / "made").read_bytes() == b"input"
        control = _run(
            writing.format(flags), tmp_path, preopens=(Preopen(given, ".", writable=True),)
        )
        assert control.exit_code == 0
        (given / "made").write_bytes(b"input")


def test_writable_directory_takes_a_file(given: Path, tmp_path: Path) -> None:
    ended = _run(_OPEN, tmp_path, preopens=(Preopen(given, ".", writable=True),))
    assert ended.exit_code == 0
    assert [path.name for path in given.iterdir()] == ["made"]


def test_module_without_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="_start"):
        _run("(module)", tmp_path)


def test_module_that_wants_more_than_wasi_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be run"):
        _run('(module (import "env" "more" (func)) (func (export "_start")))', tmp_path)


@pytest.mark.parametrize("target", ["../outside", "{absolute}"])
def test_symlink_out_of_a_directory_leads_nowhere(given: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (given / "inside").write_bytes(b"input")
    reading = _OPEN.replace("(i32.const 3) (i32.const 0)", "(i32.const 3) (i32.const 1)").replace(
        "(i32.const 1) (i64.const 64)", "(i32.const 0) (i64.const 2)"
    )
    (given / "made").symlink_to(target.format(absolute=tmp_path / "outside"))
    assert _run(reading, tmp_path, preopens=(Preopen(given, "."),)).exit_code != 0
    (given / "made").unlink()
    (given / "made").symlink_to("inside")
    assert _run(reading, tmp_path, preopens=(Preopen(given, "."),)).exit_code == 0


def test_file_of_a_read_only_directory_is_not_removed(given: Path, tmp_path: Path) -> None:
    (given / "made").write_bytes(b"input")
    removing = """(module
      (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink
        (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "made")
      (func (export "_start")
        (call $exit (call $unlink (i32.const 3) (i32.const 0) (i32.const 4)))))"""
    assert _run(removing, tmp_path, preopens=(Preopen(given, "."),)).exit_code != 0
    assert (given / "made").exists()
    writable = Preopen(given, ".", writable=True)
    assert _run(removing, tmp_path, preopens=(writable,)).exit_code == 0
    assert not (given / "made").exists()
