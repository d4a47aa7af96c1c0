"""What it costs to run an action in a virtual machine of its own, with KVM where it works and TCG.

    tests/e2e/prepare && python benchmarks/microvm.py [--actions 3] [--files 0,1000]

Needs qemu-system-x86, busybox-static, bubblewrap and squashfs-tools. Each action is `true` with so
many input files of 4 KiB. `inputs` is staging the tree, making the disks and booting until the
guest is ready; `command` is from there to the guest's end; `CPU` is that of QEMU, by its control
group where there is one: on a busy machine the better figure. The same by namespaces beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from common import print_table
from support.executing import SHA256, JsonCodec, Seen, Tree, put_tree
from support.microvm import machine_options, make_toolchain, microvm_missing

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.microvm.executor import MicrovmExecutor
from executor.microvm.machine import Accel, MicrovmOptions
from executor.microvm.means import boot_probe, find_means
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.ports import Executor
from executor.spec import Outcome, Work


@dataclass(frozen=True)
class Row:
    """One kind of sandbox and what an action takes in it."""

    name: str
    files: int
    outcomes: list[Outcome]

    def cells(self) -> list[str]:
        def median(pick: str, since: str) -> str:
            times = [one.timings for one in self.outcomes]
            seconds = statistics.median(getattr(t, pick) - getattr(t, since) for t in times)
            return f"{seconds:.3f} s"

        cpu = [one.resources.cpu_s for one in self.outcomes if one.resources.cpu_s is not None]
        return [
            self.name,
            str(self.files),
            median("worker_completed", "worker_start"),
            median("execution_start", "worker_start"),
            median("execution_completed", "execution_start"),
            f"{statistics.median(cpu):.2f} s" if cpu else "-",
        ]


async def measure(
    name: str, executor: Executor, store: MemoryStore, actions: int, files: int
) -> Row:
    """Runs `true` over one tree, so often."""
    tree: Tree = {
        f"d{folder}": {
            f"f{number}": f"{number:04}".encode() * 1024 for number in range(folder, files, 20)
        }
        for folder in range(min(files, 20))
    }
    root = await put_tree(store, tree)
    outcomes = []
    for number in range(actions):
        work = Work(f"{files}-{number}", SHA256, root, ("/bin/true",))
        outcome = await executor.execute(work, Seen())
        assert outcome.exit_code == 0
        outcomes.append(outcome)
    return Row(name, files, outcomes)


async def run(args: argparse.Namespace, directory: Path) -> None:
    store, codec, wall = MemoryStore(), JsonCodec(), SystemClock().wall
    machine = machine_options(make_toolchain(directory))
    kinds = await asyncio.to_thread(working, machine, directory)
    rows = []
    for name, kind in kinds:
        options = ExecutorOptions(scratch=directory / name, max_timeout_s=60)
        executor: MicrovmExecutor | NamespaceExecutor
        if kind is None:
            executor = NamespaceExecutor(store, codec, options, wall)
        else:
            executor = MicrovmExecutor(store, codec, options, wall, replace(machine, accel=kind))
            await executor.accel()
        rows += [await measure(name, executor, store, args.actions, files) for files in args.files]
        await executor.close()
    print_table(
        f"`true`, median of {args.actions}",
        ("sandbox", "input files", "whole action", "inputs", "command", "CPU"),
        [row.cells() for row in rows],
    )


def working(machine: MicrovmOptions, directory: Path) -> list[tuple[str, Accel | None]]:
    """Boots a guest each way, and answers the ways that work."""
    means = find_means(machine, None)
    kinds: list[tuple[str, Accel | None]] = [("namespace", None)]
    for accel in (Accel.KVM, Accel.TCG):
        took_s, complaint = boot_probe(
            means, machine, accel, directory, 15 if accel is Accel.KVM else 60
        )
        print(f"{accel}: {complaint or f'a guest comes up and goes down in {took_s:.2f} s'}")
        if not complaint:
            kinds.append((accel.value, accel))
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=3)
    parser.add_argument(
        "--files", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1000]
    )
    args = parser.parse_args()
    if missing := microvm_missing():
        raise SystemExit(missing)
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory:
        asyncio.run(run(args, Path(directory)))


if __name__ == "__main__":
    main()
