"""`armitage audit`: what was fetched, by whom and from where, and whether the evidence is whole."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.audit_record import Record, add_record_flags, open_record
from armitage.cli.audit_verify import verify_record
from armitage.cli.checkers import add_modules
from armitage.cli.exits import Exit
from armitage.cli.output import emit, json_text, note, printable, size_text, table

if TYPE_CHECKING:
    from armitage.audit.query import Query

_LISTED = 1000
_FILTERS = (
    ("host", "HOST", "only this host, or *.HOST for it and all below it"),
    ("digest", "HASH", "only what names a hash that begins so"),
    ("action", "DIGEST", "only fetches of this action"),
    ("session", "ID", "only one session"),
    ("identity", "NAME", "only what this client asked for"),
    ("invocation", "ID", "only fetches of one build"),
    ("since", "TIME", "only from then on: 2026-01-31, 2026-01-31T12:00 (UTC) or seconds"),
    ("until", "TIME", "only up to then"),
    ("log", "NAME", "only entries of one of the record's logs (after armitage key rotate-log)"),
    ("text", "TEXT", "only what has this in its URL, or in why it was refused"),
)
_COLUMNS = (
    *("index", "at_s", "kind", "outcome", "status", "method", "url", "host", "size_bytes", "body"),
    *("action", "session", "number", "identity", "invocation", "instance", "target", "note"),
    *("log", "log_index"),
)


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "audit", "read and verify what was fetched and attested")
    _add_log(group)
    show = options.add_command(
        group,
        "show",
        lambda args: asyncio.run(_show(args)),
        "show one entry of the log, its record and its receipt as JSON",
    )
    show.add_argument("index", metavar="INDEX", type=int, help="its number in the log")
    verify = options.add_command(
        group,
        "verify",
        lambda args: asyncio.run(verify_record(args)),
        "verify all evidence (exit code 1 when some is missing or changed)",
        "Checks the log's signature and every entry against its tree, every session for gaps, and"
        " that every record and every body that was fetched is stored with the hash on record."
        " Every attestation is taken through every step of `armitage verify`, and the checker"
        " decides again what it denied. Nothing that a server says of itself is believed: all is"
        " fetched and hashed here.",
    )
    add_modules(verify)
    verify.add_argument(
        "--attestation-keys",
        metavar="FILE",
        type=Path,
        help="the public keys for attestations, as you know them (attestation.keys; default: those"
        " that the record has)",
    )
    verify.add_argument(
        "--key",
        metavar="VKEY",
        help="the log's public key, as you know it (default: the one that the record has)",
    )
    verify.add_argument(
        "--witness",
        metavar="VKEY",
        action="append",
        default=[],
        help="the public key of a witness that must have cosigned the checkpoint; repeatable",
    )
    verify.add_argument(
        "--without-bodies", action="store_true", help="do not read what was fetched"
    )
    diff = options.add_command(
        group,
        "diff",
        lambda args: asyncio.run(_diff(args)),
        "compare what two builds fetched (exit code 1 when it differs)",
    )
    for side in ("a", "b"):
        diff.add_argument(
            side, metavar=side.upper(), help="an action's digest, a session or an invocation"
        )
    export = options.add_command(
        group,
        "export",
        lambda args: asyncio.run(_export(args)),
        "write all that matches as JSON lines or CSV, oldest first",
    )
    _add_filters(export)
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="jsonl or csv")
    export.add_argument("--output", metavar="FILE", type=Path, help="where to (default: stdout)")
    why = options.add_command(
        group,
        "why",
        lambda args: asyncio.run(_why(args)),
        "walk from an artefact or action back to every fetch and action behind it",
    )
    why.add_argument("digest", metavar="DIGEST", help="its hash, or at least 4 digits of it")
    for parser in (show, verify, diff, export, why):
        add_record_flags(parser)


def _add_log(group: options.Commands) -> None:
    log = options.add_command(
        group, "log", lambda args: asyncio.run(_log(args)), "list what was fetched and refused"
    )
    _add_filters(log)
    log.add_argument(
        "--limit", metavar="N", type=int, default=_LISTED, help=f"the newest N (default: {_LISTED})"
    )
    log.add_argument("--before", metavar="INDEX", help="only older ones than this entry")
    add_record_flags(log)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    for name, metavar, text in _FILTERS:
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument(
        "--kind",
        metavar="KIND",
        default="exchange",
        help="exchange (the default), open, close, attestation, denied or any",
    )
    parser.add_argument("--refused", action="store_true", help="only what was refused")
    parser.add_argument("--failed", action="store_true", help="only what came to nothing")


def _query(args: argparse.Namespace) -> Query:
    """Raises UsageError."""
    from armitage.audit.query import parse_query
    from armitage.client.errors import UsageError
    from armitage.errors import InvalidRequest

    given = {name: getattr(args, name) or "" for name, _, _ in _FILTERS}
    given["kind"] = "" if args.kind == "any" else args.kind
    given["outcome"] = "refused" if args.refused else "failed" if args.failed else ""
    given["before"] = getattr(args, "before", None) or ""
    try:
        return parse_query(given)
    except InvalidRequest as error:
        raise UsageError(f"--{error}") from None


@asynccontextmanager
async def _record(args: argparse.Namespace) -> AsyncIterator[Record]:
    """The record, whose complaints are those of a command line."""
    from armitage.client.errors import NotThere, UsageError
    from armitage.errors import InvalidRequest, NotFound

    try:
        async with open_record(args) as record:
            yield record
    except NotFound as error:
        raise NotThere(str(error)) from None
    except InvalidRequest as error:
        raise UsageError(str(error)) from None


async def _log(args: argparse.Namespace) -> Exit:
    query = _query(args)
    rows: list[dict[str, Any]] = []
    async with _record(args) as record:
        page: dict[str, Any] = {"next_before": query.before}
        while len(rows) < args.limit:
            limit = min(_LISTED, args.limit - len(rows))
            page = await record.page(replace(query, before=page["next_before"], limit=limit))
            rows += page["rows"]
            if page["next_before"] is None:
                break
    rows.reverse()
    emit(args, rows, table(HEADER, map(_line, rows)) if rows else [])
    if page["next_before"] is not None and not args.json:
        note(f"there are older ones; --before {page['next_before']} lists them")
    return Exit.OK


HEADER = ("LOG", "STATUS", "SIZE", "SHA256", "TIME", "REQUEST")


def _line(row: dict[str, Any]) -> list[str]:
    """One entry as a line of a table."""
    status = row["outcome"] if row["outcome"] == "refused" else str(row["status"] or "failed")
    request = f"{row['method']} {row['url']}"
    if row["kind"] != "exchange":
        status, request = row["kind"], row["action"] or row["session"]
    if row["note"]:
        request += f"  ({row['note']})"
    if row["is_past"]:
        request += f"  [in {row['log']}, which has ended]"
    return [
        *(str(row["index"]), status, size_text(row["size_bytes"]), row["body"][:12] or "-"),
        *(time_of(row["at_s"]), printable(request)),
    ]


def time_of(seconds: float | None) -> str:
    """`2026-01-31 12:00:00`, in UTC."""
    if seconds is None:
        return "-"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


async def _show(args: argparse.Namespace) -> Exit:
    async with _record(args) as record:
        view = await record.entry(args.index)
    told = {"index": args.index, **view}
    print(json_text(told))
    return Exit.OK


async def _diff(args: argparse.Namespace) -> Exit:
    async with _record(args) as record:
        found = await record.diff(args.a, args.b)
    lines = [f"--- {found['a']}", f"+++ {found['b']}"]
    lines += [f"- {each['request']}  {_answer(each['a'])}" for each in found["only_a"]]
    lines += [f"+ {each['request']}  {_answer(each['b'])}" for each in found["only_b"]]
    for each in found["changed"]:
        lines += [f"! {each['request']}", f"    - {_answer(each['a'])}"]
        lines += [f"    + {_answer(each['b'])}"]
    differ = sum(len(found[name]) for name in ("only_a", "only_b", "changed"))
    lines.append(f"{found['same']} requests alike, {differ} not")
    emit(args, found, lines)
    return Exit.NO if differ else Exit.OK


def _answer(answers: list[dict[str, Any]]) -> str:
    told = [
        f"{each['status'] or each['outcome']} {each['body'][:12]}".rstrip() + f" ({each['index']})"
        for each in answers
    ]
    return ", ".join(told)


async def _export(args: argparse.Namespace) -> Exit:
    query = _query(args)
    out = args.output.open("w", encoding="utf-8", newline="") if args.output else sys.stdout
    try:
        sheet = csv.DictWriter(out, _COLUMNS, extrasaction="ignore")
        if args.format == "csv":
            sheet.writeheader()
        async with _record(args) as record:
            async for row in _all(record, query):
                if args.format == "csv":
                    sheet.writerow({name: _cell(row[name]) for name in _COLUMNS})
                else:
                    out.write(json.dumps({name: row[name] for name in _COLUMNS}) + "\n")
    finally:
        if args.output:
            out.close()
    return Exit.OK


async def _all(record: Record, query: Query) -> AsyncIterator[dict[str, Any]]:
    after = -1
    while True:
        page = await record.page(replace(query, after=after, limit=_LISTED))
        for row in page["rows"]:
            yield row
        if len(page["rows"]) < _LISTED:
            return
        after = page["rows"][-1]["index"]


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula is marked as text: others chose it."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


async def _why(args: argparse.Namespace) -> Exit:
    from armitage.audit.query import parse_hash
    from armitage.client.errors import UsageError
    from armitage.errors import InvalidRequest

    try:
        asked = parse_hash("DIGEST", args.digest)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None
    async with _record(args) as record:
        graph = await record.why(asked)
    lines = list(_tree(graph))
    if not graph["is_whole"]:
        lines.append("There is more; ask for what is listed last.")
    emit(args, graph, lines)
    return Exit.OK


def _tree(graph: dict[str, Any]) -> list[str]:
    """The graph from its first node down; what was told before is not told again."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    below: dict[str, list[dict[str, Any]]] = {}
    for edge in graph["edges"]:
        below.setdefault(edge["start"], []).append(edge)
    lines, told = [], set()
    pending = [(graph["nodes"][0]["id"], "", 0)]
    while pending:
        name, label, depth = pending.pop()
        again = name in told and name in below
        text = "  " * depth + (f"{label} " if label else "") + _node(nodes[name])
        lines.append(f"{text}  (see above)" if again else text)
        if name not in told:
            told.add(name)
            edges = reversed(below.get(name, []))
            pending += [(edge["end"], edge["label"], depth + 1) for edge in edges]
    return lines


def _node(node: dict[str, Any]) -> str:
    kind = "" if node["kind"] in {"fetch", "session", "note"} else f"{node['kind']} "
    where = "" if node["index"] is None else f"  [entry {node['index']}]"
    detail = f"  ({node['detail']})" if node["detail"] else ""
    title = node["title"].removeprefix(kind)
    return f"{kind}{title}{detail}{where}"
