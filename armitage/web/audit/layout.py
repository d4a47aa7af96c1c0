"""What all pages of the record have in common."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files

from armitage.audit.rows import Row
from armitage.web.html import Child, Html, link, tag, text
from armitage.web.page import size_text

_ASSETS = {
    name: (files("armitage.web") / "assets" / name).read_bytes()
    for name in ("audit.css", "audit.js")
}
_TYPES = {"css": "text/css", "js": "text/javascript"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_PAGES = (
    ("/audit", "Overview"),
    ("/audit/log", "Log"),
    ("/audit/checkpoint", "Checkpoint"),
    ("/", "Server"),
)


def asset_path(name: str) -> str:
    """Where an asset is served: another path for other content, so that it may be kept."""
    stem, _, ending = name.partition(".")
    return f"/assets/{stem}-{sha256(_ASSETS[name]).hexdigest()[:12]}.{ending}"


def assets() -> Iterable[tuple[str, bytes, str]]:
    """Path, content and type of each."""
    for name, content in _ASSETS.items():
        yield asset_path(name), content, _TYPES[name.partition(".")[2]]


def page(title: str, lead: Child, *content: Child, here: str = "", origin: str = "") -> str:
    """A whole page."""
    return "<!doctype html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", f"{title} · Armitage audit"),
            tag("link", rel="stylesheet", href=asset_path("audit.css")),
        ),
        tag(
            "body",
            link("#content", "Skip to the content", class_="skip"),
            _top(here),
            tag(
                "main",
                tag("h1", title),
                tag("p", lead, class_="lead"),
                *content,
                id="content",
            ),
            tag("footer", f"{origin} · times are UTC · nothing here can be changed from here"),
            tag("script", src=asset_path("audit.js"), defer=True),
        ),
        lang="en",
    )


def _top(here: str) -> Html:
    entries = [
        tag("li", link(path, name, aria_current="page" if path == here else None))
        for path, name in _PAGES
    ]
    find = tag(
        "form",
        tag(
            "input",
            type="search",
            name="q",
            placeholder="hash, action or entry",
            aria_label="Find a hash, an action or an entry",
        ),
        tag("button", "Find"),
        action="/audit/find",
        class_="find",
        role="search",
    )
    inner = tag(
        "div",
        link("/audit", "Armitage audit", class_="brand"),
        tag("nav", tag("ul", *entries), aria_label="Pages"),
        find,
    )
    return tag("header", inner, class_="top")


def facts(*pairs: tuple[str, Child]) -> Html:
    """A list of facts; those without a value are left out."""
    shown = [
        text(tag("dt", name), tag("dd", value)) for name, value in pairs if value not in {None, ""}
    ]
    return tag("dl", *shown, class_="facts")


def section(title: str, *content: Child) -> Html:
    """A part of a page."""
    return tag("section", tag("h2", title), *content)


def moment(seconds: float | None) -> Html:
    """A time."""
    if seconds is None:
        return text("")
    at = datetime.fromtimestamp(seconds, UTC)
    return tag("time", f"{at:%Y-%m-%d %H:%M:%S}", datetime=at.isoformat())


def badge(row: Row) -> Html:
    """What came of an entry, in a word and a colour."""
    if row.outcome == "refused":
        return tag("span", "refused", class_="badge bad")
    if row.outcome == "failed":
        return tag("span", "failed", class_="badge warn")
    if row.outcome == "fetched":
        return tag("span", row.status, class_="badge good")
    kind = "good" if row.kind == "attestation" else "plain"
    return tag("span", row.kind, class_=f"badge {kind}")


def entries_table(rows: Iterable[Row], *, id_: str | None = None) -> Html:
    """Entries as a table."""
    heads = (
        ("Entry", "number"),
        ("Time", None),
        ("Outcome", None),
        ("What", None),
        ("Size", "number"),
        ("Body", None),
        ("For", None),
    )
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in heads))
    body = tag("tbody", *map(_entry, rows))
    return tag(
        "div", tag("table", tag("thead", head), body, id=id_, class_="entries"), class_="scroll"
    )


def _entry(row: Row) -> Html:
    path = f"/audit/entry/{row.index}"
    is_exchange = row.kind == "exchange"
    has_body = is_exchange and row.outcome == "fetched" and bool(row.body)
    return tag(
        "tr",
        tag("td", link(path, row.index), class_="number"),
        tag("td", moment(row.at_s), class_="time"),
        tag("td", badge(row)),
        tag("td", link(path, what(row)), _reason(row), _past(row), class_="request"),
        tag("td", size_text(row.size_bytes) if is_exchange else "", class_="number"),
        tag("td", artefact_link(row.body) if has_body else "", class_="hash"),
        tag("td", _whose(row)),
    )


def what(row: Row) -> str:
    """An entry in one line."""
    if row.kind == "exchange":
        return f"{row.method} {row.url}"
    if row.kind in {"open", "close"}:
        return f"session {row.session} {'opened' if row.kind == 'open' else 'closed'}"
    return f"{row.kind} of {row.action[:16]}" if row.action else f"{row.kind} entry"


def _reason(row: Row) -> Html | None:
    if not row.note or row.kind == "open":
        return None
    return tag("div", row.note, class_="soft")


def _past(row: Row) -> Html | None:
    return tag("div", f"in {row.log}, which has ended", class_="soft") if row.is_past else None


def _whose(row: Row) -> Html | str:
    if row.action:
        return action_link(row.action, row.target or row.identity or "")
    return row.identity


def artefact_link(hashed: str) -> Html:
    """To the page of an artefact."""
    short = tag("span", hashed[:12], class_="mono")
    return link(f"/audit/artefact/{hashed}", short, title=hashed)


def action_link(hashed: str, name: str = "") -> Html:
    """To the page of an action."""
    shown = name or tag("span", hashed[:12], class_="mono")
    return link(f"/audit/action/{hashed}", shown, title=hashed)
