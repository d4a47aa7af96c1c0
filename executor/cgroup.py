"""Control groups: limits on memory, processes and CPU time, with either version, where writable.

A group is made below this process's own, so that whatever limits it applies to its actions too.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

_PERIOD_US = 100_000
_CONTROLLERS = ("memory", "pids", "cpu")
_COUNTERS = ("io",)
"""What tells usage and sets no limit. Version 1 does not know who wrote to a disk."""
_OF_DISKS = ("read_bytes", "written_bytes")
_READ_BYTES = 64 * 1024
_REMOVAL_TRIES = 200
_REMOVAL_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Limits:
    """What one action may use; None is no limit."""

    memory_bytes: int | None
    processes: int | None
    cpus: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one action has used, as far as who measured it can tell."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False
    out_of_processes: bool = False
    """Whether its limit of processes stopped it from making one."""
    read_bytes: int | None = None
    written_bytes: int | None = None

    def filled(self, other: Usage) -> Usage:
        """Answers this, and what the other tells where this does not.

        Of bytes read and written the larger is told: control groups count those that reach a disk
        while there is a group, which are few of what a short command writes.
        """
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, mine in told.items():
            others = getattr(other, name)
            if mine is None or (name in _OF_DISKS and others is not None and others > mine):
                told[name] = others
        return Usage(**told)


class Group:
    """The group of one action: a directory in each hierarchy that we use."""

    def __init__(self, version: int, directories: Mapping[str, str]) -> None:
        """Takes the directory of each controller; for version 2 they are all the same one."""
        self._version = version
        self._of = directories
        self._all = list(dict.fromkeys(directories.values()))

    def make(self, limits: Limits) -> None:
        """Makes the group and sets its limits. Raises OSError."""
        for directory in self._all:
            os.mkdir(directory)
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Sets the limits of a group that exists. Raises OSError."""
        if "memory" in self._of and limits.memory_bytes is not None:
            self._limit_memory(self._of["memory"], limits.memory_bytes)
        if "pids" in self._of and limits.processes is not None:
            _write(f"{self._of['pids']}/pids.max", limits.processes)
        if "cpu" in self._of and limits.cpus is not None:
            directory, quota = self._of["cpu"], int(limits.cpus * _PERIOD_US)
            if self._version == 2:
                _write(f"{directory}/cpu.max", f"{quota} {_PERIOD_US}")
            else:
                _write(f"{directory}/cpu.cfs_period_us", _PERIOD_US)
                _write(f"{directory}/cpu.cfs_quota_us", quota)

    def _limit_memory(self, directory: str, limit: int) -> None:
        if self._version == 2:
            _write(f"{directory}/memory.max", limit)
            optional = {"memory.swap.max": 0, "memory.oom.group": 1}
        else:
            _write(f"{directory}/memory.limit_in_bytes", limit)
            optional = {"memory.memsw.limit_in_bytes": limit}
        for name, value in optional.items():
            with contextlib.suppress(FileNotFoundError):  # The kernel does not account swap.
                _write(f"{directory}/{name}", value)

    def join(self, pid: int) -> None:
        """Moves a process (not those it has already started) into the group. Raises OSError."""
        for directory in self._all:
            _write(f"{directory}/cgroup.procs", pid)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Files to which a process of one thread writes 0 to enter; none with version 2.

        Unlike join, that does not wait for a grace period of the kernel (some 10 ms).
        """
        return () if self._version == 2 else tuple(f"{path}/tasks" for path in self._all)

    @property
    def directory(self) -> str | None:
        """Where processes can be made in the group at once (clone3(2)); None with version 1."""
        return self._all[0] if self._version == 2 and self._all else None

    def usage(self) -> Usage:
        """Answers what was used so far; kept after the processes have ended, until remove."""
        memory, pids, io = (self._of.get(name) for name in ("memory", "pids", "io"))
        peak = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        events = "memory.events" if self._version == 2 else "memory.oom_control"
        read, written = (None, None) if io is None else _disk_bytes(f"{io}/io.stat")
        return Usage(
            cpu_s=self._cpu_s(),
            peak_memory_bytes=None if memory is None else _number(f"{memory}/{peak}"),
            out_of_memory=memory is not None and _has(f"{memory}/{events}", "oom_kill"),
            out_of_processes=pids is not None and _has(f"{pids}/pids.events", "max"),
            read_bytes=read,
            written_bytes=written,
        )

    def _cpu_s(self) -> float | None:
        if self._version == 2:
            cpu = self._of.get("cpu")
            used, unit = None if cpu is None else _keyed(f"{cpu}/cpu.stat").get("usage_usec"), 1e6
        else:
            cpu = self._of.get("cpuacct")
            used, unit = None if cpu is None else _number(f"{cpu}/cpuacct.usage"), 1e9
        return None if used is None else used / unit

    def processes(self) -> set[int]:
        """Answers the processes in the group."""
        return {pid for directory in self._all for pid in _members(directory)}

    def kill(self) -> None:
        """Kills every process in the group, also such as start while this goes on."""
        if self._version == 2:
            with contextlib.suppress(FileNotFoundError):
                _write(f"{self._all[0]}/cgroup.kill", 1)
                return
        while pids := self.processes():
            alive = [pid for pid in pids if _kill(pid)]
            if not alive:
                return
            time.sleep(_REMOVAL_PAUSE_S)

    def remove_at_once(self) -> bool:
        """Removes the group if its last processes are gone; answers whether it is. Never waits."""
        try:
            for directory in self._all:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(directory)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Removes the group, waiting a moment for the last processes to be gone. Raises OSError."""
        for directory in self._all:
            _remove(directory)


