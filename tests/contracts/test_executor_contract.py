"""What every Executor promises, whatever it runs actions in."""

import asyncio
import atexit
import functools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import (
    SHA256,
    Bench,
    Exe,
    JsonCodec,
    Link,
    PlainStore,
    Seen,
    bubblewrap_missing,
    get_tree,
    launcher_missing,
    overlay_missing,
    put_tree,
)
from support.microvm import firecracker_missing, machine_options, make_toolchain, microvm_missing
from support.wasi_programs import CACHE, compiler_missing, shell

from armitage.clock import SystemClock
from cas.digest import DigestFunction
from cas.memory import MemoryStore
from cas.store import BlobStore
from executor.errors import InputsMissing, InvalidInput, InvalidOutput, TimedOut
from executor.local import LocalExecutor
from executor.microvm.executor import MicrovmExecutor
from executor.microvm.machine import MachineKind
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.paths import BUILD_ROOT
from executor.spec import (
    Directory,
    DirectoryNode,
    FileNode,
    Outcome,
    OutputKind,
    OutputRequest,
    Work,
)
from executor.tree_cache import TreeCacheOptions
from executor.unsandboxed import UnsandboxedExecutor
from executor.wasm.executor import WasmExecutor
from executor.wasm.nursery import Nursery
from executor.wasm.options import WasmOptions

MISSING_BUBBLEWRAP = bubblewrap_missing()
MISSING_LAUNCHER = launcher_missing()
MISSING_OVERLAY = MISSING_LAUNCHER or overlay_missing()
KINDS = [
    pytest.param(
        "armitage",
        marks=[
            pytest.mark.sandbox,
            pytest.mark.skipif(bool(MISSING_LAUNCHER), reason=MISSING_LAUNCHER),
        ],
    ),
    pytest.param(
        "overlay",
        marks=[
            pytest.mark.sandbox,
            pytest.mark.skipif(bool(MISSING_OVERLAY), reason=MISSING_OVERLAY),
        ],
    ),
    pytest.param(
        "bubblewrap",
        marks=[
            pytest.mark.sandbox,
            pytest.mark.skipif(bool(MISSING_BUBBLEWRAP), reason=MISSING_BUBBLEWRAP),
        ],
    ),
    "unsandboxed",
    pytest.param(
        "wasm", marks=pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())
    ),
    pytest.param(
        "microvm",
        marks=[
            pytest.mark.slow,
            pytest.mark.sandbox,
            pytest.mark.skipif(bool(microvm_missing()), reason=microvm_missing()),
        ],
    ),
    pytest.param(
        "firecracker",
        marks=[
            pytest.mark.slow,
            pytest.mark.sandbox,
            pytest.mark.skipif(bool(firecracker_missing()), reason=firecracker_missing()),
        ],
    ),
]
NOT_OF_WASM = {
    # /dev/stderr, which WASI has not.
    "test_output_can_be_opened_by_name",
    # Modes of files, and links to absolute paths.
    "test_tree_is_made_exactly",
    "test_modification_times_are_fixed",
    "test_each_kind_is_told",
    "test_absolute_link_into_the_root_leads_somewhere",
    "test_output_through_a_link_to_outside_is_absent",
    "test_equal_directories_have_equal_trees",
    "test_tree_holds_every_directory_once_parents_first",
    "test_unreadable_outputs_are_read",
    "test_read_only_leftovers_are_removed",
    # Inputs that are changed: they are for reading (see tests/executor/wasm).
    "test_changed_inputs_reach_neither_store_nor_next_action",
    "test_stale_output_in_the_inputs_counts_only_if_it_stays",
    "test_actions_run_at_the_same_time",
    # Processes, signals, search paths, scripts, limits of the kernel's own.
    "test_death_by_signal_is_128_and_the_signal",
    "test_bare_name_is_searched_in_the_given_path",
    "test_name_with_slash_is_relative_to_the_working_directory",
    "test_oversized_argument_is_invalid",
    "test_descriptors_are_not_inherited",
    "test_what_the_command_left_running_is_killed",
    "test_timeout_kills_everything_and_keeps_what_was_printed",
    "test_cancelling_kills_everything",
    "test_file_size_is_bounded",
    "test_core_files_are_not_written",
    # Files of kinds and names that WASI does not make.
    "test_special_file_is_refused_without_hanging",
    "test_name_that_is_not_utf8_is_refused",
    "test_link_target_that_is_not_utf8_is_refused",
    "test_many_output_files_complete",
    "test_deep_leftovers_are_removed",
    "test_store_without_bulk_methods_serves_as_well",
}
"""What a WASI program cannot even try."""
WITHOUT_GUEST = {
    "test_all_missing_blobs_are_told_at_once",
    "test_missing_files_alone_are_told_at_once",
    "test_missing_root_is_told",
    "test_malformed_directory_is_invalid",
    "test_tree_exploding_in_size_is_refused",
    "test_path_longer_than_the_host_takes_is_invalid",
    "test_name_longer_than_the_host_takes_is_invalid",
    "test_working_directory_must_be_in_the_tree",
    "test_working_directory_may_not_escape",
    "test_no_arguments_are_invalid",
    "test_nul_characters_are_invalid",
    "test_oversized_argument_is_invalid",
    "test_parents_are_never_made_outside",
    "test_output_leaving_the_root_is_invalid",
    "test_timeout_over_the_maximum_is_invalid",
}
"""What ends before a virtual machine would start."""
WITH_GUEST = {
    "test_output_can_be_opened_by_name",
    "test_death_by_signal_is_128_and_the_signal",
    "test_output_over_the_limit_is_cut_with_a_word",
    "test_each_kind_is_told",
    "test_whole_root_as_parents_of_the_working_directory",
    "test_paths_are_echoed_as_asked",
    "test_cancelling_kills_everything",
}
"""What is worth seconds for a virtual machine without KVM; tests/executor/microvm has more. By hand
the rest was tried too: what fails wants programs that the tests' guests have not, more speed than
there is without KVM, or to know what lies behind a link, which is nobody's output.
"""
WASM_COMMANDS = ("sh", "true", "ls", "env", "echo")


