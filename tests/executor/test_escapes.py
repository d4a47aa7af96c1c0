"""Ways out of a sandbox that have been used elsewhere: each is tried, and shown to be closed."""

import asyncio
import errno
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import (
    Bench,
    Exe,
    Link,
    Seen,
    Tree,
    get_tree,
)
from support.sandboxes import image, open_bench, options_for

from executor.errors import InvalidInput, InvalidOutput, TimedOut, WorkerFailure
from executor.launcher.binary import BINARY
from executor.launcher.own import OwnLauncher
from executor.launcher.profile import system_calls
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.process import Job, Process
from executor.scratch import Shortage
from executor.spec import EndedBy

PROBE = Path(__file__).parent / "launcher" / "probe.c"
pytestmark = pytest.mark.sandbox


@pytest.fixture
async def either(options: ExecutorOptions) -> AsyncIterator[Bench]:
    """With our own launcher, and with bubblewrap, which keeps this as well."""
    async with open_bench(options) as bench:
        yield bench


@pytest.fixture
async def bench(own: ExecutorOptions) -> AsyncIterator[Bench]:
    async with open_bench(own) as bench:
        yield bench


SENDING = """
import array, errno, socket, time
descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 250))]
pairs = []
while True:
    pairs.append(socket.socketpair())
    pairs[-1][0].setblocking(False)
    try:
        while True:
            pairs[-1][0].sendmsg([b"x"], descriptors)
    except BlockingIOError:
        continue
    except OSError as error:
        assert error.errno == errno.ETOOMANYREFS, error
        break
print("as many as it may", flush=True)
time.sleep(60)
"""


KEYCTL = {"x86_64": 250, "aarch64": 219}
CALLING = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in sys.argv[1:]:
    ctypes.set_errno(0)
    libc.syscall(int(number), 0, -3, 0)
    print(ctypes.get_errno())
"""
LOOKING = """
import os
try:
    is_ours = os.path.samefile("/proc/1/root/", "/")
except PermissionError:
    is_ours = True
print("closed" if is_ours else "open")
try:
    os.open("/proc/1/exe", os.O_WRONLY)
except OSError:
    print("closed")
"""
LOGGING = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.klogctl(3, ctypes.create_string_buffer(100), 100)
print(errno.errorcode[ctypes.get_errno()])
"""
SIGNALLING = """
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 2])
libc, count = ctypes.CDLL(None), 0
while libc.sigqueue(os.getpid(), signal.SIGRTMIN + 2, None) == 0:
    count += 1
print(count)
"""


