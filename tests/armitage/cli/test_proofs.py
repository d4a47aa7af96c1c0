import json
from pathlib import Path

import pytest
from support.command_line import Cli

EVIDENCE = "armitage-evidence/1\nopen s\n0 sandbox wasm\n1 network a.example 443\nclose s 2 0\n"


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    path = tmp_path / "evidence"
    path.write_text(EVIDENCE)
    return path


def test_check_approves_what_is_covered(armitage: Cli, evidence: Path) -> None:
    done = armitage("proofs", "check", "network:a.example", str(evidence))

    assert (done.code, done.out) == (0, "approve\n")


def test_check_says_what_is_missing(armitage: Cli, evidence: Path) -> None:
    done = armitage("proofs", "check", "pure", str(evidence))

    assert done.code == 1
    assert "`network:a.example:443` would cover it" in done.out


def test_check_names_the_module_in_json(armitage: Cli, evidence: Path) -> None:
    told = json.loads(armitage("proofs", "check", "--json", "network", str(evidence)).out)

    assert told["approved"] is True
    assert told["module_sha256"] == armitage("proofs", "module").out.strip()


def test_infer_prints_a_property_to_paste(armitage: Cli, evidence: Path) -> None:
    inferred = armitage("proofs", "infer", str(evidence))

    assert inferred.out == "network:a.example:443+sandbox:wasm\n"
    assert armitage("proofs", "check", inferred.out.strip(), str(evidence)).code == 0


def test_infer_refuses_what_is_no_evidence(armitage: Cli, evidence: Path) -> None:
    evidence.write_text(EVIDENCE[:-1])

    done = armitage("proofs", "infer", str(evidence))

    assert done.code == 1
    assert "the evidence is no evidence" in done.err


def test_normalise_spells_defaults_out(armitage: Cli) -> None:
    assert armitage("proofs", "normalise", "gpu").out == "gpu:1:mem>=0:sm>=0\n"
    assert armitage("proofs", "normalise", "gpu+gpu:2").code == 1


def test_normalise_names_the_term_that_is_wrong(armitage: Cli) -> None:
    done = armitage("proofs", "normalise", "gpu+netwrok")

    assert done.code == 1
    assert "'netwrok' begins with no known word; did you mean network" in done.err


def test_a_declaration_may_be_a_file(armitage: Cli, evidence: Path, tmp_path: Path) -> None:
    (tmp_path / "declared").write_text("armitage-declaration/1\nnetwork\n")

    assert armitage("proofs", "check", "declared", str(evidence)).code == 0
