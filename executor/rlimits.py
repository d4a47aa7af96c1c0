"""Limits that setrlimit(2) puts on the processes of actions, and on our own."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from executor.cgroup import Cgroups
from executor.options import ExecutorOptions

_OWN_FILES = 1_024
"""What is left to us of the host's limit of open files."""
_PENDING_SIGNALS = 4_096
"""Signals under way and timers of one action. The kernel counts them for the user as well, in all
sandboxes, against the limit that we have: some 4,000 for each GiB of memory.
"""
_OF_EACH_PROCESS = {"memory": "private memory of each process alone"}
"""What setrlimit(2) bounds in the place of what was asked for (RLIMIT_DATA)."""


def raise_open_files() -> None:
    """Raises this process's limit of open files as far as it may: see files_for_actions."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_for_actions(options: ExecutorOptions) -> int:
    """Answers the limit of open files of an action's processes, which is lower than the host's.

    The kernel counts descriptors that are on their way through sockets for all processes of a user,
    also in sandboxes, and refuses to send more to whoever has a limit below that count: an action
    with our own limit could keep us from sending any.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return options.open_files
    return min(options.open_files, max(hard - _OWN_FILES, hard // 2))


def _limits_by_process() -> tuple[str, ...]:
    """Which limits setrlimit(2) can put in a control group's place; the number of root's processes
    is not limited by it. Memory is: private data, of each process for itself.
    """
    return ("memory",) if os.geteuid() == 0 else ("memory", "pids")


def limits_for_processes(options: ExecutorOptions, cgroups: Cgroups) -> dict[int, int]:
    """Answers the limits that each process of an action gets (setrlimit(2)).

    Data memory and processes only where no control group limits them: memory is then counted
    for each process alone, and the kernel exempts root from the other.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: files_for_actions(options),
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,
    }
    if options.file_bytes is not None:
        limits[resource.RLIMIT_FSIZE] = options.file_bytes
    if options.memory_bytes is not None and "memory" not in cgroups.controllers:
        limits[resource.RLIMIT_DATA] = options.memory_bytes
    if options.processes is not None and "pids" not in cgroups.controllers:
        limits[resource.RLIMIT_NPROC] = options.processes
    return limits


def describe_limits(options: ExecutorOptions, cgroups: Cgroups) -> str:
    """Says which limits the host enforces, how, and which not. A limit of each process is no limit
    of the action, and is not told as one.
    """
    wanted = {"memory": options.memory_bytes, "pids": options.processes, "cpu": options.cpus}
    asked = [name for name, value in wanted.items() if value is not None]
    grouped = [name for name in asked if name in cgroups.controllers]
    by_process = [name for name in asked if name not in grouped and name in _limits_by_process()]
    lost = [name for name in asked if name not in (*grouped, *by_process)]
    parts = []
    if grouped:
        parts.append(f"cgroup v{cgroups.version}: {' '.join(grouped)}")
    if by_process:
        told = (_OF_EACH_PROCESS.get(name, name) for name in by_process)
        parts.append(f"rlimit: {', '.join(told)}")
    if lost:
        parts.append(f"not enforced: {' '.join(lost)}")
    return "; ".join(parts) or "none"


def apply_limits(pid: int, limits: Mapping[int, int]) -> None:
    """Sets resource limits of another process, each at most what the host allows already."""
    for which, wanted in limits.items():
        _, hard = resource.prlimit(pid, which)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.prlimit(pid, which, (limit, limit))
