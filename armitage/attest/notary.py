"""What becomes of an executed action: judged, attested, and only then kept for others.

The order, each step durable before the next begins:

1. the checker decides. Not approved: the denial is kept and logged, the client is told, the end;
2. the client may have its answer, whatever becomes of the rest: it executed the action;
3. documents and envelopes are in the record's store, then the log's entry names them
   (armitage.attest.service);
4. the daemon's own store has copies of the documents, for clients, and the index the entry;
5. `keep` is called: the result enters the action cache.

So a crash leaves a result that is attested and cached, one that is attested and not cached, or
nothing; never one that is cached and not attested. Who asks for the result between 2 and 5 waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import ActionFacts, Builder, Denial, Exchanges, Fetch, Lost, Outputs
from armitage.attest.judge import Judge, Judgement
from armitage.attest.ledger import Ledger
from armitage.attest.service import Attestations, Kept
from armitage.clock import Clock
from armitage.errors import ArmitageError, PreconditionFailed
from cas.digest import Digest
from executor.evidence import Evidence

_log = logging.getLogger(__name__)

_MAX_UNDER_WAY: Final = 256
"""Attestations that are being made; beyond, answers wait too."""
_MOST_TOGETHER: Final = 64
_MOST_AT_WORK: Final = 2
"""Of batches, the second once it would be a full one. Until then, what is begun waits for the one
at work: each costs more, in syncs and turns of threads, than a few more runs in it.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution that came to its own end, before anything is decided about it."""

    instance: str
    action: Digest
    command: Digest
    input_root: Digest
    invocation: str
    """Unique for this execution, also among other daemons."""
    declared: str
    """The property `coeffects` as it was written; empty where there was none."""
    used: Evidence
    outputs: Outputs
    subjects: tuple[tuple[str, Digest], ...]
    stdout: Digest
    stderr: Digest
    started_s: float
    finished_s: float
    platform: tuple[tuple[str, str], ...] = ()


Keep = Callable[[], Awaitable[None]]
"""Keeps the result of a run for others."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """An approved run that is being attested."""

    run: Run
    judgement: Judgement
    keep: Keep
    key: Hashable
    done: asyncio.Future[None]
    before: asyncio.Future[None] | None
    """Of the run before with an equal key."""


@dataclass(frozen=True, slots=True)
class NotaryStats:
    """What was decided since the start."""

    approved: int
    denied: int
    attested: int
    unattested: int
    """Approved, and yet no attestation could be made."""
    under_way: int


class Fetches(Protocol):
    """Tells what the witness saw."""

    async def __call__(self, sessions: Sequence[str], /) -> Sequence[Exchanges]:
        """Answers the exchanges of each session."""


async def no_fetches(sessions: Sequence[str], /) -> Sequence[Exchanges]:
    """Where there is no witness."""
    return [() for _ in sessions]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a notary works with."""

    judge: Judge
    attestations: Attestations
    ledger: Ledger
    clock: Clock
    threads: Executor
    """For the ledger."""
    builder: Callable[[Evidence], Builder]
    fetches: Fetches = no_fetches


