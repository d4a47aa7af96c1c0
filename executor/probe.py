"""What this host can do for actions: tried, not guessed, and what to change where it cannot."""

from __future__ import annotations

import glob
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from executor.cgroup import open_cgroups
from executor.errors import SandboxUnavailable
from executor.launcher.binary import BINARY
from executor.launcher.overlay import try_overlay_anywhere
from executor.launcher.own import try_launcher
from executor.launcher.profile import system_calls

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where system programs are looked for; the environment's PATH may be anything."""
ACCEPT_RISK_HINT = "or accept the risk of running actions without a sandbox (--accept-unsandboxed)"
OLDEST_BUBBLEWRAP = (0, 8)

_NAMESPACES = ("user", "mount", "pid", "ipc", "uts", "net", "cgroup")
_TIMEOUT_S = 20
_FEW_FILES = 4096
_WATCH_BYTES = 128
"""What an epoll watch takes of an action's memory, at least (192 on 64-bit Linux 6)."""
_SETTINGS = (
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap",
    ),
)
_CONTAINER_REMEDY = (
    "in a container: allow it to make namespaces and mount proc (docker run --privileged, or"
    " --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    " --security-opt systempaths=unconfined)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    is_there: bool
    detail: str
    """What was found, or what failed."""
    remedy: str = ""
    """What to change; empty when it is there or nothing needs it."""
    is_needed: bool = False
    """Whether sandboxed actions cannot do without."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was tried."""

    findings: tuple[Finding, ...]

    @property
    def can_sandbox(self) -> bool:
        """Whether actions can be sandboxed on this host."""
        return all(finding.is_there for finding in self.findings if finding.is_needed)

    @property
    def remedies(self) -> tuple[str, ...]:
        """What to change for sandboxing to work, each once."""
        return tuple(
            dict.fromkeys(
                finding.remedy
                for finding in self.findings
                if finding.is_needed and not finding.is_there and finding.remedy
            )
        )

    def lines(self) -> list[str]:
        """Answers one line for each finding, for people."""
        width = max(len(finding.name) for finding in self.findings)
        return [
            f"{'yes' if finding.is_there else 'NO ' if finding.is_needed else 'no '} "
            f"{finding.name:<{width}}  {finding.detail}"
            + (f"  -> {finding.remedy}" if finding.remedy and not finding.is_there else "")
            for finding in self.findings
        ]


def probe(
    bubblewrap: str | None = None,
    *,
    path: str = SYSTEM_PATH,
    run: Callable[[Sequence[str]], str] | None = None,
    launcher: Callable[[], int] = try_launcher,
    overlay: Callable[[], str] = try_overlay_anywhere,
) -> Report:
    """Tries everything. Blocks for up to a second.

    `bubblewrap` is a configured path of `bwrap`, `path` where programs are looked for; `run` runs a
    program and answers its complaint (empty when it went well), `launcher` tries our own, and
    `overlay` its overlays; they are there for tests.
    """
    run = run or _run
    own = _probe_launcher(launcher)
    is_needed = not own[0].is_there
    fallback = _probe_bubblewrap(bubblewrap, path, is_needed=is_needed)
    findings = [*own, fallback, *(_probe_namespace(kind, run) for kind in _NAMESPACES)]
    if fallback.is_there:
        program = find_bubblewrap(bubblewrap, path)
        findings.append(_probe_sandbox(program, run, is_needed=is_needed))
    findings += [
        _probe_cgroups(),
        _probe_files(),
        _probe_watches(),
        _probe_overlay(overlay if own[0].is_there else None),
        _probe_kvm(),
        _probe_wasm(),
        _probe_gpu(),
    ]
    return Report(tuple(findings))


def find_bubblewrap(configured: str | None, path: str = SYSTEM_PATH) -> str:
    """Answers the path of bubblewrap. Raises SandboxUnavailable."""
    found = shutil.which(configured or "bwrap", path=path)
    if found is None:
        raise SandboxUnavailable(
            f"{configured or 'bubblewrap'} is not installed: apt-get install bubblewrap,"
            f" {ACCEPT_RISK_HINT}"
        )
    return found


