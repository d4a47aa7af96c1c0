"""Verifies a running daemon's own record when an auditor asks for it, and remembers the result.

A daemon that says its record is whole proves nothing to whoever does not trust that daemon: for
them there is `armitage audit verify --server`, which believes nothing that it is answered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from armitage.audit.source import ArchiveSource
from armitage.audit.verify import EntryAudit, Findings, verify
from armitage.clock import Clock
from armitage.errors import Exhausted
from armitage.witness.archive import Archive


@dataclass(frozen=True, slots=True)
class Verified:
    """What the last verification came to."""

    at_s: float
    took_s: float
    findings: Findings


class Verifier:
    """One verification at a time."""

    def __init__(
        self, archive: Archive, others: Callable[[], Sequence[EntryAudit]], clock: Clock
    ) -> None:
        """`others` know the kinds of entries that are no session's."""
        self._archive = archive
        self._others = others
        self._clock = clock
        self._is_running = False
        self.last: Verified | None = None

    async def run(self) -> AsyncGenerator[Findings, None]:
        """Answers what was found so far, again and again. Raises Exhausted while another one runs,
        LogError, OSError.
        """
        if self._is_running:
            raise Exhausted("a verification runs already; wait for its end")
        self._is_running = True
        began = self._clock.monotonic()
        try:
            running = verify(ArchiveSource(self._archive), None, self._others())
            async with aclosing(running) as parts:
                findings = None
                async for findings in parts:
                    yield findings
            if findings is not None:
                took_s = self._clock.monotonic() - began
                self.last = Verified(self._clock.wall(), took_s, findings)
        finally:
            self._is_running = False
