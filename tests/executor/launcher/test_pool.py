"""Network namespaces that one action after the other gets, and those that nobody gets again."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import Bench, Seen
from support.sandboxes import open_bench, options_for

import executor.namespace
from executor.coeffects import Coeffects, FilesystemGrant
from executor.errors import WorkerFailure
from executor.launcher.binary import BINARY
from executor.launcher.own import OwnLauncher
from executor.launcher.server import LauncherServer
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind

pytestmark = pytest.mark.sandbox

SAY = """
import fcntl, os, socket, termios, threading
print(os.readlink("/proc/self/ns/net"), flush=True)
"""
STAY = "readlink /proc/self/ns/net; exec sleep 60"
GRANDCHILD = (
    "if not os.fork():\n if not os.fork(): socket.socket()\n else: os.wait()\nelse: os.wait()"
)
DISCIPLINE = (
    "try: fcntl.ioctl(os.openpty()[1], termios.TIOCSETD, b'\\3\\0\\0\\0')\nexcept OSError: pass"
)
WAYS = {
    "inet": "socket.socket(socket.AF_INET)",
    "inet6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "unix": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "pair": "socket.socketpair()",
    "grandchild": GRANDCHILD,
    "thread": "threading.Thread(target=socket.socket).start()",
    "line discipline": DISCIPLINE,
}


def server_of(bench: Bench) -> LauncherServer:
    assert isinstance(bench.executor, NamespaceExecutor)
    launcher = bench.executor._launcher
    assert isinstance(launcher, OwnLauncher)
    return launcher._server


@pytest.fixture
def options(tmp_path: Path) -> ExecutorOptions:
    return options_for(LauncherKind.ARMITAGE, tmp_path / "scratch")


@pytest.fixture
async def bench(options: ExecutorOptions) -> AsyncIterator[Bench]:
    async with open_bench(options) as bench:
        if not server_of(bench).reuses_networks:
            pytest.skip(
                "this kernel cannot hold system calls (Linux 5.19), or we are under a filter"
            )
        assert unreaped(server_of(bench)) == []  # Nobody waits for the end of trials.
        yield bench


def kept(server: LauncherServer) -> dict[str, str]:
    """The namespaces that a launcher has, by name: the paths of its descriptors."""
    place = f"/proc/{server._process.pid}/fd"
    paths = [f"{place}/{name}" for name in os.listdir(place)]
    named = {os.readlink(path): path for path in paths}
    return {name: path for name, path in named.items() if name.startswith("net:")}


@contextmanager
def holding(server: LauncherServer) -> Iterator[set[str]]:
    """Holds the namespaces that a launcher has: no other gets the name of one that has gone."""
    found = kept(server)
    fds = [os.open(path, os.O_RDONLY) for path in found.values()]
    try:
        yield set(found)
    finally:
        for fd in fds:
            os.close(fd)


async def in_python(bench: Bench, code: str) -> str:
    """What Python prints when told to look nobody up, for which the C library makes a socket."""
    outcome = await bench.run("python3", "-ISc", code)
    assert outcome.exit_code == 0, await bench.errors(outcome)
    return (await bench.text(outcome)).strip()


async def settled(bench: Bench) -> set[str]:
    """The namespaces that are kept once the launcher has heard of the end of all actions before."""
    await bench.run("true")
    return set(kept(server_of(bench)))


async def test_actions_without_a_socket_get_the_same_namespace(bench: Bench) -> None:
    names = {await in_python(bench, SAY) for _ in range(3)}

    assert len(names) == 1
    assert names <= await settled(bench)


@pytest.mark.parametrize("way", WAYS)
async def test_namespace_in_which_a_socket_was_made_is_not_used_again(
    bench: Bench, way: str
) -> None:
    with holding(server_of(bench)) as before:
        used = await in_python(bench, SAY + WAYS[way])

        assert used in before
        assert used not in await settled(bench)
        assert await bench.says("readlink /proc/self/ns/net") != f"{used}\n"


async def test_namespace_is_used_again_after_a_socket_was_denied(bench: Bench) -> None:
    code = "try: socket.socket(socket.AF_PACKET)\nexcept OSError: pass"

    assert await in_python(bench, SAY + code) in await settled(bench)


async def test_programs_that_made_a_socket_get_their_own_from_then_on(bench: Bench) -> None:
    await in_python(bench, "import socket; socket.socketpair()")
    await settled(bench)

    with holding(server_of(bench)) as before:
        assert await in_python(bench, SAY) not in before
        assert await bench.says("readlink /proc/self/ns/net") in {f"{name}\n" for name in before}


async def test_actions_at_the_same_time_share_none(bench: Bench) -> None:
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.sh(STAY, progress=seen))
        await seen.heard.wait()
        other = await bench.says("readlink /proc/self/ns/net")
        task.cancel()

    assert other.startswith("net:")
    assert other != seen.out.decode()


class TestUnusualEnds:
    """Whatever it did: who did not see the end cannot say."""

    async def test_killed_first_process(self, bench: Bench) -> None:
        server, seen = server_of(bench), Seen()
        with holding(server) as before:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(failing(bench.sh(STAY, progress=seen)))
                await seen.heard.wait()
                [first] = children_of(server)
                os.kill(first, signal.SIGKILL)
            used = seen.out.decode().strip()

            assert "killed from outside" in task.result()
            assert used in before
            assert used not in await settled(bench)

    async def test_cancelled_action(self, bench: Bench) -> None:
        seen = Seen()
        with holding(server_of(bench)) as before:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(bench.sh(STAY, progress=seen))
                await seen.heard.wait()
                task.cancel()
            used = seen.out.decode().strip()

            assert used in before
            assert used not in await settled(bench)

    async def test_what_is_left_running_makes_no_socket_any_more(self, bench: Bench) -> None:
        """Not even one that is about to: nobody lets its call go once the command has ended."""
        code = "import socket; open('f', 'w').close()\nwhile True: socket.socket().close()"
        outcome = await bench.sh(f'mkfifo f; python3 -ISc "{code}" & : < f')

        assert outcome.exit_code == 0
        assert bench.leftovers() == []


async def failing(action: object) -> str:
    with pytest.raises(WorkerFailure) as raised:
        await action  # type: ignore[misc]
    return str(raised.value)


def children_of(server: LauncherServer) -> list[int]:
    pid = server._process.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def test_launcher_reaps_sandboxes_also_when_nobody_asks_for_more(bench: Bench) -> None:
    await bench.run("true")

    assert unreaped(server_of(bench)) == []


def unreaped(server: LauncherServer) -> list[int]:
    """Whom a launcher still has as children, with up to 5 s for those that end."""
    until = time.monotonic() + 5
    while (found := children_of(server)) and time.monotonic() < until:
        time.sleep(0.002)
    return found


class TestSockets:
    """They work as they do where nobody notices them."""

    async def test_names_are_looked_up(self, bench: Bench) -> None:
        code = "import socket; print(socket.getaddrinfo('localhost', 80)[0][4][0])"

        assert await in_python(bench, code) in {"127.0.0.1", "::1"}

    async def test_many_threads_serve_and_ask(self, bench: Bench) -> None:
        assert await in_python(bench, TALKING) == "800"

    async def test_user_is_looked_up(self, bench: Bench) -> None:
        """C libraries ask a daemon for it first, by a socket."""
        assert await in_python(bench, "import os, pwd; print(pwd.getpwuid(os.getuid())[0])")

    async def test_signals_that_restart_calls_disturb_none(self, bench: Bench) -> None:
        assert await in_python(bench, INTERRUPTED) == "2000"


TALKING = """
import socket, threading
done = []
def talk(family, address):
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        for _ in range(100):
            with socket.socket(family) as client:
                client.connect(server.getsockname())
                served, _ = server.accept()
                with served:
                    served.sendall(b"x")
                done.append(client.recv(1))
