"""`armitage proofs`: asks the proven checker, without a server."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit


def add(commands: options.Commands) -> None:
    """Adds the commands."""
    group = options.add_group(commands, "proofs", "ask the proven checker of coeffects")
    check = options.add_command(
        group,
        "check",
        _check,
        "decide whether a declaration covers evidence (exit code 1 when it does not)",
    )
    check.add_argument(
        "declaration", metavar="DECLARATION", help="a file, or a property such as pure"
    )
    check.add_argument("evidence", metavar="EVIDENCE", type=Path, help="a file")
    infer = options.add_command(
        group, "infer", _infer, "print the least property that would cover evidence"
    )
    infer.add_argument("evidence", metavar="EVIDENCE", type=Path, help="a file")
    normalise = options.add_command(
        group, "normalise", _normalise, "print a property with every default spelt out"
    )
    normalise.add_argument("declaration", metavar="DECLARATION", help="a file, or a property")
    options.add_command(group, "module", _module, "print the SHA-256 of the checker's module")


def _check(args: argparse.Namespace) -> Exit:
    from armitage.proofs import Checker

    verdict = Checker().check(_declaration(args.declaration), args.evidence.read_bytes())
    lines = ["approve"] if verdict.approved else ["reject"]
    lines += [reason.explain() for reason in verdict.reasons]
    emit(args, dataclasses.asdict(verdict), lines)
    return Exit.OK if verdict.approved else Exit.NO


def _infer(args: argparse.Namespace) -> Exit:
    from armitage.proofs import Checker
    from armitage.proofs.checker import NotInferred

    try:
        return _property(args, Checker().infer(args.evidence.read_bytes()))
    except NotInferred as error:
        return _refused(error)


def _normalise(args: argparse.Namespace) -> Exit:
    from armitage.proofs import Checker
    from armitage.proofs.checker import NotInferred

    try:
        return _property(args, Checker().canonical(_declaration(args.declaration)))
    except NotInferred as error:
        return _refused(_fault(args.declaration) or error)


def _module(args: argparse.Namespace) -> Exit:
    from armitage.proofs import Checker

    digest = Checker().module_sha256
    emit(args, {"sha256": digest}, [digest])
    return Exit.OK


def _property(args: argparse.Namespace, document: bytes) -> Exit:
    text = document.decode().splitlines()[1]
    emit(args, {"coeffects": text}, [text])
    return Exit.OK


def _refused(error: Exception) -> Exit:
    print(f"armitage: {error}", file=sys.stderr)
    return Exit.NO


def _fault(text: str) -> Exception | None:
    """What is wrong with a property, in more words than the checker has; None for a file."""
    from executor.coeffects_text import parse_coeffects
    from executor.errors import InvalidInput

    try:
        if not Path(text).is_file():
            parse_coeffects(text)
    except InvalidInput as error:
        return error
    return None


def _declaration(text: str) -> bytes:
    """The document in a file, or that of a property. A property never is the path of a file with a
    document in it: a document has two lines.
    """
    from armitage.proofs.checker import declaration_of

    path = Path(text)
    return path.read_bytes() if path.is_file() else declaration_of(text)
