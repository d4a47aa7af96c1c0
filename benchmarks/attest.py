"""What it costs to judge and attest an action, beside what no implementation could leave out.

    .venv/bin/python benchmarks/attest.py [--actions 2000]

Prints CPU microseconds an action of the whole process, all threads: for one check by the proven
checker, for three ed25519 signatures, and for everything from evidence to the durable entry of the
log and its index. Twice: for actions that declared and used the same, whose verdict is remembered,
and for actions each with a network session of its own, which are all checked.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from support.notaries import SANDBOXED, run_of  # noqa: E402

from armitage.attest.dsse import sign  # noqa: E402
from armitage.attest.judge import evidence_of  # noqa: E402
from armitage.attest.keyring import AttestOptions  # noqa: E402
from armitage.attest.keys import SeedSigner  # noqa: E402
from armitage.attest.notary import Notary, Run  # noqa: E402
from armitage.attest.opening import Builders, open_office  # noqa: E402
from armitage.clock import SystemClock  # noqa: E402
from armitage.proofs import Checker  # noqa: E402
from armitage.proofs.checker import declaration_of  # noqa: E402
from armitage.witness.archive import open_archive  # noqa: E402
from cas.memory import MemoryOptions, MemoryStore  # noqa: E402
from executor.evidence import Reached  # noqa: E402


def cost_us(step: Callable[[], object], rounds: int) -> float:
    """CPU of one call."""
    start = time.process_time()
    for _ in range(rounds):
        step()
    return (time.process_time() - start) / rounds * 1e6


def pure(number: int) -> Run:
    """An action that declares nothing and used a sandbox."""
    return run_of(name=str(number))


def networked(number: int) -> Run:
    """An action with a session of its own."""
    used = replace(
        SANDBOXED, network_session=f"s{number}", reached=(Reached("h.example.org", 443),)
    )
    return run_of("network:*.example.org:443", used, str(number))


async def attest(notary: Notary, runs: list[Run], at_once: int) -> tuple[float, float, float]:
    """CPU and wall time an action, and the 99th percentile from evidence to cache, in seconds."""
    waits: list[float] = []
    slots = asyncio.Semaphore(at_once)

    async def one(run: Run) -> None:
        async with slots:
            began = time.perf_counter()
            judgement = await notary.judge(run)

            async def keep() -> None:
                waits.append(time.perf_counter() - began)

            await notary.attest(run, judgement, run.invocation, keep)
            await notary.settle(run.invocation)

    cpu, wall = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(one(run))
    count = len(runs)
    cpu, wall = (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count
    return cpu, wall, statistics.quantiles(waits, n=100)[98]


async def measure(actions: int, at_once: int) -> None:
    checker, signer, clock = Checker(), SeedSigner(bytes(32)), SystemClock()
    used = networked(0).used
    documents = declaration_of("network:*.example.org:443"), evidence_of(used)
    check = cost_us(lambda: checker.check(*documents), 500)
    three = 3 * cost_us(lambda: sign(signer, b"x" * 2000), 2000)
    print(f"check alone          {check:7.0f} us CPU")
    print(f"three signatures     {three:7.0f} us CPU")
    for name, make, least in (("pure", pure, three), ("networked", networked, check + three)):
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made) / "record"
            store = MemoryStore(MemoryOptions(), clock.monotonic)
            builders = Builders(AttestOptions(), "bench")
            async with (
                open_archive(directory, "bench.example/log", clock) as archive,
                open_office(archive, store, builders, clock) as office,
            ):
                await attest(office.notary, [make(n) for n in range(100)], at_once)
                runs = [make(n) for n in range(1000, 1000 + actions)]
                cpu, wall, p99 = await attest(office.notary, runs, at_once)
            await store.close()
        print(
            f"{name:10} attested {cpu * 1e6:8.0f} us CPU, {cpu * 1e6 / least:4.1f} x what it cannot"
            f" do without; {1 / wall:6.0f} a second, {p99 * 1e3:5.0f} ms to the cache (p99)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=64)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.actions, arguments.at_once))