@contextmanager
def launching_in(executor: NamespaceExecutor, cwd: tuple[str, ...]) -> Iterator[None]:
    """Lets jobs start in a directory of the sandbox that no request could ask for."""
    launch = executor._launch

    def start(job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        return launch(replace(job, cwd=cwd), stdout_fd, stderr_fd)

    executor._launch = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        del executor._launch


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Lets whoever is started have few open files, unless he raises his limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def first_process(launcher: OwnLauncher, namespace: str) -> str:
    """Of the sandbox that calls its namespace of processes so."""
    server = launcher._server._process.pid
    for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        with suppress(FileNotFoundError):  # One that has ended since.
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                return pid
    raise AssertionError(f"no child of the launcher is in {namespace}")


def compiled(source: Path, target: Path, *flags: str) -> bytes:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (apt-get install gcc)")
    command = [compiler, "-static", "-O1", *flags, "-I", str(BINARY.parent), "-o", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no static program (apt-get install libc6-dev): {done.stderr[-200:]}")
    return target.read_bytes()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[int, int]]:
    """What the probe met in a sandbox and should have met, by what it tried."""
    place = tmp_path_factory.mktemp("probe")
    options = options_for(LauncherKind.ARMITAGE, place / "scratch")
    program = compiled(PROBE, place / "probe")

    async def run() -> str:
        async with open_bench(options) as bench:
            return await bench.says("./probe", tree={"probe": Exe(program)})

    lines = asyncio.run(run()).splitlines()
    return {name: (int(met), int(wanted)) for name, met, wanted in map(str.split, lines)}


def test_every_call_of_the_list_is_denied_as_it_says(
    found: Mapping[str, tuple[int, int]],
) -> None:
    wrong = {
        name: [errno.errorcode.get(number, str(number)) for number in pair]
        for name, pair in found.items()
        if pair[0] != pair[1]
    }

    assert wrong == {}
    if platform.machine() == "x86_64":
        limited = {"clone", "ioctl", "personality", "prlimit64", "socket", "socketpair", "unshare"}
        assert set(system_calls()) - limited <= set(found)


@pytest.mark.parametrize(
    "name", ["io_setup", "io_uring_setup", "keyctl", "syslog", "bpf", "userfaultfd"]
)
def test_parts_of_the_kernel_that_builds_do_not_need_are_closed(
    found: Mapping[str, tuple[int, int]], name: str
) -> None:
    assert found[name][0] in {errno.EPERM, errno.ENOSYS}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 has a second numbering")
async def test_calls_of_another_architecture_kill(bench: Bench, tmp_path: Path) -> None:
    """`int 0x80` takes 32-bit numbers, of which the filter's list knows nothing."""
    source = tmp_path / "p.c"
    source.write_text('int main(void) { __asm__("int $0x80" :: "a"(20)); return 0; }')
    program = compiled(source, tmp_path / "p")

    outcome = await bench.sh("exec ./p", tree={"p": Exe(program)})

    assert outcome.ended_by is EndedBy.SIGNAL
    assert "SIGSYS" in outcome.message


class TestProc:
    @pytest.mark.parametrize("name", ["root", "cwd", "exe", "fd/0", "ns/mnt"])
    async def test_first_process_leads_nowhere(self, bench: Bench, name: str) -> None:
        """/proc/1/exe is the launcher on the host, and /proc/1/root was once a way out."""
        code = f"import os; os.open('/proc/1/{name}', os.O_RDONLY)"

        outcome = await bench.run("python3", "-c", code)

        assert "PermissionError" in await bench.errors(outcome)

    @pytest.mark.parametrize("name", ["environ", "mem", "maps", "auxv"])
    async def test_first_process_keeps_its_memory(self, bench: Bench, name: str) -> None:
        outcome = await bench.sh(f"cat /proc/1/{name}")

        assert outcome.stdout.size_bytes == 0
        assert outcome.exit_code != 0

    async def test_first_process_is_no_way_to_files_outside(self, either: Bench) -> None:
        """bubblewrap's can be looked into, and is the host's program (CVE-2019-5736)."""
        outcome = await either.run("python3", "-c", LOOKING)

        assert await either.text(outcome) == "closed\nclosed\n"

    async def test_log_of_the_kernel_cannot_be_read(
        self, options: ExecutorOptions, either: Bench
    ) -> None:
        restricted = await either.says("cat /proc/sys/kernel/dmesg_restrict")
        if options.launcher is LauncherKind.BUBBLEWRAP and restricted == "0\n":
            pytest.skip("kernel.dmesg_restrict of this host is 0: every process may")

        outcome = await either.run("python3", "-c", LOGGING)

        assert await either.text(outcome) == "EPERM\n"

    @pytest.mark.parametrize(
        "path", ["sys/kernel/core_pattern", "sys/vm/overcommit_memory", "self/oom_score_adj"]
    )
    async def test_settings_of_the_kernel_cannot_be_written(self, either: Bench, path: str) -> None:
        """Appending nothing changes nothing, even where it is let through."""
        outcome = await either.sh(f": >> /proc/{path}")

        assert outcome.exit_code != 0
        # The kernel looks first at whose a file is.
        is_anothers = path.startswith("sys/") and os.geteuid() != 0
        said = "Permission denied" if is_anothers else "Read-only file system"
        assert said in await either.errors(outcome)

    @pytest.mark.parametrize("name", ["kcore", "keys", "kmsg", "timer_list", "vmallocinfo"])
    async def test_what_tells_of_the_host_tells_nothing(self, bench: Bench, name: str) -> None:
        outcome = await bench.sh(f"head -c 100 /proc/{name}")

        assert outcome.stdout.size_bytes == 0

    async def test_control_groups_of_the_host_are_not_named(self, bench: Bench) -> None:
        assert set((await bench.says("cut -d : -f 3- /proc/self/cgroup")).split()) <= {"/"}

    async def test_nobody_has_a_capability_or_gets_one(self, either: Bench) -> None:
        """Neither the command nor the sandbox's first process."""
        said = await either.says("grep -hE '^(Cap|NoNewPrivs)' /proc/self/status /proc/1/status")

        kinds = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert sorted(said.splitlines()) == sorted(
            2 * [*(f"{kind}:\t{0:016}" for kind in kinds), "NoNewPrivs:\t1"]
        )

    async def test_there_is_no_sys(self, either: Bench) -> None:
        assert (await either.sh("ls /sys")).exit_code != 0


class TestFilesystem:
    @pytest.mark.parametrize(
        ("directory", "links"),
        [
            ("proc/self/fd/{}", {}),
            ("dev/fd/{}", {}),
            ("in/fd/{}", {"in": Link("proc/self")}),
            ("in", {"in": Link("/proc/self/fd/{}")}),
        ],
    )
    async def test_working_directory_is_none_of_the_launchers_descriptors(
        self, either: Bench, directory: str, links: Mapping[str, Link]
    ) -> None:
        """Directories of the input root named like open ones of the host's, which /proc leads to
        (CVE-2024-21626).
        """
        for number in (3, 10):
            open_: Tree = {"fd": {str(number): {}}}
            tree: Tree = {"proc": {"self": open_}, "dev": open_} | {
                name: Link(link.target.format(number)) for name, link in links.items()
            }
            with pytest.raises(InvalidInput, match=r"input root|input tree"):
                await either.run(
                    "/pwd",
                    tree=tree,
                    working_directory=directory.format(number),
                    platform={"chroot-input-root": "true"},
                )

    async def test_launcher_enters_no_descriptor_even_when_told_to(self, bench: Bench) -> None:
        """As if the check that is made first had a hole."""
        executor = bench.executor
        assert isinstance(executor, NamespaceExecutor)
        for place in ("cwd", "root", *(f"fd/{number}" for number in range(3, 16))):
            cwd = ("..", "proc", "self", *place.split("/"))
            with (
                launching_in(executor, cwd),
                pytest.raises(WorkerFailure, match="entering the working directory"),
            ):
                await bench.run("true")

    @pytest.mark.skipif(os.geteuid() != 0, reason="the host's devices are root's")
    async def test_modes_of_the_hosts_devices_cannot_be_changed(self, bench: Bench) -> None:
        before = os.stat("/dev/full")
        script = "chmod 600 /dev/full; touch -d @1 /dev/full; chmod 666 /proc/kmsg; : > /dev/null"
        try:
            outcome = await bench.sh(script)
            after = os.stat("/dev/full")
        finally:
            os.chmod("/dev/full", before.st_mode & 0o7777)

        assert (await bench.errors(outcome)).count("Read-only file system") == 3
        assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)
        assert outcome.exit_code == 0

    async def test_devices_of_an_input_root_cannot_be_replaced(self, bench: Bench) -> None:
        """Nor are files kept beside them, which no limit of /tmp would count."""
        outcome = await bench.run(
            "/bin/sh",
            "-c",
            "echo > /dev/null; echo > /dev/more; /bin/busybox rm -f /dev/null /dev/stdin",
            tree=image(),
            platform={"chroot-input-root": "true"},
        )

        assert (await bench.errors(outcome)).count("Read-only file system") == 3

    async def test_mounting_in_new_namespaces_is_closed(self, either: Bench) -> None:
        for script in ("unshare -Urm true", "unshare -m true", "mount --bind /usr /tmp"):
            assert (await either.sh(script)).exit_code != 0, script

    async def test_there_is_no_room_for_a_user_namespace(self, bench: Bench) -> None:
        """Also where the filter of system calls had a hole."""
        assert await bench.says("cat /proc/sys/user/max_user_namespaces") == "0\n"

    async def test_devices_of_its_own_making_are_of_no_use(self, either: Bench) -> None:
        outcome = await either.sh("mknod null c 1 3 || mknod sda b 8 0")

        assert outcome.exit_code != 0
        assert (await either.errors(outcome)).count("mknod") == 2

    async def test_output_swapped_for_a_link_is_not_followed(
        self, either: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "f").write_text("secret")
        script = f"""
            mkdir real; echo mine > real/f
            (while :; do ln -sfn {tmp_path}/secret out; rm -f out; mv real out; mv out real; done) &
            i=0; while [ $i -lt 100 ]; do i=$((i+1)); done
        """
        for _ in range(3):
            try:
                outcome = await either.sh(script, outputs=["out", "out/f"])
            except InvalidOutput:
                continue
            for file in outcome.files:
                assert await either.store.get(file.digest) == b"mine\n"
            for directory in outcome.directories:
                assert (await get_tree(either.store, directory.root)).get("f") in {b"mine\n", None}

    async def test_descriptors_of_the_daemon_are_not_inherited(self, either: Bench) -> None:
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_inheritable(fd, True)
        try:
            printed = await either.says("ls /proc/self/fd")
        finally:
            os.close(reader)
            os.close(writer)

        assert set(printed.split()) == {"0", "1", "2", "3"}  # The last is the listing's own.

    async def test_groups_of_the_daemon_are_not_inherited(self, own: ExecutorOptions) -> None:
        """Nor the mode that it takes from files."""
        if os.geteuid() != 0:
            pytest.skip("takes root to join and to leave groups")
        groups, umask = os.getgroups(), os.umask(0o077)
        os.setgroups([*groups, 4242])
        try:
            async with open_bench(own) as bench:
                printed = await bench.says("grep Groups /proc/self/status; umask")
        finally:
            os.setgroups(groups)
            os.umask(umask)

        assert printed.split() == ["Groups:", "0022"]

    async def test_environment_of_the_daemon_does_not_leak(
        self, either: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ARMITAGE_SECRET", "secret")

        printed = await either.says(
            "env; cat /proc/*/environ 2>/dev/null || true", environment={"A": "1"}
        )

        names = {line.partition("=")[0] for line in printed.replace("\0", "\n").split()}
        assert names <= {"A", "PATH", "PWD", "OLDPWD", "_", "SHLVL"}

    async def test_keyrings_of_the_daemon_and_io_uring_are_not_there(self, either: Bench) -> None:
        """Whoever is started inherits a session keyring, whatever namespaces it gets."""
        numbers = (str(KEYCTL[platform.machine()]), "425")
        outcome = await either.run("python3", "-c", CALLING, *numbers)

        assert (await either.text(outcome)).split() == [str(errno.ENOSYS)] * 2

    async def test_the_clock_cannot_be_set(self, either: Bench) -> None:
        outcome = await either.sh("date -s 2001-01-01")

        assert outcome.exit_code != 0

    async def test_landlock_rules_what_mounts_already_do(self, bench: Bench) -> None:
        facts = bench.executor.sandbox()  # type: ignore[attr-defined]
        if facts["landlock"] == "no":
            pytest.skip("no Landlock in this kernel")
        script = "mkdir a b; echo > a/f; mv a/f b/f; ln b/f a/f; truncate -s 3 a/f; echo > /tmp/x"

        assert (await bench.sh(script)).exit_code == 0
        # It is asked before the capability is, whose lack is "Operation not permitted".
        assert "Permission denied" in await bench.errors(await bench.sh("mknod null c 1 3"))


REACHING = """
import errno, os, socket, time
print(os.readlink("/proc/self/ns/pid"), flush=True)
while True:
    try:
        socket.socket(socket.AF_UNIX).connect("\\0outside")
    except ConnectionRefusedError:
        time.sleep(0.01)
        continue
    except OSError as error:
        print(errno.errorcode[error.errno])
    break
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    if pid > os.getpid():
        try:
            os.kill(pid, 0)
        except OSError as error:
            print(errno.errorcode[error.errno])
"""
OUTSIDE = """
import socket, time
s = socket.socket(socket.AF_UNIX)
s.bind("\\0outside")
s.listen()
time.sleep(60)
"""


class TestProcesses:
    async def test_first_process_cannot_be_killed(self, either: Bench) -> None:
        assert await either.says("kill -9 1; kill -9 -1; echo alive") == "alive\n"

    async def test_command_has_a_session_of_its_own(self, either: Bench) -> None:
        """`kill 0` reaches the whole group, also what of it is outside (kill(2)). Such a group's
        number is 0 in here.
        """
        code = "import os; print(os.getsid(0) > 0 < os.getpgrp())"

        assert await either.text(await either.run("python3", "-c", code)) == "True\n"

    async def test_landlock_keeps_from_what_namespaces_would_let_be_reached(
        self, bench: Bench
    ) -> None:
        executor = bench.executor
        assert isinstance(executor, NamespaceExecutor)
        launcher = executor._launcher
        assert isinstance(launcher, OwnLauncher)
        if launcher.landlock < 6:
            pytest.skip("Landlock knows of sockets and signals from Linux 6.12 on")
        if os.geteuid() != 0:
            pytest.skip("takes root to enter a sandbox's namespaces")
        seen = Seen()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.run("python3", "-c", REACHING, progress=seen))
            await seen.heard.wait()
            namespace = seen.out.decode().strip()
            first = first_process(launcher, namespace)
            into = ["nsenter", "--target", first, "--net", "--pid"]
            outside = await asyncio.create_subprocess_exec(*into, "python3", "-c", OUTSIDE)
            try:
                outcome = await task
            finally:
                with suppress(ProcessLookupError):  # It ends with the sandbox.
                    outside.kill()
                await outside.wait()

        assert (await bench.text(outcome)).split() == [namespace, "EPERM", "EPERM"]

    async def test_abstract_sockets_of_another_action_are_unreachable(self, either: Bench) -> None:
        listen = (
            "import socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0armitage')\n"
            "s.listen()\nprint(1, flush=True)\ntime.sleep(1)"
        )
        connect = "import socket; socket.socket(socket.AF_UNIX).connect('\\0armitage')"
        seen = Seen()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(either.run("python3", "-c", listen, progress=seen))
            await seen.heard.wait()
            outcome = await either.run("python3", "-c", connect)
            task.cancel()

        assert "ConnectionRefusedError" in await either.errors(outcome)

    async def test_shared_memory_is_its_own(self, either: Bench) -> None:
        name = f"armitage-{os.getpid()}"
        code = f"open('/dev/shm/{name}', 'w').write('x')"

        await either.run("python3", "-c", code)

        assert not os.access(f"/dev/shm/{name}", os.F_OK)
        assert (await either.says("ls /dev/shm")) == ""


