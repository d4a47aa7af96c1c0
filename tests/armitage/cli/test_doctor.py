import json

import pytest
from support.command_line import Cli

from armitage.compiled import Compiled
from executor.probe import Finding, Report

GOOD = Finding("bubblewrap", True, "/usr/bin/bwrap 0.8.0", is_needed=True)
BAD = Finding("user namespaces", False, "not permitted", "sysctl -w x=1", is_needed=True)
ODD = Finding("GPU", False, "no device")
NO_LEASE = Finding("GPU leases", False, "no driver")
NO_GUEST = Finding("microVM", False, "no kernel", "apt-get install one")


def report(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr("executor.probe.probe", lambda _: Report(findings))
    monkeypatch.setattr("executor.isospin.probe.probe_gpus", lambda: NO_LEASE)
    monkeypatch.setattr("executor.microvm.probe.probe_microvm", lambda *_: NO_GUEST)
    monkeypatch.setattr("armitage.compiled.inspect", lambda: Compiled(("a.py", "b.py"), ()))


def test_a_host_that_can_sandbox_is_told_so(armitage: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, GOOD, ODD)

    done = armitage("doctor")

    assert done.code == 0
    assert done.out == (
        "yes bubblewrap        /usr/bin/bwrap 0.8.0\n"
        "no  GPU               no device\n"
        "no  GPU leases        no driver\n"
        "no  microVM           no kernel  -> apt-get install one\n"
        "yes compiled modules  2, of the sources beside them\n"
        "\n"
        "Actions can be sandboxed on this host.\n"
    )


def test_a_host_that_cannot_is_told_what_to_change(
    armitage: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(monkeypatch, GOOD, BAD)

    done = armitage("doctor")
    as_json = json.loads(armitage("doctor", "--json").out)

    assert done.code == 1
    assert done.out.endswith(
        "\n"
        "Actions cannot be sandboxed on this host, and are not executed. To change that:\n"
        "  sysctl -w x=1\n"
        "  or accept the risk: armitage serve --accept-unsandboxed\n"
    )
    assert as_json["can_sandbox"] is False
    assert as_json["remedies"] == ["sysctl -w x=1"]
    assert as_json["findings"][1]["name"] == "user namespaces"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Compiled((), ()),
            "no  compiled modules  none: small calls cost up to three times the CPU  -> ",
        ),
        (Compiled(("a.py",), ("a.py",)), "no  compiled modules  stale, so `armitage serve` "),
    ],
)
def test_modules_that_are_not_compiled_are_told(
    armitage: Cli, monkeypatch: pytest.MonkeyPatch, found: Compiled, line: str
) -> None:
    report(monkeypatch, GOOD)
    monkeypatch.setattr("armitage.compiled.inspect", lambda: found)

    done = armitage("doctor")

    assert done.code == 0
    assert line in done.out


@pytest.mark.slow
def test_this_host_is_really_tried(armitage: Cli) -> None:
    done = armitage("doctor", "--json", "--bubblewrap", "/nonexistent/bwrap")

    findings = {finding["name"]: finding for finding in json.loads(done.out)["findings"]}
    assert done.code == (0 if findings["launcher"]["is_there"] else 1)
    assert findings["bubblewrap"]["is_there"] is False
