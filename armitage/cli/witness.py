"""`armitage witness`: any command, with a witnessed network and no other."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.network_flags import (
    add_network_flags,
    declaration,
    granted_credentials,
    open_environment,
    revoked_logs,
    witness_options,
)
from armitage.cli.output import note, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from armitage.witness.archive import Archive
    from armitage.witness.network import WitnessNetwork, WitnessSession
    from armitage.witness.terms import Inject


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
    add_network_flags(parser)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--transparent",
        action="store_true",
        help="catch clients that know of no proxy too: names that are allowed lead to the witness,"
        " and it listens on the ports that are (80 and 443 where none is named)",
    )
    modes.add_argument(
        "--pins",
        metavar="FILE",
        type=Path,
        help="fetch nothing but what FILE names: pairs of a URL and the SHA-256 of its content",
    )
    parser.add_argument("--quiet", action="store_true", help="print no summary")
    parser.add_argument("command", metavar="CMD", nargs="+", help="command, after --")


async def _run(args: argparse.Namespace) -> int:
    from armitage.cli.overrides import default_data_dir
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable
    from executor.errors import InvalidInput, SandboxUnavailable, WorkerFailure

    directory = args.data_dir or default_data_dir() / "witness"
    try:
        async with open_archive(directory, args.origin, SystemClock()) as archive:
            return await _witness(args, archive, directory)
    except (InvalidInput, LogError, SandboxUnavailable, StoreUnavailable, WorkerFailure) as error:
        raise NotStarted(str(error)) from error


async def _witness(args: argparse.Namespace, archive: Archive, directory: Path) -> int:
    from armitage.clock import SystemClock
    from armitage.witness.enclosure import enclose
    from armitage.witness.network import WitnessNetwork, open_means
    from armitage.witness.origins import resolve_with
    from executor.netns import Inside

    first = archive.log.store.checkpoint.size
    resolve = resolve_with(dict(args.resolve))
    told = await asyncio.to_thread(witness_options, args)
    credentials = await asyncio.to_thread(granted_credentials, args, told)
    revoked = await asyncio.to_thread(revoked_logs, args)
    means = open_means(archive, told, credentials, SystemClock(), resolve, revoked=revoked)
    network = WitnessNetwork(archive, means, credentials)
    with tempfile.TemporaryDirectory(prefix="armitage-witness-") as shown:
        session = await _session(args, network, credentials.inject(args.auth), shown)
        resolv_conf = await asyncio.to_thread(_lay_out, session.files, shown)
        inside = Inside(session.ports, session.redirect, resolv_conf)
        try:
            environment = open_environment(told) | dict(session.environment)
            enclosed = await enclose(args.command, environment, inside)
            await session.serve(enclosed.sockets)
            code = await _wait(enclosed.process)
        finally:
            use = await session.close()
            await network.close()
    if not args.quiet:
        await _summarise(args, archive, first, directory)
        if told.offline and use.refused:
            note(f"offline, and {len(use.refused)} requests were refused; see above")
    return 128 - code if code < 0 else code


async def _session(
    args: argparse.Namespace, network: WitnessNetwork, inject: Inject, directory: str
) -> WitnessSession:
    from armitage.witness.evidence import Subject
    from armitage.witness.modes import NetworkMode, read_pins
    from armitage.witness.policy import Grant
    from armitage.witness.terms import Terms

    grants, pins, mode = args.allow or [Grant()], None, NetworkMode.WITNESSED
    if args.pins is not None:
        pins, mode = read_pins(await asyncio.to_thread(args.pins.read_text)), NetworkMode.PINNED
    elif args.transparent:
        mode = NetworkMode.TRANSPARENT
    declared, granted = declaration(grants, args.auth), frozenset(args.auth)
    terms = Terms(grants=grants, pins=pins, inject=inject, credentials=granted)
    return await network.begin(terms, Subject(identity=user_name()), declared, mode, directory)


def _lay_out(shown: Mapping[str, bytes], directory: str) -> str:
    """Writes what the session shows; answers what is to be seen as /etc/resolv.conf."""
    resolv_conf = ""
    for path, content in shown.items():
        place = Path(path)
        if place.parent != Path(directory):
            place = Path(directory, place.name)
            resolv_conf = str(place)
        place.write_bytes(content)
    return resolv_conf


def user_name() -> str:
    """Who runs this."""
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

    from armitage.cli.fetched import HEADER, row
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
