import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from support.command_line import Cli

from armitage.cli.entry import main


@pytest.mark.slow
def test_operations_are_listed_shown_and_cancelled(
    online: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    command = ["run", "--quiet", "--", "/bin/sleep", "59.87"]
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    thread.start()
    running: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while not running and time.monotonic() < deadline:
        listed = json.loads(online("ops", "list", "--json").out)["operations"]
        running = [one for one in listed if one["stage"] == "executing"]
        time.sleep(0.02)
    name = str(running[0]["name"])

    shown = online("ops", "show", name)
    cancelled = online("ops", "cancel", name)
    thread.join(30)
    afterwards = json.loads(online("ops", "show", "--json", name).out)

    assert f"name        {name}\nstage       executing\n" in shown.out
    assert (cancelled.code, cancelled.out) == (0, f"asked to cancel {name}\n")
    assert codes == [125]
    assert (afterwards["done"], afterwards["status"]) == (True, "CANCELLED")
    assert name in online("ops", "list").out


@pytest.mark.slow
def test_the_list_says_which_run_nobody_waits_for(online: Cli) -> None:
    command = [sys.executable, "-m", "armitage", "run", "--quiet", "--", "/bin/sleep", "59.86"]
    client = subprocess.Popen(command)
    try:
        wait_for(lambda: "executing" in online("ops", "list").out)
        assert "nobody waits" not in online("ops", "list").out
    finally:
        client.kill()
        client.wait()

    wait_for(lambda: "nobody waits" in online("ops", "list").out)

    (running,) = [
        one
        for one in json.loads(online("ops", "list", "--json").out)["operations"]
        if one["stage"] == "executing"
    ]
    assert running["unwatched"] is True
    assert online("ops", "cancel", running["name"]).code == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_unknown_operation_is_a_plain_no(online: Cli) -> None:
    for command in ("show", "cancel"):
        done = online("ops", command, "operations/nothing")
        assert done.code == 1
        assert "operations/nothing" in done.err


@pytest.mark.slow
def test_the_result_of_an_action_is_shown(online: Cli) -> None:
    ran = json.loads(
        online(
            "run", "--json", "--output", "f", "--", "/bin/sh", "-c", "echo hi; echo left > f"
        ).out
    )

    got = online("ac", "get", ran["action"])
    as_json = json.loads(online("ac", "get", "--json", ran["action"]).out)

    lines = got.out.splitlines()
    assert lines[0] == "exit code   0"
    assert any(line.startswith("worker      ") for line in lines)
    assert any(line.startswith("file        ") and line.endswith("/5  f") for line in lines)
    assert as_json["output_files"][0]["path"] == "f"


def test_an_action_without_a_result_is_a_plain_no(online: Cli) -> None:
    done = online("ac", "get", f"{'0' * 64}/1")

    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
