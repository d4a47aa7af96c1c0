"""docs/conformance.md maps every numbered case to a test that exists."""

import ast
import re
from pathlib import Path

from armitage.conformance import CASES

ROOT = Path(__file__).parents[2]
NUMBERS = range(1, 113)
ROW = re.compile(r"\| (\d+) \| (.+?) \| (must|should|interop|end to end) \| (.+) \|")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[int, str, str, str]]:
    text = (ROOT / "docs" / "conformance.md").read_text()
    section = text[text.index("## Our own daemon") :]
    found = [ROW.fullmatch(line) for line in section.splitlines() if re.match(r"\| \d", line)]
    assert all(found), "a row of the map has another form"
    return [(int(m[1]), m[2], m[3], m[4]) for m in found if m]


def test_every_number_is_mapped_once_and_in_order() -> None:
    assert [number for number, _, _, _ in rows()] == list(NUMBERS)


def test_every_case_is_mapped_by_its_title_level_and_name() -> None:
    mapped = {number: (title, level, test) for number, title, level, test in rows()}

    for case in CASES:
        assert mapped[case.number] == (case.title, case.level.name.lower(), f"`{case.name}`")


def test_every_end_to_end_test_exists() -> None:
    numbers = {case.number for case in CASES}
    for number, _, level, tests in rows():
        if number in numbers:
            continue
        named = TEST.findall(tests)
        assert level == "end to end"
        assert named, f"case {number} names no test"
        for path, function in named:
            assert function in functions_of(ROOT / path), f"{path} has no {function}"


def functions_of(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}