@functools.cache
def toolchain() -> Path:
    """What guests have beside the input tree; kept until this process ends."""
    directory = tempfile.mkdtemp(prefix="armitage-toolchain-")
    atexit.register(shutil.rmtree, directory)
    return make_toolchain(Path(directory))


@functools.cache
def nursery() -> Nursery:
    """Forks the workers of all wasm executors here; it ends with this process."""
    return Nursery()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test each kind of executor that can run what it runs."""
    test = metafunc.function.__name__
    left_out = {"wasm"} if test in NOT_OF_WASM else set()
    if test not in WITHOUT_GUEST | WITH_GUEST:
        left_out |= {"microvm", "firecracker"}
    kinds = [one for one in KINDS if kind_of(one) not in left_out]
    for name in ("bench", "fast_bench"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, kinds, indirect=True)


def kind_of(one: object) -> object:
    """Answers the kind that a parameter is."""
    return getattr(one, "values", (one,))[0]


def options(scratch: Path, launcher: LauncherKind = LauncherKind.AUTO) -> ExecutorOptions:
    wasm = WasmOptions()
    if not compiler_missing():
        # Sleeping takes its time.
        wasm = WasmOptions(
            deterministic=False,
            cache=CACHE / "compiled",
            toolchains=dict.fromkeys(WASM_COMMANDS, str(shell())),
        )
    return ExecutorOptions(
        scratch=scratch,
        output_limit_bytes=1 << 20,
        max_timeout_s=60,
        launcher=launcher,
        wasm=wasm,
    )


def make(kind: str, store: BlobStore, scratch: Path) -> LocalExecutor:
    clock = SystemClock().wall
    if kind == "unsandboxed":
        return UnsandboxedExecutor(store, JsonCodec(), options(scratch), clock)
    if kind == "wasm":
        return WasmExecutor(store, JsonCodec(), options(scratch), clock, nursery())
    if kind in {"microvm", "firecracker"}:
        machine = MachineKind.FIRECRACKER if kind == "firecracker" else MachineKind.QEMU
        guests = machine_options(toolchain(), machine)
        return MicrovmExecutor(store, JsonCodec(), options(scratch), clock, guests)
    if kind == "overlay":
        shown = replace(
            options(scratch, LauncherKind.ARMITAGE), tree_cache=TreeCacheOptions(from_entries=0)
        )
        executor = NamespaceExecutor(store, JsonCodec(), shown, clock)
        assert executor.no_overlay == ""
        return executor
    launcher = LauncherKind(kind)
    return NamespaceExecutor(store, JsonCodec(), options(scratch, launcher), clock)


@asynccontextmanager
async def open_bench(kind: str, scratch: Path) -> AsyncIterator[Bench]:
    store = MemoryStore()
    if kind == "wasm":
        nursery().start()
    before = descriptors()
    executor = make(kind, store, scratch)
    bench = Bench(executor, store, scratch, None if kind == "unsandboxed" else BUILD_ROOT)
    made = descriptors()
    yield bench
    assert bench.leftovers() == []
    # Workers and compiled programs for wasm are kept for the next action. While a thread starts rm
    # for what actions left, it holds some of its own.
    deadline = time.monotonic() + 5
    while kind != "wasm" and descriptors() > made:
        assert time.monotonic() < deadline, f"{descriptors()} descriptors, of {made}"
        await asyncio.sleep(0.01)
    await executor.close()
    assert descriptors() <= before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path / "scratch") as bench:
        yield bench


@pytest.fixture
async def fast_bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with scratch space in memory where the host has it, for masses of files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        async with open_bench(request.param, Path(scratch)) as bench:
            yield bench


class TestInputs:
    async def test_tree_is_made_exactly(self, bench: Bench) -> None:
        tree = {
            "file": b"one",
            "tool": Exe(b"#!/bin/sh\n"),
            "empty": {},
            "deep": {"er": {"é": b"", "up": Link("../../file")}},
            "dangling": Link("/nowhere/at all"),
        }

        printed = await bench.says(r"find . -printf '%P %y %m %l\n' | sort", tree=tree)

        assert sorted(printed.splitlines()) == sorted(
            [
                " d 755 ",
                "file f 644 ",
                "tool f 755 ",
                "empty d 755 ",
                "deep d 755 ",
                "deep/er d 755 ",
                "deep/er/é f 644 ",
                "deep/er/up l 777 ../../file",
                "dangling l 777 /nowhere/at all",
            ]
        )

    async def test_modification_times_are_fixed(self, bench: Bench) -> None:
        tree = {"a": b"1", "b": {"c": b"2"}, "l": Link("a")}

        printed = await bench.says(r"find . -printf '%T@\n' | sort -u", tree=tree, outputs=["x/y"])

        assert printed.split(".")[0] == "946684800"
        assert len(printed.splitlines()) == 1

    async def test_empty_root_digest_is_an_empty_tree(self, bench: Bench) -> None:
        outcome = await bench.run("ls", "-A", input_root=SHA256.empty)

        assert outcome.exit_code == 0
        assert outcome.stdout == SHA256.empty

    async def test_all_missing_blobs_are_told_at_once(self, bench: Bench) -> None:
        gone = b"\xff"
        lost = await put_tree(bench.store, {"a": gone, "b": b"\x00here"}, leave_out=gone)
        nowhere = SHA256.digest(b"a directory that nobody stored")
        codec = JsonCodec()

        root = codec.encode_directory(
            Directory(
                files=(FileNode("c", SHA256.digest(b"other")),),
                directories=(DirectoryNode("d", lost), DirectoryNode("e", nowhere)),
            )
        )
        await bench.store.put([SHA256.digest(root)], root)

        with pytest.raises(InputsMissing) as raised:
            await bench.run("true", input_root=SHA256.digest(root))

        wanted = {SHA256.digest(gone), nowhere, SHA256.digest(b"other")}
        assert set(raised.value.digests) == wanted
        assert len(raised.value.digests) == 3

    async def test_missing_files_alone_are_told_at_once(self, bench: Bench) -> None:
        root = await put_tree(bench.store, {"a": b"\xff", "b": {"c": b"\xff"}}, leave_out=b"\xff")

        with pytest.raises(InputsMissing) as raised:
            await bench.run("true", input_root=root)

        assert raised.value.digests == (SHA256.digest(b"\xff"),)

    async def test_missing_root_is_told(self, bench: Bench) -> None:
        root = SHA256.digest(b"never stored")

        with pytest.raises(InputsMissing) as raised:
            await bench.run("true", input_root=root)

        assert raised.value.digests == (root,)

    async def test_malformed_directory_is_invalid(self, bench: Bench) -> None:
        root = await bench.store.put([SHA256.digest(b"not json")], b"not json")

        with pytest.raises(InvalidInput, match="malformed"):
            await bench.run("true", input_root=root)

    async def test_changed_inputs_reach_neither_store_nor_next_action(self, bench: Bench) -> None:
        tree = {"a": b"original", "t": Exe(b"tool")}
        script = "cat a; echo spoilt >> a; chmod 777 a t; mv t a2; echo x > t; rm -f a; echo y > a"

        first = await bench.says(script, tree=tree)
        second = await bench.says("cat a t; stat -c %a a t", tree=tree)

        assert first == "original"
        assert second == "originaltool644\n755\n"
        assert await bench.store.get(SHA256.digest(b"original")) == b"original"

    async def test_tree_exploding_in_size_is_refused(self, bench: Bench) -> None:

        below = SHA256.empty
        for _ in range(40):
            data = JsonCodec().encode_directory(
                Directory(directories=(DirectoryNode("a", below), DirectoryNode("b", below)))
            )
            below = await bench.store.put([SHA256.digest(data)], data)

        with pytest.raises(InvalidInput, match="over"):
            await bench.run("true", input_root=below)

    @pytest.mark.slow
    async def test_thousand_levels_deep_input_runs(self, bench: Bench) -> None:

        below = SHA256.empty
        for _ in range(1000):
            data = JsonCodec().encode_directory(Directory(directories=(DirectoryNode("d", below),)))
            below = await bench.store.put([SHA256.digest(data)], data)

        printed = await bench.says("find . | wc -l", input_root=below)

        assert printed.strip() == "1001"

    async def test_path_longer_than_the_host_takes_is_invalid(self, bench: Bench) -> None:

        below = SHA256.empty
        for _ in range(30):
            data = JsonCodec().encode_directory(
                Directory(directories=(DirectoryNode("n" * 200, below),))
            )
            below = await bench.store.put([SHA256.digest(data)], data)

        with pytest.raises(InvalidInput, match="path"):
            await bench.run("true", input_root=below)

    async def test_name_longer_than_the_host_takes_is_invalid(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput):
            await bench.run("true", tree={"n" * 300: b""})


class TestCommand:
    async def test_exit_code_is_reported(self, bench: Bench) -> None:
        outcome = await bench.sh("echo kept > out; exit 3", outputs=["out"])

        assert outcome.exit_code == 3
        assert [file.path for file in outcome.files] == ["out"]

    async def test_death_by_signal_is_128_and_the_signal(self, bench: Bench) -> None:
        outcome = await bench.sh("kill -TERM $$")

        assert outcome.exit_code == 143

    async def test_bare_name_is_found_without_path(self, bench: Bench) -> None:
        outcome = await bench.run("true")

        assert outcome.exit_code == 0

    async def test_bare_name_is_searched_in_the_given_path(self, bench: Bench) -> None:
        tree = {"tools": {"hello": Exe(b"#!/bin/sh\necho from tools\n")}}
        outcome = await bench.run("hello", tree=tree, environment={"PATH": "tools"})

        assert await bench.text(outcome) == "from tools\n"

    async def test_name_with_slash_is_relative_to_the_working_directory(self, bench: Bench) -> None:
        tree = {"a": {"b": {"tool": Exe(b"#!/bin/sh\npwd\n")}}}

        outcome = await bench.run("b/tool", tree=tree, working_directory="a")

        assert (await bench.text(outcome)).endswith("/a\n")

    @pytest.mark.parametrize("command", ["no-such-command", "./no-such", "/no/such"])
    async def test_command_not_found_is_exit_127(self, bench: Bench, command: str) -> None:
        outcome = await bench.run(command)

        assert outcome.exit_code == 127
        assert command in await bench.errors(outcome)

    async def test_command_not_executable_is_exit_126(self, bench: Bench) -> None:
        outcome = await bench.run("./data", tree={"data": b"x"})

        assert outcome.exit_code == 126
        assert "data" in await bench.errors(outcome)

    async def test_working_directory_must_be_in_the_tree(self, bench: Bench) -> None:
        for directory in ("absent", "file"):
            with pytest.raises(InvalidInput, match="working directory"):
                await bench.run(
                    "true", tree={"file": b""}, working_directory=directory, outputs=["x"]
                )

    async def test_working_directory_may_not_escape(self, bench: Bench) -> None:
        tree = {"out": Link("/usr"), "up": Link("../../..")}
        for directory in ("..", "/", "/usr", "a/../..", "out", "up"):
            with pytest.raises(InvalidInput):
                await bench.run("true", tree=tree, working_directory=directory)

    async def test_no_arguments_are_invalid(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match="arguments"):
            await bench.run()

    async def test_nul_characters_are_invalid(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput):
            await bench.run("echo", "a\0b")
        with pytest.raises(InvalidInput):
            await bench.run("true", environment={"A": "a\0b"})
        with pytest.raises(InvalidInput):
            await bench.run("true", environment={"A=": "b"})

    async def test_oversized_argument_is_invalid(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match="too long"):
            await bench.run("echo", "x" * 200_000)

    async def test_large_environment_arrives(self, bench: Bench) -> None:
        value = "v" * 100_000

        printed = await bench.says('printf %s "$BIG" | wc -c', environment={"BIG": value})

        assert printed.strip() == "100000"

    async def test_environment_is_what_was_asked_and_little_else(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")
        outcome = await bench.run("env", environment={"B": "2", "A": "x=y\nz", "PATH": "/bin"})

        names = {line.partition("=")[0] for line in (await bench.text(outcome)).splitlines()}
        assert names - {"PWD", "ARMITAGE_ACTION"} == {"A", "B", "PATH", "z"}

    async def test_stdin_is_empty(self, bench: Bench) -> None:
        assert await bench.says("cat") == ""

    async def test_descriptors_are_not_inherited(self, bench: Bench) -> None:
        inherited = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            # A shell whose last command it is may become that, which opens the directory.
            printed = await bench.says("ls /proc/$$/fd; true")
        finally:
            os.close(inherited)

        assert set(printed.split()) <= {"0", "1", "2", "10"}

    async def test_timings_are_in_order(self, bench: Bench) -> None:
        outcome = await bench.sh("true")

        t = outcome.timings
        marks = [
            t.worker_start,
            t.input_fetch_start,
            t.input_fetch_completed,
            t.execution_start,
            t.execution_completed,
            t.output_upload_start,
            t.output_upload_completed,
            t.worker_completed,
        ]
        assert marks == sorted(marks)
        assert abs(marks[-1] - SystemClock().wall()) < 60
        assert 0 < outcome.resources.wall_s < 60

    async def test_sandbox_is_described(self, bench: Bench) -> None:
        outcome = await bench.run("true")

        kinds = {
            NamespaceExecutor: "namespaces",
            WasmExecutor: "wasm",
            UnsandboxedExecutor: "none",
            MicrovmExecutor: "microvm",
        }
        assert outcome.sandbox["sandbox"] == kinds[type(bench.executor)]
        assert "limits" in outcome.sandbox


class TestPrinting:
    async def test_streams_are_stored_and_told_apart(self, bench: Bench) -> None:
        seen = Seen()

        outcome = await bench.sh("echo out; echo err >&2", progress=seen)

        assert await bench.text(outcome) == "out\n"
        assert await bench.errors(outcome) == "err\n"
        assert (bytes(seen.out), bytes(seen.err), seen.started) == (b"out\n", b"err\n", 1)

    async def test_output_comes_while_the_command_runs(self, bench: Bench) -> None:
        seen = Seen()

        await cancelled_once_heard(bench.sh("echo early; sleep 60", progress=seen), seen)

        assert seen.out == b"early\n"

    async def test_nothing_printed_is_the_empty_digest(self, bench: Bench) -> None:
        outcome = await bench.run("true")

        assert outcome.stdout == outcome.stderr == SHA256.empty

    async def test_output_can_be_opened_by_name(self, bench: Bench) -> None:
        script = "echo one; echo two >/dev/stdout; echo three >&2; echo four >>/dev/stderr"

        outcome = await bench.run("sh", "-c", script)

        assert outcome.exit_code == 0, await bench.errors(outcome)
        assert await bench.store.get(outcome.stdout) == b"one\ntwo\n"
        assert await bench.store.get(outcome.stderr) == b"three\nfour\n"

    async def test_long_output_is_kept_whole(self, bench: Bench) -> None:
        outcome = await bench.sh("head -c 900000 /dev/zero")

        assert outcome.stdout == SHA256.digest(bytes(900_000))
        assert await bench.store.get(outcome.stdout) == bytes(900_000)

    async def test_output_over_the_limit_is_cut_with_a_word(self, bench: Bench) -> None:
        outcome = await bench.sh("head -c 3000000 /dev/zero; echo done >&2")

        data = await bench.store.get(outcome.stdout)
        assert data.startswith(bytes(1 << 20))
        assert data[1 << 20 :] == b"\n[truncated: over the limit of 1048576 bytes]\n"
        assert "stdout was truncated" in outcome.message
        assert await bench.errors(outcome) == "done\n"

    @pytest.mark.parametrize("function", list(DigestFunction))
    async def test_outputs_use_the_actions_digest_function(
        self, bench: Bench, function: DigestFunction
    ) -> None:
        outcome = await bench.sh(
            "echo x; mkdir d; echo x > d/f; cp in out",
            tree={"in": b"i"},
            outputs=["d", "out"],
            function=function,
        )

        assert outcome.stdout == function.digest(b"x\n")
        assert outcome.files[0].digest == function.digest(b"i")
        assert await get_tree(bench.store, outcome.directories[0].root) == {"f": b"x\n"}


class TestOutputs:
    async def test_each_kind_is_told(self, bench: Bench) -> None:
        script = """
            echo f > file; mkdir dir; echo g > dir/g; echo e > tool; chmod +x tool
            ln -s file to-file; ln -s dir to-dir; ln -s gone dangling; ln -s /etc/passwd outside
        """
        names = ["file", "tool", "dir", "to-file", "to-dir", "dangling", "outside", "absent"]

        outcome = await bench.sh(script, outputs=names)

        assert [(f.path, f.is_executable) for f in outcome.files] == [
            ("file", False),
            ("tool", True),
        ]
        assert [d.path for d in outcome.directories] == ["dir"]
        assert [(s.path, s.target, s.leads_to) for s in outcome.symlinks] == [
            ("to-file", "file", OutputKind.FILE),
            ("to-dir", "dir", OutputKind.DIRECTORY),
            ("dangling", "gone", None),
            ("outside", "/etc/passwd", None),
        ]

    async def test_absolute_link_into_the_root_leads_somewhere(self, bench: Bench) -> None:
        outcome = await bench.sh('echo > f; ln -s "$PWD/f" l', outputs=["l"])

        assert outcome.symlinks[0].leads_to is OutputKind.FILE

    async def test_legacy_kinds_accept_what_they_name(self, bench: Bench) -> None:
        outcome = await bench.sh(
            "echo > f; mkdir d; ln -s f lf; ln -s d ld",
            outputs=[
                OutputRequest("f", OutputKind.FILE),
                OutputRequest("lf", OutputKind.FILE),
                OutputRequest("d", OutputKind.DIRECTORY),
                OutputRequest("ld", OutputKind.DIRECTORY),
            ],
        )

        assert [f.path for f in outcome.files] == ["f"]
        assert [d.path for d in outcome.directories] == ["d"]
        assert [s.path for s in outcome.symlinks] == ["lf", "ld"]

    @pytest.mark.parametrize(
        ("script", "kind"),
        [
            ("mkdir x", OutputKind.FILE),
            ("mkdir d; ln -s d x", OutputKind.FILE),
            ("echo > x", OutputKind.DIRECTORY),
            ("echo > f; ln -s f x", OutputKind.DIRECTORY),
        ],
    )
    async def test_legacy_kinds_refuse_another_type(
        self, bench: Bench, script: str, kind: OutputKind
    ) -> None:
        with pytest.raises(InvalidOutput, match="'x'"):
            await bench.sh(script, outputs=[OutputRequest("x", kind)])

    async def test_path_asked_for_as_both_kinds_may_be_either(self, bench: Bench) -> None:
        outcome = await bench.sh(
            "echo > f; mkdir d",
            outputs=[
                OutputRequest(path, kind)
                for path in ("f", "d")
                for kind in (OutputKind.FILE, OutputKind.DIRECTORY)
            ],
        )

        assert [f.path for f in outcome.files] == ["f"]
        assert [d.path for d in outcome.directories] == ["d"]

    async def test_parents_are_made_but_not_the_output_itself(self, bench: Bench) -> None:
        printed = await bench.says(
            "find . -mindepth 1 | sort", outputs=["a/b/out", "c/d"], tree={"a": {}}
        )

        assert printed.split() == ["./a", "./a/b", "./c"]

    async def test_parents_are_made_through_a_link_inside(self, bench: Bench) -> None:
        tree = {"real": {}, "link": Link("real")}

        outcome = await bench.sh("echo > link/sub/out", tree=tree, outputs=["link/sub/out"])

        assert [f.path for f in outcome.files] == ["link/sub/out"]

    async def test_parents_are_never_made_outside(self, bench: Bench, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()

        with pytest.raises(InvalidInput, match="link"):
            await bench.sh("true", tree={"l": Link(str(outside))}, outputs=["l/sub/out"])

        assert list(outside.iterdir()) == []

    async def test_output_through_a_link_to_outside_is_absent(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("secret")

        outcome = await bench.sh(f"ln -s {tmp_path} l; ln -s ../../../.. up", outputs=["l/secret"])

        assert outcome.files == ()

    async def test_whole_root_as_empty_path(self, bench: Bench) -> None:
        outcome = await bench.sh("echo n > new", tree={"old": b"o"}, outputs=[""])

        assert outcome.directories[0].path == ""
        assert await get_tree(bench.store, outcome.directories[0].root) == {
            "old": b"o",
            "new": b"n\n",
        }

    async def test_whole_root_as_parents_of_the_working_directory(self, bench: Bench) -> None:
        outcome = await bench.sh(
            "echo n > new",
            tree={"a": {"b": {}}},
            working_directory="a/b",
            outputs=[OutputRequest("../..", OutputKind.DIRECTORY)],
        )

        assert outcome.directories[0].path == "../.."
        assert await get_tree(bench.store, outcome.directories[0].root) == {
            "a": {"b": {"new": b"n\n"}}
        }

    @pytest.mark.parametrize("path", ["..", "a/../../b", "/etc/passwd", "a\0b"])
    async def test_output_leaving_the_root_is_invalid(self, bench: Bench, path: str) -> None:
        with pytest.raises(InvalidInput):
            await bench.run("true", outputs=[path])

    async def test_paths_are_echoed_as_asked(self, bench: Bench) -> None:
        outcome = await bench.sh("echo > f", outputs=["./f", "x/../f", "f"])

        assert [f.path for f in outcome.files] == ["./f", "x/../f", "f"]

    async def test_stale_output_in_the_inputs_counts_only_if_it_stays(self, bench: Bench) -> None:
        tree = {"keep": b"1", "drop": b"2"}

        outcome = await bench.sh("rm drop", tree=tree, outputs=["keep", "drop"])

        assert [f.path for f in outcome.files] == ["keep"]

    async def test_tree_holds_every_directory_once_parents_first(self, bench: Bench) -> None:
        script = """
            mkdir -p out/a/same out/b/same out/same/x out/z/deep
            echo 1 > out/a/same/f; echo 1 > out/b/same/f; ln -s ../nowhere out/z/l
            cp -r out/a/same out/z/deep/same; mkdir -p out/z/deep/e out/e
        """
        outcome = await bench.sh(script, outputs=["out"])

        codec = JsonCodec()
        [output] = outcome.directories
        encoded = codec.decode_tree(await bench.store.get(output.tree))
        digests = [SHA256.digest(data) for data in encoded]
        assert digests[0] == output.root
        assert len(set(digests)) == len(digests)
        assert await bench.store.find_missing(digests) == []

        work = Work("x", SHA256, SHA256.empty, ())
        for place, data in enumerate(encoded):
            for child in codec.decode_directory(data, work).directories:
                assert digests.index(child.digest) > place
        found = await get_tree(bench.store, output.root)
        below = found["z"]
        assert isinstance(below, Mapping)
        assert below["l"] == Link("../nowhere")

    async def test_equal_directories_have_equal_trees(self, bench: Bench) -> None:
        make = "mkdir -p d/x d/y; echo 1 > d/x/1; echo 2 > d/y/2; chmod +x d/y/2"
        reverse = "mkdir -p d/y; echo 2 > d/y/2; mkdir d/x; echo 1 > d/x/1; chmod +x d/y/2"

        first = await bench.sh(make, outputs=["d"])
        second = await bench.sh(reverse, outputs=["d"])

        assert first.directories == second.directories

    @pytest.mark.parametrize("inside", ["", "d/"])
    @pytest.mark.parametrize(
        "make",
        [
            "mkfifo {}",
            "python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' {}",
        ],
    )
    async def test_special_file_is_refused_without_hanging(
        self, bench: Bench, make: str, inside: str
    ) -> None:
        script = "mkdir -p d; " + make.format(f"{inside}special")

        with pytest.raises(InvalidOutput, match=r"fifo|socket"):
            await bench.sh(script, outputs=["d" if inside else "special"])

    async def test_name_that_is_not_utf8_is_refused(self, bench: Bench) -> None:
        with pytest.raises(InvalidOutput, match="UTF-8"):
            await bench.sh(r"mkdir d; touch d/$(printf '\377')", outputs=["d"])

    async def test_link_target_that_is_not_utf8_is_refused(self, bench: Bench) -> None:
        with pytest.raises(InvalidOutput, match="UTF-8"):
            await bench.sh(r"ln -s $(printf '\377') l", outputs=["l"])

    async def test_unreadable_outputs_are_read(self, bench: Bench) -> None:
        outcome = await bench.sh(
            "mkdir d d/e; echo 1 > d/e/f; echo 2 > g; chmod 0 d/e/f g; chmod 0 d/e; chmod 0 d",
            outputs=["d", "g"],
        )

        assert outcome.files[0].digest == SHA256.digest(b"2\n")
        assert await get_tree(bench.store, outcome.directories[0].root) == {"e": {"f": b"1\n"}}

    @pytest.mark.slow
    async def test_many_output_files_complete(self, fast_bench: Bench) -> None:
        outcome = await fast_bench.sh(
            "mkdir d; cd d; for i in $(seq 50); do mkdir $i; (cd $i; seq 1000 | xargs touch); done",
            outputs=["d"],
        )

        tree = await get_tree(fast_bench.store, outcome.directories[0].root)
        assert len(tree) == 50
        assert all(isinstance(below, Mapping) and len(below) == 1000 for below in tree.values())


class TestEnd:
    async def test_timeout_kills_everything_and_keeps_what_was_printed(self, bench: Bench) -> None:
        marker = f"31{os.getpid()}.5"
        script = f"echo before; setsid sleep {marker} & (trap '' TERM; sleep {marker}) & wait"

        with pytest.raises(TimedOut) as raised:
            await bench.sh(script, timeout_s=0.3)

        assert await bench.store.get(raised.value.stdout) == b"before\n"
        assert raised.value.timeout_s == 0.3
        assert not running(marker)

    async def test_timeout_over_the_maximum_is_invalid(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match="60 s"):
            await bench.run("true", timeout_s=61)

    async def test_what_the_command_left_running_is_killed(self, bench: Bench) -> None:
        marker = f"32{os.getpid()}.5"
        script = f"setsid sh -c 'sleep {marker} & sleep {marker}' & sleep 0.05; exit 0"

        outcome = await bench.sh(script)

        assert outcome.exit_code == 0
        assert not running(marker)

    async def test_cancelling_kills_everything(self, bench: Bench) -> None:
        marker = f"33{os.getpid()}.5"
        seen = Seen()

        await cancelled_once_heard(
            bench.sh(f"echo; setsid sleep {marker} & sleep {marker}", progress=seen), seen
        )

        assert not running(marker)
        assert bench.leftovers() == []

    async def test_cancelling_at_any_moment_leaves_nothing(self, bench: Bench) -> None:
        marker = f"34{os.getpid()}.5"
        root = await put_tree(bench.store, {"a": b"1", "b": {"c": b"2"}})
        for delay_ms in range(0, 40, 2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay_ms / 1000):
                    await bench.sh(f"sleep {marker}", input_root=root)
            assert bench.leftovers() == []

        assert not running(marker)

    async def test_read_only_leftovers_are_removed(self, bench: Bench) -> None:
        script = "mkdir -p a/b/c; touch a/b/c/f; chmod 000 a/b/c/f a/b/c a/b; chmod 555 a ."

        outcome = await bench.sh(script)

        assert outcome.exit_code == 0
        assert bench.leftovers() == []

    @pytest.mark.slow
    async def test_deep_leftovers_are_removed(self, bench: Bench) -> None:
        code = "import os\nfor i in range(3000): os.mkdir('d' * 100); os.chdir('d' * 100)"

        outcome = await bench.run("python3", "-c", code)

        assert outcome.exit_code == 0, await bench.errors(outcome)
        assert bench.leftovers() == []

    async def test_actions_run_at_the_same_time(self, bench: Bench) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(bench.says(f"echo {i} > f; sleep 0.1; cat f")) for i in range(5)
            ]

        assert [task.result() for task in tasks] == [f"{i}\n" for i in range(5)]


class TestLimits:
    @pytest.mark.slow
    async def test_file_size_is_bounded(self, bench: Bench, tmp_path: Path) -> None:
        outcome = await bench.run("truncate", "-s", "1T", "huge")

        assert outcome.exit_code != 0

    async def test_core_files_are_not_written(self, bench: Bench) -> None:
        assert (await bench.says("ulimit -c")).strip() == "0"


async def test_store_without_bulk_methods_serves_as_well(bench: Bench, tmp_path: Path) -> None:
    store = PlainStore(bench.store)
    executor = UnsandboxedExecutor(
        store, JsonCodec(), options(tmp_path / "other"), SystemClock().wall
    )
    other = Bench(executor, store, tmp_path / "other", None)
    tree = {"a": b"x" * 2_000_000, "t": Exe(b"tool"), "copy": b"x" * 2_000_000}

    outcome = await other.sh("cp a b; mkdir d; cp t d; echo s > d/s", tree=tree, outputs=["b", "d"])
    lost = await put_tree(store, {"a": b"\xff", "b": b"here"}, leave_out=b"\xff")
    with pytest.raises(InputsMissing) as raised:
        await other.run("true", input_root=lost)
    await executor.close()

    assert outcome.files[0].digest == SHA256.digest(b"x" * 2_000_000)
    assert await get_tree(store, outcome.directories[0].root) == {"t": Exe(b"tool"), "s": b"s\n"}
    assert raised.value.digests == (SHA256.digest(b"\xff"),)


async def cancelled_once_heard(action: Coroutine[None, None, Outcome], seen: Seen) -> None:
    """Cancels an action as soon as it has printed something."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(action)
        await seen.heard.wait()
        task.cancel()
    assert task.cancelled()


def running(marker: str) -> list[str]:
    """Processes that have the marker among their arguments."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in arguments:
                found.append(name)
    return found
