"""What a worker has given up, tried in a process that gave it up."""

import json
import resource
import subprocess
import sys

import pytest

TRY = """
import ctypes, json, os, resource, signal, socket, sys, threading
from pathlib import Path
from executor.wasm.confinement import confine

scratch, outside, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
taken = confine(scratch, {resource.RLIMIT_NOFILE: 50, resource.RLIMIT_CORE: 0})
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def spawn():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

started = threading.Thread(target=lambda: None)
attempts = {
    "write in scratch": lambda: (scratch / "made").write_text("x"),
    "read in scratch": lambda: (scratch / "given").read_text(),
    "make a directory in scratch": lambda: (scratch / "directory").mkdir(),
    "start a thread": lambda: (started.start(), started.join()),
    "read outside": lambda: (outside / "secret").read_text(),
    "list outside": lambda: os.listdir(outside),
    "write outside": lambda: (outside / "made").write_text("x"),
    "follow a link outside": lambda: (scratch / "link").read_text(),
    "make a fifo": lambda: os.mkfifo(scratch / "fifo"),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a unix socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": lambda: socket.socketpair(socket.AF_UNIX),
    "limit itself": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)),
    "limit another process": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
    "signal a process": lambda: os.kill(os.getpid(), 0),
    "open a process": lambda: os.pidfd_open(os.getpid()),
    "fork": spawn,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "trace": lambda: call(101, 16, parent, 0, 0),
    "unshare": lambda: call(272, 0x10000000),
    "use keys": lambda: call(250, 0, -3, 0),
    "use io_uring": lambda: call(425, 1, 0),
    "load BPF": lambda: call(321, 0, 0, 0),
}
done = {}
for name, attempt in attempts.items():
    try:
        attempt()
        done[name] = "worked"
    except OSError:
        done[name] = "denied"
done["descriptors"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
done["no new privileges"] = libc.prctl(39, 0, 0, 0, 0)
print(json.dumps([taken, done]))
"""
ALLOWED = {
    "write in scratch",
    "read in scratch",
    "make a directory in scratch",
    "start a thread",
    "limit itself",
}
NEED_LANDLOCK = {
    "read outside",
    "list outside",
    "write outside",
    "follow a link outside",
    "make a fifo",
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, object]]:
    directory = tmp_path_factory.mktemp("confined")
    scratch, outside = directory / "scratch", directory / "outside"
    scratch.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (scratch / "given").write_text("input")
    (scratch / "link").symlink_to(outside / "secret")
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(scratch), str(outside), "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    taken, results = json.loads(done.stdout)
    return taken, results


def test_what_it_needs_it_can_do(tried: tuple[dict[str, str], dict[str, object]]) -> None:
    _, results = tried

    assert {name for name in ALLOWED if results[name] == "worked"} == ALLOWED


def test_all_else_is_denied(tried: tuple[dict[str, str], dict[str, object]]) -> None:
    taken, results = tried

    expected = {name for name, result in results.items() if isinstance(result, str)} - ALLOWED
    if taken["landlock"] == "no":
        expected -= NEED_LANDLOCK
    assert taken["seccomp"] == "yes"
    assert {name for name in expected if results[name] == "denied"} == expected


def test_limits_hold_and_no_privilege_comes_back(
    tried: tuple[dict[str, str], dict[str, object]],
) -> None:
    taken, results = tried

    assert results["descriptors"] == min(50, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert results["no new privileges"] == 1
    assert taken["no_new_privs"] == "yes"
