"""`armitage audit`: what was fetched, by whom and from where, and whether the evidence is whole."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.checkers import add_modules
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import emit, size_text, table
from armitage.cli.progress import ProgressLine

if TYPE_CHECKING:
    from armitage.witness.archive import Archive
    from armitage.witness.audit import Logged


_PLURALS = {"attestation": "attestations", "denied": "denials"}


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "audit", "read and verify what the witness kept")
    log = options.add_command(
        group, "log", lambda args: asyncio.run(_log(args)), "list what was fetched and refused"
    )
    log.add_argument("--host", metavar="HOST", help="only exchanges with this host")
    log.add_argument("--digest", metavar="HASH", help="only bodies whose SHA-256 begins so")
    log.add_argument("--session", metavar="ID", help="only one session")
    log.add_argument("--refused", action="store_true", help="only what was refused")
    show = options.add_command(
        group, "show", lambda args: asyncio.run(_show(args)), "show one record of the log as JSON"
    )
    show.add_argument("index", metavar="INDEX", type=int, help="its number in the log")
    verify = options.add_command(
        group,
        "verify",
        lambda args: asyncio.run(_verify(args)),
        "verify all evidence (exit code 1 when some is missing or changed)",
        "Checks the log's signature and every entry against its tree, every session for gaps, and"
        " that every record and every body that was fetched is stored with the hash on record;"
        " takes every attestation through every step of `armitage verify`, and lets the checker"
        " decide again what it denied.",
    )
    add_modules(verify)
    for parser in (log, show, verify):
        parser.add_argument(
            "--data-dir",
            metavar="DIR",
            type=Path,
            help="where evidence is kept (default: witness below armitage's data directory)",
        )


@asynccontextmanager
async def _archive(args: argparse.Namespace) -> AsyncIterator[Archive]:
    from armitage.cli.overrides import default_data_dir
    from armitage.client.errors import UsageError
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable

    directory = args.data_dir or default_data_dir() / "witness"
    if not (directory / "log.key").exists():
        raise UsageError(f"{directory}: no evidence is kept there; name its --data-dir")
    try:
        async with open_archive(directory, "", SystemClock()) as archive:
            yield archive
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error


def row(item: Logged) -> list[str]:
    """One exchange as a line of a table."""
    record = item.record
    body = record["response"]["body"] or {"size_bytes": 0, "sha256": "sha256:"}
    denied = record["decision"]["verdict"] == "deny"
    status = "refused" if denied else str(record["response"]["status"] or "failed")
    request = f"{record['method']} {record['url']}"
    if record["error"]:
        request += f"  ({record['error']})"
    hashed = body["sha256"].removeprefix("sha256:")[:12] or "-"
    return [str(item.index), status, size_text(body["size_bytes"]), hashed, request]


HEADER = ("LOG", "STATUS", "SIZE", "SHA256", "REQUEST")


def _wanted(args: argparse.Namespace, record: dict[str, Any]) -> bool:
    body = record["response"]["body"] or {"sha256": ""}
    hashed = body["sha256"].removeprefix("sha256:")
    return (
        args.host in {None, record["peer"]["host"]}
        and args.session in {None, record["session"]}
        and (args.digest is None or hashed.startswith(args.digest.removeprefix("sha256:")))
        and (not args.refused or record["decision"]["verdict"] == "deny")
    )


async def _log(args: argparse.Namespace) -> Exit:
    from armitage.witness.audit import logged
    from armitage.witness.evidence import Kind

    async with _archive(args) as archive:
        found = [
            item
            async for item in logged(archive)
            if item.entry.kind is Kind.EXCHANGE and _wanted(args, item.record)
        ]
    as_json = [{"index": item.index, **item.record} for item in found]
    emit(args, as_json, table(HEADER, map(row, found)) if found else [])
    return Exit.OK


async def _show(args: argparse.Namespace) -> Exit:
    from armitage.client.errors import UsageError
    from armitage.log.errors import NotLogged
    from armitage.witness.evidence import parse_entry, parse_record

    async with _archive(args) as archive:
        store = archive.log.store
        try:
            receipt = store.receipt(args.index)
        except NotLogged as error:
            raise UsageError(str(error)) from None
        record = parse_record(await archive.record(parse_entry(store.entry(args.index))))
    told = {"index": args.index, "record": record, "receipt": receipt.encode().decode()}
    print(json.dumps(told, indent=2, ensure_ascii=False))
    return Exit.OK


async def _verify(args: argparse.Namespace) -> Exit:
    from armitage.attest.archived import known_own
    from armitage.attest.audit import AttestationEntries
    from armitage.attest.keyring import read_ring
    from armitage.cli.checkers import checkers
    from armitage.witness.audit import Findings, verify

    findings, modules = Findings(), checkers(args.module)
    shown = sys.stderr.isatty() and not args.json
    async with _archive(args) as archive:
        checkpoint = archive.log.store.checkpoint
        ring = read_ring(archive.spool.parent)
        attestations = AttestationEntries(archive, known_own(ring, archive.log.store.key, modules))
        with ProgressLine(shown=shown) as line:
            async for findings in verify(archive, [attestations]):
                part = 100 * findings.entries // max(1, checkpoint.size)
                line.say(f"verifying: {part} % of {checkpoint.size} entries")
    told = {
        "log": checkpoint.origin,
        "root": checkpoint.root.hex(),
        "entries": findings.entries,
        "exchanges": findings.exchanges,
        "bodies": findings.bodies,
        "body_bytes": findings.body_bytes,
        "attestations": findings.counts.get("attestation", 0),
        "denials": findings.counts.get("denied", 0),
        "faults": findings.faults,
    }
    attested = [f"{count} {_PLURALS[kind]}" for kind, count in sorted(findings.counts.items())]
    lines = [
        *(f"FAULT  {fault}" for fault in findings.faults),
        (
            f"{checkpoint.origin}: {findings.entries} entries, {findings.exchanges} exchanges,"
            f" {findings.bodies} bodies with {size_text(findings.body_bytes)}"
            f"{', '.join(['', *attested])}:"
            f" {f'{len(findings.faults)} faults' if findings.faults else 'all as it was signed'}"
        ),
    ]
    emit(args, told, lines)
    return Exit.NO if findings.faults else Exit.OK
