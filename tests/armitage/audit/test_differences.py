"""armitage.audit.differences."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.records import Fetch, Record, hash_of, record

from armitage.audit.differences import compare
from armitage.errors import NotFound


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Record]:
    async with record(tmp_path) as made:
        await made.session(
            Fetch("https://a.example/same", b"same"),
            Fetch("https://a.example/moved", b"old"),
            Fetch("https://a.example/gone", b"gone"),
            invocation="monday",
            action="ab" * 32,
        )
        await made.session(
            Fetch("https://a.example/moved", b"new"),
            Fetch("https://a.example/same", b"same"),
            Fetch("https://a.example/same", b"same"),
            Fetch("https://evil.example/", None, None, allowed=False, rule="undeclared"),
            invocation="tuesday",
        )
        yield made


async def test_requests_are_compared_by_what_they_were_answered(kept: Record) -> None:
    found = await compare(kept.auditor, "monday", "tuesday")

    assert (found.a, found.b, found.same) == ("invocation:monday", "invocation:tuesday", 1)
    assert [each.request for each in found.only_a] == ["GET https://a.example/gone"]
    assert [each.request for each in found.only_b] == ["GET https://evil.example/"]
    [changed] = found.changed
    assert changed.request == "GET https://a.example/moved"
    assert ([each.body for each in changed.a], [each.body for each in changed.b]) == (
        [hash_of(b"old")],
        [hash_of(b"new")],
    )


async def test_nothing_differs_from_itself(kept: Record) -> None:
    found = await compare(kept.auditor, f"action:{'ab' * 32}", "invocation:monday")

    assert found.same == 3
    assert (found.only_a, found.only_b, found.changed) == ([], [], [])


async def test_an_unknown_side_is_not_found(kept: Record) -> None:
    with pytest.raises(NotFound, match="'sunday' is no action, session or invocation"):
        await compare(kept.auditor, "monday", "sunday")
