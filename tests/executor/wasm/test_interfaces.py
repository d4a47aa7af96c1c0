"""Clocks and random numbers that are the same in every run, as components see them."""

from __future__ import annotations

import time

import pytest
from support.wasi_programs import from_text

from executor.errors import InvalidInput
from executor.staging import FIXED_MTIME_S
from executor.wasm.engine import End, Ended, Run
from executor.wasm.program import Machine

START_NS = FIXED_MTIME_S * 10**9
TICK_NS = 1_000_000
HOUR_NS = 3_600 * 10**9

PROGRAM = """(component
  (import "wasi:io/poll@{v}" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@{v}" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $p (eq $outer)))
    (export "now" (func (result u64)))
    (export "resolution" (func (result u64)))
    (export "subscribe-instant" (func (param "when" u64) (result (own $p))))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:clocks/wall-clock@{v}" (instance $wall
    (type $dt (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $dt)))
    (export "now" (func (result $datetime)))))
  (import "wasi:random/random@{v}" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))
    (export "get-random-u64" (func (result u64)))))
  (import "wasi:random/insecure@{v}" (instance $insecure
    (export "get-insecure-random-u64" (func (result u64)))))
  (import "wasi:random/insecure-seed@{v}" (instance $seed
    (export "insecure-seed" (func (result (tuple u64 u64))))))
  (core module $memory
    (memory (export "memory") 40)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (global.get $next)
      (global.set $next (i32.and (i32.add (global.get $next) (i32.add (local.get 3) (i32.const 7)))
        (i32.const -8)))))
  (core instance $lib (instantiate $memory))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $mono (canon lower (func $clock "now")))
  (core func $step (canon lower (func $clock "resolution")))
  (core func $at (canon lower (func $clock "subscribe-instant")))
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core func $date (canon lower (func $wall "now") (memory (core memory $lib "memory"))))
  (core func $bytes (canon lower (func $random "get-random-bytes")
    (memory (core memory $lib "memory")) (realloc (core func $lib "realloc"))))
  (core func $number (canon lower (func $random "get-random-u64")))
  (core func $careless (canon lower (func $insecure "get-insecure-random-u64")))
  (core func $seeds (canon lower (func $seed "insecure-seed") (memory (core memory $lib "memory"))))
  (core module $m
    (import "l" "memory" (memory 40))
    (import "w" "block" (func $block (param i32)))
    (import "w" "mono" (func $mono (result i64)))
    (import "w" "step" (func $step (result i64)))
    (import "w" "at" (func $at (param i64) (result i32)))
    (import "w" "after" (func $after (param i64) (result i32)))
    (import "w" "date" (func $date (param i32)))
    (import "w" "bytes" (func $bytes (param i64 i32)))
    (import "w" "number" (func $number (result i64)))
    (import "w" "careless" (func $careless (result i64)))
    (import "w" "seeds" (func $seeds (param i32)))
    (func $want (param i64 i64)
      (if (i64.ne (local.get 0) (local.get 1)) (then unreachable)))
    (func (export "run") (result i32) {body} (i32.const 0)))
  (core instance $i (instantiate $m (with "l" (instance $lib)) (with "w" (instance
    (export "block" (func $block)) (export "mono" (func $mono)) (export "step" (func $step))
    (export "at" (func $at)) (export "after" (func $after)) (export "date" (func $date))
    (export "bytes" (func $bytes)) (export "number" (func $number))
    (export "careless" (func $careless)) (export "seeds" (func $seeds))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@{v}" (instance $r)))"""
"""Runs a body, which traps by `$want` where a number is another one."""


def run(text: str, machine: Machine | None = None, *, times: int = 1) -> Ended:
    machine = machine or Machine()
    program = machine.prepare(from_text(text))
    ends = [machine.run(program, Run(("p",), 4 << 20, 10**8)) for _ in range(times)]
    assert {one.end for one in ends} == {ends[0].end}
    return ends[0]


def doing(body: str, version: str = "0.2.0") -> str:
    return PROGRAM.format(v=version, body=body)


