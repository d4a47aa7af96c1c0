import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.command_line import Cli
from support.daemon import DaemonProcess, daemon_process, free_ports

from armitage.cli.entry import main

pytestmark = pytest.mark.slow
UNSANDBOXED = (
    "--accept-unsandboxed",
    *("--set", "executor.launcher=bubblewrap"),
    *("--set", "executor.bubblewrap=/nonexistent/bwrap"),
)


def test_a_command_runs_on_the_inputs_and_its_outputs_come_back(
    online: Cli, tmp_path: Path
) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "data").write_text("some input\n")
    script = (
        "cat sub/data; echo complaint >&2; mkdir -p out/deep; tr a-z A-Z < sub/data > out/deep/up;"
        " cp sub/data one; ln -s one two; echo $WORD > word"
    )
    done = online(
        *("run", "--input", "in", "--into", "back", "--env", "WORD=hello"),
        *("--output", "out", "--output", "one", "--output", "two", "--output", "word/"),
        *("--", "/bin/sh", "-c", script),
    )

    assert (done.code, done.out, done.err) == (0, "some input\n", "complaint\n")
    back = tmp_path / "back"
    assert (back / "out" / "deep" / "up").read_text() == "SOME INPUT\n"
    assert (back / "one").read_text() == "some input\n"
    assert os.readlink(back / "two") == "one"
    assert (back / "word").read_text() == "hello\n"


def test_the_exit_code_is_the_commands(online: Cli) -> None:
    assert online("run", "--", "/bin/sh", "-c", "exit 7").code == 7
    assert online("run", "--", "/bin/sh", "-c", "kill -9 $$").code == 128 + 9


def test_what_cannot_be_executed_is_said_once(online: Cli) -> None:
    done = online("run", "--", "no-such-program")

    assert done.code == 127
    assert done.err == "armitage: cannot run no-such-program: No such file or directory\n"


def test_outputs_of_a_command_that_failed_come_back_too(online: Cli, tmp_path: Path) -> None:
    done = online("run", "--output", "log", "--", "/bin/sh", "-c", "echo why > log; exit 3")

    assert done.code == 3
    assert (tmp_path / "log").read_text() == "why\n"


def test_an_absent_output_is_told(online: Cli) -> None:
    passed = online("run", "--output", "nothing", "--", "/bin/sh", "-c", "exit 0")
    failed = online("run", "--output", "nothing", "--", "/bin/sh", "-c", "exit 3")

    message = "armitage: the command left no output nothing\n"
    assert (passed.code, passed.err) == (125, message)
    assert (failed.code, failed.err) == (3, message)


def test_json_tells_it_all(online: Cli) -> None:
    first = json.loads(online("run", "--json", "--", "/bin/sh", "-c", "echo out; echo e >&2").out)
    again = json.loads(online("run", "--json", "--", "/bin/sh", "-c", "echo out; echo e >&2").out)

    assert (first["exit_code"], first["stdout"], first["stderr"]) == (0, "out\n", "e\n")
    assert (first["cached"], again["cached"]) == (False, True)
    assert re.fullmatch(r"[0-9a-f]{64}/\d+", first["action"])
    assert again["action"] == first["action"]


def test_no_cache_runs_again(online: Cli) -> None:
    command = ["run", "--json", "--no-cache", "--", "/bin/sh", "-c", "echo again"]

    assert [json.loads(online(*command).out)["cached"] for _ in range(2)] == [False, False]


def test_a_cached_result_prints_and_brings_the_same(online: Cli, tmp_path: Path) -> None:
    command = ["run", "--output", "f", "--", "/bin/sh", "-c", "echo printed; echo left > f"]
    first = online(*command)
    (tmp_path / "f").unlink()

    again = online(*command)

    assert (again.code, again.out, again.err) == (first.code, first.out, first.err)
    assert (tmp_path / "f").read_text() == "left\n"


def test_long_output_comes_whole(online: Cli) -> None:
    done = online("run", "--", "/bin/sh", "-c", "seq 1 300000")

    assert done.out == "".join(f"{n}\n" for n in range(1, 300_001))


