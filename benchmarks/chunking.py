"""How fast blobs are cut into chunks, beside hashing them, and what two releases of one archive
have in common by chunks.

    npm pack aws-sdk@2.1691.0 aws-sdk@2.1692.0 && gunzip *.tgz
    .venv/bin/python benchmarks/chunking.py aws-sdk-2.1691.0.tar aws-sdk-2.1692.0.tar

Any two files do. Compressed archives have little in common, so unpack the compression first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import print_table

from cas.chunking import ChunkSizes, Cutter
from cas.digest import Digest, DigestFunction

_SHA256 = DigestFunction.SHA256
_MIB = 1 << 20
_AVERAGES = [32 << 10, 128 << 10, 512 << 10, 2 << 20]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    old, new = arguments.old.read_bytes(), arguments.new.read_bytes()
    hashing_s = seconds(lambda: _SHA256.digest(new))
    rows = []
    for average in _AVERAGES:
        sizes = ChunkSizes.of_average(average)
        known = set(chunks(old, sizes))
        wanted = list(chunks(new, sizes))
        fresh = {chunk for chunk in wanted if chunk not in known}
        fresh_bytes = sum(chunk.size_bytes for chunk in fresh)
        cutting_s = seconds(lambda sizes=sizes: sum(map(len, cut(new, sizes))))  # type: ignore[misc]
        rows.append(
            (
                f"{average >> 10} KiB",
                len(wanted),
                f"{len(new) / len(wanted) / 1024:.0f} KiB",
                f"{len(fresh)}",
                f"{fresh_bytes / _MIB:.1f} MiB",
                f"{100 * (1 - fresh_bytes / len(new)):.1f} %",
                f"{len(new) / cutting_s / 1e6:.0f} MB/s",
                f"{hashing_s / cutting_s:.2f}x",
            )
        )
    print_table(
        f"{arguments.new.name}, {len(new) / _MIB:.1f} MiB, after {arguments.old.name}",
        [
            "average asked",
            "chunks",
            "average",
            "not in the old",
            "to send and store",
            "saved",
            "cutting",
            "of sha256's rate",
        ],
        rows,
    )


def cut(data: bytes, sizes: ChunkSizes) -> Iterator[bytes]:
    cutter = Cutter(sizes)
    for at in range(0, len(data), _MIB):
        yield from cutter.feed(data[at : at + _MIB])
    yield from cutter.finish()


def chunks(data: bytes, sizes: ChunkSizes) -> Iterator[Digest]:
    return (_SHA256.digest(chunk) for chunk in cut(data, sizes))


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
