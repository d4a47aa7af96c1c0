"""One entry, one action, one artefact, one session: all that is on record of it, and where it comes
from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from armitage.audit.auditor import EntryView
from armitage.audit.index import SessionRow
from armitage.audit.rows import Row
from armitage.audit.why import Graph
from armitage.web.audit.graph import draw
from armitage.web.audit.layout import (
    action_link,
    artefact_link,
    badge,
    entries_table,
    facts,
    moment,
    section,
)
from armitage.web.html import Html, link, tag, text
from armitage.web.page import size_text

_MOST_JSON = 200_000


def entry(view: EntryView, graph: Graph | None) -> Html:
    """All of one log entry."""
    row = view.row
    index = row.index
    record = view.record or {}
    return text(
        section("What is on record", _entry_facts(view)),
        section("Where it comes from", draw(graph)) if graph is not None and graph.edges else None,
        _headers("Request headers", _inside(record, "request")),
        _headers("Response headers", _inside(record, "response")),
        section(
            "Proof",
            tag(
                "p",
                "The receipt proves, without asking this server, that the entry is in the log that "
                "the checkpoint in it signs.",
                class_="soft",
            ),
            tag("pre", view.receipt),
            tag(
                "p",
                link(f"/audit/entry/{index}/receipt", "Download the receipt (.tlog-proof)"),
                class_="note",
            ),
        ),
        section("As it was kept", _json("The log's entry", view.entry), _record(view)),
        _neighbours(index),
    )


def _entry_facts(view: EntryView) -> Html:
    row, record = view.row, view.record or {}
    peer, body = _inside(record, "peer"), _inside(_inside(record, "response"), "body")
    sent = _inside(_inside(record, "request"), "body")
    has_body = row.kind == "exchange" and row.outcome == "fetched" and bool(row.body)
    download = f"/api/audit/blobs/{row.body}/{row.size_bytes}"
    return facts(
        ("Outcome", text(badge(row), " ", row.note if row.kind != "open" else "")),
        ("Rule", _said(_inside(record, "decision"), "rule")),
        ("Log", _place(row)),
        ("When", moment(row.at_s)),
        ("Request", tag("code", f"{row.method} {row.url}") if row.method else None),
        (
            "Body",
            text(artefact_link(row.body), " ", size_text(row.size_bytes)) if has_body else None,
        ),
        ("Complete", _yes_or_no(body.get("complete")) if body else None),
        ("Content encoding", _said(body, "content_encoding")),
        ("Stored bytes", link(download, "download", download=row.body) if has_body else None),
        (
            "Sent",
            f"{size_text(sent['size_bytes'])}, {sent['sha256']}" if "sha256" in sent else None,
        ),
        ("Host", f"{_said(peer, 'host')}:{_said(peer, 'port')}" if peer else None),
        ("Address", _said(peer, "address")),
        (
            "Asked by CONNECT, SNI",
            " · ".join(filter(None, (_said(peer, "connect"), _said(peer, "sni")))),
        ),
        ("TLS", _said(peer, "tls_version")),
        (
            "Certificate key",
            tag("code", spki) if (spki := _said(peer, "certificate_spki_sha256")) else None,
        ),
        ("Credentials added", _names(record.get("credentials"))),
        ("Answered again from", _said(record, "replays")),
        ("Declared", row.note if row.kind == "open" else None),
        ("Action", action_link(row.action) if row.action else None),
        ("Asked by", row.identity),
        ("Build", _search("invocation", row.invocation)),
        ("Target", row.target),
        ("Instance", row.instance),
        (
            "Session",
            link(f"/audit/session/{row.session}", row.session)
            if _is_name(row.session)
            else row.session,
        ),
    )


def _place(row: Row) -> Html:
    ended = tag("span", "ended", class_="badge plain") if row.is_past else None
    return text(_search("log", row.log), f", entry {row.log_index:,} ", ended)


def action(hashed: str, sessions: Sequence[SessionRow], rows: Sequence[Row], graph: Graph) -> Html:
    """All of one action."""
    fetched = [row for row in rows if row.kind == "exchange"]
    decided = [row for row in rows if row.kind not in {"exchange", "open", "close"}]
    return text(
        section("Where it comes from", draw(graph)),
        section("Attestations and denials", entries_table(decided)) if decided else None,
        section("Sessions", _sessions(sessions)) if sessions else None,
        section(
            "Fetches",
            entries_table(fetched) if fetched else tag("p", "It fetched nothing.", class_="soft"),
            tag(
                "p",
                link(f"/audit/log?action={hashed}&kind=exchange", "Search in them"),
                class_="note",
            ),
        ),
    )


def artefact(hashed: str, rows: Sequence[Row], graph: Graph) -> Html:
    """All of one artefact."""
    return text(
        section("Where it comes from", draw(graph)),
        section(
            "Named in",
            entries_table(rows),
            tag("p", link(f"/audit/log?digest={hashed}", "Search in them"), class_="note"),
        ),
    )


def session(found: SessionRow, rows: Sequence[Row]) -> Html:
    """One session."""
    whole = found.closed is not None
    return text(
        section(
            "What is on record",
            facts(
                (
                    "State",
                    tag("span", "closed", class_="badge good")
                    if whole
                    else tag("span", "not closed: runs, or was cut off", class_="badge warn"),
                ),
                ("Began", moment(found.began_s)),
                ("Declared", tag("code", found.declared) if found.declared else None),
                ("Action", action_link(found.action) if found.action else None),
                ("Asked by", found.identity),
                ("Build", _search("invocation", found.invocation)),
                ("Target", found.target),
                ("Instance", found.instance),
                ("Fetches", f"{found.exchanges:,}, of which {found.refused:,} refused"),
                ("Bytes", size_text(found.size_bytes)),
            ),
        ),
        section(
            "Entries",
            entries_table(rows),
            tag("p", link(f"/audit/log?session={found.session}", "Search in them"), class_="note"),
        ),
    )


def _sessions(sessions: Sequence[SessionRow]) -> Html:
    names = ("Session", "Began", "Declared", "Asked by", "Fetches", "Bytes")
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    rows = [
        tag(
            "tr",
            tag(
                "td",
                link(f"/audit/session/{each.session}", each.session)
                if _is_name(each.session)
                else each.session,
            ),
            tag("td", moment(each.began_s), class_="time"),
            tag("td", tag("code", each.declared)),
            tag("td", each.identity),
            tag("td", f"{each.exchanges:,} ({each.refused:,} refused)"),
            tag("td", size_text(each.size_bytes)),
        )
        for each in sessions
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def _headers(title: str, message: Mapping[str, Any]) -> Html | None:
    headers = message.get("headers")
    if not isinstance(headers, list) or not headers:
        return None
    rows = [
        tag("tr", tag("th", str(pair[0]), scope="row"), tag("td", str(pair[1]), class_="request"))
        for pair in headers
        if isinstance(pair, list) and len(pair) == 2
    ]
    return section(title, tag("div", tag("table", tag("tbody", *rows)), class_="scroll"))


def _record(view: EntryView) -> Html:
    if view.record is None:
        return tag("p", "The record is not there any more, or is damaged.", class_="badge bad")
    return _json("The record", view.record)


def _json(title: str, value: Mapping[str, Any]) -> Html:
    shown = json.dumps(value, indent=2, ensure_ascii=False)
    if len(shown) > _MOST_JSON:
        shown = f"{shown[:_MOST_JSON]}\n… {len(shown) - _MOST_JSON} more characters"
    return tag("details", tag("summary", title), tag("pre", shown))


def _neighbours(index: int) -> Html:
    before = link(f"/audit/entry/{index - 1}", f"← entry {index - 1}") if index else text("")
    return tag(
        "div", before, link(f"/audit/entry/{index + 1}", f"entry {index + 1} →"), class_="row pager"
    )


def _inside(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, Mapping) else {}


def _said(table: Mapping[str, Any], name: str) -> str:
    found = table.get(name)
    return "" if found is None else str(found)


def _yes_or_no(value: object) -> str:
    return "yes" if value is True else "no, it was cut off"


def _names(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""


def _is_name(text_: str) -> bool:
    """Whether it can be part of a path as it is."""
    return bool(text_) and all(each.isalnum() or each in "-_." for each in text_)


def _search(name: str, value: str) -> Html | None:
    from urllib.parse import urlencode

    return link(f"/audit/log?{urlencode({name: value})}", value) if value else None
