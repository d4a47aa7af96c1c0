"""What a guest says on its serial console, among what its kernel and others print there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_BYTES = 4096
"""More than a line of the kernel's log has, with whatever stood before it."""
WORDS_CHARS = 400
"""Of what is quoted."""
_PRINTED = re.compile(r"(\d{1,18}) (\d{1,18})", re.ASCII)


class Console:
    """Finds our lines. A guest begins them with a token that nothing else on the console knows."""

    def __init__(self, token: str) -> None:
        """`token` is of one guest alone."""
        self._token = f"{token} ".encode()
        self._line = b""
        self._last = b""

    def take(self, data: bytes) -> Iterator[str]:
        """Takes what has come, and answers what it ends of our lines."""
        self._last = (self._last + data)[-WORDS_CHARS:]
        *lines, line = (self._line + data).split(b"\n")
        self._line = line[-_LINE_BYTES:]
        for one in lines:
            # A program's words, without an end, may stand before it.
            _, token, words = one.partition(self._token)
            if token:
                yield words.rstrip(b"\r").decode(errors="replace")

    @property
    def last(self) -> str:
        """What was printed last, by whomever."""
        return self._last.decode(errors="replace").strip()


@dataclass(slots=True)
class Heard:
    """What a guest has said (init.sh)."""

    is_ready: bool = False
    printed: tuple[int, int] = (0, 0)
    """How many bytes of stdout and stderr are on their disks."""
    exit_code: int | None = None
    out_of_memory: bool = False
    failure: str = ""
    is_done: bool = False

    def take(self, line: str) -> None:
        """Takes one line. What makes no sense is a failure of the guest's."""
        word, _, rest = line.partition(" ")
        if line == "ready":
            self.is_ready = True
        elif line == "oom":
            self.out_of_memory = True
        elif line == "done":
            self.is_done = True
        elif word == "exit" and re.fullmatch(r"\d{1,3}", rest, re.ASCII) and int(rest) < 256:
            self.exit_code = int(rest)
        elif word == "printed" and (lengths := _PRINTED.fullmatch(rest)):
            self.printed = (int(lengths[1]), int(lengths[2]))
        else:
            self.failure = self.failure or rest[:WORDS_CHARS] or "it made no sense"
