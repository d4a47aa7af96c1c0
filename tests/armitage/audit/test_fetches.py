from __future__ import annotations

from pathlib import Path

import pytest
from support.records import Fetch, hash_of, record

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import Fetch as Fetched
from armitage.attest.facts import Lost
from armitage.audit import fetches
from armitage.audit.fetches import SessionFetches


async def test_exchanges_of_the_session_are_told_in_order(tmp_path: Path) -> None:
    async with record(tmp_path / "record") as kept:
        session = await kept.session(
            Fetch("https://a.example/one", b"one"),
            Fetch("https://evil.example/", None, None, allowed=False, rule="undeclared"),
            Fetch("https://a.example/gone", b"no", 404),
            Fetch("https://b.example/cut", b"", None, error="connection lost"),
        )
        await kept.session(Fetch("https://a.example/other", b"other"))

        told = await SessionFetches(kept.auditor)(session)

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
            await SessionFetches(kept.auditor)(session)
