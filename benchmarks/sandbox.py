"""Sandboxed actions a second when the actions do nothing: our own launcher against bubblewrap.

    python benchmarks/sandbox.py [--actions 400] [--concurrency 8] [--rounds 3]
    python benchmarks/sandbox.py --soak 10000     what so many actions leave behind: nothing

`launcher` is the launcher alone, asked again and again for one sandbox whose inputs are there and
which has no control group; `executor` is a whole action: scratch space, an empty input tree, a
control group, a sandbox, output in a store. Rounds of both launchers take turns. The CPU time is
that of all processes and this one, by a control group around them; it is steadier than the clock
where other work runs beside.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import print_table, until_all_end_s
from support.executing import JsonCodec, Seen

from armitage.clock import SystemClock
from cas.digest import DigestFunction
from cas.memory import MemoryStore
from executor.cgroup import Limits, open_cgroups
from executor.launcher.own import trial_job
from executor.launching import Confinement
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.spec import Work

KINDS = (LauncherKind.ARMITAGE, LauncherKind.BUBBLEWRAP)
Action = Callable[[int], Awaitable[None]]


def open_executor(kind: LauncherKind, scratch: Path) -> NamespaceExecutor:
    options = ExecutorOptions(scratch=scratch, launcher=kind)
    return NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)


def whole(executor: NamespaceExecutor) -> Action:
    empty = DigestFunction.SHA256.empty

    async def run(number: int) -> None:
        work = Work(f"action-{number}", DigestFunction.SHA256, empty, ("/bin/true",))
        outcome = await executor.execute(work, Seen())
        assert outcome.exit_code == 0

    return run


def alone(executor: NamespaceExecutor, root: Path) -> Action:
    root.mkdir(exist_ok=True)
    job = trial_job(str(root))
    confinement = Confinement({}, 1000, 1000)
    launcher = executor._launcher  # noqa: SLF001 (what is measured)
    null = os.open("/dev/null", os.O_WRONLY)

    async def run(number: int) -> None:
        del number
        process = launcher.launch(job, confinement, (null, null))
        await process.release()
        await process.ended
        await process.kill()
        assert process.ending("").exit_code == 0

    return run


async def rate(action: Action, count: int, concurrency: int) -> float:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await action(number)

    return count / await until_all_end_s(worker, concurrency)


class Meter:
    """CPU time of this process and all that it starts; needs a writable control group."""

    def __init__(self) -> None:
        self._groups = open_cgroups(f"armitage-bench-{os.getpid()}")
        self._group = self._groups.group("all")
        self._group.make(Limits(None, None, None))
        self._group.join(os.getpid())

    def cpu_s(self) -> float:
        return self._group.usage().cpu_s or 0.0

    def close(self) -> None:
        for parent in set(self._groups._parents.values()):  # noqa: SLF001 (to leave it again)
            (parent.parent / "cgroup.procs").write_text(str(os.getpid()))
        self._group.remove()
        self._groups.close()


async def compare(arguments: argparse.Namespace, place: Path, meter: Meter) -> None:
    executors = {kind: open_executor(kind, place / kind.value) for kind in KINDS}
    shapes: dict[str, dict[LauncherKind, Action]] = {
        "launcher": {kind: alone(one, place / "root") for kind, one in executors.items()},
        "executor": {kind: whole(one) for kind, one in executors.items()},
    }
    rows = []
    for name, actions in shapes.items():
        for concurrency in (1, arguments.concurrency):
            rates: dict[LauncherKind, list[float]] = {kind: [] for kind in KINDS}
            costs: dict[LauncherKind, list[float]] = {kind: [] for kind in KINDS}
            for number in range(arguments.rounds + 1):
                for kind in KINDS:
                    cpu = meter.cpu_s()
                    measured = await rate(actions[kind], arguments.actions, concurrency)
                    if number > 0:  # The first warms up.
                        rates[kind].append(measured)
                        costs[kind].append((meter.cpu_s() - cpu) / arguments.actions * 1000)
            rows.append([name, concurrency, *paired(rates, "{:.0f}"), *paired(costs, "{:.1f}")])
    for executor in executors.values():
        await executor.close()
    title = f"{arguments.actions} times /bin/true, the median of {arguments.rounds} rounds"
    names = ["armitage", "bubblewrap", "ratio"]
    header = ["what", "at a time", *names, *(f"{name}: ms CPU" for name in names[:2]), "ratio"]
    print_table(title, header, rows)


def paired(values: Mapping[LauncherKind, list[float]], form: str) -> list[str]:
    ours, theirs = (statistics.median(values[kind]) for kind in KINDS)
    return [form.format(ours), form.format(theirs), f"{ours / theirs:.2f}x"]


@dataclass(frozen=True)
class Traces:
    """What could be left behind; but for empty directories that are kept, of a bounded number."""

    mounts: int
    descriptors: int
    processes: int
    groups: int
    files: int


def traces(executor: NamespaceExecutor, place: Path) -> Traces:
    parents = set(executor._cgroups._parents.values())  # noqa: SLF001 (to count what is in them)
    me = os.getpid()
    return Traces(
        mounts=len(Path("/proc/self/mounts").read_text().splitlines()),
        descriptors=len(os.listdir("/proc/self/fd")),
        processes=sum(parent_of(name) == me for name in os.listdir("/proc") if name.isdigit()),
        groups=sum(one.is_dir() for parent in parents for one in parent.iterdir()),
        files=sum("spare" not in path.parts for path in place.rglob("*")),
    )


def wait_for_trash(place: Path) -> None:
    """Gives the thread that removes what was discarded up to 10 s."""
    until = time.monotonic() + 10
    places = [place / "scratch" / name for name in ("trash", "grave")]
    while any(list(one.iterdir()) for one in places) and time.monotonic() < until:
        time.sleep(0.01)


def parent_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


async def soak(count: int, concurrency: int, place: Path) -> int:
    executor = open_executor(LauncherKind.ARMITAGE, place / "scratch")
    action = whole(executor)
    await rate(action, 50, concurrency)
    await asyncio.to_thread(wait_for_trash, place)
    before = traces(executor, place)
    speed = await rate(action, count, concurrency)
    await asyncio.to_thread(wait_for_trash, place)
    after = traces(executor, place)
    await executor.close()
    rows = [[name, getattr(before, name), getattr(after, name)] for name in Traces.__annotations__]
    print_table(f"{count} actions, {speed:.0f} a second", ["left", "before", "after"], rows)
    return 0 if before == after else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actions", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int, metavar="ACTIONS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armitage-bench-") as directory:
        place = Path(directory)
        if arguments.soak:
            return asyncio.run(soak(arguments.soak, arguments.concurrency, place))
        meter = Meter()
        try:
            asyncio.run(compare(arguments, place, meter))
        finally:
            meter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