def explain(complaint: str, report: Report) -> str:
    """Answers what to tell somebody whose host cannot sandbox."""
    remedies = "; ".join(report.remedies) or _CONTAINER_REMEDY
    return f"this host cannot sandbox actions: {complaint}. Try: {remedies}; {ACCEPT_RISK_HINT}"


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            env={"PATH": SYSTEM_PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"


def _probe_launcher(launcher: Callable[[], int]) -> list[Finding]:
    try:
        landlock = launcher()
    except SandboxUnavailable as error:
        return [Finding("launcher", False, f"{error}; bubblewrap takes its place")]
    denied = f"{len(system_calls())} system calls denied or limited"
    version = f"version {landlock}" if landlock else "not in this kernel, or older than 5.19"
    return [
        Finding("launcher", True, f"{BINARY}: a trial went well"),
        Finding("seccomp", True, denied),
        Finding("Landlock", landlock > 0, version),
    ]


def _probe_bubblewrap(configured: str | None, path: str, *, is_needed: bool) -> Finding:
    remedy = "apt-get install bubblewrap"
    try:
        program = find_bubblewrap(configured, path)
        done = subprocess.run(
            [program, "--version"], capture_output=True, timeout=_TIMEOUT_S, check=True, env={}
        )
    except SandboxUnavailable:
        return Finding("bubblewrap", False, "not installed", remedy, is_needed=is_needed)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("bubblewrap", False, str(error), remedy, is_needed=is_needed)
    version = re.search(rb"(\d+)\.(\d+)", done.stdout)
    is_new = version is not None and (int(version[1]), int(version[2])) >= OLDEST_BUBBLEWRAP
    wanted = ".".join(str(part) for part in OLDEST_BUBBLEWRAP)
    return Finding(
        "bubblewrap",
        is_new,
        f"{program} {done.stdout.decode(errors='replace').strip()}",
        f"install bubblewrap {wanted} or newer",
        is_needed=is_needed,
    )


def _probe_namespace(kind: str, run: Callable[[Sequence[str]], str]) -> Finding:
    """Tries one kind of namespace, in a user namespace of its own as bubblewrap does."""
    extra = [f"--{kind}"] if kind != "user" else []
    extra += ["--fork"] if kind == "pid" else []
    complaint = run(["unshare", "--user", "--map-root-user", *extra, "true"])
    return Finding(
        f"{kind} namespaces",
        not complaint,
        complaint.splitlines()[-1] if complaint else "work",
        _namespace_remedy() if complaint else "",
        is_needed=kind != "cgroup",
    )


def _namespace_remedy() -> str:
    wrong = [
        remedy for path, value, remedy in _SETTINGS if _text(path) == value and not _is_exempt(path)
    ]
    return "; ".join(wrong) or _CONTAINER_REMEDY


def _is_exempt(path: str) -> bool:
    return "unprivileged" in path and os.geteuid() == 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _probe_sandbox(
    bubblewrap: str, run: Callable[[Sequence[str]], str], *, is_needed: bool
) -> Finding:
    view = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    complaint = run([bubblewrap, "--unshare-all", "--unshare-user", *view, "true"])
    return Finding(
        "bubblewrap sandbox",
        not complaint,
        complaint or "a trial with all namespaces went well",
        _namespace_remedy() if complaint else "",
        is_needed=is_needed,
    )


def _probe_cgroups() -> Finding:
    remedy = (
        "run as root, or as a systemd service with Delegate=yes; without, memory is limited for"
        " each process alone (setrlimit: not what they share, nor /tmp), and CPU time not"
    )
    try:
        cgroups = open_cgroups(f"armitage-probe-{os.getpid()}")
        detail, found = cgroups.describe(), cgroups.controllers
        cgroups.close()
    except OSError as error:
        return Finding("control groups", False, str(error), remedy)
    wanted = {"memory", "pids", "cpu"}
    lacking = ", ".join(sorted(wanted - set(found)))
    return Finding(
        "control groups",
        bool(found),
        detail + (f" (not: {lacking})" if found and lacking else ""),
        remedy,
    )


def _probe_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding(
        "open files",
        min(soft, hard) >= _FEW_FILES,
        f"limit {soft}, at most {hard}",
        f"ulimit -n {_FEW_FILES} or more (LimitNOFILE= in a systemd unit)",
    )


def _probe_watches() -> Finding:
    """The kernel counts them for all processes of a user. With as many as memory holds, an action
    meets its limit of memory first.
    """
    path = "/proc/sys/fs/epoll/max_user_watches"
    wanted = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _WATCH_BYTES
    limit = int(_text(path) or 0)
    return Finding(
        "epoll watches",
        limit >= wanted,
        f"{limit} for the daemon and all actions, or one of them",
        f"sysctl -w fs.epoll.max_user_watches={wanted}",
    )


def _probe_overlay(overlay: Callable[[], str] | None) -> Finding:
    complaint = "the launcher makes them" if overlay is None else overlay()
    if complaint:
        return Finding("overlayfs", False, f"every input tree is copied: {complaint}")
    return Finding(
        "overlayfs",
        True,
        "input trees are shown as overlays of what many share; scratch is tried again",
    )


def _probe_kvm() -> Finding:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding("/dev/kvm", False, error.strerror or str(error))
    return Finding("/dev/kvm", True, "opens")


def _probe_wasm() -> Finding:
    """Runs one program as workers do (executor.wasm.trial)."""
    remedy = "pip install --force-reinstall wasmtime"
    try:
        with tempfile.TemporaryDirectory(prefix="armitage-probe-") as scratch:
            done = subprocess.run(
                [sys.executable, "-I", "-m", "executor.wasm.trial", scratch],
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
                env={},
            )
        answer = json.loads(done.stdout or b"null")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Finding("wasm", False, str(error), remedy)
    if done.returncode or not answer or answer["exit_code"]:
        complaint = done.stderr.decode(errors="replace").strip().splitlines() or ["no answer"]
        return Finding("wasm", False, complaint[-1], remedy)
    taken = "; ".join(f"{name}: {value}" for name, value in answer["confinement"].items())
    return Finding("wasm", True, f"wasmtime {metadata.version('wasmtime')} ran a program; {taken}")


def _probe_gpu() -> Finding:
    devices = sorted(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/dri/renderD*"))
    return Finding("GPU", bool(devices), ", ".join(devices) or "no device")
