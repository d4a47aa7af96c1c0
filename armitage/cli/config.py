"""`armitage config`: check a configuration file, show the effective settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit
from armitage.cli.overrides import add_overrides, effective_config


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "config", "check and show the daemon's configuration")
    check = options.add_command(
        group, "check", _check, "check a configuration file (exit code 3 when it is wrong)"
    )
    check.add_argument("file", metavar="FILE", type=Path)
    show = options.add_command(
        group,
        "show",
        _show,
        "show the settings that `serve` would run with",
        "Shows every setting as `serve` with the same flags would run with it, as TOML or JSON."
        " Secrets are left out.",
    )
    add_overrides(show)


def _check(args: argparse.Namespace) -> Exit:
    from armitage.config import load

    load(args.file)
    emit(args, {"file": str(args.file), "ok": True}, [f"{args.file}: fine"])
    return Exit.OK


def _show(args: argparse.Namespace) -> Exit:
    from armitage.settings import plain, to_toml

    table = plain(effective_config(args))
    emit(args, table, to_toml(table).rstrip("\n").split("\n"))
    return Exit.OK
