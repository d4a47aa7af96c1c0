import io
import sys

import pytest

from armitage.cli.progress import ProgressLine


class Terminal(io.TextIOWrapper):
    """One screen for stdout and stderr."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), write_through=True)

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """For the body of a test: pytest puts its own stdout in place between fixtures and tests."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    return terminal


def test_where_nobody_watches_only_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)

    with ProgressLine(shown=False) as line:
        line.say("working")
        line.above(b"out\n", to_stderr=False)

    assert terminal.text() == "out\n"


def test_the_line_makes_way_for_output_and_is_gone_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = watched(monkeypatch)

    with ProgressLine(shown=True) as line:
        line.say("working")
        line.above(b"out\n", to_stderr=False)

    assert terminal.text() == (
        "\r\x1b[Karmitage: working (0.0 s)\r\x1b[Kout\n\r\x1b[Karmitage: working (0.0 s)\r\x1b[K"
    )


def test_a_line_of_output_that_is_not_finished_is_not_drawn_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = watched(monkeypatch)

    with ProgressLine(shown=True) as line:
        line.above(b"half", to_stderr=False)
        line.say("working")
        line.above(b" line\n", to_stderr=True)

    assert terminal.text() == "half line\n\r\x1b[Karmitage: working (0.0 s)\r\x1b[K"


def test_the_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)

    with ProgressLine(shown=True) as line:
        line.say("x" * 100)

    drawn = terminal.text().split("\x1b[K")[1].removesuffix("\r")
    assert len(drawn) == 39
