"""What sandboxes keep from an action, and keep an action from, whatever makes them."""

import asyncio
import json
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import (
    Bench,
    Exe,
    JsonCodec,
    Link,
    Tree,
    get_tree,
)
from support.sandboxes import open_bench

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.cgroup import Cgroups
from executor.errors import InvalidInput, SandboxUnavailable, TimedOut, WorkerFailure
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, FilesystemRoot, LauncherKind
from executor.spec import Devices, OutputKind, OutputRequest
from executor.tree_cache import TreeCacheOptions

pytestmark = pytest.mark.sandbox


class NoGroups(NamespaceExecutor):
    """As on a host where no control group is writable."""

    def _open_cgroups(self) -> Cgroups:
        return Cgroups(1, {})


async def succeeds(bench: Bench, script: str) -> bool:
    return (await bench.sh(script)).exit_code == 0


class TestNetwork:
    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener

    async def test_hosts_loopback_is_unreachable(
        self, bench: Bench, listener: socket.socket
    ) -> None:
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"

        outcome = await bench.run("python3", "-c", code)

        assert "ConnectionRefusedError" in await bench.errors(outcome)
        assert select.select([listener], [], [], 0)[0] == []

    async def test_only_a_loopback_interface_is_there(self, bench: Bench) -> None:
        printed = await bench.says("tail -n +3 /proc/net/dev | cut -d: -f1")

        assert printed.split() == ["lo"]

    async def test_hosts_abstract_sockets_are_unreachable(self, bench: Bench) -> None:
        name = f"\0armitage-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen()
            code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"

            outcome = await bench.run("python3", "-c", code)

        assert "ConnectionRefusedError" in await bench.errors(outcome)


class TestFilesystem:
    async def test_only_the_documented_places_are_there(self, bench: Bench) -> None:
        printed = await bench.says("ls -A /")

        known = {"bin", "build", "dev", "etc", "proc", "sbin", "tmp", "usr"}
        assert set(printed.split()) <= known | {"lib", "lib32", "lib64", "libx32"}
        assert {"build", "dev", "etc", "proc", "tmp", "usr"} <= set(printed.split())

    async def test_etc_is_synthetic(self, bench: Bench) -> None:
        printed = await bench.says("ls -A /etc; cat /etc/passwd")

        assert "shadow" not in printed
        assert "resolv.conf" not in printed
        assert "build:x:1000:1000:" in printed

    async def test_secret_beside_the_scratch_space_is_invisible(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("secret")

        assert not await succeeds(bench, f"cat {tmp_path}/secret")
        assert not await succeeds(bench, f"ls {bench.scratch}")
        assert not await succeeds(bench, "cat /proc/1/root/etc/shadow")

    @pytest.mark.parametrize("place", ["/", "/usr", "/usr/bin", "/etc", "/etc/passwd", "/dev"])
    async def test_everything_else_is_read_only(self, bench: Bench, place: str) -> None:
        script = f"if [ -d {place} ]; then echo > {place}/x; else echo > {place}; fi"

        outcome = await bench.sh(script)

        assert outcome.exit_code != 0
        assert "Read-only file system" in await bench.errors(outcome)

    async def test_mounts_cannot_be_changed(self, bench: Bench) -> None:
        assert not await succeeds(bench, "mount -o remount,rw /usr")
        assert not await succeeds(bench, "umount /usr")
        assert not await succeeds(bench, "mount -t tmpfs none /tmp")

    async def test_tmp_is_private_and_gone_afterwards(self, bench: Bench) -> None:
        await bench.says("echo > /tmp/one; echo > /dev/shm/two")

        assert await bench.says("ls -A /tmp /dev/shm") == "/dev/shm:\n\n/tmp:\n"
        assert not os.access("/tmp/one", os.F_OK)
        assert await bench.says("stat -c %a /tmp /dev/shm") == "1777\n1777\n"

    async def test_tmp_is_bounded(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, tmp_bytes=1 << 20)) as bench:
            for place in ("/tmp", "/dev/shm"):
                outcome = await bench.sh(f"head -c 3000000 /dev/zero > {place}/x")
                assert "No space left" in await bench.errors(outcome)

    async def test_devices_are_few(self, bench: Bench) -> None:
        printed = await bench.says("find /dev -type b -o -type c | sort")

        names = {Path(line).name for line in printed.split()}
        assert names <= {"full", "null", "random", "tty", "urandom", "zero", "ptmx"}

    async def test_scratch_inside_the_toolchain_is_refused(self, tmp_path: Path) -> None:
        options = ExecutorOptions(
            scratch=tmp_path / "scratch", toolchain=("/usr", "/bin", "/lib*", str(tmp_path))
        )

        with pytest.raises(SandboxUnavailable, match="toolchain path"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)

    async def test_daemons_data_inside_the_toolchain_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "tools" / "data").mkdir(parents=True)
        options = ExecutorOptions(
            scratch=tmp_path / "scratch",
            toolchain=("/usr", "/bin", "/lib*", str(tmp_path / "tools")),
            private=(tmp_path / "tools" / "data",),
        )

        with pytest.raises(SandboxUnavailable, match="data, the daemon's own"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)


