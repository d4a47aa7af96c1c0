from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.records import Fetch, Record, hash_of, record

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import Fetch as Fetched
from armitage.attest.facts import Lost
from armitage.audit import fetches
from armitage.audit.fetches import SessionFetches
from armitage.audit.rows import Named
from armitage.audit.source import ArchiveSource
from armitage.errors import Unavailable
from armitage.witness.evidence import Subject


async def exchanges(kept: Record, session: str) -> Sequence[Fetched | Lost]:
    [told] = await SessionFetches(kept.auditor)([session])
    if isinstance(told, Exception):
        raise told
    return told


async def test_exchanges_of_the_session_are_told_in_order(tmp_path: Path) -> None:
    async with record(tmp_path / "record") as kept:
        session = await kept.session(
            Fetch("https://a.example/one", b"one"),
            Fetch("https://evil.example/", None, None, allowed=False, rule="undeclared"),
            Fetch("https://a.example/gone", b"no", 404),
            Fetch("https://b.example/cut", b"", None, error="connection lost"),
        )
        await kept.session(Fetch("https://a.example/other", b"other"))

        told = await exchanges(kept, session)

    one, evil, gone, cut = told
    assert isinstance(one, Fetched)
    assert isinstance(gone, Fetched)
    assert [(each.url, each.status, each.sha256) for each in (one, gone)] == [
        ("https://a.example/one", 200, hash_of(b"one")),
        ("https://a.example/gone", 404, hash_of(b"no")),
    ]
    assert (one.host, one.port, one.method) == ("a.example", 443, "GET")
    assert [evil, cut] == [
        Lost("https://evil.example/", "GET", "evil.example", True, "undeclared", 2),
        Lost("https://b.example/cut", "GET", "b.example", False, "connection lost", 4),
    ]
    assert [each.log_index for each in told] == [1, 2, 3, 4]


async def test_more_than_an_attestation_holds_is_not_attested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "_MOST", 1)
    async with record(tmp_path / "record") as kept:
        session = await kept.session(Fetch("https://a.example/1"), Fetch("https://a.example/2"))

        with pytest.raises(NotAttestable, match="over 1 exchanges"):
            await exchanges(kept, session)


async def test_exchanges_are_told_however_far_apart_their_entries_are(tmp_path: Path) -> None:
    urls = [f"https://a.example/{number}" for number in range(4)]
    async with record(tmp_path / "record") as kept:
        opened = await kept.sessions.open(Subject(), "network")
        for url in urls:
            await opened.record(await kept.exchange(Fetch(url, url.encode())))
            await kept.archive.log.append_all([b"another's"] * 150)

        told = await exchanges(kept, opened.id)

    assert [(each.url, each.log_index) for each in told] == [
        (url, 1 + 151 * number) for number, url in enumerate(urls)
    ]
    assert [each.sha256 for each in told if isinstance(each, Fetched)] == [
        hash_of(url.encode()) for url in urls
    ]


async def test_each_of_several_sessions_has_its_own_exchanges_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "_MOST", 2)
    monkeypatch.setattr(fetches, "_AT_ONCE", 1)
    async with record(tmp_path / "record") as kept:
        one = await kept.session(Fetch("https://a.example/1"))
        many = await kept.session(*(Fetch(f"https://b.example/{n}") for n in range(3)))
        two = await kept.session(Fetch("https://c.example/1"), Fetch("https://c.example/2"))

        told = await SessionFetches(kept.auditor)([two, many, "unknown", one])

    assert isinstance(told[1], NotAttestable)
    assert [
        [each.url for each in exchanges] if not isinstance(exchanges, Exception) else None
        for exchanges in told
    ] == [
        ["https://c.example/1", "https://c.example/2"],
        None,
        [],
        ["https://a.example/1"],
    ]


async def test_without_a_record_that_is_gone_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: ArchiveSource, first: int, named: Sequence[Named | None]) -> list[None]:
        return [None for _ in named]

    async with record(tmp_path / "record") as kept:
        session = await kept.session(Fetch("https://a.example/1"), Fetch("https://a.example/2"))
        monkeypatch.setattr(ArchiveSource, "records", gone)

        with pytest.raises(Unavailable, match="exchange at 1 of the log is gone"):
            await exchanges(kept, session)
