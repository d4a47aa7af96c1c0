"""Parses the command line, runs one command, and turns whatever went wrong into one line and an
exit code.

Nothing heavy is imported before a command is known, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from armitage.cli import (
    ac,
    attest,
    audit,
    bucket,
    cas,
    config,
    conformance,
    doctor,
    explain,
    gpu,
    image,
    key,
    microvm,
    ops,
    proofs,
    proxy,
    run,
    serve,
    status,
    trust,
    upkeep,
    verify,
    witness,
)
from armitage.cli.exits import Exit
from armitage.cli.options import Parser
from armitage.cli.output import note

COMMANDS = (
    *(serve, config, run, explain, cas, ac, ops, status, gpu, image, microvm, upkeep, bucket),
    *(witness, proxy, audit, verify, attest, trust, proofs, key, doctor, conformance),
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="armitage",
        description="A remote execution backend whose builds can be audited, and its client.",
        epilog="Exit codes and examples: docs/cli.md.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error of ours"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; answers its exit code."""
    try:
        args, unknown = build_parser().parse_known_args(argv)
        if unknown:
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else Exit.USAGE
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it (`armitage ... | head`).
        sys.stdout = None
        return Exit.OK
    except Exception as error:  # noqa: BLE001 (the one place where errors become words)
        return _report(error, args)


def _report(error: Exception, args: argparse.Namespace) -> int:
    from armitage.cli.failures import explain

    if args.debug:
        import traceback

        traceback.print_exception(error)
    code, message = explain(error, getattr(args, "server", None))
    if getattr(args, "json", False):
        print(json.dumps({"error": message, "exit_code": int(code)}), file=sys.stderr)
    else:
        note(message)
    return args.failure_exit or code


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from armitage.version import version

        print(f"armitage {version()}")
        parser.exit(0)
