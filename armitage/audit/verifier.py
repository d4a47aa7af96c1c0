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
from armitage.log.note import PublicKey
from armitage.witness.archive import Archive


@dataclass(frozen=True, slots=True)
class Verified:
    """What the last verification came to."""

    at_s: float
    took_s: float
    findings: tuple[Findings, ...]
    """Of the log that goes on, and of those that have ended, the newest first."""

    @property
    def faults(self) -> int:
        """How many there are in all."""
        return sum(len(found.faults) + found.more_faults for found in self.findings)


@dataclass(frozen=True, slots=True)
class Progress:
    """How many entries were verified, of how many in all logs."""

    entries: int
    size: int


class Verifier:
    """One verification at a time."""

    def __init__(
        self, archive: Archive, others: Callable[[PublicKey], Sequence[EntryAudit]], clock: Clock
    ) -> None:
        """`others` know, for a log, the kinds of entries that are no session's."""
        self._archive = archive
        self._others = others
        self._clock = clock
        self._is_running = False
        self.last: Verified | None = None

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Answers how far it is, again and again. Raises Exhausted while another one runs,
        LogError, OSError.
        """
        if self._is_running:
            raise Exhausted("a verification runs already; wait for its end")
        self._is_running = True
        began = self._clock.monotonic()
        try:
            archive, found = self._archive, list[Findings]()
            size = sum(store.checkpoint.size for store in archive.logs)
            for store in reversed(archive.logs):
                before = sum(each.checkpoint.size for each in found)
                source, others = ArchiveSource(archive, store), self._others(store.key)
                async with aclosing(verify(source, None, others)) as parts:
                    async for findings in parts:
                        yield Progress(before + findings.entries, size)
                found.append(findings)
            if archive.past.problem:
                found[0].blame(
                    f"of the logs that ended, some are not whole: {archive.past.problem}"
                )
            took_s = self._clock.monotonic() - began
            self.last = Verified(self._clock.wall(), took_s, tuple(found))
        finally:
            self._is_running = False
