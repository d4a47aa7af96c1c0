"""What a WebAssembly action costs that does nothing, against one in a sandbox of namespaces.

    python benchmarks/wasm.py [--actions 300] [--concurrency 4] [--rounds 5] [--alone]

`in process` is a program alone: store, WASI, instance, `_start`, as a worker does it. `executor` is
a whole action: scratch space, an input tree (the program; for the namespaces, which run /bin/true,
nothing), a sandbox, output in a store. Both executors take turns. CPU is that of the wasm executor
with its workers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from common import cpu_s, print_table, until_all_end_s
from support.executing import SHA256, JsonCodec, Seen, put_tree
from support.wasi_programs import exiting, printing

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.local import LocalExecutor
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.spec import Work
from executor.wasm.engine import Preopen, Run
from executor.wasm.executor import WasmExecutor
from executor.wasm.options import WasmOptions
from executor.wasm.program import Machine

Action = Callable[[int], Awaitable[None]]
TARGETS_US = {"in process": 200, "executor": 1000}


def in_process(rounds: int, count: int) -> list[float]:
    """Microseconds of one run, for each round."""
    machine = Machine()
    program = machine.prepare(exiting(0))
    with tempfile.TemporaryDirectory() as place:
        preopens = (Preopen(place, "/build"), Preopen(place, "."), Preopen(place, "/tmp", True))
        what = Run(("true",), 1 << 32, 1 << 40, (("PWD", "/build"),), preopens)
        measured = []
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in range(count):
                assert machine.run(program, what).exit_code == 0
            measured.append((time.perf_counter() - started) / count * 1e6)
    return measured


def action(executor: LocalExecutor, root: object, argument: str, tag: str) -> Action:
    async def run(number: int) -> None:
        work = Work(f"{tag}-{number}", SHA256, root, (argument,))  # type: ignore[arg-type]
        outcome = await executor.execute(work, Seen())
        assert outcome.exit_code == 0

    return run


async def spent_us(action: Action, numbers: range, concurrency: int) -> float:
    """Microseconds that one action takes, or its share where several run at once."""
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await action(number)

    return await until_all_end_s(worker, concurrency) / len(numbers) * 1e6


def cpu_us(executor: WasmExecutor) -> float:
    """CPU time so far, of this process and of the executor's workers."""
    workers = [worker.pid for worker in executor._pool._alive]  # noqa: SLF001
    return (time.process_time() + sum(cpu_s(pid) for pid in workers)) * 1e6


async def compare(arguments: argparse.Namespace, place: Path) -> None:
    store = MemoryStore()
    clock = SystemClock().wall
    options = ExecutorOptions(scratch=place / "wasm", wasm=WasmOptions(cache=place / "cache"))
    wasm = WasmExecutor(store, JsonCodec(), options, clock)
    actions = [action(wasm, await put_tree(store, {"p.wasm": printing("hello")}), "p.wasm", "w")]
    executors: list[LocalExecutor] = [wasm]
    if not arguments.alone:
        other = ExecutorOptions(scratch=place / "namespace")
        executors.append(NamespaceExecutor(store, JsonCodec(), other, clock))
        actions.append(action(executors[-1], SHA256.empty, "/bin/true", "n"))
    rows = [row("in process", 1, [in_process(arguments.rounds, 1000)])]
    first, cpu = 0, 0.0
    for concurrency in (1, arguments.concurrency):
        measured: list[list[float]] = [[] for _ in actions]
        for turn in range(arguments.rounds + 1):
            for times, one in zip(measured, actions, strict=True):
                numbers = range(first, first + arguments.actions)
                first += arguments.actions
                before = cpu_us(wasm)
                spent = await spent_us(one, numbers, concurrency)
                if turn:  # The first only warms up.
                    times.append(spent)
                if one is actions[0]:
                    cpu = (cpu_us(wasm) - before) / arguments.actions
        rows.append([*row("executor", concurrency, measured), f"{cpu:.0f}"])
    for executor in executors:
        await executor.close()
    title = f"a program that does next to nothing, us for each; {arguments.rounds} rounds"
    heads = ["what", "at a time", "wasm, median", "best", "target", "namespaces", "ratio", "CPU"]
    print_table(title, heads, [[*one, *[""] * (len(heads) - len(one))] for one in rows])


def row(name: str, concurrency: int, measured: list[list[float]]) -> list[object]:
    ours = measured[0]
    median = statistics.median(ours)
    other = statistics.median(measured[1]) if len(measured) > 1 else None
    return [
        name,
        concurrency,
        f"{median:.0f}",
        f"{min(ours):.0f}",
        TARGETS_US[name] if concurrency == 1 else "",
        f"{other:.0f}" if other else "",
        f"{other / median:.1f}x" if other else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--actions", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without the namespaces")
    arguments = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="armitage-bench-", dir=memory) as place:
        asyncio.run(compare(arguments, Path(place)))


if __name__ == "__main__":
    main()
