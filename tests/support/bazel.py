"""Drives Debian's Bazel (`bazel-bootstrap`, 4.2.3) on the C code base of tests/e2e/bazel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
E2E = ROOT / "tests" / "e2e" / "bazel"
SOURCES = ROOT / ".cache" / "e2e" / "sources"
WASM = ROOT / ".cache" / "e2e" / "wasm" / "brotli.wasm"
OVERRIDES = ("rules_cc", "rules_java", "remote_coverage_tools")
REMOTE = "remote"
CACHED = "remote cache hit"


def unavailable() -> str | None:
    """Why the Bazel tests cannot run here, or None."""
    if shutil.which("bazel") is None:
        return "bazel is not on PATH (Debian: apt-get install bazel-bootstrap)"
    if not SOURCES.is_dir():
        return "the C sources are not there: run tests/e2e/prepare"
    return None


def lay_out_workspace(directory: Path) -> Path:
    """Copies our BUILD files and tests and the fetched sources into one Bazel workspace."""
    shutil.copytree(E2E / "workspace", directory)
    shutil.copytree(SOURCES / "brotli" / "c", directory / "brotli" / "c")
    shutil.copytree(SOURCES / "pyzstd" / "zstd" / "lib", directory / "zstd" / "lib")
    return directory


def lay_out_wasm(workspace: Path) -> Path:
    """Adds the package that runs Brotli's tool as a WebAssembly program; answers where it is."""
    package = workspace / "wasm"
    shutil.copytree(E2E / "wasm", package)
    shutil.copy(WASM, package)
    return package


def lay_out_declared(workspace: Path, port: int) -> Path:
    """Adds the package whose actions declare what they need; answers where it is."""
    package = workspace / "declared"
    package.mkdir()
    template = (E2E / "declared" / "BUILD.template").read_text()
    (package / "BUILD").write_text(template.replace("@PORT@", str(port)))
    return package


@dataclass(frozen=True)
class Spawn:
    """One process that Bazel ran, or took from a cache."""

    mnemonic: str
    runner: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def source(self) -> str:
        """The file that a CppCompile compiles."""
        return self.arguments[self.arguments.index("-c") + 1]


@dataclass(frozen=True)
class Build:
    """What one `bazel` command said and ran."""

    status: int
    log: str
    spawns: list[Spawn] = field(default_factory=list)

    def ran(self, mnemonic: str) -> list[Spawn]:
        """The spawns of one kind, wherever they ran."""
        return [spawn for spawn in self.spawns if spawn.mnemonic == mnemonic]

    def runners(self) -> dict[str, int]:
        """How many spawns each runner had."""
        counts: dict[str, int] = {}
        for spawn in self.spawns:
            counts[spawn.runner] = counts.get(spawn.runner, 0) + 1
        return counts


class Bazel:
    """A Bazel server of our own for one workspace; `close` shuts it down."""

    def __init__(self, workspace: Path, state: Path) -> None:
        self.workspace = workspace
        self._state = state
        self._execution_log = state / "execution.json"
        self._home = state / "home"
        self._temporary = state / "tmp"
        for directory in (self._home, self._temporary):
            directory.mkdir(parents=True)
        # What the caller's environment holds would become part of every action's key.
        self._environment = {"PATH": "/usr/bin:/bin", "HOME": str(self._home), "LANG": "C.UTF-8"}

    def arguments(self, command: str, *arguments: str) -> list[str]:
        """The whole command line of a `bazel` command."""
        # Debian's /etc/bazel/bazelrc says where its embedded tools are, so it stays in force.
        startup = [
            "bazel",
            "--nohome_rc",
            "--noworkspace_rc",
            f"--output_user_root={self._state / 'root'}",
            "--max_idle_secs=120",
            "--host_jvm_args=-Xmx512m",
            # Bazel forgets the temporary file behind its execution log.
            f"--host_jvm_args=-Djava.io.tmpdir={self._temporary}",
        ]
        return [*startup, command, *arguments]

    def build_flags(self) -> list[str]:
        """The flags that every build here has."""
        overrides = [f"--override_repository={n}={E2E / 'overrides' / n}" for n in OVERRIDES]
        return [
            *overrides,
            "--nosandbox_debug",
            # One configuration: tools that the build itself runs need no second, optimised build.
            "--distinct_host_configuration=false",
            # One object for each source, whatever it is linked into.
            "--force_pic",
            "--curses=no",
            "--color=no",
            "--show_progress_rate_limit=1",
            "--test_output=errors",
            f"--execution_log_json_file={self._execution_log}",
        ]

    def build(self, *arguments: str, command: str = "build", timeout_s: float = 240) -> Build:
        """Runs `bazel build` (or test) to its end, whatever that is."""
        self._execution_log.unlink(missing_ok=True)
        status, log = self._call(
            self.arguments(command, *self.build_flags(), *arguments), timeout_s
        )
        return Build(status, log, list(self._spawns()))

    def start(self, *arguments: str, command: str = "build") -> subprocess.Popen[str]:
        """Starts `bazel build` and returns at once."""
        return subprocess.Popen(
            self.arguments(command, *self.build_flags(), *arguments),
            cwd=self.workspace,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self) -> None:
        """kill -9 of its server, which holds the connection; the next command starts another."""
        (pid_file,) = (self._state / "root").glob("*/server/server.pid.txt")
        os.kill(int(pid_file.read_text()), signal.SIGKILL)

    def clean(self) -> None:
        """Forgets every output and the incremental state."""
        status, log = self._call(self.arguments("clean"), 60)
        assert status == 0, log

    def close(self) -> None:
        """Ends the server and removes its output tree."""
        self._call(self.arguments("shutdown"), 60)
        # Bazel makes the outputs of its actions read-only.
        subprocess.run(["chmod", "-R", "u+w", self._state], check=False)
        shutil.rmtree(self._state, ignore_errors=True)

    def output(self, path: str) -> Path:
        """A file of the output tree, by its path below bazel-bin."""
        return self.workspace / "bazel-bin" / path

    def external(self, repository: str) -> Path:
        """Where an external repository was laid out."""
        (base,) = (self._state / "root").glob(f"*/external/{repository}")
        return base

    def run_tool(self, path: str, *arguments: str, data: bytes = b"") -> bytes:
        """Runs a built program here and gives what it printed."""
        done = subprocess.run(
            [self.output(path), *arguments], input=data, capture_output=True, check=True
        )
        return done.stdout

    def _call(self, arguments: list[str], timeout_s: float) -> tuple[int, str]:
        done = subprocess.run(
            arguments,
            cwd=self.workspace,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout

    def _spawns(self) -> Iterator[Spawn]:
        if not self._execution_log.is_file():
            return
        text = self._execution_log.read_text()
        decoder = json.JSONDecoder()
        position = 0
        while text[position:].lstrip():
            position += len(text[position:]) - len(text[position:].lstrip())
            entry, position = decoder.raw_decode(text, position)
            yield Spawn(
                mnemonic=entry["mnemonic"],
                runner=entry["runner"],
                arguments=tuple(entry["commandArgs"]),
                outputs=tuple(entry["listedOutputs"]),
            )
