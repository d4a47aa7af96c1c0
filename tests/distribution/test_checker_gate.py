"""scripts/checker lets nothing through that is not proved, or not what was proved."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Plant = Callable[[str, str, str], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "lean", tmp_path / "lean"))


@pytest.fixture
def plant(source: Path) -> Plant:
    """Replaces a text in one of the sources, once."""

    def replace(file: str, old: str, new: str) -> None:
        path = source / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return replace


def gate(source: Path, command: str = "proofs") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "checker", command, "--source", source],
        capture_output=True,
        text=True,
        check=False,
    )


def keep_specification(source: Path) -> None:
    """Takes the theorems out, which the compiler needs most of its time for."""
    shutil.rmtree(source / "Coeffect" / "Thm")
    (source / "Coeffect.lean").write_text("import Coeffect.Extract\n")


END = "end Coeffect"
FIRST = "Coeffect/Spec/Bytes.lean"


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        ("theorem planted : (1 : Nat) = 2 := rfl", "lean failed"),
        ("theorem planted : ∀ n : Nat, n = 0 := fun n => by cases n <;> rfl", "lean failed"),
        ("theorem planted : (1 : Nat) = 2 := sorry", "says `sorry`"),
        ("theorem planted : (1 : Nat) = 2 := by first | rfl | skip", "lean failed"),
        ("axiom planted : (1 : Nat) = 2", "says `axiom`"),
        ("unsafe def planted : Nat := 1", "says `unsafe`"),
        ('@[extern "x"] def planted (n : Nat) : Nat := n', "says `extern`"),
        ("def planted : Nat → Nat\n  | n => planted (n + 1)", "lean failed"),
    ],
)
def test_a_planted_falsehood_is_refused(
    planted: str, complaint: str, source: Path, plant: Plant
) -> None:
    plant(FIRST, END, f"{planted}\n\n{END}")

    refused = gate(source)

    assert refused.returncode == 1
    assert complaint in refused.stderr


def test_a_proof_that_is_left_open_is_refused(source: Path, plant: Plant) -> None:
    plant("Coeffect/Thm/Basic.lean", "  | true => exact absurd rfl h", "  | true => skip")

    refused = gate(source)

    assert refused.returncode == 1
    assert "Thm/Basic.lean" in refused.stderr


def test_a_file_that_nobody_imports_is_refused(source: Path) -> None:
    (source / "Coeffect" / "Thm" / "Loose.lean").write_text("theorem loose : True := trivial\n")

    refused = gate(source)

    assert refused.returncode == 1
    assert "not imported" in refused.stderr


def test_a_rule_that_is_weakened_breaks_its_theorem(source: Path, plant: Plant) -> None:
    plant(
        "Coeffect/Spec/Resource.lean",
        "| .readOnly, .readWrite => false",
        "| .readOnly, .readWrite => true",
    )

    refused = gate(source)

    assert refused.returncode == 1
    assert "Thm/Covers.lean" in refused.stderr


def test_an_axiom_from_below_is_noticed(source: Path, plant: Plant) -> None:
    keep_specification(source)
    plant("Bootstrap/Init/Core.lean", "theorem trivial", "axiom wrong : False\ntheorem trivial")
    plant(FIRST, END, f"theorem planted : 1 = 2 := wrong.elim\n\n{END}")

    refused = gate(source)

    assert refused.returncode == 1
    assert "Coeffect.planted rests on wrong" in refused.stderr


def test_a_module_that_differs_from_the_sources_is_refused(source: Path, plant: Plant) -> None:
    keep_specification(source)
    # A change that no theorem is about: how many reasons are spelt out.
    plant("Coeffect/Extract.lean", "maxReasons : Nat := 64", "maxReasons : Nat := 65")

    refused = gate(source, "verify")

    assert refused.returncode == 1
    assert "is not what lean/ gives" in refused.stderr
