"""docs/theorems.md says which theorem rests on which, of the sources as they are."""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    loader = SourceFileLoader("checker_script", str(ROOT / "scripts" / "checker"))
    spec = spec_from_loader("checker_script", loader)
    assert spec is not None
    made = module_from_spec(spec)
    loader.exec_module(made)
    return made


@pytest.fixture
def uses(script: Any, tmp_path: Path) -> Callable[[dict[str, str], list[str]], Any]:
    """Finds the uses among theorems that a compiler would print so."""

    def find(printed: dict[str, str], theorems: list[str]) -> Any:
        class Lean(SimpleNamespace):
            def __call__(self, questions: Path) -> str:
                lines = questions.read_text().splitlines()
                asked = [line.split()[1] for line in lines if line.startswith("#print ")]
                return "".join(map(self.answer, asked))

            def answer(self, name: str) -> str:
                kind = "theorem" if name in theorems else "@[reducible] def"
                return f"{kind} {name} {printed[name]}\n"

        return script.find_uses(Lean(out=tmp_path), theorems)

    return find


def test_the_page_is_of_these_sources(script: Any) -> None:
    source = ROOT / "lean"
    modules = script.find_modules(source)
    page = script.PAGE.read_text()

    assert f"sources {script.sources_digest(source, modules)}." in page, (
        "run scripts/checker theorems"
    )
    for name in script.find_theorems(source, modules):
        assert f"\n| `{name.removeprefix('Coeffect.')}` |" in page


def test_what_lean_split_off_a_proof_counts_as_the_proof(uses: Any) -> None:
    found = uses(
        {
            "Coeffect.a": ": Nat := Coeffect.a._f Coeffect.definition",
            "Coeffect.a._f": ": Nat := (x._@.Coeffect.c.7) @Coeffect.b.{0} Coeffect.a",
            "Coeffect.b": ": Nat := fun (h : Nat) => Coeffect.c.match_1 h",
            "Coeffect.c": ": Nat := h",
        },
        ["Coeffect.a", "Coeffect.b", "Coeffect.c"],
    )

    assert found == {
        "Coeffect.a": {"Coeffect.b"},
        "Coeffect.b": {"Coeffect.c"},
        "Coeffect.c": set(),
    }


def test_a_term_that_is_cut_short_makes_no_page(script: Any, uses: Any) -> None:
    with pytest.raises(script.CheckFailed, match="to its end"):
        uses({"Coeffect.a": ": Nat := f (⋯)"}, ["Coeffect.a"])


def test_everything_below_is_counted_once(script: Any) -> None:
    found = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"a"}}

    assert script.closure("d", found) == {"a", "b", "c"}
    assert script.closure("c", found) == set()