class TestPrivileges:
    async def test_command_is_not_root_and_has_no_capabilities(self, bench: Bench) -> None:
        printed = await bench.says("id -u; id -g; grep -E '^Cap|NoNewPrivs' /proc/self/status")

        uid, gid, *rest = printed.splitlines()
        assert (uid, gid) == ("1000", "1000")
        for line in rest:
            name, value = line.split()
            assert int(value, 16) == (1 if name == "NoNewPrivs:" else 0), line

    async def test_setuid_programs_gain_nothing(self, bench: Bench) -> None:
        script = "cp /usr/bin/id id; chmod u+s id; ./id -u; grep -c nosuid /proc/self/mounts"

        uid, mounts = (await bench.says(script)).split()

        assert uid == "1000"
        assert int(mounts) > 0

    async def test_further_user_namespaces_are_refused(self, bench: Bench) -> None:
        if bench.executor.sandbox()["nested-namespaces"] == "yes":  # type: ignore[attr-defined]
            pytest.skip("this bubblewrap cannot forbid them")
        assert not await succeeds(bench, "unshare --user true")

    async def test_other_processes_are_invisible(self, bench: Bench) -> None:
        printed = await bench.says(
            "ls /proc | grep -E '^[0-9]+$'; cat /proc/*/cmdline | tr '\\0' ' '"
        )

        assert "pytest" not in printed
        assert str(os.getpid()) not in printed.split()

    async def test_hosts_processes_cannot_be_signalled(self, bench: Bench) -> None:
        assert not await succeeds(bench, f"kill -0 {os.getpid()}")

    async def test_host_name_is_fixed(self, bench: Bench) -> None:
        assert (await bench.says("uname -n")).strip() == "armitage"

    async def test_there_is_no_terminal(self, bench: Bench) -> None:
        assert not await succeeds(bench, "echo > /dev/tty")

    async def test_ipc_objects_are_its_own(self, bench: Bench) -> None:
        printed = await bench.says("readlink /proc/self/ns/ipc")

        assert printed.strip() != os.readlink("/proc/self/ns/ipc")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Exe:
    """A program that needs nothing of the host, and says what it sees."""
    directory = tmp_path_factory.mktemp("program")
    (directory / "p.c").write_text(PROBE_SOURCE)
    done = subprocess.run(
        ["cc", "-static", "-o", directory / "p", directory / "p.c"],
        check=False,
        capture_output=True,
    )
    if done.returncode != 0:
        pytest.skip("no C compiler that links statically (apt-get install gcc libc6-dev)")
    return Exe((directory / "p").read_bytes())


