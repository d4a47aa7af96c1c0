"""One line on a terminal that says what is going on; nothing at all where nobody watches."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self

_PERIOD_S = 0.1


class ProgressLine:
    """The line at the bottom of stderr. Output of the command goes through `above`."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._text = ""
        self._started = time.monotonic()
        self._drawn = 0.0
        self._at_line_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._erase()
        self._shown = False

    def say(self, text: str) -> None:
        """Replaces the line's text."""
        changed, self._text = text != self._text, text
        if changed:
            self.draw()

    def draw(self) -> None:
        """Draws the line with the time that has passed."""
        if self._shown and self._at_line_start and self._text:
            passed = time.monotonic() - self._started
            width = shutil.get_terminal_size().columns - 1
            line = f"armitage: {self._text} ({passed:.1f} s)"[:width]
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._drawn = time.monotonic()

    def above(self, data: bytes, *, to_stderr: bool) -> None:
        """Writes output of the command, with the line out of its way."""
        if not data:
            return
        self._erase()
        out = sys.stderr if to_stderr else sys.stdout
        out.flush()
        out.buffer.write(data)
        out.buffer.flush()
        self._at_line_start = data.endswith(b"\n")
        self.draw()

    def _erase(self) -> None:
        if self._shown and self._drawn and self._at_line_start:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = 0.0
