"""The checker against the oracle of tests/support, on random documents.

`ARMITAGE_CHECKER_CASES` sets how many cases (100,000 by default). A disagreement is appended to
tests/vectors/coeffect-disagreements.jsonl, which every run replays.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.coeffect_cases import Case, Cases
from support.coeffects import MAX_REASONS, Malformed, Opinion, Oracle

from armitage.proofs import Checker
from armitage.proofs.verdict import Verdict

CASES = int(os.environ.get("ARMITAGE_CHECKER_CASES", "100000"))
CHUNK = 5_000
VECTORS = Path(__file__).parents[2] / "vectors"
DISAGREEMENTS = VECTORS / "coeffect-disagreements.jsonl"


def opinion_of(verdict: Verdict) -> Opinion:
    """The verdict in the oracle's terms."""
    if verdict.approved:
        return Opinion("approve")
    kind = verdict.reasons[0].text.partition(" ")[0]
    if kind != "uncovered":
        return Opinion(kind)
    return Opinion(
        kind, tuple(reason.text.removeprefix("uncovered ") for reason in verdict.reasons)
    )


def agree(checker: Checker, oracle: Oracle, case: Case) -> bool:
    expected = oracle.opinion(*case)
    assert len(expected.uncovered) <= MAX_REASONS
    return opinion_of(checker.check(*case)) == expected


