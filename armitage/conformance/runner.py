"""Runs cases against a live server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from armitage.client.channel import CallFailed, Channel, Metadata, Tls
from armitage.clock import Clock, SystemClock
from armitage.conformance.control import NoControl, ServerControl
from armitage.conformance.model import (
    Case,
    Failed,
    Finding,
    Level,
    NotSupported,
    Outcome,
    Result,
    Skipped,
)
from armitage.conformance.needs import demand
from armitage.conformance.session import Options, Session, describe, open_session
from armitage.conformance.suite import CASES
from armitage.transport.port import Code

_FULL_FACTOR = 10
_MAX_SEEN = 3


async def run(
    target: str,
    instance: str = "",
    only: Collection[int] | None = None,
    *,
    level: Level = Level.INTEROP,
    options: Options | None = None,
    control: ServerControl | None = None,
    tls: Tls | None = None,
    metadata: Metadata = (),
    concurrency: int = 8,
    clock: Clock | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Runs the cases and answers one result for each, by number.

    `only` picks case numbers (None is all); `level` leaves out whatever weighs less; `options` is
    given `instance`; `on_result` hears of each result as it comes. Up to `concurrency` cases run at
    a time, so that the whole is quick on a distant server; those that must be alone come last.
    Raises CallFailed when the server does not answer GetCapabilities, LookupError on an unknown
    case number.
    """
    chosen = _choose(only, level)
    settings = replace(options or Options(), instance=instance)

    def connect(to: str, ping_s: float | None) -> Channel:
        return Channel(to, tls=tls, metadata=metadata, ping_s=ping_s)

    async with connect(target, None) as channel:
        base = await open_session(
            target,
            channel,
            settings,
            control=control or NoControl(),
            clock=clock or SystemClock(),
            connect=connect,
        )
        results: list[Result] = []

        async def one(case: Case) -> None:
            result = await _run_case(case, replace(base, findings=[]), level)
            results.append(result)
            if on_result is not None:
                on_result(result)

        # The longest first: they mostly wait, and the others run meanwhile.
        beside = sorted(
            (case for case in chosen if not case.alone), key=lambda case: -case.time_limit_s
        )
        await _together(beside, one, concurrency)
        await _together([case for case in chosen if case.alone], one, 1)
    return sorted(results, key=lambda result: result.case.number)


def _choose(only: Collection[int] | None, level: Level) -> list[Case]:
    if only is None:
        return [case for case in CASES if case.level <= level]
    by_number = {case.number: case for case in CASES}
    unknown = sorted(set(only) - set(by_number))
    if unknown:
        raise LookupError(f"no case has the number {', '.join(map(str, unknown))}")
    return [by_number[number] for number in sorted(set(only))]


async def _together(
    cases: list[Case], one: Callable[[Case], Awaitable[None]], concurrency: int
) -> None:
    gate = asyncio.Semaphore(concurrency)

    async def gated(case: Case) -> None:
        async with gate:
            await one(case)

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(gated(case))


async def _run_case(case: Case, session: Session, level: Level) -> Result:
    loop = asyncio.get_running_loop()
    start = loop.time()
    limit_s = case.time_limit_s * (_FULL_FACTOR if session.options.full else 1)
    outcome, note = Outcome.PASS, ""
    try:
        async with asyncio.timeout(limit_s):
            for need in case.needs:
                await demand(need, session)
            await case.run(session)
    except Exception as error:  # noqa: BLE001 (the boundary of a case: whatever happens is its result)
        outcome, note = _ending(case, error, session, limit_s)
    weighty = sorted(
        (finding for finding in session.findings if finding.level <= level),
        key=lambda finding: finding.level,
    )
    seconds = loop.time() - start
    if weighty and outcome != Outcome.ERROR:
        return Result(case, Outcome.FAIL, weighty[0].level, _line(weighty), seconds)
    return Result(case, outcome, None, note, seconds)


def _ending(case: Case, error: Exception, session: Session, limit_s: float) -> tuple[Outcome, str]:
    match _innermost(error):
        case NotSupported() as leaf:
            return Outcome.NOT_SUPPORTED, str(leaf)
        case Skipped() as leaf:
            return Outcome.SKIPPED, str(leaf)
        case Failed(seen=seen, level=level):
            session.fail(seen, case.level if level is None else level)
        case CallFailed() as leaf if leaf.code == Code.UNIMPLEMENTED:
            return Outcome.NOT_SUPPORTED, f"{leaf.path.rpartition('/')[2]}: UNIMPLEMENTED"
        case CallFailed() as leaf:
            session.fail(f"{leaf.path.rpartition('/')[2]}: {describe(leaf)}", case.level)
        case TimeoutError():
            session.fail(f"no end within {limit_s:g} s", case.level)
        case leaf:
            return Outcome.ERROR, f"{type(leaf).__name__}: {leaf}"
    return Outcome.FAIL, ""


def _innermost(error: BaseException) -> BaseException:
    """Answers the telling leaf of a group that a TaskGroup raised."""
    while isinstance(error, BaseExceptionGroup):
        leaves = error.exceptions
        known = (NotSupported, Skipped, Failed, CallFailed, BaseExceptionGroup)
        error = next((leaf for leaf in leaves if isinstance(leaf, known)), leaves[0])
    return error


def _line(findings: list[Finding]) -> str:
    different = list(dict.fromkeys(finding.seen for finding in findings))
    shown = "; ".join(different[:_MAX_SEEN])
    more = len(different) - _MAX_SEEN
    return f"{shown}; and {more} more" if more > 0 else shown
