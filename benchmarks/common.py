"""What the benchmarks share: servers as processes, CPU and memory of a process, tables."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This checkout itself first: tests/ has directories named like the packages that they test.
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from support.daemon import ServedDaemon  # noqa: E402 (it is kept in tests/)

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def daemon(settings: str = "") -> Iterator[ServedDaemon]:
    """`armitage serve` with defaults and fresh data, gone afterwards with all its data."""
    with (
        tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory,
        ServedDaemon(Path(directory), settings=settings) as served,
    ):
        yield served


@contextmanager
def bare_server(*arguments: str) -> Iterator[tuple[str, int]]:
    """benchmarks/bare_server.py; gives its address and process id."""
    command = [sys.executable, str(HERE / "bare_server.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()
            process.stdout.read()


async def until_all_end_s(caller: Callable[[], Coroutine[Any, Any, None]], callers: int) -> float:
    """Seconds that so many callers take who begin at once."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return time.perf_counter() - began


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process and all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process; VmHWM is the most it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def reset_peak(pid: int) -> None:
    """Starts VmHWM anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a Markdown table whose columns line up."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    print(f"\n{title} ({machine()})\n")
    print("\n".join([lines[0], rule, *lines[1:]]))


def machine() -> str:
    """The class of machine, as a figure's reader needs it."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"
