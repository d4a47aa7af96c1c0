"""What `--help` says of every command, as a part of docs/cli.md.

`python -m armitage.cli.reference docs/cli.md` rewrites that part of the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from armitage.cli.entry import build_parser

MARK = "<!-- Below here, scripts/fix writes what --help says. -->\n"


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something with its parser, in order."""
    yield from _below("armitage", build_parser())


def reference() -> str:
    """The part below the mark."""
    parts = [
        f"\n## `{path}`\n\n```text\n{parser.format_help().rstrip()}\n```\n"
        for path, parser in commands()
    ]
    return "".join(parts)


def rewrite(document: Path) -> None:
    """Puts the reference below the mark."""
    head = document.read_text().partition(MARK)[0]
    document.write_text(head + MARK + reference())


def _below(
    path: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001
    if not groups:
        yield path, parser
    for group in groups:
        for name, child in group.choices.items():
            yield from _below(f"{path} {name}", child)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
