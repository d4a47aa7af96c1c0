"""Components may import WASI 0.2's sockets, and are given none."""

from __future__ import annotations

import pytest
from support.wasi_programs import from_text

from executor.wasm.engine import End, Run
from executor.wasm.program import Machine

ACCESS_DENIED, NO_SUCH_NAME = 1, 20
"""Of wasi:sockets/network's error-code, by their places (permanent-resolver-failure)."""
COMPONENT = """(component
  (import "wasi:sockets/network@0.2.0" (instance $net
    (export "network" (type (sub resource)))
    (type $c0 (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory"
      "timeout" "concurrency-conflict" "not-in-progress" "would-block" "invalid-state"
      "new-socket-limit" "address-not-bindable" "address-in-use" "remote-unreachable"
      "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
      "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $c0)))
    (type $f0 (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $f0)))))
  (alias export $net "network" (type $network))
  (alias export $net "error-code" (type $code))
  (alias export $net "ip-address-family" (type $family))
  (import "wasi:sockets/instance-network@0.2.0" (instance $instance
    (alias outer 1 $network (type $n0)) (export "network" (type $n (eq $n0)))
    (export "instance-network" (func (result (own $n))))))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $stream))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create_tcp
    (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
    (alias outer 1 $family (type $f0)) (export "ip-address-family" (type $f (eq $f0)))
    (alias outer 1 $stream (type $s0)) (export "tcp-socket" (type $s (eq $s0)))
    (export "create-tcp-socket" (func (param "address-family" $f)
      (result (result (own $s) (error $c)))))))
  (import "wasi:sockets/udp@0.2.0" (instance $udp (export "udp-socket" (type (sub resource)))))
  (alias export $udp "udp-socket" (type $datagrams))
  (import "wasi:sockets/udp-create-socket@0.2.0" (instance $create_udp
    (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
    (alias outer 1 $family (type $f0)) (export "ip-address-family" (type $f (eq $f0)))
    (alias outer 1 $datagrams (type $s0)) (export "udp-socket" (type $s (eq $s0)))
    (export "create-udp-socket" (func (param "address-family" $f)
      (result (result (own $s) (error $c)))))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $names
    (alias outer 1 $network (type $n0)) (export "network" (type $n (eq $n0)))
    (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
    (export "resolve-address-stream" (type $r (sub resource)))
    (export "resolve-addresses" (func (param "network" (borrow $n)) (param "name" string)
      (result (result (own $r) (error $c)))))))
  (core module $memory (memory (export "memory") 1) (data (i32.const 64) "localhost"))
  (core instance $lib (instantiate $memory))
  (core func $network (canon lower (func $instance "instance-network")))
  (core func $tcp (canon lower (func $create_tcp "create-tcp-socket")
    (memory (core memory $lib "memory"))))
  (core func $udp (canon lower (func $create_udp "create-udp-socket")
    (memory (core memory $lib "memory"))))
  (core func $resolve (canon lower (func $names "resolve-addresses")
    (memory (core memory $lib "memory"))))
  (core module $m
    (import "lib" "memory" (memory 1))
    (import "wasi" "network" (func $network (result i32)))
    (import "wasi" "tcp" (func $tcp (param i32 i32)))
    (import "wasi" "udp" (func $udp (param i32 i32)))
    (import "wasi" "resolve" (func $resolve (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      {call}
      (i32.eqz (i32.and (i32.load8_u (i32.const 0))
        (i32.eq (i32.load8_u (i32.const 4)) (i32.const {code}))))))
  (core instance $i (instantiate $m (with "lib" (instance $lib)) (with "wasi" (instance
    (export "network" (func $network)) (export "tcp" (func $tcp)) (export "udp" (func $udp))
    (export "resolve" (func $resolve))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"""
"""Ends well where a call answers the error `code`; its result lies at address 0."""
CALLS = {
    "tcp": ("(call $tcp (i32.const 0) (i32.const 0))", ACCESS_DENIED),
    "tcp over ipv6": ("(call $tcp (i32.const 1) (i32.const 0))", ACCESS_DENIED),
    "udp": ("(call $udp (i32.const 0) (i32.const 0))", ACCESS_DENIED),
    "localhost": (
        "(call $resolve (call $network) (i32.const 64) (i32.const 9) (i32.const 0))",
        NO_SUCH_NAME,
    ),
}


@pytest.mark.parametrize(("call", "code"), CALLS.values(), ids=CALLS)
def test_component_gets_no_socket_and_no_name(call: str, code: int) -> None:
    machine = Machine()
    program = machine.prepare(from_text(COMPONENT.format(call=call, code=code)))

    ended = machine.run(program, Run(("program",), 1 << 24, 10**9))

    assert (ended.end, ended.exit_code) == (End.EXITED, 0), ended.message
