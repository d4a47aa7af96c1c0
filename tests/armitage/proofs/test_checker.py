"""The checker as the rest of Armitage calls it: the module of the package, run in wasmtime."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import wasmtime

from armitage.errors import ConfigError
from armitage.proofs import Checker
from armitage.proofs.checker import MAX_INPUT_BYTES, NotInferred, Undecided
from armitage.proofs.modules import load_checkers


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker()


def declaration(text: str) -> bytes:
    return f"armitage-declaration/1\n{text}\n".encode()


def evidence(*items: str, sandbox: str = "namespace") -> bytes:
    records = [f"{n} {item}" for n, item in enumerate([f"sandbox {sandbox}", *items])]
    lines = ["armitage-evidence/1", "open s1", *records, f"close s1 {len(records)} 0"]
    return ("\n".join(lines) + "\n").encode()


def test_a_covered_item_is_approved(checker: Checker) -> None:
    verdict = checker.check(declaration("network:example.org"), evidence("network example.org 443"))

    assert verdict.approved
    assert verdict.reasons == ()


def test_an_uncovered_item_is_rejected_with_what_it_needs(checker: Checker) -> None:
    verdict = checker.check(declaration("pure"), evidence("network example.org 443"))

    assert not verdict.approved
    assert [reason.needs for reason in verdict.reasons] == ["network:example.org:443"]
    assert verdict.reasons[0].explain() == (
        "it connected to example.org port 443, which the action does not declare; "
        "`network:example.org:443` would cover it"
    )


def test_a_verdict_names_what_it_is_about(checker: Checker) -> None:
    documents = declaration("pure"), evidence()

    verdict = checker.check(*documents)

    assert (verdict.declaration_sha256, verdict.evidence_sha256) == tuple(
        hashlib.sha256(document).hexdigest() for document in documents
    )
    assert verdict.module_sha256 == checker.module_sha256


@pytest.mark.parametrize("end", range(len(evidence("auth npm"))))
def test_evidence_cut_short_is_rejected(checker: Checker, end: int) -> None:
    assert not checker.check(declaration("auth:npm"), evidence("auth npm")[:end]).approved


def test_what_is_inferred_is_approved(checker: Checker) -> None:
    used = evidence("network a.example 80", "filesystem /opt/x%20y rw", "gpu 2 16384 80")

    inferred = checker.infer(used)

    assert inferred == declaration(
        "filesystem:/opt/x%20y:rw+network:a.example:80+gpu:2:mem>=16384:sm>=80+sandbox:namespace"
    )
    assert checker.check(inferred, used).approved


def test_the_canonical_form_spells_defaults_out(checker: Checker) -> None:
    given = declaration("network:*.EXAMPLE.org.+filesystem:/a/%2e./b//c+gpu")

    assert checker.canonical(given) == declaration(
        "network:*.example.org+filesystem:/b/c:ro+gpu:1:mem>=0:sm>=0"
    )


def test_nothing_is_inferred_from_malformed_evidence(checker: Checker) -> None:
    with pytest.raises(NotInferred) as caught:
        checker.infer(b"armitage-evidence/2\n")

    assert caught.value.reason.text == "evidence 0 version"


def test_documents_that_are_too_large_are_rejected(checker: Checker) -> None:
    verdict = checker.check(declaration("pure"), b"x" * MAX_INPUT_BYTES)

    assert not verdict.approved
    assert verdict.reasons[0].text.startswith("checker the documents have")
    with pytest.raises(Undecided):
        checker.infer(b"x" * (MAX_INPUT_BYTES + 1))


def test_a_trap_is_a_rejection(checker: Checker) -> None:
    # One label of half a megabyte: what runs over one line may use the stack up.
    long = evidence("network " + "a" * 500_000 + " 443")

    assert not checker.check(declaration("network"), long).approved


def liar(answer: bytes, *, spin: bool = False) -> Checker:
    """A checker whose module gives one fixed answer, whatever it is asked."""
    text = "".join(f"\\{byte:02x}" for byte in answer)
    body = "(loop $again (br $again)) unreachable" if spin else "i32.const 0"
    module = f"""(module (memory (export "memory") 2) (data (i32.const 0) "{text}")
      (func (export "input") (result i32) i32.const 65536)
      (func (export "check") (param i32 i32) (result i32) {body})
      (func (export "infer") (param i32) (result i32) i32.const 0))"""
    return Checker(bytes(wasmtime.wat2wasm(module)))


def answer(text: bytes, *documents: bytes) -> bytes:
    echo = b"".join(hashlib.sha256(document).digest() for document in documents)
    return len(text).to_bytes(4, "little") + echo + text


def test_an_approval_of_other_bytes_is_a_rejection() -> None:
    asked, other = (declaration("pure"), evidence()), (declaration("pure"), evidence("auth x"))

    assert liar(answer(b"approve\n", *asked)).check(*asked).approved
    assert not liar(answer(b"approve\n", *other)).check(*asked).approved


@pytest.mark.parametrize(
    "text", [b"", b"approve", b"approve\n\n", b"approved\n", b"reject\n", b"\xff", b"maybe\nx\n"]
)
def test_an_answer_of_another_form_is_a_rejection(text: bytes) -> None:
    asked = declaration("pure"), evidence()

    verdict = liar(answer(text, *asked)).check(*asked)

    assert not verdict.approved
    assert verdict.reasons


def test_a_module_that_does_not_end_runs_out_of_fuel() -> None:
    verdict = liar(b"", spin=True).check(declaration("pure"), evidence())

    assert not verdict.approved
    assert "fuel" in verdict.reasons[0].text


def test_an_answer_outside_the_memory_is_a_rejection() -> None:
    asked = declaration("pure"), evidence()
    huge = (0xFFFFFF00).to_bytes(4, "little") + answer(b"", *asked)[4:]

    assert not liar(huge).check(*asked).approved


def module(*parts: str) -> bytes:
    """A module with a memory and an `input`, and what is given."""
    head = ('(memory (export "memory") 2)', '(func (export "input") (result i32) i32.const 65536)')
    return bytes(wasmtime.wat2wasm(f"(module {' '.join((*head, *parts))})"))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ("", "the module has no function called check"),
        ('(global (export "check") i32 i32.const 0)', "the module has no function called check"),
        ('(func (export "check") (param i32) (result i32) i32.const 0)', "expected 1 argument"),
        ('(func (export "check") (param i64 i64) (result i32) i32.const 0)', "type"),
        ('(func (export "check") (param i32 i32))', "expected 0 results"),
        (
            '(func (export "check") (param i32 i32) (result i64) i64.const 0)',
            "check answers something else than a 32-bit number",
        ),
        ('(func (export "check") (param i32 i32) (result i32) unreachable)', "unreachable"),
    ],
)
def test_a_function_of_another_kind_is_a_rejection_that_says_so(parts: str, why: str) -> None:
    verdict = Checker(module(parts)).check(declaration("pure"), evidence())

    assert not verdict.approved
    assert why in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('(func (export "input") (result i32) i32.const 0)', "no memory called memory"),
        ('(memory (export "memory") 1)', "no function called input"),
        ('(import "env" "now" (func (result i64)))', "expected 1 imports"),
        ('(memory (export "memory") 1) (func $f unreachable) (start $f)', "unreachable"),
        ('(memory (export "memory") 8193)', "memory"),
    ],
)
def test_a_module_that_is_no_checker_is_refused_when_it_is_loaded(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "other.wasm"
    path.write_bytes(wasmtime.wat2wasm(f"(module {text})"))

    with pytest.raises(ConfigError, match=r"other\.wasm: is no checker's module") as refused:
        load_checkers(Checker(), [path])
    assert why in str(refused.value)


def test_nothing_of_a_call_is_there_in_the_next() -> None:
    asked = declaration("pure"), evidence()
    text = "".join(f"\\{byte:02x}" for byte in answer(b"approve\n", *asked))
    once = f"""(data (i32.const 0) "{text}") (global $calls (mut i32) (i32.const 0))
      (func (export "check") (param i32 i32) (result i32)
        (if (i32.or (global.get $calls) (i32.load (i32.const 131000))) (then unreachable))
        (global.set $calls (i32.const 1)) (i32.store (i32.const 131000) (i32.const 1))
        i32.const 0)"""
    checker = Checker(module(once))

    assert [checker.check(*asked).approved for _ in range(3)] == [True] * 3


def test_the_module_imports_nothing() -> None:
    from importlib.resources import files

    module = wasmtime.Module(
        wasmtime.Engine(), files("armitage.proofs").joinpath("checker.wasm").read_bytes()
    )

    assert list(module.imports) == []
