"""armitage.audit.query."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from armitage.audit.query import DEFAULT_LIMIT, MAX_LIMIT, Query, parse_query
from armitage.errors import InvalidRequest


def test_nothing_asked_is_everything() -> None:
    assert parse_query({"host": " ", "since": ""}) == Query()


def test_every_filter_is_read() -> None:
    action = "ab" * 32
    query = parse_query(
        {
            "host": "Files.Example",
            "digest": f"sha256:{'CD' * 32}/17",
            "action": f"{action}/144",
            "session": "s",
            "identity": "CN=x",
            "outcome": "refused",
            "since": "2026-09-21",
            "until": "1790000000.5",
            "before": "7",
            "limit": "3",
            "text": "a b",
        }
    )

    assert query.host == "files.example"
    assert query.digest == "cd" * 32
    assert query.action == action
    assert (query.since_s, query.until_s) == (1_789_948_800.0, 1_790_000_000.5)
    assert (query.before, query.limit) == (7, 3)
    assert parse_query(dict(parse_qsl(query.parameters()))) == query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hosts", "a"),
        ("digest", "xyz"),
        ("digest", "abc"),
        ("action", "ab"),
        ("outcome", "good"),
        ("kind", "a' OR 1"),
        ("since", "yesterday"),
        ("before", "-1"),
        ("after", "1.5"),
        ("text", "x" * 501),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        parse_query({name: value})


def test_limit_is_held_between_one_and_the_most() -> None:
    assert parse_query({"limit": "0"}).limit == 1
    assert parse_query({"limit": "99999"}).limit == MAX_LIMIT
    assert parse_query({}).limit == DEFAULT_LIMIT


def test_times_without_a_zone_are_utc() -> None:
    assert parse_query({"since": "2026-09-21T15:33:20+02:00"}).since_s == 1_789_997_600.0
    assert parse_query({"since": "2026-09-21T13:33:20"}).since_s == 1_789_997_600.0
