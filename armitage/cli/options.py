"""Flags that several commands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from armitage.cli.exits import Exit

DEFAULT_SERVER = "grpc://127.0.0.1:8980"

Commands = Any
"""argparse's type of the thing that sub-commands are added to has no public name."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose complaints end in a hint."""

    usage_exit: int = Exit.USAGE

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Prints one line and leaves."""
        self.exit(self.usage_exit, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Formatter(argparse.HelpFormatter):
    """Help that does not depend on the terminal's width, so that it can be documented."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
) -> Parser:
    """Adds a command that ends in `run`, with the flags that every command has."""
    parser: Parser = commands.add_parser(
        name, help=summary, description=description or f"{summary[0].upper()}{summary[1:]}."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, parser=parser, failure_exit=0)
    return parser


def add_group(commands: Commands, name: str, summary: str) -> Commands:
    """Adds a command that has commands below it."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    return parser.add_subparsers(metavar="COMMAND", required=True)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which server to talk to, and how."""
    server = os.environ.get("ARMITAGE_SERVER", DEFAULT_SERVER)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="URL",
        default=server,
        help="grpc://HOST:PORT, or grpcs:// for TLS (default: $ARMITAGE_SERVER, else"
        f" {DEFAULT_SERVER})",
    )
    group.add_argument("--instance", metavar="NAME", default="", help="instance (default: empty)")
    group.add_argument(
        "--digest-function",
        metavar="FN",
        choices=("sha256", "blake3", "sha1", "sha384", "sha512"),
        help="sha256, blake3, sha1, sha384 or sha512 (default: sha256 where offered)",
    )
    group.add_argument("--tls-ca", metavar="FILE", type=Path, help="PEM of the authority to trust")
    group.add_argument(
        "--tls-cert", metavar="FILE", type=Path, help="PEM of our certificate (mutual TLS)"
    )
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="PEM of its key")


def pair(text: str) -> tuple[str, str]:
    """Parses `KEY=VALUE` for argparse."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def duration(text: str) -> float:
    """Parses `90`, `90s`, `1h30m` for argparse."""
    from armitage.settings import parse_duration

    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> int:
    """Parses `512MiB` for argparse."""
    from armitage.settings import parse_size

    try:
        return int(text) if text.isdecimal() else parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def is_terminal() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()
