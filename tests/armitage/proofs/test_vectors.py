"""The golden vectors: documents with the exact answer, for whoever audits the checker or writes
another (docs/proofs.md).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.coeffects import Oracle

from armitage.proofs import Checker
from armitage.proofs.verdict import APPROVED, parse_reasons

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "coeffects.json").read_text())


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, str], checker: Checker) -> None:
    documents = vector["declaration"].encode(), vector["evidence"].encode()
    answer = vector["answer"].encode()

    verdict = checker.check(*documents)

    assert verdict.approved == (answer == APPROVED)
    assert verdict.reasons == (() if verdict.approved else parse_reasons(answer))
    assert (Oracle().opinion(*documents).outcome == "approve") == verdict.approved


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_every_reason_has_words_for_people(vector: dict[str, str]) -> None:
    answer = vector["answer"].encode()

    for reason in () if answer == APPROVED else parse_reasons(answer):
        assert reason.explain() != reason.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_native_build_gives_the_same_answers(tmp_path: Path) -> None:
    if shutil.which("lake") is None:
        pytest.skip("a second build, against Lean's own library, needs elan's lake")
    subprocess.run(["lake", "build"], cwd=ROOT / "lean", check=True)

    for vector in VECTORS:
        files = [tmp_path / "declaration", tmp_path / "evidence"]
        files[0].write_text(vector["declaration"])
        files[1].write_text(vector["evidence"])
        native = subprocess.run(
            [ROOT / "lean" / ".lake" / "build" / "bin" / "checker", *files],
            stdout=subprocess.PIPE,
            check=False,
        )
        assert native.stdout.decode() == vector["answer"]
