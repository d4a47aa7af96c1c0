"""What one decision of the proven checker costs, beside the same rules in plain Python.

    .venv/bin/python benchmarks/checker.py

Prints microseconds of CPU a check, for evidence of three sizes, and the ratio to tests/support's
oracle in the same run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from support.coeffects import Oracle  # noqa: E402

from armitage.proofs import Checker  # noqa: E402
from armitage.proofs.checker import declaration_of  # noqa: E402

DECLARATION = declaration_of("network:*.example.org+filesystem:/opt+auth:npm+gpu:mem>=16384")


def evidence(records: int) -> bytes:
    hosts = [f"{n} network h{n}.example.org 443" for n in range(1, records)]
    lines = ["armitage-evidence/1", "open s", "0 sandbox namespace", *hosts, f"close s {records} 0"]
    return ("\n".join(lines) + "\n").encode()


def cost_us(run: Callable[[], object], rounds: int) -> float:
    start = time.process_time()
    for _ in range(rounds):
        run()
    return (time.process_time() - start) / rounds * 1e6


def main() -> None:
    checker, oracle = Checker(), Oracle()
    print("records     bytes   checker us   oracle us   ratio")
    for records, rounds in ((5, 1000), (100, 200), (10_000, 3)):
        document = evidence(records)
        assert checker.check(DECLARATION, document).approved
        ours = cost_us(lambda: checker.check(DECLARATION, document), rounds)  # noqa: B023
        theirs = cost_us(lambda: oracle.opinion(DECLARATION, document), rounds)  # noqa: B023
        print(f"{records:7} {len(document):9} {ours:12.0f} {theirs:11.0f} {ours / theirs:7.1f}")


if __name__ == "__main__":
    main()
