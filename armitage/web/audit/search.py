"""The log: a form of filters, one page of entries, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from armitage.audit.auditor import Page
from armitage.audit.query import OUTCOMES, Query
from armitage.web.audit.layout import entries_table
from armitage.web.audit.overview import live_bar
from armitage.web.html import Html, link, tag, text

_KINDS = ("exchange", "attestation", "denied", "open", "close")
_TEXTS = (
    ("text", "URL or reason has", ""),
    ("host", "Host", "files.example or *.example"),
    ("digest", "Hash begins with", "at least 4 digits"),
    ("action", "Action", "whole hash"),
    ("identity", "Asked by", ""),
    ("invocation", "Build", ""),
    ("session", "Session", ""),
)


def content(
    query: Query, page: Page | None, hosts: Sequence[str], logs: Sequence[str], error: str
) -> Html:
    """All below the title; `page` is None where the query cannot be. `logs` are all there are."""
    return text(
        tag("section", _form(query, hosts, logs)),
        tag("section", error, class_="alert", role="alert") if error else None,
        None if page is None else tag("section", _count(page), _live(query), *_table(query, page)),
    )


def _form(query: Query, hosts: Sequence[str], logs: Sequence[str]) -> Html:
    texts = [
        tag(
            "label",
            name,
            tag(
                "input",
                name=field,
                value=getattr(query, field),
                placeholder=hint or None,
                list="hosts" if field == "host" else None,
            ),
        )
        for field, name, hint in _TEXTS
    ]
    times = [
        tag("label", name, tag("input", type="datetime-local", name=field, value=_local(value)))
        for field, name, value in (
            ("since", "From (UTC)", query.since_s),
            ("until", "Until (UTC)", query.until_s),
        )
    ]
    buttons = tag(
        "div",
        tag("button", "Search", class_="first"),
        link("/audit/log", "Clear", class_="button"),
        class_="row end",
    )
    return tag(
        "form",
        *texts,
        tag("label", "Kind", _choice("kind", _KINDS, query.kind)),
        tag("label", "Outcome", _choice("outcome", OUTCOMES, query.outcome)),
        tag("label", "Log", _choice("log", logs, query.log)) if len(logs) > 1 else None,
        *times,
        buttons,
        tag("datalist", *(tag("option", value=host) for host in hosts), id="hosts"),
        class_="filters",
        action="/audit/log",
    )


def _choice(name: str, values: Sequence[str], chosen: str) -> Html:
    options = [tag("option", "any", value="", selected=not chosen)]
    options += [tag("option", each, value=each, selected=each == chosen) for each in values]
    return tag("select", *options, name=name)


def _count(page: Page) -> Html:
    most = page.counted_up_to
    count = f"{page.total:,}" if page.total < most else f"{most:,} or more"
    said = f"{count} entries match, newest first."
    if page.indexed < page.size:
        said += f" Only the first {page.indexed:,} of {page.size:,} entries are indexed so far."
    return tag("p", said, class_="soft", role="status")


def _live(query: Query) -> Html | None:
    if query.before is not None:
        return None
    return live_bar(f"/api/audit/events?{query.parameters(limit=None)}", pressed=False)


def _table(query: Query, page: Page) -> list[Html]:
    if not page.rows:
        return [entries_table([], id_="entries")]
    first = "" if query.before is None else f"/audit/log?{query.parameters(before=None)}"
    older = page.next_before
    return [
        entries_table(page.rows, id_="entries"),
        tag(
            "nav",
            link(first, "← Newest", class_="button") if first else text(""),
            link(f"/audit/log?{query.parameters(before=older)}", "Older →", class_="button")
            if older is not None
            else text(""),
            class_="row pager",
            aria_label="Pages of entries",
        ),
    ]


def _local(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M}"
