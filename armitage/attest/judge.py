"""Whether what an action used is what it declared: from values to the checker's two documents, and
from its verdict to words. The deciding is all the checker's (armitage.proofs).

Executions that declared and used the same have the same documents, but for the name of a network
session; so the documents of pure actions are few, and a verdict, which is a function of the two
documents and of nothing else, is remembered.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from armitage.attest.sessions import UNCONNECTED
from armitage.attest.together import Together, one_by_one
from armitage.proofs.checker import Checker, NotInferred, Undecided, declaration_of
from armitage.proofs.evidence import (
    Auth,
    File,
    Gpus,
    Item,
    Network,
    Sandbox,
    encode_evidence,
)
from armitage.proofs.verdict import Reason, Verdict
from executor.evidence import Evidence

_MAX_REMEMBERED: Final = 1024
_SMALL_BYTES: Final = 4096
"""Of two documents; larger ones take long, and seldom come twice."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The two documents, and what the checker made of them."""

    declaration: bytes
    evidence: bytes
    verdict: Verdict

    def explain(self, urls: Mapping[tuple[str, int], str] | None = None) -> tuple[str, ...]:
        """Why it was not approved, in sentences for the one who wrote the action; the last is the
        remedy, where there is one. `urls` are what was fetched from hosts and ports.
        """
        reasons = [_sentence(reason, urls or {}) for reason in self.verdict.reasons]
        needed = dict.fromkeys(reason.needs for reason in self.verdict.reasons if reason.needs)
        if not needed:
            return tuple(reasons)
        declared, needs = self.declaration.decode().splitlines()[1], "+".join(needed)
        remedy = (
            f"the action declares `{declared}`; add `{needs}` to its coeffects, or give it what it"
            " takes from outside as an input"
        )
        return (*reasons, remedy)


def _sentence(reason: Reason, urls: Mapping[tuple[str, int], str]) -> str:
    match reason.text.split(" "):
        case ["uncovered", "network", host, port, *_] if url := urls.get((host, int(port))):
            needs = reason.needs
            return f"it fetched {url}, which the action does not declare; `{needs}` would cover it"
    return reason.explain()


class Judge:
    """Asks the checker, in a thread. For one event loop."""

    def __init__(self, checker: Checker, threads: Executor) -> None:
        self._checker = checker
        self._threads = threads
        self._checking = Together(one_by_one(self._check), threads)
        self._remembered: OrderedDict[tuple[bytes, bytes], Verdict] = OrderedDict()

    @property
    def module_sha256(self) -> str:
        """Of the checker's module."""
        return self._checker.module_sha256

    def check(self, declaration: bytes, evidence: bytes) -> Verdict:
        """Decides about two documents. Blocks."""
        return self._checker.check(declaration, evidence)

    async def decide(self, declared: str, used: Evidence) -> Judgement:
        """Decides about one execution; `declared` is the property as it was written."""
        declaration, evidence = declaration_of(declared), evidence_of(used)
        verdict = self._remembered.get((declaration, evidence))
        if verdict is None:
            verdict = await self._ask(declaration, evidence)
        return Judgement(declaration, evidence, verdict)

    async def turn(self) -> None:
        """Waits until the small documents that are being checked now are decided."""
        await self._checking.turn()

    async def infer(self, evidence: bytes) -> str | None:
        """The least property that covers the evidence; None for evidence that is none."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._checker.infer, evidence)
        except (NotInferred, Undecided):
            return None
        return found.decode().splitlines()[1]

    async def _ask(self, declaration: bytes, evidence: bytes) -> Verdict:
        if len(declaration) + len(evidence) > _SMALL_BYTES:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, self._checker.check, declaration, evidence
            )
        verdict = await self._checking((declaration, evidence))
        # Only what was decided: a checker that ran out of something may do better next time.
        if verdict.approved or not verdict.reasons[0].text.startswith("checker "):
            self._remembered[declaration, evidence] = verdict
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return verdict

    def _check(self, documents: tuple[bytes, bytes]) -> Verdict:
        return self._checker.check(*documents)


@lru_cache(maxsize=_MAX_REMEMBERED)
def evidence_of(used: Evidence) -> bytes:
    """Writes the evidence document. What cannot be written down in it counts as dropped, which is
    never approved.
    """
    session, items = used.network_session or UNCONNECTED, list(_items(used))
    try:
        return encode_evidence(session, items, used.dropped)
    except ValueError:
        return _evidence_without_what_cannot_be_written(session, items, used.dropped)


def _evidence_without_what_cannot_be_written(
    session: str, items: Sequence[Item], dropped: int
) -> bytes:
    kept = list[Item]()
    for item in items:
        if _can_be_written(session, item):
            kept.append(item)
        else:
            dropped += 1
    if not _can_be_written(session):
        session, dropped = UNCONNECTED, dropped + 1
    return encode_evidence(session, kept, dropped)


def _items(used: Evidence) -> Iterator[Item]:
    if used.sandbox is not None:
        yield Sandbox(used.sandbox.value)
    for reached in used.reached:
        yield Network(reached.host, reached.port)
    for name in used.credentials:
        yield Auth(name)
    for opened in used.opened:
        yield File(os.fsencode(opened.path), opened.written)
    if used.gpus:
        memory_mib = min(gpu.memory_mib for gpu in used.gpus)
        yield Gpus(len(used.gpus), memory_mib, min(gpu.sm for gpu in used.gpus))


def _can_be_written(session: str, *items: Item) -> bool:
    try:
        encode_evidence(session, items)
    except ValueError:
        return False
    return True
