"""What is particular to running without a sandbox: that it says so, and kills by other means."""

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.executing import Bench, JsonCodec

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.cgroup import Cgroups
from executor.errors import InvalidInput, TimedOut, WorkerFailure
from executor.input_overlay import Overlay
from executor.options import ExecutorOptions
from executor.spec import Work
from executor.staging import Layout
from executor.unsandboxed import MARKER, UnsandboxedExecutor


class NoGroups(UnsandboxedExecutor):
    """As on a host where no control group is writable."""

    def _open_cgroups(self) -> Cgroups:
        return Cgroups(1, {})


@pytest.fixture
def options(tmp_path: Path) -> ExecutorOptions:
    return ExecutorOptions(scratch=tmp_path / "scratch")


@pytest.fixture
async def bench(options: ExecutorOptions) -> AsyncIterator[Bench]:
    store = MemoryStore()
    executor = NoGroups(store, JsonCodec(), options, SystemClock().wall)
    yield Bench(executor, store, options.scratch, None)
    await executor.close()


async def test_sandbox_says_none(bench: Bench) -> None:
    outcome = await bench.run("true")

    assert outcome.sandbox["sandbox"] == "none"
    assert outcome.sandbox["network"] == "host"


async def test_what_cannot_be_given_back_keeps_no_scratch_space(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("it is stuck")

    async def stage(self: NoGroups, work: Work, root: str) -> tuple[Layout, Overlay]:
        layout, _ = await UnsandboxedExecutor._stage(self, work, root)
        return layout, Overlay((root,), f"{root}.work", fail)

    monkeypatch.setattr(NoGroups, "_stage", stage)

    with pytest.raises(WorkerFailure, match=r"cleaning up after .*: it is stuck"):
        await bench.run("true")

    assert bench.leftovers() == []


def is_running(marker: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"sleep {marker}"], check=False).returncode == 0


def sleeper(marker: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], env={MARKER: marker})


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "sleep {0} & sleep {0}",
        "setsid sleep {0} & sleep {0}",
        "(setsid sh -c 'sleep {0} & sleep {0}' &) ; sleep {0}",
        "setsid env -i /bin/sleep {0} & sleep {0}",
    ],
)
async def test_everything_is_killed_without_control_groups(bench: Bench, script: str) -> None:
    marker = f"36{os.getpid()}.5"

    with pytest.raises(TimedOut):
        await bench.sh(script.format(marker), timeout_s=0.3)

    assert not is_running(marker)


async def test_next_start_kills_what_a_killed_daemon_left(options: ExecutorOptions) -> None:
    store, codec, clock = MemoryStore(), JsonCodec(), SystemClock().wall
    first = NoGroups(store, codec, options, clock)
    bench = Bench(first, store, options.scratch, None)
    marker = (await bench.says(f"echo ${MARKER}")).strip()
    await first.close()
    orphan, foreign = sleeper(marker), sleeper("armitage-000000000000:x")

    second = NoGroups(store, codec, options, clock)

    assert orphan.wait(10) == -9
    assert foreign.poll() is None
    foreign.kill()
    foreign.wait()
    await second.close()


async def test_input_root_as_filesystem_root_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="sandbox"):
        await bench.run("true", platform={"chroot-input-root": "true"})
