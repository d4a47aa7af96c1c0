"""`armitage witness`: any command, with a witnessed network and no other."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import note, table

if TYPE_CHECKING:
    from armitage.witness.archive import Archive
    from armitage.witness.authority import SessionAuthority
    from armitage.witness.policy import Grant, Rule
    from armitage.witness.proxy import Proxy


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "witness",
        lambda args: asyncio.run(_run(args)),
        "run any command with a network that goes through a witness, and see what it fetched",
        "Runs CMD in a network namespace whose only way out is a witness: it fetches what --allow"
        " grants, keeps every body and a record of every exchange, and signs the log of them. Then"
        " prints what was fetched and what was refused. Encloses the network alone: CMD sees the"
        " file system, Unix sockets in it included, as you do. The exit code is the command's own"
        " (128 + N for death by signal N); 125 says that it was not run or not witnessed.",
    )
    parser.usage_exit = Exit.RUN_FAILED
    parser.set_defaults(failure_exit=Exit.RUN_FAILED)
    parser.add_argument(
        "--allow",
        metavar="HOST[:PORT]",
        action="append",
        type=_grant,
        default=[],
        help="what CMD may fetch from; `*.` in front stands for one label; repeatable (default:"
        " everything public)",
    )
    parser.add_argument(
        "--allow-network",
        metavar="CIDR",
        action="append",
        default=[],
        help="a network that is not public and may be fetched from, such as that of an internal"
        " mirror; repeatable",
    )
    parser.add_argument(
        "--authorities",
        metavar="FILE",
        help="PEM file of the authorities that origins are checked with (default: the system's)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="where evidence is kept (default: witness below armitage's data directory)",
    )
    parser.add_argument(
        "--origin",
        metavar="NAME",
        default=f"armitage.witness/{socket.gethostname()}",
        help="name of the log that is signed, when it is made (default: armitage.witness/ and the"
        " host's name)",
    )
    parser.add_argument("--quiet", action="store_true", help="print no summary")
    parser.add_argument("command", metavar="CMD", nargs="+", help="command, after --")


def _grant(text: str) -> Grant:
    from armitage.witness.policy import Grant, normal_host

    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, ""
    if normal_host(host.removeprefix("*.")) is None or not (port.isdecimal() or not colon):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST or HOST:PORT")
    return Grant(host, int(port) if colon else None)


async def _run(args: argparse.Namespace) -> int:
    from armitage.cli.overrides import default_data_dir
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from armitage.witness.enclosure import CannotEnclose
    from cas.errors import StoreUnavailable

    directory = args.data_dir or default_data_dir() / "witness"
    try:
        async with open_archive(directory, args.origin, SystemClock()) as archive:
            return await _witness(args, archive, directory)
    except (CannotEnclose, LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error


async def _witness(args: argparse.Namespace, archive: Archive, directory: Path) -> int:
    from armitage.clock import SystemClock
    from armitage.witness.authority import SessionAuthority
    from armitage.witness.clients import environment
    from armitage.witness.enclosure import ADDRESS, enclose

    first = archive.log.store.checkpoint.size
    with tempfile.NamedTemporaryFile(prefix="armitage-witness-", suffix=".pem") as bundle:
        authority = SessionAuthority("cli", SystemClock().wall())
        bundle.write(authority.certificate)
        bundle.flush()
        known = {**os.environ, **environment(ADDRESS, bundle.name)}
        enclosed = await enclose(args.command, known)
        proxy = await _proxy(args, archive, authority)
        server = await asyncio.start_server(proxy.serve, sock=enclosed.listener, limit=1 << 20)
        async with server:
            code = await _wait(enclosed.process)
            server.close()
            await proxy.close()
    if not args.quiet:
        await _summarise(args, archive, first, directory)
    return 128 - code if code < 0 else code


async def _proxy(args: argparse.Namespace, archive: Archive, authority: SessionAuthority) -> Proxy:
    import secrets

    from armitage.clock import SystemClock
    from armitage.observability.redaction import Redactor
    from armitage.witness.evidence import Subject
    from armitage.witness.exchange import Exchanges
    from armitage.witness.origins import Origins, origin_tls, resolve_by_system
    from armitage.witness.policy import Grant
    from armitage.witness.proxy import Proxy
    from armitage.witness.redaction import Redaction
    from armitage.witness.sessions import Sessions
    from armitage.witness.terms import Means, ProxyLimits, Terms

    limits, clock = ProxyLimits(), SystemClock()
    tls = origin_tls(args.authorities)
    means = Means(
        origins=Origins(resolve_by_system, tls, connect_s=15, idle_s=limits.idle_s),
        store=archive.store,
        spool=archive.spool,
        threads=archive.threads,
        clock=clock,
        redaction=Redaction(archive.key, Redactor().text),
        rules=_rules(args.allow_network),
        limits=limits,
    )
    grants = args.allow or [Grant()]
    declared = "+".join(_word(grant) for grant in grants)
    sessions = Sessions(archive.store, archive.log.append, clock, lambda: secrets.token_hex(16))
    session = await sessions.open(Subject(identity=_user()), declared)
    return Proxy(Exchanges(session, Terms(grants=grants), means), authority)


def _rules(networks: list[str]) -> list[Rule]:
    """Reading from networks that are not public; what else may be sent is the policy's default."""
    from armitage.client.errors import UsageError
    from armitage.witness.policy import GIT_FETCH, READING, Rule, Verdict

    if not networks:
        return []
    try:
        reading = Rule(
            Verdict.ALLOW, "allow-network", methods=tuple(READING), networks=tuple(networks)
        )
    except ValueError as error:
        raise UsageError(f"--allow-network: {error}") from None
    return [reading, replace(GIT_FETCH, networks=tuple(networks))]


def _word(grant: Grant) -> str:
    return ":".join(
        ["network", *filter(None, [grant.host]), *([str(grant.port)] * bool(grant.port))]
    )


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


async def _wait(process: asyncio.subprocess.Process) -> int:
    """Waits for the end; Ctrl-C reaches the command by itself."""
    import signal

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        return await process.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _summarise(
    args: argparse.Namespace, archive: Archive, first: int, directory: Path
) -> None:
    import json
    import sys

    from armitage.cli.audit import HEADER, row
    from armitage.witness.audit import logged
    from armitage.witness.evidence import Kind

    log = archive.log.store
    fetched = [i async for i in logged(archive, first) if i.entry.kind is Kind.EXCHANGE]
    if args.json:
        told = {
            "checkpoint": log.signed_checkpoint.decode(),
            "exchanges": [{"index": item.index, **item.record} for item in fetched],
        }
        print(json.dumps(told), file=sys.stderr)
        return
    for line in table(HEADER, map(row, fetched)):
        print(line, file=sys.stderr)
    refused = sum(item.record["decision"]["verdict"] == "deny" for item in fetched)
    note(
        f"witnessed {len(fetched) - refused} fetches and {refused} refusals; evidence in"
        f" {directory}, log {log.checkpoint.origin} has {log.checkpoint.size} entries"
    )
