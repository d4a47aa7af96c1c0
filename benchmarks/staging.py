"""What an input tree adds to an action: one that all have alike, one that all have but for a few
sources beside it, each shown as an overlay and copied.

    python benchmarks/staging.py [--files 1000] [--sources 10] [--actions 60] [--rounds 3]

Each round runs the same command without inputs and over each tree, one at a time and in turns; what
is laid out once is so before. Copies come after all else: a disk goes on writing them for a while.
The output is a file that the command makes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import print_table
from support.executing import JsonCodec, Seen, Tree, put_tree

from armitage.clock import SystemClock
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryStore
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.spec import OutputRequest, Work
from executor.tree_cache import TreeCacheOptions

COMMAND = ("/bin/sh", "-c", "echo > out")


def open_executor(store: MemoryStore, scratch: Path, *, overlay: bool) -> NamespaceExecutor:
    options = ExecutorOptions(
        scratch=scratch,
        launcher=LauncherKind.ARMITAGE,
        tree_cache=TreeCacheOptions(enabled=overlay),
    )
    executor = NamespaceExecutor(store, JsonCodec(), options, SystemClock().wall)
    if overlay and executor.no_overlay:
        raise SystemExit(f"no overlay here: {executor.no_overlay}")
    return executor


async def milliseconds(executor: NamespaceExecutor, roots: Sequence[Digest]) -> list[float]:
    taken = []
    for number, root in enumerate(roots):
        function = DigestFunction.SHA256
        work = Work(f"action-{number}", function, root, COMMAND, outputs=(OutputRequest("out"),))
        started = time.perf_counter()
        outcome = await executor.execute(work, Seen())
        taken.append((time.perf_counter() - started) * 1000)
        assert outcome.exit_code == 0
    return taken


async def compare(arguments: argparse.Namespace, place: Path) -> None:
    store = MemoryStore()
    files = {f"file-{number}": f"content {number}\n".encode() * 40 for number in range(50)}
    folders = {f"folder-{number}": files for number in range(arguments.files // 50)}
    tools: Tree = {"external": {"toolchain": folders}}
    root = await put_tree(store, tools)
    seeds = itertools.count()

    async def with_sources() -> Digest:
        names = (f"source-{number}" for number in range(arguments.sources))
        sources = {name: f"{name} {next(seeds)}\n".encode() * 40 for name in names}
        return await put_tree(store, {**tools, "src": sources})

    overlaid = open_executor(store, place / "overlaid", overlay=True)
    copied = open_executor(store, place / "copied", overlay=False)
    shapes = {
        "none": (overlaid, DigestFunction.SHA256.empty),
        "the same, overlay": (overlaid, root),
        "own sources beside it, overlay": (overlaid, None),
        "the same, copied": (copied, root),
        "own sources beside it, copied": (copied, None),
    }
    taken: dict[str, list[float]] = {name: [] for name in shapes}
    for used in (overlaid, copied):
        for number in range(arguments.rounds + 1):
            for name, (executor, same) in shapes.items():
                if executor is used:
                    roots = [same or await with_sources() for _ in range(arguments.actions)]
                    measured = await milliseconds(executor, roots)
                    if number > 0:  # The first lays out the tree, and warms up.
                        taken[name] += measured
        await used.close()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    nothing = medians["none"]
    rows = [[name, f"{value:.2f}", f"{value - nothing:+.2f}"] for name, value in medians.items()]
    title = f"{arguments.files} files, the median of {arguments.rounds * arguments.actions} actions"
    print_table(title, ["inputs", "ms", "more than none"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--actions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory:
        asyncio.run(compare(arguments, Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
