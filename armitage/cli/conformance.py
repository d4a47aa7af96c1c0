"""`armitage conformance`: how well any server keeps to the Remote Execution API."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from armitage.cli.progress import ProgressLine
    from armitage.conformance import Result


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "conformance",
        _conformance,
        "run the conformance cases against any Remote Execution server",
        "Runs the cases of docs/conformance.md against any server and prints a table. Writes random"
        " blobs and action results into the instance, and runs small shell scripts where execution"
        " is on. Exit code 1 when a case failed.",
    )
    parser.add_argument(
        "target", metavar="URL", nargs="?", help="grpc://HOST:PORT (default: --server)"
    )
    parser.add_argument(
        "--only", metavar="N,...", type=_numbers, help="only these cases, as in 5,21-43"
    )
    parser.add_argument(
        "--level",
        choices=("must", "should", "interop"),
        default="interop",
        help="leave out what weighs less: must, should or interop (default: interop, all)",
    )
    parser.add_argument(
        "--platform",
        metavar="KEY=VALUE",
        type=options.pair,
        action="append",
        default=[],
        help="a platform property that the server's workers need; may be repeated",
    )
    parser.add_argument(
        "--full", action="store_true", help="run the long cases in full length (half an hour)"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=_positive,
        default=8,
        help="cases at a time (default: 8)",
    )
    parser.add_argument(
        "--log-parent", metavar="NAME", default="", help="a parent that CreateLogStream accepts"
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=options.duration,
        default=60.0,
        help="deadline of each call (default: 60s)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and leave")
    options.add_connection(parser)


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 5,21-43") from None
    return numbers


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _conformance(args: argparse.Namespace) -> Exit:
    if args.list:
        from armitage.conformance import CASES, report

        print(report.listing_json(CASES) if args.json else report.listing(CASES))
        return Exit.OK
    if args.target is not None:
        args.server = args.target
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import tls_for
    from armitage.cli.progress import ProgressLine
    from armitage.client.errors import UsageError
    from armitage.client.remote import parse_address
    from armitage.conformance import Level, Options, Outcome, report, run

    choices = Options(
        platform=tuple(args.platform),
        full=args.full,
        log_parent=args.log_parent,
        call_timeout_s=args.timeout,
    )
    try:
        with ProgressLine(shown=options.is_terminal()) as progress:
            results = await run(
                parse_address(args.server).target,
                args.instance,
                args.only,
                level=Level[args.level.upper()],
                options=choices,
                tls=tls_for(args),
                concurrency=args.concurrency,
                on_result=_teller(progress),
            )
    except LookupError as error:
        raise UsageError(f"{error}; `armitage conformance --list` shows them") from None
    print(report.as_json(results) if args.json else report.table(results))
    bad = any(result.outcome in {Outcome.FAIL, Outcome.ERROR} for result in results)
    return Exit.NO if bad else Exit.OK


def _teller(progress: ProgressLine) -> Callable[[Result], None]:
    count = 0

    def tell(result: Result) -> None:
        nonlocal count
        count += 1
        progress.say(f"{count} cases done, the last was {result.case.number}: {result.outcome}")

    return tell