class TestRootModes:
    @pytest.fixture(params=[0, 1_000], ids=["shared", "copied"])
    async def chroot(
        self, options: ExecutorOptions, request: pytest.FixtureRequest
    ) -> AsyncIterator[Bench]:
        cache = TreeCacheOptions(from_entries=request.param)
        inputs = replace(options, filesystem_root=FilesystemRoot.INPUTS, tree_cache=cache)
        async with open_bench(inputs) as bench:
            yield bench

    async def test_input_root_is_the_filesystem_root(self, chroot: Bench, program: Exe) -> None:
        tree: Tree = {"bin": {"p": program}, "a": {"b": {}}, "data": b"seen"}

        outcome = await chroot.run(
            "/bin/p",
            tree=tree,
            working_directory="a/b",
            outputs=[OutputRequest("../..", OutputKind.DIRECTORY)],
        )

        assert await chroot.text(outcome) == "seen /a/b 1000 1000 no-usr\n"
        assert outcome.sandbox["root"] == "inputs"
        found = await get_tree(chroot.store, outcome.directories[0].root)
        assert set(found) == {"bin", "a", "data", "made"}

    async def test_platform_can_ask_for_it(self, bench: Bench, program: Exe) -> None:
        tree: Tree = {"p": program, "data": b"d"}

        by_name = await bench.run("/p", tree=tree, platform={"chroot-input-root": "true"})
        by_user = await bench.run("/p", tree=tree, platform={"unixUID": "0", "unixGID": "7"})
        plain = await bench.run("./p", tree=tree, platform={"chroot-input-root": "false"})

        assert await bench.text(by_name) == "d / 1000 1000 no-usr\n"
        assert await bench.text(by_user) == "d / 0 7 no-usr\n"
        assert await bench.text(plain) == "- /build 1000 1000 usr\n"

    async def test_policy_may_forbid_it(self, options: ExecutorOptions) -> None:
        policy = replace(options, filesystem_root=FilesystemRoot.TOOLCHAIN)
        async with open_bench(policy) as bench:
            outcome = await bench.run("pwd", platform={"chroot-input-root": "true"})
            assert await bench.text(outcome) == "/build\n"

    @pytest.mark.parametrize("name", ["dev", "proc", "tmp"])
    async def test_link_at_a_mount_point_is_refused(self, chroot: Bench, name: str) -> None:
        with pytest.raises(InvalidInput, match=name):
            await chroot.run("/p", tree={name: Link("/oldroot/tmp")})

    async def test_user_that_is_no_number_is_refused(self, chroot: Bench) -> None:
        with pytest.raises(InvalidInput, match="unixUID"):
            await chroot.run("/p", platform={"unixUID": "root"})


PROBE_SOURCE = r"""
#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    char data[16] = "-", cwd[256];
    FILE *f = fopen("/data", "r");
    if (f) data[fread(data, 1, 15, f)] = 0;
    mkdir("/made", 0755);
    printf("%s %s %d %d %s\n", data, getcwd(cwd, 256), getuid(), getgid(),
           access("/usr", F_OK) ? "no-usr" : "usr");
    return 0;
}
"""


