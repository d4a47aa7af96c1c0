"""Bazel's build of zstd and Brotli: through Armitage, cold and fully cached, against Bazel's own
local sandboxed build on the same machine.

    tests/e2e/prepare                     # once: fetches the sources
    python benchmarks/bazel_build.py [--rounds 3] [--jobs 4]

One Bazel server, already warm, does every build after a `bazel clean`; rounds take turns. A cold
build has a daemon with no data at all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import daemon, print_table
from support import bazel  # common has put tests/ on the path
from support.bazel import CACHED, REMOTE, Bazel, Build

EVERYTHING = "//..."


def timed(client: Bazel, *flags: str) -> tuple[float, Build]:
    client.clean()
    # Analysis is the same for all and no work of a remote build's; what is timed is execution.
    assert client.build(*flags, "--nobuild", EVERYTHING).status == 0
    started = time.perf_counter()
    build = client.build(*flags, EVERYTHING)
    seconds = time.perf_counter() - started
    assert build.status == 0, build.log
    return seconds, build


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--jobs", type=int, default=4, help="of remote builds; local ones use all cores"
    )
    arguments = parser.parse_args()
    if reason := bazel.unavailable():
        sys.exit(f"bazel_build: {reason}")
    times: dict[str, list[float]] = {"local": [], "cold": [], "cached": []}
    actions = 0
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory:
        workspace = bazel.lay_out_workspace(Path(directory) / "workspace")
        client = Bazel(workspace, Path(directory) / "state")
        try:
            for _ in range(arguments.rounds):
                seconds, build = timed(client)
                times["local"].append(seconds)
                actions = len(build.spawns)
                with daemon() as served:
                    remote = [
                        f"--remote_executor=grpc://{served.address}",
                        f"--jobs={arguments.jobs}",
                    ]
                    seconds, build = timed(client, *remote)
                    assert build.runners() == {REMOTE: actions}, build.runners()
                    times["cold"].append(seconds)
                    seconds, build = timed(client, *remote)
                    assert build.runners() == {CACHED: actions}, build.runners()
                    times["cached"].append(seconds)
        finally:
            client.close()
    local = statistics.median(times["local"])
    rows = [
        [name, f"{statistics.median(values):.1f} s", f"{statistics.median(values) / local:.2f}x"]
        for name, values in (
            ("local, linux-sandbox", times["local"]),
            (f"Armitage, cold, --jobs={arguments.jobs}", times["cold"]),
            ("Armitage, fully cached", times["cached"]),
        )
    ]
    title = f"bazel build of zstd and Brotli, {actions} actions, median of {arguments.rounds}"
    print_table(title, ["build", "time", "against local"], rows)


if __name__ == "__main__":
    main()
