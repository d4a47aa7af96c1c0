"""Shows results: a plain table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from armitage.conformance.model import Case, Outcome, Result

_TITLE_WIDTH = 62


def table(results: Sequence[Result]) -> str:
    """Renders fixed columns, one line a case, and the counts at the end."""
    lines = [f"{'case':>4}  {'level':<7}  {'result':<13}  {'title':<{_TITLE_WIDTH}}  seen"]
    lines += [line(result) for result in results]
    lines += ["", summary(results)]
    return "\n".join(lines)


def line(result: Result) -> str:
    """Renders one result as one line of the table."""
    level = result.case.level if result.level is None else result.level
    title = _fit(result.case.title, _TITLE_WIDTH)
    return (
        f"{result.case.number:>4}  {level.name.lower():<7}  {result.outcome:<13}  "
        f"{title:<{_TITLE_WIDTH}}  {result.seen}"
    ).rstrip()


def summary(results: Sequence[Result]) -> str:
    """Counts outcomes, with failures by level."""
    counts = Counter(result.outcome for result in results)
    parts = [
        f"{counts[outcome]} {outcome}{_by_level(results, outcome)}"
        for outcome in Outcome
        if counts[outcome]
    ]
    return f"{len(results)} cases: " + ", ".join(parts)


def _by_level(results: Sequence[Result], outcome: Outcome) -> str:
    if outcome != Outcome.FAIL:
        return ""
    levels = Counter(r.level for r in results if r.outcome == outcome and r.level is not None)
    return " (" + ", ".join(f"{levels[lv]} {lv.name.lower()}" for lv in sorted(levels)) + ")"


def as_json(results: Sequence[Result]) -> str:
    """Renders results and counts as one JSON document."""
    document = {
        "results": [
            {
                **_case(result.case),
                "outcome": result.outcome,
                "failed_level": None if result.level is None else result.level.name.lower(),
                "seen": result.seen,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
        "counts": Counter(result.outcome for result in results),
    }
    return json.dumps(document, indent=2)


def listing(cases: Sequence[Case]) -> str:
    """Renders what there is to run."""
    return "\n".join(
        f"{case.number:>4}  {case.level.name.lower():<7}  {case.title}  [{case.source}]"
        for case in cases
    )


def listing_json(cases: Sequence[Case]) -> str:
    """Renders what there is to run, as JSON."""
    return json.dumps([_case(case) for case in cases], indent=2)


def _case(case: Case) -> dict[str, object]:
    return {
        "number": case.number,
        "name": case.name,
        "title": case.title,
        "level": case.level.name.lower(),
        "source": case.source,
        "needs": list(case.needs),
    }


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
