"""What is said of limits (executor.rlimits)."""

from dataclasses import replace
from pathlib import Path

import pytest

from executor.cgroup import Cgroups
from executor.options import ExecutorOptions
from executor.rlimits import describe_limits

OPTIONS = ExecutorOptions(memory_bytes=1 << 20, processes=10, cpus=2.0)
EACH = "private memory of each process alone"


@pytest.mark.parametrize(
    ("user", "grouped", "said"),
    [
        (0, ("memory", "pids", "cpu"), "cgroup v2: memory pids cpu"),
        (0, ("pids",), f"cgroup v2: pids; rlimit: {EACH}; not enforced: cpu"),
        (0, (), f"rlimit: {EACH}; not enforced: pids cpu"),
        (1000, (), f"rlimit: {EACH}, pids; not enforced: cpu"),
    ],
)
def test_a_limit_of_each_process_is_not_told_as_one_of_the_action(
    monkeypatch: pytest.MonkeyPatch, user: int, grouped: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)

    assert describe_limits(OPTIONS, Cgroups(2, dict.fromkeys(grouped, Path()))) == said


def test_what_is_not_asked_for_is_not_told() -> None:
    nothing = replace(OPTIONS, memory_bytes=None, processes=None, cpus=None)

    assert describe_limits(nothing, Cgroups(1, {})) == "none"
