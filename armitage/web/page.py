"""The status page: plain HTML without scripts or outside assets, made from plain values.

Every text passes `html.escape`; the style sheet is the only one that the page's Content-Security-
Policy allows, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]
"""What JSON can say."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --line: #dde3ea;
  --card: #ffffff; --back: #f4f6f9; --good: #12734a; --good-back: #dcf3e7; --bad: #a3261c;
  --bad-back: #fbe3e1; --bar: #3867d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #95a3b6; --line: #2c3644;
  --card: #1a212b; --back: #11161d; --good: #7fe0b0; --good-back: #12382a; --bad: #ff9d94;
  --bad-back: #45201d; --bar: #6d93f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 12px;
  padding-top: 32px; padding-bottom: 20px; }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; }
h2 { margin: 0 0 10px; font-size: 15px; font-weight: 650; }
.version { color: var(--soft); }
.state { margin-left: auto; padding: 3px 12px; border-radius: 999px; font-weight: 600; }
.good { color: var(--good); background: var(--good-back); }
.bad { color: var(--bad); background: var(--bad-back); }
main { columns: 3 310px; column-gap: 16px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 20px; margin: 0 0 16px; overflow-x: auto; break-inside: avoid; }
section.wide { column-span: all; }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 4px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 18px; }
ul.plain { list-style: none; padding: 0; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px 4px 0; text-align: left; border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; border-top: 0; }
td.number, th.number { text-align: right; }
.meter { height: 8px; margin: 2px 0 12px; border-radius: 4px; background: var(--line);
  overflow: hidden; }
.meter svg { display: block; }
.meter rect { fill: var(--bar); }
footer { padding-top: 20px; padding-bottom: 40px; color: var(--soft); }
a { color: inherit; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_ABBREVIATIONS = {
    "ac": "AC",
    "cas": "CAS",
    "cpu": "CPU",
    "grpc": "gRPC",
    "http": "HTTP",
    "id": "ID",
    "pid": "PID",
    "tls": "TLS",
    "url": "URL",
}


def render_page(
    status: Mapping[str, Plain], reasons: Sequence[str], links: Sequence[tuple[str, str]] = ()
) -> str:
    """The whole page. `status` is what `/status` answers; `reasons` say why it is not ready;
    `links` are the paths and names of other pages.
    """
    cards = {name: value for name, value in status.items() if isinstance(value, (Mapping, list))}
    facts = {
        name: value
        for name, value in status.items()
        if name not in cards and name not in {"version", "ready", "reasons"}
    }
    sections = [_section("server", facts)] if facts else []
    sections += [_section(name, value) for name, value in cards.items() if name != "reasons"]
    state = '<span class="state bad">not ready</span>' if reasons else ""
    state = state or '<span class="state good">ready</span>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Armitage</title><style>{_STYLE}</style></head>\n<body>"
        f'<header><h1>Armitage</h1><span class="version">{_text(status.get("version", ""))}</span>'
        f"{state}</header>\n<main>{_reasons(reasons)}{''.join(sections)}</main>\n"
        f'<footer>{_links(links)}<a href="/metrics">metrics</a> · '
        '<a href="/status">this page as JSON</a> · '
        '<a href="/readyz">readiness</a> · <a href="/healthz">health</a></footer></body></html>\n'
    )


def label(name: str) -> str:
    """A field's name in words, without its unit: `oldest_queued_s` is "Oldest queued"."""
    words = [_ABBREVIATIONS.get(word, word) for word in name.split("_") if word]
    words = ["size" if word == "bytes" else word for word in words]
    if len(words) > 1 and words[-1] in {"s", "seconds"}:
        words.pop()
    text = " ".join(words) or name
    return text if words and words[0] in _ABBREVIATIONS.values() else text[:1].upper() + text[1:]


def value_text(name: str, value: Plain) -> str:
    """A value as people read it, by the unit in its name."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name == "bytes" or name.endswith("_bytes"):
            return size_text(value)
        if name.endswith(("_s", "_seconds")):
            return duration_text(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return str(value) or "(empty)"


def size_text(size_bytes: float) -> str:
    """Bytes with a binary unit."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def duration_text(seconds: float) -> str:
    """Seconds with the one or two units that matter."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _links(links: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<a href="{_text(path)}">{_text(name)}</a> · ' for path, name in links)


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _reasons(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{_text(reason)}</li>" for reason in reasons)
    return f'<section class="wide bad"><ul>{items}</ul></section>'


def _section(name: str, value: Plain) -> str:
    is_table = isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    wide = ' class="wide"' if is_table else ""
    return f"<section{wide}><h2>{_text(label(name))}</h2>{_body(name, value)}</section>\n"


def _body(name: str, value: Plain) -> str:
    if isinstance(value, Mapping):
        return _meter(value) + _list_of_facts(value)
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, Mapping)]
        if rows and len(rows) == len(value):
            return _table(rows)
        items = "".join(f"<li>{_body(name, item)}</li>" for item in value)
        return f'<ul class="plain">{items}</ul>' if items else "none"
    return _text(value_text(name, value))


def _list_of_facts(facts: Mapping[str, Plain]) -> str:
    lines = [
        f"<dt>{_text(label(name))}</dt><dd>{_body(name, value)}</dd>"
        for name, value in facts.items()
    ]
    return f"<dl>{''.join(lines)}</dl>"


def _table(rows: Sequence[Mapping[str, Plain]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {
        name for name in columns if all(isinstance(row.get(name), (int, float)) for row in rows)
    }

    def cell(tag: str, name: str, text: str) -> str:
        mark = ' class="number"' if name in numeric else ""
        return f"<{tag}{mark}>{text}</{tag}>"

    head = "".join(cell("th", name, _text(label(name))) for name in columns)
    lines = [
        "".join(cell("td", name, _body(name, row.get(name))) for name in columns) for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _meter(facts: Mapping[str, Plain]) -> str:
    """How full it is, where the facts tell: drawn as SVG, since the policy allows no style
    attributes.
    """
    for part, whole in (("bytes", "max_bytes"), ("busy_slots", "slots")):
        used, limit = facts.get(part), facts.get(whole)
        if isinstance(used, (int, float)) and isinstance(limit, (int, float)) and limit > 0:
            percent = min(100.0, 100.0 * used / limit)
            return (
                f'<div class="meter" title="{percent:.1f} %"><svg width="100%" height="8">'
                f'<rect width="{percent:.2f}%" height="8"/></svg></div>'
            )
    return ""