class Cgroups:
    """Where this process may make groups, found at the start. See `describe`."""

    def __init__(self, version: int, parents: Mapping[str, Path]) -> None:
        """Takes the directory below which to make groups, for each usable controller."""
        self.version = version
        self._parents = parents

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers that limits can be set with."""
        return tuple(name for name in _CONTROLLERS if name in self._parents)

    def describe(self) -> str:
        """Says in a few words what limits are enforced with."""
        if not self.controllers:
            return "no writable control group"
        return f"cgroup v{self.version}: {', '.join(self.controllers)}"

    def group(self, name: str) -> Group:
        """Answers the (unmade) group of one action."""
        return Group(self.version, {key: f"{path}/{name}" for key, path in self._parents.items()})

    def clear(self) -> None:
        """Kills and removes all groups that a killed predecessor left here."""
        for name in {
            entry.name
            for parent in self._parents.values()
            for entry in parent.iterdir()
            if entry.is_dir()
        }:
            of = {key: f"{path}/{name}" for key, path in self._parents.items()}
            of = {key: path for key, path in of.items() if os.path.exists(path)}
            group = Group(self.version, of)
            group.kill()
            group.remove()

    def close(self) -> None:
        """Removes what open_cgroups made. Raises OSError while groups exist."""
        for parent in dict.fromkeys(self._parents.values()):
            _remove(str(parent))


def open_cgroups(
    name: str, proc: Path = Path("/proc/self"), wanted: tuple[str, ...] = _CONTROLLERS
) -> Cgroups:
    """Makes a group `name` below this process's own in each hierarchy where that is allowed.

    Prefers version 2 when it has the controllers. Answers one without controllers where nothing is
    writable. `proc` has `mountinfo` and `cgroup` as in proc(5).
    """
    mounts = _mounts((proc / "mountinfo").read_text())
    own = _own_groups((proc / "cgroup").read_text())
    unified = mounts.get("cgroup2")
    if unified is not None and "" in own:
        found = _open_v2(_below(*unified, own[""]), name, wanted)
        if found is not None:
            return found
    parents: dict[str, Path] = {}
    for controller in (*wanted, "cpuacct"):
        mount = mounts.get(controller)
        if mount is None or controller not in own:
            continue
        parent = _below(*mount, own[controller]) / name
        try:
            parent.mkdir(exist_ok=True)
            if os.access(parent / "cgroup.procs", os.W_OK):
                parents[controller] = parent
        except OSError:
            continue  # Not ours to write; the caller reports which controllers were found.
    return Cgroups(1, parents)


def _open_v2(base: Path, name: str, wanted: tuple[str, ...]) -> Cgroups | None:
    try:
        offered = set((base / "cgroup.controllers").read_text().split())
        usable = [controller for controller in wanted if controller in offered]
        if not usable:
            return None
        enabled = set((base / "cgroup.subtree_control").read_text().split())
        if not enabled.issuperset(usable):
            _vacate(base)
            _write(f"{base}/cgroup.subtree_control", " ".join(f"+{c}" for c in usable))
        parent = base / name
        parent.mkdir(exist_ok=True)
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{c}" for c in usable))
    except OSError:
        return None  # Not delegated to us; version 1 may still be.
    if _add_counters(base, parent, offered):
        usable += _COUNTERS
    return Cgroups(2, dict.fromkeys(usable, parent))


def _add_counters(base: Path, parent: Path, offered: set[str]) -> bool:
    if not offered.issuperset(_COUNTERS):
        return False
    try:
        for directory in (base, parent):
            _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{c}" for c in _COUNTERS))
    except OSError:
        return False  # Limits do without.
    return True


def _vacate(base: Path) -> None:
    """Moves this process into a leaf when it is alone in its group.

    A version 2 group that hands controllers down may hold no processes itself (cgroups(7), "no
    internal processes").
    """
    if not (base / "cgroup.type").exists():
        return  # The root group, which is exempt.
    members = _members(str(base))
    if members == {os.getpid()}:
        leaf = base / "daemon"
        leaf.mkdir(exist_ok=True)
        _write(f"{leaf}/cgroup.procs", os.getpid())


def _mounts(mountinfo: str) -> dict[str, tuple[str, Path]]:
    """Answers root and mount point of each hierarchy, by controller or `cgroup2`."""
    found: dict[str, tuple[str, Path]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = (_unescape(part) for part in left.split(" ")[3:5])
        if kind == "cgroup2":
            found.setdefault("cgroup2", (root, Path(point)))
        elif kind == "cgroup":
            for controller in options.split(","):
                found.setdefault(controller, (root, Path(point)))
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _own_groups(text: str) -> dict[str, str]:
    """Answers this process's group by controller; the key of version 2 is empty."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _below(root: str, point: Path, group: str) -> Path:
    """Answers where a group shows below a mount whose root may be a group itself (containers)."""
    if root != "/" and (group == root or group.startswith(root + "/")):
        group = group[len(root) :]
    return point / group.lstrip("/")


def _write(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    """Answers what is in a file; empty when there is none. Each action has several read: an open
    file of Python's takes twice as long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, _READ_BYTES), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)


def _number(path: str) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None


def _keyed(path: str) -> dict[str, int]:
    pairs = (line.partition(" ") for line in _read(path).decode().splitlines())
    return {key: int(value) for key, _, value in pairs if value.isdigit()}


def _has(path: str, key: str) -> bool:
    return _keyed(path).get(key, 0) > 0


def _disk_bytes(path: str) -> tuple[int | None, int | None]:
    """Answers bytes read and written of all devices in an `io.stat`."""
    if not os.path.exists(path):
        return None, None
    pairs = [word.partition("=") for word in _read(path).decode().split()]
    return (
        sum(int(value) for key, _, value in pairs if key == "rbytes"),
        sum(int(value) for key, _, value in pairs if key == "wbytes"),
    )


def _members(directory: str) -> set[int]:
    return {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _remove(directory: str) -> None:
    for attempt in range(_REMOVAL_TRIES):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError:
            if attempt == _REMOVAL_TRIES - 1:
                raise
            time.sleep(_REMOVAL_PAUSE_S)