places = [(socket.AF_INET, ("127.0.0.1", 0))] * 4
places += [(socket.AF_UNIX, f"/tmp/{number}") for number in range(4)]
threads = [threading.Thread(target=talk, args=place) for place in places]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done))
"""
INTERRUPTED = """
import signal, socket
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
made = 0
for _ in range(2000):
    socket.socket(socket.AF_UNIX).close()
    made += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(made)
"""


class TestEvidence:
    async def test_it_says_what_namespace_an_action_got(
        self, options: ExecutorOptions, tmp_path: Path
    ) -> None:
        given = tmp_path / "given"
        given.mkdir()
        async with open_bench(replace(options, filesystem_allow=(str(given),))) as bench:
            reuses = server_of(bench).reuses_networks
            declared = Coeffects(filesystem=(FilesystemGrant(str(given)),))
            with holding(server_of(bench)) as before:
                plain = await bench.sh("readlink /proc/self/ns/net")
                granted = await bench.sh("readlink /proc/self/ns/net", coeffects=declared)
                used = (await bench.text(granted)).strip()

            said = [await namespace_of(bench, outcome) for outcome in (plain, granted)]

        rule = "one in which no command had made a socket" if reuses else "new"
        assert said == [rule, "new"]
        assert used not in before


async def namespace_of(bench: Bench, outcome: object) -> str:
    profile = outcome.evidence.profile  # type: ignore[attr-defined]
    return str(json.loads(await bench.store.get(profile))["launcher"]["network-namespace"])


OLD_KERNEL = """#!{python} -IS
import ctypes, struct
# Answers EINVAL to seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER, as before Linux 5.0.
code = [(0x20, 0, 0, 0), (0x15, 0, 3, {number}), (0x20, 0, 0, 24), (0x45, 0, 1, 8),
        (0x06, 0, 0, 0x50000 | 22), (0x06, 0, 0, 0x7fff0000)]
program = b"".join(struct.pack("HBBI", *one) for one in code)
kept = ctypes.create_string_buffer(program)
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(kept)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, fprog, 0, 0) == 0
libc.execv(b"{binary}", (ctypes.c_char_p * 2)(b"{binary}", None))
"""


async def test_without_a_kernel_that_holds_calls_every_namespace_is_new(
    options: ExecutorOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
    program = tmp_path / "launcher"
    program.write_text(OLD_KERNEL.format(python="/usr/bin/python3", number=number, binary=BINARY))
    program.chmod(0o755)
    monkeypatch.setattr(executor.namespace, "find_launcher", lambda: program)

    async with open_bench(options) as bench:
        assert not server_of(bench).reuses_networks
        assert await in_python(bench, SAY + WAYS["pair"])
        assert await namespace_of(bench, await bench.run("true")) == "new"
        assert kept(server_of(bench)) == {}
