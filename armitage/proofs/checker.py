"""Runs the proven checker: one WebAssembly module, made from lean/ (docs/proofs.md).

Rules. Every call gets an instance of its own, so that no call can see another. The module imports
nothing. Fuel bounds its time and a limit its memory. Whatever is not the module's clean answer
about exactly these bytes (a trap, no fuel left, another echo, another form) is a rejection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import struct
from typing import Final

import wasmtime

from armitage.errors import ArmitageError
from armitage.proofs.instance import Instance, fault_of
from armitage.proofs.verdict import APPROVED, Reason, Verdict, parse_reasons

DECLARATION_HEADER: Final = b"armitage-declaration/1\n"
MAX_INPUT_BYTES: Final = 1 << 20
# A byte of evidence costs about 900 units, and as much again for every 30 grants it meets.
_FUEL_BASE: Final = 50_000_000
_FUEL_PER_BYTE: Final = 50_000
# A byte of input needs about 170 bytes of the module's memory, and a rejection some more.
_MAX_MEMORY_BYTES: Final = 512 << 20
_MAX_STACK_BYTES: Final = 1 << 20
_HEADER: Final = struct.Struct("<I32s32s")


def declaration_of(coeffects: str) -> bytes:
    """The document that declares what the platform property says; an empty one means `pure`."""
    return DECLARATION_HEADER + (coeffects or "pure").encode() + b"\n"


class Undecided(ArmitageError):
    """The checker gave no usable answer; for a verdict that is a rejection."""


class NotInferred(ArmitageError):
    """There is no declaration to infer or to normalise; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.explain())
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class _Answer:
    text: bytes
    echo: tuple[str, str]


class Checker:
    """The checker, ready to run. Instances may be shared between threads."""

    def __init__(self, module: bytes | None = None) -> None:
        """Compiles a module; without one, that of the package."""
        if module is None:
            module = importlib.resources.files(__package__).joinpath("checker.wasm").read_bytes()
        config = wasmtime.Config()
        config.consume_fuel = True
        config.max_wasm_stack = _MAX_STACK_BYTES
        self._engine = wasmtime.Engine(config)
        self._module = wasmtime.Module(self._engine, module)
        with self._instance(_FUEL_BASE) as instance:
            self._input = instance.call("input")
        self.module_sha256 = hashlib.sha256(module).hexdigest()

    def check(self, declaration: bytes, evidence: bytes) -> Verdict:
        """Decides whether the declaration covers the evidence. Never raises for bad input."""
        expected = _sha256(declaration), _sha256(evidence)
        try:
            answer = self._call("check", declaration, evidence)
            if answer.echo != expected:
                raise Undecided("it read other bytes than it was given")
            approved = answer.text == APPROVED
            reasons = () if approved else parse_reasons(answer.text)
        except (Undecided, ValueError) as error:
            approved, reasons = False, (Reason(f"checker {error}"),)
        return Verdict(approved, reasons, *expected, self.module_sha256)

    def infer(self, evidence: bytes) -> bytes:
        """The least declaration that covers the evidence, as a document.

        Raises NotInferred for evidence that is none, Undecided when the checker failed.
        """
        return self._declaration("infer", evidence)

    def canonical(self, declaration: bytes) -> bytes:
        """The declaration in normal form.

        Raises NotInferred for a malformed one, Undecided when the checker failed.
        """
        return self._declaration("canonical", declaration)

    def _declaration(self, function: str, document: bytes) -> bytes:
        answer = self._call(function, document)
        if answer.echo[0] != _sha256(document):
            raise Undecided("it read other bytes than it was given")
        if answer.text.startswith(DECLARATION_HEADER):
            return answer.text
        try:
            reasons = parse_reasons(answer.text)
        except ValueError as error:
            raise Undecided(str(error)) from error
        raise NotInferred(reasons[0])

    def _call(self, function: str, *inputs: bytes) -> _Answer:
        data = b"".join(inputs)
        if len(data) > MAX_INPUT_BYTES:
            raise Undecided(f"the documents have {len(data)} bytes, over {MAX_INPUT_BYTES}")
        try:
            with self._instance(_FUEL_BASE + _FUEL_PER_BYTE * len(data)) as instance:
                instance.write(self._input, data)
                at = instance.call(function, *map(len, inputs))
                size, first, second = _HEADER.unpack(instance.read(at, _HEADER.size))
                text = instance.read(at + _HEADER.size, size)
        except (wasmtime.WasmtimeError, wasmtime.Trap, IndexError) as error:
            raise Undecided(fault_of(error)) from error
        return _Answer(text, (first.hex(), second.hex()))

    def _instance(self, fuel: int) -> Instance:
        return Instance(self._engine, self._module, fuel=fuel, max_memory_bytes=_MAX_MEMORY_BYTES)


def _sha256(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()
