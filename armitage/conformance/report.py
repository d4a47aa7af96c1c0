"""Shows results: a plain table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from armitage.conformance.model import Case, Outcome, Result


def table(results: Sequence[Result]) -> str:
    """Renders fixed columns, one line a case, and the counts at the end."""
    rows = [("case", "level", "result", "title", "seen"), *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{number:>{widths[0]}}  {level:<{widths[1]}}  {outcome:<{widths[2]}}  "
        f"{title:<{widths[3]}}  {seen}".rstrip()
        for number, level, outcome, title, seen in rows
    ]
    return "\n".join([*lines, "", summary(results)])


def _row(result: Result) -> tuple[str, str, str, str, str]:
    level = result.case.level if result.level is None else result.level
    case = result.case
    return (str(case.number), level.name.lower(), result.outcome, case.title, result.seen)


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
