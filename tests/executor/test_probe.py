"""The report on the host: tried, plain, with a remedy for everything that is needed and missing."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.executing import bubblewrap_missing, launcher_missing

import executor.probe
from executor.errors import SandboxUnavailable
from executor.launcher.binary import BINARY
from executor.probe import Finding, Report, explain, probe

OLDEST_LINUX = (5, 12)


def fine(command: Sequence[str]) -> str:
    return ""


def refused(command: Sequence[str]) -> str:
    return "unshare: Operation not permitted"


def no_launcher() -> int:
    raise SandboxUnavailable("no launcher here")


def test_every_needed_thing_that_fails_has_a_remedy() -> None:
    report = probe("/no/such/bwrap", run=refused, launcher=no_launcher)

    needed = [finding for finding in report.findings if finding.is_needed]
    assert not report.can_sandbox
    assert needed
    assert all(finding.remedy for finding in needed if not finding.is_there)
    assert "apt-get install bubblewrap" in report.remedies


def test_host_that_lacks_only_extras_can_sandbox() -> None:
    report = Report(
        (Finding("bubblewrap", True, "0.8.0", is_needed=True), Finding("GPU", False, "no device"))
    )

    assert report.can_sandbox
    assert report.remedies == ()


def test_old_bubblewrap_is_told(tmp_path: Path) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    old.chmod(0o755)

    report = probe(str(old), run=fine, launcher=no_launcher)

    assert not report.can_sandbox
    assert "install bubblewrap 0.8 or newer" in report.remedies


def test_each_namespace_is_really_tried() -> None:
    tried: list[str] = []

    def run(command: Sequence[str]) -> str:
        tried.extend(command)
        return ""

    probe(run=run, launcher=lambda: 7)

    for kind in ("user", "mount", "pid", "ipc", "uts", "net", "cgroup"):
        assert f"--{kind}" in tried


def test_failure_of_one_namespace_stands_in_its_line() -> None:
    def run(command: Sequence[str]) -> str:
        return "unshare failed: No space left on device" if "--net" in command else ""

    report = probe(run=run, launcher=lambda: 7)

    [line] = [line for line in report.lines() if "net namespaces" in line]
    assert line.startswith("NO ")
    assert "No space left on device" in line
    assert " -> " in line


def test_explanation_names_cause_remedy_and_flag() -> None:
    report = probe("/no/such/bwrap", run=fine, launcher=no_launcher)

    text = explain("bwrap: nope", report)

    assert "bwrap: nope" in text
    assert "apt-get install bubblewrap" in text
    assert "--accept-unsandboxed" in text


def test_bubblewrap_is_not_needed_where_our_own_launcher_works() -> None:
    report = probe("/no/such/bwrap", run=fine, launcher=lambda: 7)

    assert report.can_sandbox
    lines = {line.split()[1]: line for line in report.lines()}
    assert lines["bubblewrap"].startswith("no ")
    assert "version 7" in lines["Landlock"]
    assert lines["seccomp"].startswith("yes")


def test_missing_landlock_is_told_and_not_needed() -> None:
    report = probe(run=fine, launcher=lambda: 0)

    [landlock] = [finding for finding in report.findings if finding.name == "Landlock"]
    assert not landlock.is_there
    assert not landlock.is_needed


def test_wasm_is_really_tried() -> None:
    [finding] = [one for one in probe(run=fine).findings if one.name == "wasm"]

    assert finding.is_there
    assert not finding.is_needed
    assert "ran a program; no_new_privs: yes" in finding.detail


def test_complaint_about_overlays_says_what_happens_instead() -> None:
    report = probe(run=fine, launcher=lambda: 7, overlay=lambda: "not in a user namespace")

    assert "no  overlayfs" in "\n".join(report.lines())
    assert "every input tree is copied: not in a user namespace" in "\n".join(report.lines())


def test_overlays_are_not_tried_without_a_launcher() -> None:
    def never() -> str:
        raise AssertionError

    probe(run=fine, launcher=no_launcher, overlay=never)


@pytest.mark.parametrize(("limit", "is_there"), [(1000, False), (1 << 62, True)])
def test_watches_that_one_action_could_take_are_told(
    monkeypatch: pytest.MonkeyPatch, limit: int, is_there: bool
) -> None:
    """Then the daemon could wait for nothing new (epoll_ctl(2), ENOSPC)."""
    monkeypatch.setattr(executor.probe, "_text", lambda _: str(limit))

    found = probe("/no/such/bwrap", run=refused, launcher=no_launcher).findings

    (watches,) = [finding for finding in found if finding.name == "epoll watches"]
    assert (watches.is_there, watches.is_needed) == (is_there, False)
    assert watches.remedy.startswith("sysctl -w fs.epoll.max_user_watches=")


@pytest.mark.sandbox
def test_our_own_launcher_works_where_bubblewrap_does() -> None:
    """Tests of the launcher skip where it makes no sandbox, also when that is its own fault."""
    if not os.access(BINARY, os.X_OK) or bubblewrap_missing():
        pytest.skip(bubblewrap_missing() or launcher_missing())
    if tuple(map(int, platform.release().split(".")[:2])) < OLDEST_LINUX:
        pytest.skip("the launcher takes a newer kernel")

    assert launcher_missing() == ""