class Notary:
    """Judges and attests. An async context manager, which ends when all is attested that was
    begun. For one event loop.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._queue: list[_Begun] = []
        self._at_work = 0
        self._group = asyncio.TaskGroup()
        self._room = asyncio.Semaphore(_MAX_UNDER_WAY)
        self._under_way: dict[Hashable, asyncio.Future[None]] = {}
        self._approved = self._denied = self._attested = self._unattested = 0

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(None, None, None)

    def stats(self) -> NotaryStats:
        """Counts."""
        return NotaryStats(
            approved=self._approved,
            denied=self._denied,
            attested=self._attested,
            unattested=self._unattested,
            under_way=len(self._under_way),
        )

    async def judge(self, run: Run) -> Judgement:
        """Decides about a run. Raises PreconditionFailed, in words for the one who wrote the
        action, when the checker does not approve; then that is in the log.
        """
        judgement = await self._desk.judge.decide(run.declared, run.used)
        if judgement.verdict.approved:
            self._approved += 1
            return judgement
        self._denied += 1
        reasons = judgement.explain(await self._urls(run))
        where = await self._deny(run, judgement, reasons)
        raise PreconditionFailed(f"the result is refused: {'; '.join(reasons)} ({where})")

    async def _deny(self, run: Run, judgement: Judgement, reasons: Sequence[str]) -> str:
        """Keeps a denial. That it cannot be kept makes it no approval."""
        denial = Denial(
            run.instance,
            run.action,
            run.invocation,
            judgement.declaration,
            judgement.evidence,
            judgement.verdict,
            self._desk.clock.wall(),
            reasons,
        )
        try:
            kept = await self._desk.attestations.deny(denial)
            await self._enter([kept])
        except (ArmitageError, OSError) as error:
            _log.error("the denial of action %s is not in the log: %s", run.action, error)
            return "which could not be logged"
        return f"entry {kept.index} of the log"

    async def attest(self, run: Run, judgement: Judgement, key: Hashable, keep: Keep) -> None:
        """Begins to attest an approved run. `keep` is called once that is durable, also where about
        such an action nothing can be attested, and not at all when it fails; for equal keys in the
        order of the calls. Answers at once, unless very many are under way.
        """
        await self._room.acquire()
        done = asyncio.get_running_loop().create_future()
        self._queue.append(_Begun(run, judgement, keep, key, done, self._under_way.get(key)))
        self._under_way[key] = done
        is_full = len(self._queue) >= _MOST_TOGETHER
        if not self._at_work or (is_full and self._at_work < _MOST_AT_WORK):
            self._at_work += 1
            self._group.create_task(self._work())

    async def _urls(self, run: Run) -> Mapping[tuple[str, int], str]:
        """What was fetched first from each host, for the reasons; nothing where that is unknown."""
        [fetches] = await self._fetches([run])
        if isinstance(fetches, Exception):  # It is refused in any case; words are a courtesy.
            _log.debug("the fetches of action %s cannot be told", run.action, exc_info=fetches)
            return {}
        return {
            (each.host, each.port): each.url
            for each in reversed(fetches)
            if isinstance(each, Fetch)
        }

    def is_under_way(self, key: Hashable) -> bool:
        """Tells whether a result of that key is being attested, so that `settle` would wait."""
        return key in self._under_way

    async def settle(self, key: Hashable) -> None:
        """Waits until the result of that key, if it is being attested, is kept or given up."""
        done = self._under_way.get(key)
        if done is not None:
            await asyncio.shield(done)

    async def settle_all(self) -> None:
        """Waits for all that is under way now."""
        for key in list(self._under_way):
            await self.settle(key)

    async def _work(self) -> None:
        """Attests what was begun, as much of it together as there is."""
        try:
            while self._queue:
                if len(self._queue) < _MOST_TOGETHER:
                    await self._desk.judge.turn()  # What is being judged is for this batch, too.
                batch, self._queue = self._queue[:_MOST_TOGETHER], self._queue[_MOST_TOGETHER:]
                for begun, fault in zip(batch, await self._make_all(batch), strict=True):
                    self._group.create_task(self._end(begun, fault))
        finally:
            self._at_work -= 1

    async def _end(self, begun: _Begun, fault: Exception | None) -> None:
        """Keeps the result, unless it has no attestation that it should have."""
        try:
            if fault is not None:
                raise fault
            if begun.before is not None:
                # The later run's result is to be the one that stays.
                await asyncio.shield(begun.before)
            await begun.keep()
        except Exception:  # noqa: BLE001 (a task boundary)
            # Whatever it was: the result was answered, and nobody else gets it.
            self._unattested += 1
            action = begun.run.action
            _log.warning("action %s is not attested, nor cached", action, exc_info=True)
        finally:
            self._room.release()
            if self._under_way.get(begun.key) is begun.done:
                del self._under_way[begun.key]
            begun.done.set_result(None)

    async def _make_all(self, batch: Sequence[_Begun]) -> list[Exception | None]:
        """Answers for each run why its result must not be kept, if so."""
        fetches = await self._fetches([each.run for each in batch])
        facts = [
            told if isinstance(told, Exception) else self._facts(each.run, each.judgement, told)
            for each, told in zip(batch, fetches, strict=True)
        ]
        try:
            good = [each for each in facts if isinstance(each, ActionFacts)]
            made = await self._desk.attestations.attest_all(good) if good else []
            await self._enter([each for each in made if isinstance(each, Kept)])
        except Exception as error:  # noqa: BLE001 (told for each)
            return [error for _ in batch]
        attested = iter(made)
        return [
            self._fault(begun, next(attested) if isinstance(each, ActionFacts) else each)
            for begun, each in zip(batch, facts, strict=True)
        ]

    def _fault(self, begun: _Begun, outcome: Kept | Exception) -> Exception | None:
        if isinstance(outcome, Kept):
            self._attested += 1
            return None
        if not isinstance(outcome, NotAttestable):
            return outcome
        self._unattested += 1
        _log.info("action %s is not attested: %s", begun.run.action, outcome)
        return None

    async def _fetches(self, runs: Sequence[Run]) -> Sequence[Exchanges]:
        """Answers those of each run."""
        sessions = [run.used.network_session for run in runs]
        named = [session for session in sessions if session]
        try:
            told = iter(await self._desk.fetches(named) if named else ())
        except Exception as error:  # noqa: BLE001 (told for each)
            return [error if session else () for session in sessions]
        return [next(told) if session else () for session in sessions]

    def _facts(
        self, run: Run, judgement: Judgement, exchanges: Sequence[Fetch | Lost]
    ) -> ActionFacts:
        return ActionFacts(
            instance=run.instance,
            action=run.action,
            command=run.command,
            input_root=run.input_root,
            invocation=run.invocation,
            outputs=run.outputs,
            subjects=run.subjects,
            stdout=run.stdout,
            stderr=run.stderr,
            declaration=judgement.declaration,
            evidence=judgement.evidence,
            verdict=judgement.verdict,
            used=run.used,
            builder=self._desk.builder(run.used),
            started_s=run.started_s,
            finished_s=run.finished_s,
            fetches=[each for each in exchanges if isinstance(each, Fetch)],
            lost=[each for each in exchanges if isinstance(each, Lost)],
            platform=run.platform,
        )

    async def _enter(self, kept: Sequence[Kept]) -> None:
        if kept:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._desk.threads, self._desk.ledger.add, kept)