class TestLimits:
    async def test_memory_bomb_is_killed_and_said_so(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, memory_bytes=96 << 20)) as bench:
            code = "x = []\nwhile True: x.append(bytearray(1 << 20))"

            outcome = await bench.run("python3", "-c", code)

            if "memory" in bench.executor._cgroups.controllers:  # type: ignore[attr-defined]
                assert outcome.exit_code == 137
                assert "out of memory (the limit is 96 MiB)" in outcome.message
            else:
                assert outcome.exit_code != 0
            assert await bench.says("echo fine") == "fine\n"

    async def test_memory_in_tmp_counts(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, memory_bytes=64 << 20)) as bench:
            if "memory" not in bench.executor._cgroups.controllers:  # type: ignore[attr-defined]
                pytest.skip("no writable memory control group")
            outcome = await bench.sh("head -c 200000000 /dev/zero > /tmp/x")
            assert outcome.exit_code != 0

    async def test_memory_bomb_is_bounded_without_control_groups(
        self, options: ExecutorOptions
    ) -> None:
        async with open_bench(replace(options, memory_bytes=96 << 20), kind=NoGroups) as bench:
            code = "x = []\nwhile True: x.append(bytearray(1 << 20))"

            outcome = await bench.run("python3", "-c", code)

            assert "MemoryError" in await bench.errors(outcome)
            assert "rlimit: private memory of each process alone" in outcome.sandbox["limits"]
            assert outcome.evidence is not None
            assert outcome.evidence.profile is not None
            profile = json.loads(await bench.store.get(outcome.evidence.profile))
            assert profile["limits"]["memory_bytes"] is None
            assert profile["limits"]["rlimits"][str(resource.RLIMIT_DATA)] == 96 << 20

    async def test_processes_are_bounded(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, processes=32)) as bench:
            outcome = await bench.run("python3", "-c", FORKS)

            if "not enforced: pids" in outcome.sandbox["limits"]:
                pytest.skip("this host cannot bound the processes of root")
            assert 0 < int(await bench.text(outcome)) < 32

    @pytest.mark.slow
    async def test_fork_bomb_ends_with_its_action(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, processes=64)) as bench:
            if "not enforced: pids" in bench.executor.sandbox()["limits"]:  # type: ignore[attr-defined]
                pytest.skip("this host cannot bound the processes of root")
            with pytest.raises(TimedOut):
                # The shell starts one process alone: it would give up when it may start no other.
                await bench.sh("bomb() { bomb | bomb & }; bomb & exec sleep 30", timeout_s=0.5)
            assert await bench.says("echo fine") == "fine\n"

    async def test_open_files_are_bounded(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, open_files=123)) as bench:
            assert (await bench.says("ulimit -n")).strip() == "123"

    async def test_files_are_bounded(self, options: ExecutorOptions) -> None:
        async with open_bench(replace(options, file_bytes=1 << 20)) as bench:
            outcome = await bench.sh("head -c 2000000 /dev/zero > big", outputs=["big"])

            assert outcome.exit_code != 0
            assert outcome.files[0].digest.size_bytes <= 1 << 20

    async def test_usage_is_measured(self, bench: Bench) -> None:
        if not {"memory", "cpu"} <= set(bench.executor._cgroups.controllers):  # type: ignore[attr-defined]
            pytest.skip("no writable control groups")

        code = "x = bytearray(30 << 20)\nfor i in range(10**6): pass"
        outcome = await bench.run("python3", "-c", code)

        assert outcome.resources.cpu_s is not None
        assert 0.01 < outcome.resources.cpu_s < 20
        assert outcome.resources.peak_memory_bytes is not None
        assert outcome.resources.peak_memory_bytes > 30 << 20

    async def test_bytes_to_disk_are_counted(self, options: ExecutorOptions, bench: Bench) -> None:
        if options.launcher is LauncherKind.BUBBLEWRAP:
            pytest.skip("bubblewrap tells nothing of what its processes used")
        if filesystem_of(bench.scratch) == "tmpfs":
            pytest.skip("files in memory have no disk")

        nothing = await bench.sh(":")
        outcome = await bench.sh("head -c 5000000 /dev/zero > big; rm big")

        assert nothing.resources.written_bytes is not None
        assert nothing.resources.written_bytes < 1 << 20
        assert outcome.resources.read_bytes is not None
        assert outcome.resources.written_bytes is not None
        assert 5000000 <= outcome.resources.written_bytes < 6 << 20

    @pytest.mark.slow
    async def test_nearly_full_scratch_space_ends_the_action(
        self, options: ExecutorOptions
    ) -> None:
        async with open_bench(replace(options, reserve_bytes=1 << 60)) as bench:
            with pytest.raises(WorkerFailure, match="free in scratch"):
                await bench.run("sleep", "30")
            assert bench.leftovers() == []


def filesystem_of(path: Path) -> str:
    command = ["stat", "-f", "-c", "%T", str(path)]
    return subprocess.check_output(command, text=True).strip()


FORKS = """
import os, sys
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            import time
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count)
"""


