"""What commands print: text for people, JSON for programs. Names, URLs and messages in it are for
others to choose, so whatever could steer a terminal is written out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def emit(args: argparse.Namespace, value: Any, lines: Iterable[str]) -> None:
    """Prints the value as JSON when asked to, else the lines, each of which stays one."""
    if args.json:
        print(json_text(value))
        return
    for line in lines:
        print(printable(line))


def json_text(value: Any) -> str:
    """JSON over several lines, with letters as they are."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
    )


def note(text: str) -> None:
    """Tells the user something that is not the command's output."""
    lines = map(printable, text.split("\n"))
    print("armitage: " + "\n".join(lines), file=sys.stderr)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lays out columns."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """Text that others chose, with whatever could steer a terminal written out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def size_text(size_bytes: float) -> str:
    """`1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(seconds: float) -> str:
    """`11h 59m`, rounded down."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f}s"
    return f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m"
