"""Clocks and random numbers that are the same in every run."""

import os
import struct

import pytest
from support.wasi_programs import from_text

from executor.staging import FIXED_MTIME_S
from executor.wasm.engine import End, Run
from executor.wasm.program import Machine

START_NS = FIXED_MTIME_S * 10**9
TICK_NS = 1_000_000

PROGRAM = """(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $step (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 4)
  {data}
  (func (export "_start")
    {body}
    (i32.store (i32.const 8) (i32.const 64)) (i32.store (i32.const 12) (i32.const {size}))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"""
"""Prints `size` bytes of memory from 64 on."""


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


def run(body: str, size: int, *, machine: Machine, data: str = "") -> bytes:
    text = PROGRAM.format(body=body, size=size, data=data)
    program = machine.prepare(from_text(text))
    printed, writable = os.pipe()
    kept = os.dup(1)
    os.dup2(writable, 1)
    try:
        ended = machine.run(program, Run(("p",), 1 << 20, 10**7))
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writable)
    assert (ended.end, ended.exit_code) == (End.EXITED, 0), ended
    with os.fdopen(printed, "rb") as file_:
        return file_.read()


TIME = "(drop (call $time (i32.const {clock}) (i64.const 1) (i32.const {at})))"
TWICE = TIME.format(clock=0, at=64) + TIME.format(clock=1, at=72)
RANDOM = "(drop (call $random (i32.const 64) (i32.const 70000)))"


def test_time_begins_at_the_date_of_inputs_and_moves_with_each_look() -> None:
    machine = Machine()

    for _ in range(2):
        printed = run(TWICE, 16, machine=machine)
        assert struct.unpack("<QQ", printed) == (START_NS + TICK_NS, START_NS + 2 * TICK_NS)


def test_random_bytes_are_the_same_in_every_run_and_process() -> None:
    first, second = Machine(), Machine()

    printed = [run(RANDOM, 50_000, machine=one) for one in (first, first, second)]

    assert printed[0] == printed[1] == printed[2]
    assert printed[0][:8].hex() == "d5b20f333104a327"
    assert len(set(printed[0])) == 256


def test_machine_of_the_host_has_its_clock_and_its_randomness() -> None:
    machine = Machine(deterministic=False)

    printed = [run(RANDOM, 16, machine=machine) for _ in range(2)]
    (now,) = struct.unpack("<Q", run(TIME.format(clock=0, at=64), 8, machine=machine))

    assert printed[0] != printed[1]
    assert now > START_NS + 10 * 365 * 86_400 * 10**9


def subscriptions(*clocks: tuple[int, int, int]) -> str:
    """A data segment at 1024: user data, nanoseconds, flags of each."""
    raw = b"".join(
        struct.pack("<QB7xI4xQQH6x", user, 0, 1, wait, 0, flags) for user, wait, flags in clocks
    )
    return f'(data (i32.const 1024) "{"".join(f"{chr(92)}{byte:02x}" for byte in raw)}")'


POLL = "(drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const {}) (i32.const 72)))"


def test_sleeping_takes_no_time_but_the_programs() -> None:
    an_hour = 3600 * 10**9
    body = POLL.format(2) + TIME.format(clock=1, at=64)

    printed = run(
        body,
        16,
        machine=Machine(),
        data=subscriptions((7, 2 * an_hour, 0), (8, an_hour, 0)),
    )

    now, events, _ = struct.unpack("<QII", printed)
    assert (now, events) == (START_NS + an_hour + TICK_NS, 1)


def test_time_never_goes_back() -> None:
    body = POLL.format(1) + TIME.format(clock=0, at=64)

    printed = run(body, 16, machine=Machine(), data=subscriptions((1, START_NS - 5, 1)))

    assert struct.unpack("<QII", printed)[:2] == (START_NS + TICK_NS, 1)


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        ("(call $time (i32.const 0) (i64.const 1) (i32.const 0x3fff9))", 21),
        ("(call $time (i32.const 9) (i64.const 1) (i32.const 64))", 28),
        ("(call $step (i32.const 0) (i32.const -1))", 21),
        ("(call $step (i32.const -1) (i32.const 64))", 28),
        ("(call $random (i32.const 0) (i32.const -1))", 21),
        ("(call $random (i32.const -8) (i32.const 9))", 21),
        ("(call $poll (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 0))", 28),
        ("(call $poll (i32.const 0) (i32.const 64) (i32.const -1) (i32.const 0))", 28),
        ("(call $poll (i32.const 0x3fff0) (i32.const 64) (i32.const 1) (i32.const 0))", 21),
        ("(call $poll (i32.const 0) (i32.const 0x3fff0) (i32.const 1) (i32.const 0))", 21),
        ("(call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0x3fffd))", 21),
        ("(call $random (i32.const 0x40000) (i32.const 0))", 0),
    ],
)
def test_bad_pointer_is_an_error_of_the_program(machine: Machine, call: str, errno: int) -> None:
    body = f"(i32.store (i32.const 64) {call})"

    printed = run(body, 4, machine=machine)

    assert struct.unpack("<I", printed) == (errno,)