class TestDaemonEnd:
    @pytest.mark.slow
    async def test_killed_daemon_takes_its_actions_along(self, options: ExecutorOptions) -> None:
        marker = f"35{os.getpid()}.5"
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DAEMON, str(options.scratch), marker),
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert daemon.stdout is not None
        assert await daemon.stdout.readline() == b"running\n"
        watches = [os.pidfd_open(pid) for pid in processes_with(marker)]

        daemon.kill()
        await daemon.wait()

        assert watches
        for watch in watches:
            assert select.select([watch], [], [], 10)[0] == [watch]
            os.close(watch)
        async with open_bench(options) as bench:
            assert bench.leftovers() == []

    async def test_leftovers_of_a_killed_daemon_are_removed(self, options: ExecutorOptions) -> None:
        deep = options.scratch / "work" / "old" / "root" / "d"
        deep.mkdir(parents=True)
        (deep / "f").write_text("x")
        deep.chmod(0)
        (options.scratch / "trash" / "half").mkdir(parents=True)

        async with open_bench(options) as bench:
            assert bench.leftovers() == []

    async def test_scratch_in_use_is_refused(self, bench: Bench, options: ExecutorOptions) -> None:
        with pytest.raises(SandboxUnavailable, match="another process uses it"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)

    async def test_control_groups_are_removed_on_close(self, options: ExecutorOptions) -> None:
        async with open_bench(options) as bench:
            await bench.run("true")
            parents = set(bench.executor._cgroups._parents.values())  # type: ignore[attr-defined]
            assert all(not any(p.is_dir() for p in parent.iterdir()) for parent in parents)

        assert not any(parent.exists() for parent in parents)


DAEMON = """
import asyncio, sys
from pathlib import Path
from support.executing import Bench, JsonCodec, Seen, Tree
from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.options import ExecutorOptions
from executor.namespace import NamespaceExecutor

class Loud(Seen):
    def stdout(self, data):
        print("running", flush=True)

async def main():
    options = ExecutorOptions(scratch=Path(sys.argv[1]))
    store = MemoryStore()
    executor = NamespaceExecutor(store, JsonCodec(), options, SystemClock().wall)
    script = f"setsid sleep {sys.argv[2]} & echo; sleep {sys.argv[2]}"
    await Bench(executor, store, options.scratch, "/build").sh(script, progress=Loud())

asyncio.run(main())
"""


class TestLauncher:
    async def test_missing_bubblewrap_says_what_to_install(self, tmp_path: Path) -> None:
        options = ExecutorOptions(
            scratch=tmp_path / "s", bubblewrap="/no/such/bwrap", launcher=LauncherKind.BUBBLEWRAP
        )

        with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)

        assert not options.scratch.exists()

    async def test_host_that_cannot_sandbox_says_how_to_mend_it(self, tmp_path: Path) -> None:
        broken = tmp_path / "bwrap"
        broken.write_text(
            "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
        )
        broken.chmod(0o755)
        options = ExecutorOptions(
            scratch=tmp_path / "s", bubblewrap=str(broken), launcher=LauncherKind.BUBBLEWRAP
        )

        with pytest.raises(SandboxUnavailable, match=r"No permissions.*--accept-unsandboxed"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)

    async def test_failed_launch_is_the_workers_fault(self, bench: Bench) -> None:
        devices = Devices(leased=(), files=("/no/such/place",))

        with pytest.raises(WorkerFailure, match="no/such/place"):
            await bench.run("true", devices=devices)

        assert bench.leftovers() == []

    async def test_command_cannot_pass_for_a_failed_launch(self, bench: Bench) -> None:
        outcome = await bench.sh("echo 'bwrap: execvp x: No such file or directory' >&2; exit 1")

        assert outcome.exit_code == 1
        assert "bwrap" in await bench.errors(outcome)

    async def test_loader_variables_do_not_reach_the_launcher(self, bench: Bench) -> None:
        environment = {"LD_PRELOAD": "/no/such/library.so"}

        outcome = await bench.run("true", environment=environment)

        # The command's own loader complains, inside; once for the one program started.
        assert (await bench.errors(outcome)).count("library.so") == 1

    async def test_no_mounts_are_left_on_the_host(self, bench: Bench) -> None:
        before = mounts()

        await bench.run("true")

        assert mounts() == before


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def processes_with(marker: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in arguments:
                found.append(int(name))
    return found
