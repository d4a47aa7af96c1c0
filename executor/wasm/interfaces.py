"""What components (WASI 0.2) import of clocks and random numbers, the same in every run.

wasi-clocks and wasi-random 0.2. Each interface that a component imports of them is replaced as a
whole: the engine's linker knows no other way. A timer is a `pollable`, a resource of the engine's
own that nobody else can make: so ours is the engine's of zero nanoseconds, got through a component
that asks for nothing else. A timer is therefore due as soon as it is made, and time has moved on to
it by then: what waits for several, or for a file too, finds all of them ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import wasmtime
from wasmtime import component

from executor.errors import InvalidInput
from executor.wasm.determinism import TICK_NS, Determinism

_KINDS = ("wasi:clocks/", "wasi:random/")
_LATEST_NS = 1 << 63
"""Where time ends: looks at it, a tick each, stay within 64 bits."""
_SECOND_NS = 1_000_000_000
_RANDOM_BYTES = 1 << 20
"""The most for one call: the binding takes a hundred times the memory."""
_TIMERS = """(component
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $timer (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $timer))))))
  (core module $m
    (import "clock" "subscribe" (func $subscribe (param i64) (result i32)))
    (func (export "due") (result i32) (call $subscribe (i64.const 0))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core instance $i
    (instantiate $m (with "clock" (instance (export "subscribe" (func $subscribe))))))
  (func (export "due") (result (own $pollable)) (canon lift (core func $i "due"))))"""
"""Its `due` answers a timer of the engine's that is due."""
_DATETIME = "record<seconds: u64, nanoseconds: u32>"


class Interfaces:
    """Gives components the clocks and the random numbers of a Determinism."""

    def __init__(self, engine: wasmtime.Engine, determinism: Determinism) -> None:
        self._engine = engine
        self._same = determinism
        self._timers: component.Component | None = None
        """Compiled when a program first asks for a timer."""
        self._due: component.Func | None = None
        """Of the run that is under way."""

    def reset(self) -> None:
        """Begins anew, for the next run: clocks and random numbers too."""
        self._same.reset()
        self._due = None

    def define(self, linker: component.Linker, found: component.Component) -> None:
        """Puts these in the place of the host's, as far as a component imports them.

        Raises InvalidInput for what is of the kind and not known here, or not as WASI has it: the
        host's would be another in every run.
        """
        linker.allow_shadowing = True
        for name, imported in found.type.imports(self._engine).items():
            interface = imported.implements or name
            if not interface.startswith(_KINDS):
                continue
            known = self._functions(interface.partition("@")[0])
            _check(interface, imported.ty, known, self._engine)
            with linker.root() as root, root.add_instance(name) as instance:
                for function, (_, does) in known.items():
                    instance.add_func(function, does)
        linker.allow_shadowing = False

    def _functions(self, interface: str) -> Mapping[str, tuple[str, Callable[..., Any]]]:
        """Answers an interface: types of its functions, and what they do."""
        match interface:
            case "wasi:clocks/wall-clock":
                return {
                    "now": (f"() -> {_DATETIME}", lambda _: _datetime(self._same.look())),
                    "resolution": (f"() -> {_DATETIME}", lambda _: _datetime(TICK_NS)),
                }
            case "wasi:clocks/monotonic-clock":
                return {
                    "now": ("() -> u64", lambda _: self._same.look()),
                    "resolution": ("() -> u64", lambda _: TICK_NS),
                    "subscribe-instant": ("(u64) -> own", self._at),
                    "subscribe-duration": (
                        "(u64) -> own",
                        lambda store, ns: self._at(store, self._same.now_ns + ns),
                    ),
                }
            case "wasi:random/random":
                return {
                    "get-random-bytes": ("(u64) -> list<u8>", self._bytes),
                    "get-random-u64": ("() -> u64", self._number),
                }
            case "wasi:random/insecure":
                return {
                    "get-insecure-random-bytes": ("(u64) -> list<u8>", self._bytes),
                    "get-insecure-random-u64": ("() -> u64", self._number),
                }
            case "wasi:random/insecure-seed":
                return {
                    "insecure-seed": (
                        "() -> tuple<u64, u64>",
                        lambda store: (self._number(store), self._number(store)),
                    )
                }
        return {}

    def _at(self, store: wasmtime.StoreContext, when_ns: int) -> object:
        """Answers a timer for a point in time, which is there by then."""
        self._same.wait_until(min(when_ns, _LATEST_NS))
        if self._due is None:
            if self._timers is None:
                self._timers = component.Component(self._engine, wasmtime.wat2wasm(_TIMERS))
            linker = component.Linker(self._engine)
            linker.add_wasip2()
            self._due = linker.instantiate(store, self._timers).get_func(store, "due")
            assert self._due is not None
        return self._due(store)

    def _bytes(self, _: wasmtime.StoreContext, length: int) -> bytes:
        if length > _RANDOM_BYTES:
            raise wasmtime.WasmtimeError(
                f"{length} random bytes were asked for at once; {_RANDOM_BYTES} are the most"
            )
        return b"".join(self._same.draw(length))

    def _number(self, store: wasmtime.StoreContext) -> int:
        return int.from_bytes(self._bytes(store, 8), "little")


def _check(name: str, kind: object, known: Mapping[str, Any], engine: wasmtime.Engine) -> None:
    """Raises InvalidInput for an import that could not be served."""
    if not isinstance(kind, component.ComponentInstanceType):
        raise InvalidInput(f"the component imports {name} as something else than an interface")
    for function, exported in kind.exports(engine).items():
        its = exported.ty
        if not isinstance(its, component.FuncType):
            continue
        shape = f"({', '.join(_shape(type_) for _, type_ in its.params)})"
        if its.result is not None:
            shape += f" -> {_shape(its.result)}"
        if function not in known or shape != known[function][0]:
            raise InvalidInput(
                f"the component imports {name} with {function}{shape}, of which there is none that"
                " is the same in every run (executor.wasm.deterministic)"
            )


def _shape(type_: component.ValType) -> str:
    """Answers a type in words of WIT, as far as these functions have it."""
    match type_:
        case component.ListType():
            return f"list<{_shape(type_.element)}>"
        case component.TupleType():
            return f"tuple<{', '.join(map(_shape, type_.elements))}>"
        case component.RecordType():
            return f"record<{', '.join(f'{name}: {_shape(of)}' for name, of in type_.fields)}>"
        case component.OwnType():
            return "own"
    return type(type_).__name__.lower()


def _datetime(ns: int) -> component.Record:
    made = component.Record()
    vars(made).update(seconds=ns // _SECOND_NS, nanoseconds=ns % _SECOND_NS)
    return made
