"""armitage.audit.auditor and .index, over a real archive."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.records import T0, Fetch, Record, hash_of, record

from armitage.audit.auditor import INDEX_NAME
from armitage.audit.index import Index
from armitage.audit.query import Query
from armitage.audit.rows import Link, row_of
from armitage.chores import Meanwhile
from armitage.errors import NotFound
from armitage.log.receipt import parse_receipt
from armitage.witness.evidence import Kind, entry_of

ACTION = "ab" * 32


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Record]:
    """Two sessions: seven entries, the exchanges at 1, 2, 3 and 6."""
    async with record(tmp_path) as made:
        await made.session(
            Fetch("https://pypi.example/simple/a_b/", b"index"),
            Fetch("https://files.pypi.example/a.whl", b"wheel"),
            Fetch("https://evil.example/x", None, None, allowed=False, rule="undeclared"),
            action=f"{ACTION}/144",
            identity="CN=ci",
            invocation="build-1",
            target="//a:b",
        )
        await made.session(
            Fetch("https://pypi.example/simple/c/", None, None, error="timed out"),
            identity="CN=dev",
            invocation="build-2",
        )
        yield made


async def found(kept: Record, **query: object) -> list[int]:
    return [row.index for row in (await kept.auditor.page(Query(**query))).rows]  # type: ignore[arg-type]


FILTERS: list[tuple[dict[str, object], list[int]]] = [
    ({}, [7, 6, 5, 4, 3, 2, 1, 0]),
    ({"host": "pypi.example"}, [6, 1]),
    ({"host": "*.pypi.example"}, [6, 2, 1]),
    ({"host": "nobody.example"}, []),
    ({"action": ACTION}, [4, 3, 2, 1, 0]),
    ({"identity": "CN=dev"}, [7, 6, 5]),
    ({"invocation": "build-1", "kind": "exchange"}, [3, 2, 1]),
    ({"outcome": "refused"}, [3]),
    ({"outcome": "failed"}, [6]),
    ({"kind": "open"}, [5, 0]),
    ({"digest": hash_of(b"wheel")}, [2]),
    ({"digest": hash_of(b"wheel")[:7]}, [2]),
    ({"digest": ACTION[:4]}, [0]),
    ({"text": "simple/a_"}, [1]),
    ({"text": "simple/%"}, []),
    ({"text": "undeclared"}, [3]),
    ({"before": 3, "limit": 2}, [2, 1]),
    ({"after": 3, "limit": 2}, [4, 5]),
    ({"since_s": T0 + 1.4, "kind": "exchange"}, [6, 3, 2]),
    ({"until_s": T0 + 1.6, "kind": "exchange"}, [2, 1]),
    ({"since_s": T0 + 100}, []),
    ({"until_s": T0 - 100}, []),
]


async def test_each_filter_finds_what_it_says(kept: Record) -> None:
    answers = [(query, await found(kept, **query)) for query, _ in FILTERS]

    assert answers == FILTERS


async def test_a_page_says_how_to_go_on(kept: Record) -> None:
    page = await kept.auditor.page(Query(limit=3))
    rest = await kept.auditor.page(Query(limit=10, before=page.next_before))

    assert page.next_before == 5
    assert page.total == 8
    assert [row.index for row in rest.rows] == [4, 3, 2, 1, 0]
    assert rest.next_before is None


async def test_a_row_says_who_fetched_what_under_which_action(kept: Record) -> None:
    view = await kept.auditor.entry(2)

    assert view.row.url == "https://files.pypi.example/a.whl"
    assert (view.row.host, view.row.status, view.row.outcome) == (
        "files.pypi.example",
        200,
        "fetched",
    )
    assert (view.row.action, view.row.identity, view.row.target) == (ACTION, "CN=ci", "//a:b")
    assert view.row.at_s == T0 + 1.5
    assert Link("body", hash_of(b"wheel")) in view.row.links
    assert view.record is not None
    assert view.record["method"] == "GET"
    assert parse_receipt(view.receipt.encode()).index == 2


async def test_an_entry_that_is_not_there_is_not_found(kept: Record) -> None:
    with pytest.raises(NotFound, match="8 entries, none at 8"):
        await kept.auditor.entry(8)


async def test_sessions_are_summed_up(kept: Record) -> None:
    [session] = await kept.auditor.sessions("action", ACTION)

    assert (session.exchanges, session.refused, session.size_bytes) == (3, 1, 10)
    assert (session.opened, session.closed) == (0, 4)
    assert session.declared == "network"
    assert [session] == await kept.auditor.sessions("session", session.session)


async def test_the_overview_sums_hosts_and_hours(kept: Record) -> None:
    overview = await kept.auditor.overview(24)

    assert overview.kinds == {"open": 2, "close": 2, "exchange": 4}
    assert {host.host: host[1:4] for host in overview.hosts} == {
        "pypi.example": (1, 0, 1),
        "files.pypi.example": (1, 0, 0),
        "evil.example": (0, 1, 0),
    }
    assert {each.hour for each in overview.hours} == {overview.end_hour - 1}


async def test_the_index_grows_with_the_log(tmp_path: Path) -> None:
    async with record(tmp_path) as kept, Meanwhile(kept.auditor.follow):
        await kept.archive.log.append(b"no evidence at all")

        assert await kept.auditor.wait_indexed(0) == 1
        [row] = (await kept.auditor.page(Query())).rows
        assert row.kind == "unknown"


async def test_an_index_made_before_is_taken_up(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        await kept.session(Fetch("https://a.example/"))
    reported: list[tuple[int, int]] = []

    async with record(tmp_path) as kept:
        assert kept.auditor.indexed == 3
        await kept.auditor.catch_up(lambda *told: reported.append(told))

    assert not reported


def _spoil_by_loss(path: Path) -> None:
    path.unlink()


def _spoil_by_bytes(path: Path) -> None:
    path.write_bytes(b"not sqlite" * 1000)


def _spoil_by_another_tree(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE facts SET value = ? WHERE name = 'root'", (bytes(32),))
    db.close()


def _spoil_by_more_entries(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE facts SET value = 99 WHERE name = 'size'")
    db.close()


@pytest.mark.parametrize(
    "spoil",
    [_spoil_by_loss, _spoil_by_bytes, _spoil_by_another_tree, _spoil_by_more_entries],
)
async def test_an_index_that_is_not_of_this_log_is_made_anew(tmp_path: Path, spoil: object) -> None:
    async with record(tmp_path) as kept:
        await kept.session(Fetch("https://a.example/"))
    assert callable(spoil)
    spoil(tmp_path / INDEX_NAME)

    async with record(tmp_path) as kept:
        assert await found(kept, host="a.example") == [1]
        assert kept.auditor.indexed == 3


async def test_a_log_longer_than_a_batch_is_indexed_in_order(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        entries = [
            entry_of("s", number, Kind.EXCHANGE, b"gone").encode() for number in range(1, 1300)
        ]
        await asyncio.to_thread(kept.archive.log.store.append, entries)
        told: list[tuple[int, int]] = []

        await kept.auditor.catch_up(lambda *each: told.append(each))

        assert told == [(1024, 1299), (1299, 1299)]
        rows = await kept.auditor.rows(Query(after=1020, limit=6))
        assert [(row.index, row.number) for row in rows] == [(n, n + 1) for n in range(1021, 1027)]


async def test_bodies_that_were_cut_off_are_not_found_by_their_hash(tmp_path: Path) -> None:
    """The hash on record is of what came, and proves nothing of the whole."""
    whole = row_of(0, b'{"kind":"exchange","record":"x"}', _record(complete=True))
    cut = row_of(0, b'{"kind":"exchange","record":"x"}', _record(complete=False))

    assert [link.role for link in whole.links] == ["body"]
    assert not cut.links


def _record(*, complete: bool) -> bytes:
    body = {"sha256": f"sha256:{hash_of(b'x')}", "size_bytes": 1, "complete": complete}
    return json.dumps({"response": {"status": 200, "body": body}, "decision": {}}).encode()


async def test_what_is_indexed_while_whoever_waits_is_cancelled_is_not_indexed_again(
    kept: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going, add = Event(), Event(), Index.add

    def waiting(*arguments: Any) -> None:
        begun.set()
        assert going.wait(60)
        add(*arguments)

    monkeypatch.setattr(Index, "add", waiting)
    await kept.archive.log.append(b"another's")
    indexing = asyncio.ensure_future(kept.auditor.catch_up())  # noqa: TID251 (a task to cancel)
    await asyncio.to_thread(begun.wait, 60)
    indexing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await indexing
    going.set()

    await kept.auditor.catch_up()

    assert kept.auditor.indexed == 9
    assert await found(kept) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