@pytest.mark.parametrize("version", ["0.2.0", "0.2.12"])
def test_time_begins_at_the_date_of_inputs_and_moves_with_each_look(version: str) -> None:
    body = f"""
      (call $want (call $mono) (i64.const {START_NS + TICK_NS}))
      (call $date (i32.const 64))
      (call $want (i64.load (i32.const 64)) (i64.const {FIXED_MTIME_S}))
      (call $want (i64.load32_u (i32.const 72)) (i64.const {2 * TICK_NS}))
      (call $want (call $step) (i64.const {TICK_NS}))"""

    assert run(doing(body, version), times=2).end is End.EXITED


def test_random_numbers_are_the_same_in_every_run_and_process() -> None:
    body = """
      (call $bytes (i64.const 8) (i32.const 64))
      (call $want (i64.load32_u (i32.const 68)) (i64.const 8))
      (call $want (i64.load (i32.load (i32.const 64))) (i64.const 0x27a30431330fb2d5))
      (call $want (call $number) (i64.const 0x29097cc644d5f14))
      (call $want (call $careless) (i64.const 0x1ebe6034b522e9cf))
      (call $seeds (i32.const 64))
      (call $want (i64.load (i32.const 64)) (i64.const 0xcb715db4586fcbdf))
      (call $want (i64.load (i32.const 72)) (i64.const 0xeb15c6f4ee95b164))"""

    assert run(doing(body), times=2).end is End.EXITED


def test_machine_of_the_host_has_its_clock_and_its_randomness() -> None:
    since = time.time_ns() // 10**9
    body = f"""
      (call $date (i32.const 64))
      (if (i64.lt_u (i64.load (i32.const 64)) (i64.const {since})) (then unreachable))
      (if (i64.eq (call $number) (i64.const 0x29097cc644d5f14)) (then unreachable))"""

    assert run(doing(body), Machine(deterministic=False)).end is End.EXITED


def test_sleeping_takes_no_time_but_the_programs() -> None:
    body = f"""
      (call $block (call $after (i64.const {HOUR_NS})))
      (call $want (call $mono) (i64.const {START_NS + HOUR_NS + TICK_NS}))
      (call $block (call $at (i64.const {START_NS + 2 * HOUR_NS})))
      (call $want (call $mono) (i64.const {START_NS + 2 * HOUR_NS + TICK_NS}))"""

    assert run(doing(body), times=2).end is End.EXITED


def test_time_never_goes_back_nor_beyond_its_end() -> None:
    body = f"""
      (call $block (call $at (i64.const 5)))
      (call $want (call $mono) (i64.const {START_NS + TICK_NS}))
      (call $block (call $after (i64.const -1)))
      (call $want (call $mono) (i64.const {2**63 + TICK_NS}))
      (call $block (call $after (i64.const -1)))"""

    assert run(doing(body)).end is End.EXITED


def test_more_random_bytes_than_there_are_at_once_trap() -> None:
    ended = run(doing("(call $bytes (i64.const 1048577) (i32.const 64))"))

    assert ended.end is End.TRAPPED
    assert "1048576 are the most" in ended.message


@pytest.mark.parametrize(
    "given",
    [
        ("wasi:clocks/timezone@0.2.0", '(export "now" (func (result u64)))'),
        ("wasi:clocks/monotonic-clock@0.2.0", '(export "now" (func (result u32)))'),
        ("wasi:clocks/monotonic-clock@0.2.0", '(export "now" (func (param "a" u64)))'),
        ("wasi:random/random@0.2.0", '(export "get-more" (func (result u64)))'),
    ],
)
def test_what_cannot_be_the_same_in_every_run_is_refused(given: tuple[str, str]) -> None:
    name, function = given
    text = f"""(component
      (import "{name}" (instance {function}))
      (core module $m (func (export "run") (result i32) (i32.const 0)))
      (core instance $i (instantiate $m))
      (func $run (result (result)) (canon lift (core func $i "run")))
      (instance $r (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $r)))"""

    with pytest.raises(InvalidInput, match=r"imports wasi:.* the same in every run"):
        run(text)


def test_interface_imported_as_something_else_is_refused() -> None:
    text = """(component
      (import "wasi:random/random@0.2.0" (func (result u64)))
      (core module $m (func (export "run") (result i32) (i32.const 0)))
      (core instance $i (instantiate $m))
      (func $run (result (result)) (canon lift (core func $i "run")))
      (instance $r (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $r)))"""

    with pytest.raises(InvalidInput, match="something else than an interface"):
        run(text)
