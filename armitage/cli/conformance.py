"""`armitage conformance`: how well any server keeps to the Remote Execution API."""

from __future__ import annotations

import argparse
import asyncio

from armitage.cli import options
from armitage.cli.exits import Exit


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "conformance",
        _conformance,
        "run the conformance cases against any Remote Execution server",
        "Runs the cases of docs/conformance.md against any server and prints a table. Writes blobs"
        " and action results into the instance. Exit code 1 when a case failed.",
    )
    parser.add_argument(
        "target", metavar="URL", nargs="?", help="grpc://HOST:PORT (default: --server)"
    )
    parser.add_argument(
        "--only", metavar="N,...", type=_numbers, help="only the cases of these numbers"
    )
    parser.add_argument(
        "--level",
        choices=("must", "should", "interop"),
        default="interop",
        help="leave out what weighs less: must, should or interop (default: interop, all)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and leave")
    options.add_connection(parser)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from None


def _conformance(args: argparse.Namespace) -> Exit:
    if args.list:
        from armitage.conformance import report
        from armitage.conformance.cases import CASES

        print(report.listing_json(CASES) if args.json else report.listing(CASES))
        return Exit.OK
    if args.target is not None:
        args.server = args.target
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import tls_for
    from armitage.client.errors import UsageError
    from armitage.client.remote import parse_address
    from armitage.conformance import report
    from armitage.conformance.model import Level, Outcome
    from armitage.conformance.runner import run

    try:
        results = await run(
            parse_address(args.server).target,
            args.instance,
            args.only,
            level=Level[args.level.upper()],
            tls=tls_for(args),
        )
    except LookupError as error:
        raise UsageError(f"{error}; `armitage conformance --list` shows them") from None
    print(report.as_json(results) if args.json else report.table(results))
    bad = any(result.outcome in (Outcome.FAIL, Outcome.ERROR) for result in results)
    return Exit.NO if bad else Exit.OK