def test_live_output_that_lost_its_middle_is_repeated_whole(online: Cli) -> None:
    """A log keeps only the newest part, so that a fast command outruns whoever follows it."""
    done = online("run", "--live", "--no-cache", "--", "/bin/sh", "-c", "seq 1 400000")

    whole = "".join(f"{n}\n" for n in range(1, 400_001))
    assert done.out.endswith(whole)
    assert done.out == whole or "the live stdout was not all of it" in done.err


def test_a_command_that_is_too_slow_is_killed(online: Cli) -> None:
    done = online("run", "--timeout", "300ms", "--", "/bin/sh", "-c", "echo begun; sleep 30")

    assert done.code == 125
    assert done.out == "begun\n"
    assert done.err.startswith("armitage: DEADLINE_EXCEEDED: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "/abs", "--", "true"], "output '/abs': write a path below the working dir"),
        (["--output", "../x", "--", "true"], "output '../x': write a path below the working dir"),
        (["--input", "nothing", "--", "true"], "nothing: is not a directory"),
        (["--platform", "no=such", "--", "true"], "grpc://"),
    ],
)
def test_what_cannot_run_is_explained_with_exit_125(
    online: Cli, arguments: list[str], message: str
) -> None:
    done = online("run", *arguments)

    assert (done.code, done.out) == (125, "")
    assert done.err.startswith(f"armitage: {message}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--bad"], ["--env", "novalue", "--", "true"], []])
def test_wrong_usage_of_run_cannot_be_taken_for_the_commands_exit(
    armitage: Cli, arguments: list[str]
) -> None:
    assert armitage("run", *arguments).code == 125


def test_a_cache_only_server_is_told_apart(armitage: Cli, tmp_path: Path) -> None:
    flags = ("--storage", "memory", "--set", "worker.enabled=false")
    with daemon_process(tmp_path / "d", *flags) as d:
        done = armitage("run", "--server", d.url, "--", "true")

    assert done.code == 125
    assert done.err.startswith(f"armitage: {d.url} does not execute, it only caches ")


def test_output_is_streamed_while_the_command_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command waits for a file that the test makes only after having seen its first line."""
    gate = tmp_path / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second"
    codes: list[int] = []
    with daemon_process(tmp_path / "d", *UNSANDBOXED, "--storage", "memory") as running:
        command = ["run", "--server", running.url, "--live", "--", "/bin/sh", "-c", script]
        thread = threading.Thread(target=lambda: codes.append(main(command)))
        thread.start()
        seen = ""
        deadline = time.monotonic() + 30
        while "first\n" not in seen and time.monotonic() < deadline:
            seen += capfd.readouterr().out
            time.sleep(0.01)
        gate.touch()
        thread.join(30)
        seen += capfd.readouterr().out

    assert codes == [0]
    assert seen == "first\nsecond\n"


def test_a_daemon_that_was_killed_and_restarted_is_taken_up_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    once, gate = tmp_path / "once", tmp_path / "gate"
    script = f"touch {once}; while [ ! -e {gate} ]; do sleep 0.05; done; echo done"
    flags = ("--listen", f"127.0.0.1:{port}", *UNSANDBOXED, "--storage", "disk")
    command = ["run", "--server", f"grpc://127.0.0.1:{port}", "--", "/bin/sh", "-c", script]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    with daemon_process(tmp_path / "d", *flags) as daemon:
        thread.start()
        deadline = time.monotonic() + 30
        while not once.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        daemon.kill()
    gate.touch()
    with daemon_process(tmp_path / "d", *flags):
        thread.join(60)

    assert codes == [0]
    assert capfd.readouterr().out == "done\n"


def test_ctrl_c_cancels_the_operation_and_exits_130(online: Cli, daemon: DaemonProcess) -> None:
    command = [sys.executable, "-P", "-m", "armitage", "run", "--", "/bin/sleep", "57.31"]
    running = subprocess.Popen(command, env={**os.environ, "ARMITAGE_SERVER": daemon.url})
    mine: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while not mine and time.monotonic() < deadline:
        listed = json.loads(online("ops", "list", "--json").out)["operations"]
        mine = [operation for operation in listed if operation["stage"] == "executing"]
        time.sleep(0.02)

    running.send_signal(signal.SIGINT)

    assert running.wait(30) == 130
    shown = json.loads(online("ops", "show", "--json", mine[0]["name"]).out)
    assert (shown["done"], shown["status"]) == (True, "CANCELLED")
