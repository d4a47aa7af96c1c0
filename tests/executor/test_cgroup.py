"""Control groups of both versions: found where they are, written as the kernel reads them.

Files of version 2 controllers are imitated, since few hosts have both versions; what the kernel
does with them is tested wherever it lets us (tests/executor/test_namespace.py).
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.cgroup import Cgroups, Group, Limits, Usage, open_cgroups

V2_FILES = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "memory.peak": "7340032\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 1\n",
    "pids.max": "max",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
}
V1_FILES = {
    "cgroup.procs": "",
    "memory.limit_in_bytes": "9223372036854771712",
    "memory.max_usage_in_bytes": "7340032\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    "pids.max": "max",
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "-1",
    "cpuacct.usage": "2500000000\n",
}
LIMITS = Limits(memory_bytes=64 << 20, processes=100, cpus=1.5)


def fill(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def fake_proc(tmp_path: Path, mountinfo: list[str], cgroup: list[str]) -> Path:
    return fill(
        tmp_path / "proc",
        {
            "mountinfo": "".join(f"{line}\n" for line in mountinfo),
            "cgroup": "".join(f"{line}\n" for line in cgroup),
        },
    )


class TestVersion2:
    def test_limits_are_written(self, tmp_path: Path) -> None:
        directory = fill(tmp_path / "g", V2_FILES)

        Group(2, dict.fromkeys(("memory", "pids", "cpu"), str(directory))).limit(LIMITS)

        assert (directory / "memory.max").read_text().startswith(str(64 << 20))
        assert (directory / "memory.swap.max").read_text().startswith("0")
        assert (directory / "memory.oom.group").read_text().startswith("1")
        assert (directory / "pids.max").read_text().startswith("100")
        assert (directory / "cpu.max").read_text().startswith("150000 100000")

    def test_usage_is_read(self, tmp_path: Path) -> None:
        directory = fill(tmp_path / "g", V2_FILES)

        usage = Group(2, dict.fromkeys(("memory", "pids", "cpu"), str(directory))).usage()

        assert usage.cpu_s == 1.5
        assert usage.peak_memory_bytes == 7340032
        assert usage.out_of_memory

    def test_disk_use_of_all_devices_is_added_up(self, tmp_path: Path) -> None:
        directory = fill(
            tmp_path / "g",
            {
                **V2_FILES,
                "io.stat": "8:0 rbytes=1000 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n"
                "254:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n",
                "pids.events": "max 3\n",
            },
        )

        usage = Group(2, dict.fromkeys(("memory", "pids", "cpu", "io"), str(directory))).usage()

        assert (usage.read_bytes, usage.written_bytes) == (1001, 22)
        assert usage.out_of_processes

    def test_what_a_group_does_not_tell_is_taken_from_elsewhere(self) -> None:
        group = Usage(cpu_s=2.0, out_of_memory=True)
        counted = Usage(cpu_s=1.0, peak_memory_bytes=5, written_bytes=7)

        assert group.filled(counted) == Usage(2.0, 5, out_of_memory=True, written_bytes=7)

    def test_more_is_written_than_has_reached_a_disk(self) -> None:
        group = Usage(read_bytes=9, written_bytes=0)
        counted = Usage(read_bytes=4, written_bytes=7)

        filled = group.filled(counted)

        assert (filled.read_bytes, filled.written_bytes) == (9, 7)

    def test_what_no_controller_counts_is_unknown(self, tmp_path: Path) -> None:
        usage = Group(2, {"memory": str(fill(tmp_path / "g", V2_FILES))}).usage()

        assert (usage.read_bytes, usage.written_bytes) == (None, None)
        assert not usage.out_of_processes

    def test_disk_use_is_counted_where_offered_and_limits_nothing(self, tmp_path: Path) -> None:
        base = fill(
            tmp_path / "mnt", {"cgroup.controllers": "pids io\n", "cgroup.subtree_control": "pids"}
        )
        fill(base / "mine", {"cgroup.subtree_control": ""})
        proc = fake_proc(tmp_path, [f"30 24 0:26 / {base} rw - cgroup2 cgroup2 rw"], ["0::/"])

        found = open_cgroups("mine", proc)

        assert found.controllers == ("pids",)
        assert (base / "cgroup.subtree_control").read_text().startswith("+io")

    def test_processes_are_made_in_the_group(self, tmp_path: Path) -> None:
        group = Group(2, dict.fromkeys(("memory", "pids"), str(tmp_path)))

        assert group.directory == str(tmp_path)
        assert group.tasks == ()

    def test_delegated_group_is_used(self, tmp_path: Path) -> None:
        base = fill(
            tmp_path / "mnt" / "user.slice" / "svc",
            {"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": ""},
        )
        fill(base / "mine", {"cgroup.subtree_control": ""})
        proc = fake_proc(
            tmp_path,
            [f"30 24 0:26 / {tmp_path}/mnt rw - cgroup2 cgroup2 rw"],
            ["0::/user.slice/svc"],
        )

        found = open_cgroups("mine", proc)

        assert found.version == 2
        assert found.controllers == ("memory", "pids", "cpu")
        for directory in (base, base / "mine"):
            written = (directory / "cgroup.subtree_control").read_text()
            assert written == "+memory +pids +cpu"

    def test_mount_that_shows_only_a_part_is_understood(self, tmp_path: Path) -> None:
        base = fill(
            tmp_path / "mnt" / "inner",
            {"cgroup.controllers": "pids\n", "cgroup.subtree_control": "pids"},
        )
        fill(base / "mine", {"cgroup.subtree_control": ""})
        proc = fake_proc(
            tmp_path,
            [f"30 24 0:26 /docker/abc {tmp_path}/mnt rw - cgroup2 cgroup2 rw"],
            ["0::/docker/abc/inner"],
        )

        assert open_cgroups("mine", proc).controllers == ("pids",)

    def test_without_controllers_version_1_is_used(self, tmp_path: Path) -> None:
        fill(tmp_path / "v2", {"cgroup.controllers": "hugetlb\n", "cgroup.subtree_control": ""})
        fill(tmp_path / "pids" / "own" / "mine", V1_FILES)
        proc = fake_proc(
            tmp_path,
            [
                f"30 24 0:26 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw",
                f"31 24 0:27 / {tmp_path}/pids rw - cgroup cgroup rw,pids",
            ],
            ["4:pids:/own", "0::/"],
        )

        found = open_cgroups("mine", proc)

        assert (found.version, found.controllers) == (1, ("pids",))


class TestVersion1:
    def test_processes_enter_by_each_hierarchy(self, tmp_path: Path) -> None:
        group = Group(1, {"memory": f"{tmp_path}/m", "pids": f"{tmp_path}/p"})

        assert group.directory is None
        assert group.tasks == (f"{tmp_path}/m/tasks", f"{tmp_path}/p/tasks")

    def test_limits_are_written(self, tmp_path: Path) -> None:
        names = ("memory", "pids", "cpu")
        of = {name: fill(tmp_path / name, V1_FILES) for name in names}

        Group(1, {name: str(path) for name, path in of.items()}).limit(LIMITS)

        assert (of["memory"] / "memory.limit_in_bytes").read_text().startswith(str(64 << 20))
        assert (of["pids"] / "pids.max").read_text().startswith("100")
        assert (of["cpu"] / "cpu.cfs_quota_us").read_text().startswith("150000")

    def test_usage_is_read(self, tmp_path: Path) -> None:
        names = ("memory", "cpu", "cpuacct")
        usage = Group(1, {name: str(fill(tmp_path / name, V1_FILES)) for name in names}).usage()

        assert (usage.cpu_s, usage.peak_memory_bytes) == (2.5, 7340032)
        assert not usage.out_of_memory

    def test_mount_point_with_a_space_is_found(self, tmp_path: Path) -> None:
        fill(tmp_path / "a b" / "mine", V1_FILES)
        proc = fake_proc(
            tmp_path,
            [rf"31 24 0:27 / {tmp_path}/a\040b rw shared:9 - cgroup cgroup rw,memory"],
            ["9:memory:/"],
        )

        assert open_cgroups("mine", proc).controllers == ("memory",)


class TestNothingWritable:
    def test_no_mounts_give_no_controllers(self, tmp_path: Path) -> None:
        found = open_cgroups("mine", fake_proc(tmp_path, [], ["0::/"]))

        assert found.controllers == ()
        assert found.describe() == "no writable control group"

    def test_missing_own_group_gives_no_controllers(self, tmp_path: Path) -> None:
        (tmp_path / "pids").mkdir()
        proc = fake_proc(
            tmp_path,
            [f"31 24 0:27 / {tmp_path}/pids rw - cgroup cgroup rw,pids"],
            ["4:pids:/gone/away"],
        )

        assert open_cgroups("mine", proc).controllers == ()


class TestRealGroups:
    @pytest.fixture
    def groups(self) -> Iterator[Cgroups]:
        groups = open_cgroups(f"armitage-test-{os.getpid()}")
        if not groups.controllers:
            pytest.skip("no writable control group")
        yield groups
        groups.clear()
        groups.close()

    def test_kill_reaches_every_member(self, groups: Cgroups) -> None:
        group = groups.group("one")
        group.make(LIMITS)
        sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
        for sleeper in sleepers:
            group.join(sleeper.pid)
        assert group.processes() == {sleeper.pid for sleeper in sleepers}

        group.kill()

        assert [sleeper.wait(10) for sleeper in sleepers] == [-9, -9, -9]
        group.remove()
        group.remove()

    def test_a_group_with_a_process_is_not_removed_at_once(self, groups: Cgroups) -> None:
        group = groups.group("busy")
        group.make(LIMITS)
        with subprocess.Popen(["sleep", "60"]) as sleeper:
            group.join(sleeper.pid)

            assert not group.remove_at_once()

            sleeper.kill()
        group.remove()
        assert group.remove_at_once()

    def test_clear_ends_what_a_predecessor_left(self, groups: Cgroups) -> None:
        group = groups.group("left")
        group.make(LIMITS)
        sleeper = subprocess.Popen(["sleep", "60"])
        group.join(sleeper.pid)

        open_cgroups(f"armitage-test-{os.getpid()}").clear()

        assert sleeper.wait(10) == -9
        assert group.processes() == set()
