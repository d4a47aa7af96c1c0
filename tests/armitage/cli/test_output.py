"""What others chose does not steer the terminal of whoever reads it."""

from __future__ import annotations

import argparse
import json

import pytest

from armitage.cli.output import emit, note

HOSTILE = "a\x1b[2J\x9b\u202e\nb"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_stays_one_line_of_what_can_be_seen(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    value = {"name": HOSTILE, "kept": "bücher 𝄞"}
    emit(argparse.Namespace(json=as_json), value, [HOSTILE, "bücher 𝄞"])

    out = capsys.readouterr().out

    assert all(line.isprintable() for line in out.splitlines())
    assert "bücher 𝄞" in out
    if as_json:
        assert json.loads(out) == value
    else:
        assert out.splitlines()[0] == "a\\x1b[2J\\x9b\\x202e\\x0ab"


def test_a_note_may_be_of_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    note("first\x1b\nsecond")

    assert capsys.readouterr().err == "armitage: first\\x1b\nsecond\n"
