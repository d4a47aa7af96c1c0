"""What an unchanged input tree adds to an action: shown as an overlay, and copied.

    python benchmarks/staging.py [--files 1000] [--actions 60] [--rounds 3]

Each round runs the same command without inputs, over the tree as an overlay (laid out before), and
over a copy of it, one at a time and in turns. The output is a file that the command makes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import print_table
from support.executing import JsonCodec, Seen, put_tree

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


async def milliseconds(executor: NamespaceExecutor, root: Digest, count: int) -> list[float]:
    taken = []
    for number in range(count):
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
    root = await put_tree(store, folders)
    overlaid = open_executor(store, place / "overlaid", overlay=True)
    copied = open_executor(store, place / "copied", overlay=False)
    shapes = {
        "no inputs": (overlaid, DigestFunction.SHA256.empty),
        "overlay": (overlaid, root),
        "copy": (copied, root),
    }
    taken: dict[str, list[float]] = {name: [] for name in shapes}
    for number in range(arguments.rounds + 1):
        for name, (executor, tree) in shapes.items():
            measured = await milliseconds(executor, tree, arguments.actions)
            if number > 0:  # The first lays out the tree, and warms up.
                taken[name] += measured
    for executor in (overlaid, copied):
        await executor.close()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    nothing = medians["no inputs"]
    rows = [[name, f"{value:.2f}", f"{value - nothing:+.2f}"] for name, value in medians.items()]
    title = f"{arguments.files} files, the median of {arguments.rounds * arguments.actions} actions"
    print_table(title, ["inputs", "ms", "more than none"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--actions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory:
        asyncio.run(compare(arguments, Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
