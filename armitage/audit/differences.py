"""What two builds fetched, compared: requests that only one made, and those that were answered
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from armitage.audit.auditor import Auditor
from armitage.audit.query import MAX_LIMIT, Query, parse_query
from armitage.audit.rows import Row, hash_of
from armitage.errors import InvalidRequest, NotFound

MOST_ROWS = 200_000
_PREFIXES = ("session", "action", "invocation")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with."""

    outcome: str
    status: int | None
    body: str
    index: int
    """Of one entry that says so."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One request, and its answers on both sides."""

    request: str
    a: list[Answer]
    b: list[Answer]


@dataclass(frozen=True, slots=True)
class Differences:
    """From `a` to `b`. A request that was made more than once counts once."""

    a: str
    b: str
    same: int = 0
    only_a: list[Changed] = field(default_factory=list)
    only_b: list[Changed] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)


async def compare(auditor: Auditor, a: str, b: str) -> Differences:
    """Compares two sides, each an action's digest, a session or an invocation (a build).

    Raises NotFound for a side that nothing was fetched for, and InvalidRequest over MOST_ROWS.
    """
    (said_a, before), (said_b, after) = await _side(auditor, a), await _side(auditor, b)
    found = Differences(said_a, said_b, sum(before[r] == after[r] for r in before if r in after))
    for request in sorted({*before, *after}):
        left, right = before.get(request) or _Answers(), after.get(request) or _Answers()
        if left == right:
            continue
        change = Changed(request, _answers(left), _answers(right))
        (found.changed if left and right else found.only_a if left else found.only_b).append(change)
    return found


_Key = tuple[str, int | None, str]


class _Answers(dict[_Key, int]):
    """Answers to one request, with an entry for each; equal when the answers are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and self.keys() == other.keys()

    __hash__ = None


def _answers(answers: dict[_Key, int]) -> list[Answer]:
    return [Answer(*key, index) for key, index in answers.items()]


async def _side(auditor: Auditor, text: str) -> tuple[str, dict[str, _Answers]]:
    for column, value in _meant(text):
        found = await _fetched(
            auditor, replace(parse_query({column: value}), kind="exchange", limit=MAX_LIMIT)
        )
        if found or await auditor.sessions(column, value, 1):
            return f"{column}:{value}", found
    raise NotFound(f"{text!r} is no action, session or invocation of which a fetch is on record")


def _meant(text: str) -> list[tuple[str, str]]:
    name, colon, rest = text.partition(":")
    if colon and name in _PREFIXES:
        return [(name, hash_of(rest) if name == "action" else rest)]
    hashed = hash_of(text)
    return [*([("action", hashed)] if hashed else []), ("session", text), ("invocation", text)]


async def _fetched(auditor: Auditor, query: Query) -> dict[str, _Answers]:
    found: dict[str, _Answers] = {}
    after, count = -1, 0
    while rows := await auditor.rows(replace(query, after=after)):
        count += len(rows)
        if count > MOST_ROWS:
            raise InvalidRequest(f"more than {MOST_ROWS} fetches; compare less at once")
        for row in rows:
            answers = found.setdefault(f"{row.method} {row.url}", _Answers())
            answers.setdefault(_key(row), row.index)
        after = rows[-1].index
    return found


def _key(row: Row) -> _Key:
    return row.outcome, row.status, row.body if row.outcome == "fetched" else ""
