"""armitage.web.audit_api, .log_tiles and .access, over a real archive and real sockets."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.audited import Served, serving
from support.certificates import Authority
from support.records import Fetch, hash_of, record

from armitage.chores import Meanwhile
from armitage.log.checkpoint import open_checkpoint
from armitage.log.note import parse_public_key
from armitage.log.tiles import Tile, parse_path
from armitage.log.verify import verified_entries
from armitage.transport.tls import TlsFiles


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with record(tmp_path) as kept, Meanwhile(kept.auditor.follow), serving(kept) as made:
        await kept.session(
            Fetch("https://a.example/<script>", b"body"),
            Fetch("https://b.example/x", None, None, allowed=False, rule="undeclared"),
            action="ab" * 32,
        )
        yield made


async def test_entries_are_searched_and_paged(served: Served) -> None:
    page = await served.get("/api/audit/entries?kind=exchange&limit=1")

    assert isinstance(page, dict)
    [row] = page["rows"]
    assert (row["index"], row["host"], row["outcome"]) == (2, "b.example", "refused")
    assert (page["next_before"], page["total"], page["size"], page["indexed"]) == (2, 2, 4, 4)


async def test_an_entry_comes_with_record_and_receipt(served: Served) -> None:
    entry = await served.get("/api/audit/entries/1")

    assert isinstance(entry, dict)
    assert entry["record"]["url"] == "https://a.example/<script>"
    assert entry["receipt"].startswith("c2sp.org/tlog-proof@v1\nindex 1\n")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("entries/99", 404, "the record has 4 entries, none at 99"),
        ("entries?colour=red", 400, "colour: unknown filter"),
        ("entries?since=soon", 400, "since: 'soon' is no time"),
        ("sessions", 400, "sessions: say session, action, invocation"),
        ("blobs/zz/1", 400, "hash: 'zz' is no SHA-256 in hex"),
        (f"blobs/{'00' * 32}/7", 404, "is not in the record"),
    ],
)
async def test_what_cannot_be_answered_says_why(
    served: Served, path: str, status: int, error: str
) -> None:
    answer = await served.get(f"/api/audit/{path}", status)

    assert isinstance(answer, dict)
    assert error in answer["error"]


async def test_bodies_are_saved_and_never_shown(served: Served) -> None:
    answer = await served.http.get(f"{served.url}/api/audit/blobs/{hash_of(b'body')}/4")

    assert await answer.read() == b"body"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_log_is_verified_from_what_is_served(served: Served) -> None:
    """As any C2SP tool does it: with nothing but the key."""
    state = await served.get("/api/audit/state")
    assert isinstance(state, dict)
    signed = open_checkpoint(await served.read("/log/checkpoint"), parse_public_key(state["key"]))
    tiles = {
        path: await served.read(f"/log/{path}")
        for path in ("tile/entries/000.p/4", "tile/0/000.p/4")
    }

    entries = list(verified_entries(signed.checkpoint, lambda tile: tiles[tile.path]))

    assert (state["size"], state["root"]) == (4, signed.checkpoint.root.hex())
    assert len(entries[0][1]) == 4


async def test_tiles_are_cached_and_checkpoints_are_not(served: Served) -> None:
    tile = await served.http.get(f"{served.url}/log/tile/0/000.p/3")
    checkpoint = await served.http.get(f"{served.url}/log/checkpoint")

    assert tile.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert tile.headers["Content-Type"] == "application/octet-stream"
    assert len(await tile.read()) == 3 * 32
    assert checkpoint.headers["Cache-Control"] == "no-store"
    assert checkpoint.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/0", "tile/9/000.p/1", "tile/entries/../x"])
async def test_tiles_that_are_not_published_are_not_found(served: Served, path: str) -> None:
    assert parse_path(path) is None or parse_path(path) != Tile(0, 0, 4)
    await served.read(f"/log/{path}", 404)


async def test_news_comes_as_it_is_indexed(served: Served) -> None:
    url = f"{served.url}/api/audit/events?host=c.example"
    async with served.http.get(url) as stream:
        assert stream.content_type == "text/event-stream"
        await served.record.session(Fetch("https://c.example/1"), Fetch("https://d.example/2"))
        lines: list[str] = []
        while len(lines) < 2:
            line = (await stream.content.readline()).decode().strip()
            lines += [line] if line.startswith(("id:", "data:")) else []

    assert lines[0] == "id: 5"
    assert json.loads(lines[1].removeprefix("data: "))["url"] == "https://c.example/1"


async def test_news_goes_on_where_a_listener_left_off(served: Served) -> None:
    async with served.http.get(
        f"{served.url}/api/audit/events", headers={"Last-Event-ID": "1"}
    ) as stream:
        lines = [await stream.content.readline() for _ in range(3)]

    assert b"id: 2\n" in lines


async def test_a_verification_tells_how_far_it_is_and_what_came_of_it(served: Served) -> None:
    answer = await served.http.get(f"{served.url}/api/audit/verify")
    events = (await answer.text()).split("\n\n")

    assert events[0] == 'event: progress\ndata: {"entries": 4, "size": 4}'
    assert events[-2] == 'event: done\ndata: {"faults": 0}'


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403)])
async def test_pages_of_others_cannot_ask_for_a_verification(
    served: Served, site: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": site}
    answer = await served.http.get(f"{served.url}/api/audit/verify", headers=headers)

    assert answer.status == status


def _navigation(destination: str) -> dict[str, str]:
    return {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": destination,
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        (_navigation("iframe"), 403),
        (_navigation("document"), 200),
    ],
)
async def test_pages_of_others_may_lead_here_and_do_nothing_else(
    served: Served, headers: dict[str, str], status: int
) -> None:
    answer = await served.http.get(f"{served.url}/api/audit/entries", headers=headers)

    assert answer.status == status


async def test_records_come_framed_for_those_who_verify(served: Served) -> None:
    await served.record.archive.log.append(b"no evidence")
    data = await served.read("/api/audit/records?first=3&count=9")

    size = int.from_bytes(data[:4], "big")
    assert json.loads(data[4 : 4 + size])["kind"] == "close"
    assert data[4 + size :] == b"\xff" * 4


async def test_strangers_are_refused_everything(tmp_path: Path) -> None:
    async with record(tmp_path) as kept, serving(kept, ["CN=auditor"]) as served:
        for path in ("state", "verify", "entries", "entries/0", "overview", "events", "blobs/x/1"):
            answer = await served.get(f"/api/audit/{path}", 403)
            assert answer == {"error": "'127.0.0.1' is not among the server's `auditors`"}
        await served.read("/log/checkpoint", 403)
        await served.read("/log/tile/0/000.p/1", 403)


async def test_a_public_log_is_for_everybody_and_the_record_is_not(tmp_path: Path) -> None:
    async with record(tmp_path) as kept, serving(kept, [], public=True) as served:
        assert (await served.read("/log/checkpoint")).startswith(b"log.example/record\n0\n")
        await served.get("/api/audit/entries", 403)


def _certified(directory: Path, *clients: str) -> tuple[TlsFiles, list[ssl.SSLContext]]:
    authority = Authority()
    trusted = directory / "clients.crt"
    trusted.write_bytes(authority.certificate)
    contexts = []
    for client in clients:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        context.load_cert_chain(*authority.issue(client).write(directory, client))
        contexts.append(context)
    return TlsFiles(*authority.issue("server").write(directory, "server"), trusted), contexts


async def test_an_auditor_is_known_by_certificate(tmp_path: Path) -> None:
    tls, [auditor, builder] = _certified(tmp_path, "auditor", "builder")
    async with record(tmp_path / "record") as kept:
        async with serving(kept, ["CN=auditor"], tls=tls, client=auditor) as served:
            assert isinstance(await served.get("/api/audit/state"), dict)
        async with serving(kept, ["CN=auditor"], tls=tls, client=builder) as served:
            refused = await served.get("/api/audit/state", 403)
    assert refused == {"error": "'CN=builder' is not among the server's `auditors`"}
