import argparse
import re
import sys
from pathlib import Path

import pytest

from armitage.cli.exits import Exit
from armitage.cli.reference import MARK, commands, reference, rewrite

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words help by version")
def test_the_document_says_what_help_says() -> None:
    assert DOCUMENT.read_text().partition(MARK)[2] == reference(), "run scripts/fix"


def test_rewriting_keeps_what_people_wrote(tmp_path: Path) -> None:
    document = tmp_path / "cli.md"
    document.write_text(f"by hand\n{MARK}old")

    rewrite(document)

    assert document.read_text() == f"by hand\n{MARK}{reference()}"


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", DOCUMENT.read_text())}

    assert documented == {int(code) for code in Exit}


@pytest.mark.parametrize("parser", [pytest.param(parser, id=path) for path, parser in commands()])
def test_every_command_offers_json_and_explains_each_flag(parser: argparse.ArgumentParser) -> None:
    actions = parser._actions

    assert any("--json" in action.option_strings for action in actions)
    assert all(action.help for action in actions if action.option_strings)