def disagreements(seed: int) -> tuple[list[Case], dict[str, int]]:
    """The cases of one seed on which the two disagree, and how often each outcome came."""
    checker, oracle, found = Checker(), Oracle(), []
    outcomes: dict[str, int] = {}
    for case, _ in zip(Cases(seed), range(CHUNK), strict=False):
        expected = oracle.opinion(*case)
        outcomes[expected.outcome] = outcomes.get(expected.outcome, 0) + 1
        if opinion_of(checker.check(*case)) != expected:
            found.append(case)
    return found, outcomes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_checker_and_oracle_agree() -> None:
    seeds = range(-(-CASES // CHUNK))
    with multiprocessing.get_context("spawn").Pool(min(len(seeds), os.cpu_count() or 1)) as pool:
        results = pool.map(disagreements, seeds, chunksize=1)

    found = [case for cases, _ in results for case in cases]
    with DISAGREEMENTS.open("a") as corpus:
        for documents in found:
            corpus.write(json.dumps([document.hex() for document in documents]) + "\n")
    assert found == []
    # Generators that only make one kind of case would find nothing.
    for outcome in ("approve", "declaration", "evidence", "uncovered"):
        share = sum(outcomes.get(outcome, 0) for _, outcomes in results) / (CHUNK * len(seeds))
        assert share > 0.05, outcome


def test_old_disagreements_are_settled() -> None:
    checker, oracle = Checker(), Oracle()
    for line in DISAGREEMENTS.read_text().splitlines():
        declaration, evidence = map(bytes.fromhex, json.loads(line))
        assert agree(checker, oracle, (declaration, evidence)), line


@pytest.mark.slow
def test_inferred_declarations_are_sufficient_and_minimal() -> None:
    checker, oracle, tried = Checker(), Oracle(), 0
    for _, evidence in Cases(7):
        try:
            oracle.evidence(evidence)
        except Malformed:
            continue
        inferred = checker.infer(evidence)
        assert checker.check(inferred, evidence).approved
        header, property_, _ = inferred.split(b"\n")
        terms = property_.split(b"+")
        for term in terms:
            if not term.startswith(b"sandbox:"):  # Without one, any will do.
                rest = b"+".join(other for other in terms if other != term) or b"pure"
                assert not checker.check(header + b"\n" + rest + b"\n", evidence).approved, term
        assert checker.canonical(inferred) == inferred
        tried += 1
        if tried == 300:
            break


def broken(name: str, rule: Callable[..., object]) -> Oracle:
    """An oracle with one rule replaced."""
    mutant = type(f"Broken_{name}", (Oracle,), {name: rule})()
    assert isinstance(mutant, Oracle)
    return mutant


def _or_malformed(method: str, fallback: Callable[[bytes], object]) -> Oracle:
    def rule(self: Oracle, text: bytes) -> object:
        try:
            return getattr(Oracle, method)(self, text)
        except Malformed:
            return fallback(text)

    return broken(method, rule)


MUTANTS = {
    "wildcard covers two labels": broken(
        "host_covers",
        lambda _, wild, labels, host: (
            (len(host) > len(labels) and host[-len(labels) :] == labels) if wild else labels == host
        ),
    ),
    "wildcard covers its own domain": broken(
        "host_covers",
        lambda _, wild, labels, host: labels == host or (wild and labels == host[1:]),
    ),
    "host by suffix": broken(
        "host_covers",
        lambda _, wild, labels, host: b".".join(host).endswith(b".".join(labels)),
    ),
    "case matters in hosts": broken(
        "host",
        lambda self, text: tuple(text.rstrip(b".").split(b".")) if Oracle.host(self, text) else (),
    ),
    "trailing dot is refused": broken(
        "host", lambda self, text: Oracle.host(self, text + b"-" if text.endswith(b".") else text)
    ),
    "labels may be long": _or_malformed("host", lambda text: tuple(text.lower().split(b"."))),
    "every port is covered": broken("port_covers", lambda *_: True),
    "a port is needed": broken("port_covers", lambda _, granted, used: granted == used),
    "port 0 and beyond are ports": broken("port", lambda self, text: self.number(text)),
    "path by prefix of text": broken(
        "path_covers",
        lambda _, granted, used: (b"/" + b"/".join(used)).startswith(b"/" + b"/".join(granted)),
    ),
    "path itself is not covered": broken(
        "path_covers",
        lambda _, granted, used: len(used) > len(granted) and used[: len(granted)] == granted,
    ),
    "dot-dot stays": broken(
        "path",
        lambda self, text: (
            Oracle.path(self, text),
            tuple(s for s in text.split(b"/") if s not in (b"", b".")),
        )[1],
    ),
    "read covers write": broken("mode_covers", lambda *_: True),
    "write does not cover read": broken("mode_covers", lambda _, granted, used: granted == used),
    "gpu count is ignored": broken(
        "gpu_covers", lambda _, granted, used: used[1] >= granted[1] and used[2] >= granted[2]
    ),
    "gpu memory is ignored": broken(
        "gpu_covers", lambda _, granted, used: used[0] <= granted[0] and used[2] >= granted[2]
    ),
    "gpu memory is a maximum": broken(
        "gpu_covers",
        lambda _, granted, used: (
            used[0] <= granted[0] and used[1] <= granted[1] and used[2] >= granted[2]
        ),
    ),
    "gpu architecture is ignored": broken(
        "gpu_covers", lambda _, granted, used: used[0] <= granted[0] and used[1] >= granted[1]
    ),
    "leading zeros are fine": broken(
        "number", lambda self, text: int(text) if text.isdigit() else self.name(b"")
    ),
    "duplicates are fine": broken("forbids_duplicates", lambda _: False),
    "evidence needs no sandbox": broken("wants_a_sandbox", lambda _: False),
    "close is not checked": broken("close", lambda *_: None),
    "numbers of records are not checked": broken("is_number_of", lambda *_: True),
    "names may be empty or odd": broken("name", lambda _, text: text),
    "unknown sandboxes are fine": broken("sandbox", lambda _, text: text),
    "the last newline is optional": broken(
        "lines",
        lambda self, document, header: Oracle.lines(
            self, document.removesuffix(b"\n") + b"\n", header
        ),
    ),
}


@pytest.fixture(scope="module")
def judged() -> list[tuple[Case, Opinion]]:
    checker = Checker()
    cases = [case for case, _ in zip(Cases(1_000_003), range(12_000), strict=False)]
    return [(case, opinion_of(checker.check(*case))) for case in cases]


@pytest.mark.slow
@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_rule_is_noticed(rule: str, judged: list[tuple[Case, Opinion]]) -> None:
    mutant = MUTANTS[rule]

    assert any(mutant.opinion(*case) != opinion for case, opinion in judged)