OPENING = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
ways = {"terminals": lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY) >= 0,
        "inotify": lambda: libc.inotify_init() >= 0}
count = 0
try:
    while ways[sys.argv[1]]():
        count += 1
except OSError:
    pass
print(count)
"""


class TestBombs:
    @pytest.mark.parametrize(("what", "most"), [("terminals", 64), ("inotify", 16)])
    async def test_what_the_host_has_few_of_is_not_taken_by_one(
        self, bench: Bench, what: str, most: int
    ) -> None:
        """The kernel counts them for all sandboxes together."""
        outcome = await bench.run("python3", "-c", OPENING, what)

        assert await bench.text(outcome) == f"{most}\n"

    async def test_files_in_memory_are_counted(self, own: ExecutorOptions) -> None:
        async with open_bench(replace(own, tmp_files=200)) as bench:
            for place in ("/tmp", "/dev/shm"):
                script = f"cd {place}; i=0; while : > $i; do i=$((i+1)); done; echo $i"
                outcome = await bench.sh(script)

                assert "No space left" in await bench.errors(outcome)

    async def test_descriptors_under_way_keep_no_other_action_from_being_ended(
        self, own: ExecutorOptions
    ) -> None:
        """They count for the user, in every sandbox: too many, and the launcher could send none.
        Whoever starts us may have a low limit that can be raised.
        """
        seen = Seen()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            with few_descriptors():
                bench = await stack.enter_async_context(open_bench(own))
            sending = group.create_task(bench.run("python3", "-c", SENDING, progress=seen))
            await seen.heard.wait()
            with pytest.raises(TimedOut):
                async with asyncio.timeout(3):
                    await bench.run("sleep", "30", timeout_s=0.1)
            assert not sending.done()
            sending.cancel()

    async def test_pending_signals_are_bounded(self, either: Bench) -> None:
        """They count for the user, in every sandbox: without any left nobody can set a timer."""
        outcome = await either.run("python3", "-c", SIGNALLING)

        assert 0 < int(await either.text(outcome)) <= 4096

    async def test_files_in_the_tree_end_the_action_before_the_disk_has_no_more(
        self, own: ExecutorOptions
    ) -> None:
        async with open_bench(replace(own, reserve_files=1 << 60)) as bench:
            if not os.statvfs(own.scratch).f_files:
                pytest.skip("this filesystem has no limit of files")
            with pytest.raises(WorkerFailure, match="more files can be made"):
                await bench.run("sleep", "30")
            assert bench.leftovers() == []

    @pytest.mark.slow
    async def test_a_full_disk_ends_the_action_that_fills_it_and_no_other(
        self, own: ExecutorOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_bench(own) as bench, asyncio.TaskGroup() as group:
            work = own.scratch / "work"

            def shortage() -> Shortage | None:
                is_full = any(one.stat().st_size >= 20 << 20 for one in work.glob("*/root/bomb"))
                return Shortage("under 1 MiB are free") if is_full else None

            monkeypatch.setattr(bench.executor, "shortage", shortage)
            others = [group.create_task(bench.run("sleep", "30")) for _ in range(4)]
            bomb = "head -c 20M /dev/zero > bomb; sleep 30"
            with pytest.raises(WorkerFailure, match=r"this one took most there: 2\d MiB"):
                await bench.sh(bomb)

            assert len(bench.leftovers()) == len(others)
            for other in others:
                assert other.cancel()

    @pytest.mark.slow
    async def test_what_takes_too_much_scratch_space_ends_at_its_limit(
        self, own: ExecutorOptions
    ) -> None:
        async with open_bench(replace(own, scratch_bytes=10 << 20)) as bench:
            outcome = await bench.sh("head -c 20M /dev/zero > bomb; sleep 30")

            assert (outcome.exit_code, outcome.ended_by) == (137, EndedBy.LIMIT)
            assert "over the limit of 10 MiB (executor.scratch_bytes)" in outcome.message
            assert bench.leftovers() == []

    async def test_a_file_at_its_limit_is_told_apart(self, own: ExecutorOptions) -> None:
        async with open_bench(replace(own, file_bytes=1 << 16)) as bench:
            outcome = await bench.run("dd", "if=/dev/zero", "of=f", "bs=64k", "count=2")

            assert outcome.ended_by is EndedBy.LIMIT
            assert "grew to the limit of 65536 bytes" in outcome.message

    async def test_too_many_processes_are_told_apart(self, own: ExecutorOptions) -> None:
        async with open_bench(replace(own, processes=8)) as bench:
            if "pids" not in bench.executor._cgroups.controllers:  # type: ignore[attr-defined]
                pytest.skip("no writable pids control group")
            script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done"
            outcome = await bench.sh(script)

            assert outcome.ended_by is EndedBy.LIMIT
            assert "limit of 8 processes" in outcome.message

    async def test_memory_is_told_apart(self, own: ExecutorOptions) -> None:
        async with open_bench(replace(own, memory_bytes=32 << 20)) as bench:
            if "memory" not in bench.executor._cgroups.controllers:  # type: ignore[attr-defined]
                pytest.skip("no writable memory control group")
            outcome = await bench.run("python3", "-c", "x = bytearray(1 << 30)")

            assert outcome.ended_by is EndedBy.MEMORY
            assert outcome.exit_code == 137


async def test_loopback_of_another_action_is_unreachable(either: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"

        outcome = await either.run("python3", "-c", code)

    assert "ConnectionRefusedError" in await either.errors(outcome)


async def test_signals_are_told_apart(bench: Bench) -> None:
    outcome = await bench.sh("kill -SEGV $$")

    assert (outcome.exit_code, outcome.ended_by) == (139, EndedBy.SIGNAL)
    assert "SIGSEGV" in outcome.message
    assert (await bench.sh("exit 139")).ended_by is EndedBy.EXIT
