"""What is particular to actions that are WebAssembly programs."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.executing import SHA256, Bench, JsonCodec, Link, Seen, Tree, get_tree, put_tree
from support.wasi_programs import (
    ENDLESS,
    compiler_missing,
    component,
    exiting,
    from_text,
    module,
    printing,
    shell,
)

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.coeffects import (
    Coeffects,
    FilesystemGrant,
    GpuGrant,
    NetworkGrant,
    SandboxKind,
)
from executor.errors import InvalidInput, SandboxUnavailable, TimedOut, WorkerFailure
from executor.options import ExecutorOptions
from executor.spec import EndedBy, Outcome, OutputRequest, Work
from executor.wasm.executor import WasmExecutor
from executor.wasm.options import WasmOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")
needs_compiler = pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())

PROGRAMS = Path()


@asynccontextmanager
async def open_bench(directory: Path, **options: Any) -> AsyncIterator[Bench]:
    store = MemoryStore()
    wasm = WasmOptions(**{"cache": PROGRAMS, **options})
    scratch = directory / "scratch"
    executor = WasmExecutor(
        store, JsonCodec(), ExecutorOptions(scratch=scratch, wasm=wasm), SystemClock().wall
    )
    bench = Bench(executor, store, scratch, "/build")
    yield bench
    assert bench.leftovers() == []
    await executor.close()


@pytest.fixture(scope="module", autouse=True)
def _programs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all benches, for each program to be compiled once."""
    global PROGRAMS  # noqa: PLW0603 (the same for all that open_bench opens)
    PROGRAMS = tmp_path_factory.mktemp("programs")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A bench where `sh` is a program of the host's, for all tests that do not mind each other."""
    chosen = {} if compiler_missing() else {"sh": str(shell())}
    async with open_bench(tmp_path_factory.mktemp("bench"), toolchains=chosen) as bench:
        yield bench


def wasm_of(bench: Bench) -> WasmExecutor:
    assert isinstance(bench.executor, WasmExecutor)
    return bench.executor


def workers_of(bench: Bench) -> set[int]:
    return {worker.pid for worker in wasm_of(bench)._pool._alive}


async def profile_of(bench: Bench, outcome: Outcome) -> dict[str, Any]:
    assert outcome.evidence is not None
    assert outcome.evidence.profile is not None
    profile: dict[str, Any] = json.loads(await bench.store.get(outcome.evidence.profile))
    return profile


class TestProgram:
    async def test_program_of_the_tree_runs(self, bench: Bench) -> None:
        outcome = await bench.run("bin/p.wasm", tree={"bin": {"p.wasm": printing("hello")}})

        assert (outcome.exit_code, await bench.text(outcome)) == (0, "hello")
        assert outcome.resources.cpu_s is not None
        assert outcome.resources.peak_memory_bytes == 1 << 16

    @pytest.mark.parametrize("name", ["p.wasm", "./p.wasm", "/build/a/p.wasm", "../a/link"])
    async def test_name_is_relative_to_the_working_directory(self, bench: Bench, name: str) -> None:
        tree: Tree = {"a": {"p.wasm": exiting(4), "link": Link("/build/a/p.wasm")}}

        outcome = await bench.run(name, tree=tree, working_directory="a")

        assert outcome.exit_code == 4

    @pytest.mark.parametrize("name", ["no.wasm", "/etc/passwd", "../../p.wasm", "d", "out"])
    async def test_what_is_not_in_the_tree_is_not_found(self, bench: Bench, name: str) -> None:
        outcome = await bench.run(name, tree={"d": {}, "out": Link("/etc/passwd")})

        assert outcome.exit_code == 127
        why = f"{name}: not found in the input tree, nor named in executor.wasm.toolchains"
        assert why in await bench.errors(outcome)

    async def test_what_is_no_program_cannot_be_executed(self, bench: Bench) -> None:
        for data, why in (
            (b"#!/bin/sh\n", "neither"),
            (from_text("(module)"), "_start"),
            (module("nop", imports='(import "env" "more" (func))'), "more than WASI"),
        ):
            outcome = await bench.run("p.wasm", tree={"p.wasm": data})
            assert outcome.exit_code == 126
            assert why in await bench.errors(outcome)

    async def test_component_runs(self, bench: Bench) -> None:
        outcome = await bench.run("c.wasm", tree={"c.wasm": component("(i32.const 1)")})

        assert outcome.exit_code == 1
        profile = await profile_of(bench, outcome)
        assert (profile["api"], profile["deterministic"]) == ("wasi 0.2", True)

    async def test_programs_of_the_host_are_named_by_configuration(self, tmp_path: Path) -> None:
        blob = exiting(6)
        (tmp_path / "five").write_bytes(exiting(5))
        digest = SHA256.digest(blob)
        chosen = {"five": str(tmp_path / "five"), "six": f"{digest.hash}/{digest.size_bytes}"}
        async with open_bench(tmp_path, toolchains=chosen) as bench:
            assert (await bench.run("five")).exit_code == 5

            with pytest.raises(SandboxUnavailable, match="upload"):
                await bench.run("six")
            await bench.store.put([digest], blob)
            assert (await bench.run("six")).exit_code == 6

            (tmp_path / "five").write_bytes(exiting(55))
            assert (await bench.run("five")).exit_code == 55
            (tmp_path / "five").unlink()
            with pytest.raises(SandboxUnavailable, match="toolchains: five"):
                await bench.run("five")

    async def test_compiling_takes_no_longer_than_it_may(self, tmp_path: Path) -> None:
        async with open_bench(
            tmp_path, compile_timeout_s=0.001, cache=tmp_path / "programs"
        ) as bench:
            outcome = await bench.run("p.wasm", tree={"p.wasm": exiting(0)})

            assert outcome.exit_code == 126
            assert "longer than 0.001 s" in await bench.errors(outcome)

    async def test_program_is_known_by_its_name(self, bench: Bench) -> None:
        def work(name: str, *network: NetworkGrant) -> Work:
            declared = Coeffects(network=network)
            return Work("w", SHA256, SHA256.empty, (name,), coeffects=declared)

        executor = wasm_of(bench)
        assert executor.suits(work("a/p.wasm"))
        assert not executor.suits(work("/bin/sh"))
        assert not executor.suits(work("p.wasm", NetworkGrant()))


@needs_compiler
class TestView:
    async def test_inputs_can_be_read_but_not_changed(self, bench: Bench) -> None:
        tree: Tree = {"in": b"input", "d": {"f": b"1"}}
        for script in ("echo x > in", "echo x >> d/f", "rm in", "mkdir new", "touch d/new"):
            outcome = await bench.sh(f"cat in d/f; {script}", tree=tree, outputs=["out/o"])
            assert outcome.exit_code == 1, script
            assert await bench.text(outcome) == "input1"

    async def test_directories_of_outputs_can_be_written(self, bench: Bench) -> None:
        outcome = await bench.sh(
            'echo 1 > ../x/one; echo 2 > two; mkdir sub; echo 3 > "$PWD/sub/three"',
            tree={"w": {}, "x": {}},
            working_directory="w",
            outputs=["../x/one", "two", OutputRequest("sub")],
        )

        assert outcome.exit_code == 0, await bench.errors(outcome)
        assert [file.path for file in outcome.files] == ["../x/one", "two"]
        assert [one.path for one in outcome.directories] == ["sub"]

    async def test_directory_inside_an_output_can_be_written_by_any_name(
        self, bench: Bench
    ) -> None:
        outcome = await bench.sh(
            "echo 1 > one; echo 2 > /build/w/d/two",
            tree={"w": {"d": {}}},
            working_directory="w/d",
            outputs=["../../w"],
        )

        assert outcome.exit_code == 0, await bench.errors(outcome)
        tree = await get_tree(bench.store, outcome.directories[0].root)
        assert tree == {"d": {"one": b"1\n", "two": b"2\n"}}

    async def test_nothing_of_the_host_can_be_seen(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        tree: Tree = {"link": Link(str(tmp_path)), "up": Link("../../../../etc")}

        for path in ("/etc/passwd", "link/secret", "up/passwd", "../scratch", "/proc/self/maps"):
            outcome = await bench.sh(f"cat {path}", tree=tree)
            assert outcome.exit_code == 1, path

    async def test_tmp_is_its_own_each_time(self, bench: Bench) -> None:
        for _ in range(2):
            assert await bench.says("echo x >> /tmp/f; cat /tmp/f") == "x\n"

    async def test_environment_is_its_own_and_no_more(self, bench: Bench) -> None:
        printed = await bench.says("env", environment={"B": "1", "A": "x\ny"})

        assert sorted(printed.split("\n")) == ["", "A=x", "B=1", "PWD=/build", "y"]

    async def test_runs_are_alike_to_the_clock_and_the_dice(self, bench: Bench) -> None:
        first = await bench.says("date; random; sleep 3600; date")

        assert first.split() == ["946684800", "d5b20f333104a327", "946688400"]
        assert await bench.says("date; random; sleep 3600; date") == first

    async def test_evidence_says_what_was_applied(self, bench: Bench) -> None:
        outcome = await bench.sh("true", outputs=["out/o"], timeout_s=2)

        assert outcome.evidence is not None
        assert outcome.evidence.sandbox is SandboxKind.WASM
        assert not outcome.evidence.opened
        assert not outcome.evidence.network_session
        profile = await profile_of(bench, outcome)
        assert profile["network"] == "none"
        assert profile["preopens"] == {
            "/build": "ro",
            ".": "ro",
            "/build/out": "rw",
            "out": "rw",
            "/tmp": "rw",
        }
        assert profile["limits"]["fuel"] == 20_000_000_000
        assert profile["worker"]["no_new_privs"] == "yes"
        assert profile["engine"].startswith("wasmtime ")

    async def test_actions_that_are_given_other_things_have_profiles_of_their_own(
        self, bench: Bench
    ) -> None:
        tree: Tree = {"p.wasm": exiting(0)}
        plain = await bench.run("p.wasm", tree=tree, timeout_s=2)
        again = await bench.run("p.wasm", tree=tree, timeout_s=2)
        longer = await bench.run("p.wasm", tree=tree, timeout_s=3)
        writing = await bench.run("p.wasm", tree=tree, timeout_s=2, outputs=["out/o"])

        assert again.evidence == plain.evidence
        assert (await profile_of(bench, longer))["limits"]["fuel"] == 30_000_000_000
        assert (await profile_of(bench, writing))["preopens"]["/build/out"] == "rw"


class TestEnd:
    @pytest.mark.parametrize(
        ("declared", "word"),
        [
            (Coeffects(network=(NetworkGrant("a.example"),)), "network"),
            (Coeffects(auth=("token",)), "auth"),
            (Coeffects(filesystem=(FilesystemGrant("/srv"),)), "filesystem"),
            (Coeffects(gpu=GpuGrant()), "gpu"),
        ],
    )
    async def test_what_it_cannot_give_is_refused(
        self, bench: Bench, declared: Coeffects, word: str
    ) -> None:
        root = await put_tree(bench.store, {"p.wasm": exiting(0)})
        work = Work("w", SHA256, root, ("p.wasm",), coeffects=declared)

        with pytest.raises(InvalidInput, match=f"declares {word}, which sandbox:wasm cannot give"):
            await bench.executor.execute(work, Seen())

    async def test_trap_says_why(self, bench: Bench) -> None:
        outcome = await bench.run("p.wasm", tree={"p.wasm": module("unreachable")})

        assert outcome.exit_code == 134
        assert outcome.message.startswith("the program trapped: wasm trap")
        assert "unreachable" in await bench.errors(outcome)

    async def test_spent_fuel_is_told(self, tmp_path: Path) -> None:
        async with open_bench(tmp_path, fuel_per_s=1000) as bench:
            outcome = await bench.run("p.wasm", tree={"p.wasm": module(ENDLESS)}, timeout_s=30)

        assert (outcome.exit_code, outcome.ended_by) == (152, EndedBy.LIMIT)
        assert outcome.message == "the program was stopped: it had spent its fuel of 30000"

    @needs_compiler
    async def test_memory_is_bounded(self, tmp_path: Path) -> None:
        chosen = {"eat": str(shell())}
        async with open_bench(tmp_path, memory_bytes=24 << 20, toolchains=chosen) as bench:
            outcome = await bench.run("eat", timeout_s=20)

        assert outcome.exit_code == 1
        assert outcome.resources.peak_memory_bytes is not None
        assert outcome.resources.peak_memory_bytes <= 24 << 20

    async def test_endless_program_is_stopped_and_its_worker_not_used_again(
        self, tmp_path: Path
    ) -> None:
        tree = {"e.wasm": module(ENDLESS), "p.wasm": exiting(0)}
        async with open_bench(tmp_path) as bench:
            await bench.run("p.wasm", tree=tree)
            before = workers_of(bench)
            assert before

            with pytest.raises(TimedOut):
                await bench.run("e.wasm", tree=tree, timeout_s=0.1)

            assert not workers_of(bench) & before
            assert (await bench.run("p.wasm", tree=tree)).exit_code == 0

    async def test_worker_is_used_again_and_keeps_nothing_back(self, tmp_path: Path) -> None:
        tree = {
            "a.wasm": printing("of the first", then="unreachable"),
            "b.wasm": printing("of the second"),
        }
        async with open_bench(tmp_path) as bench:
            first = await bench.run("a.wasm", tree=tree)
            before = workers_of(bench)
            second = await bench.run("b.wasm", tree=tree)

            assert (first.exit_code, await bench.text(first)) == (134, "of the first")
            assert (second.exit_code, await bench.text(second)) == (0, "of the second")
            assert workers_of(bench) == before
            assert len(before) == 1

    @needs_compiler
    async def test_program_stuck_in_the_host_loses_its_worker(self, tmp_path: Path) -> None:
        chosen = {"sh": str(shell())}
        async with open_bench(tmp_path, deterministic=False, toolchains=chosen) as bench:
            await bench.sh("true")
            before = workers_of(bench)

            with pytest.raises(TimedOut) as raised:
                await bench.sh("echo before; sleep 60", timeout_s=0.1)

            assert await bench.store.get(raised.value.stdout) == b"before\n"
            assert not workers_of(bench) & before
            assert await bench.says("echo after") == "after\n"

    async def test_death_of_a_worker_loses_its_action_alone(self, bench: Bench) -> None:
        tree = {"e.wasm": module(ENDLESS), "p.wasm": exiting(7)}
        await bench.run("p.wasm", tree=tree)
        pid = wasm_of(bench)._pool._idle[-1].pid
        seen = Seen()
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(failure_of(bench.run("e.wasm", tree=tree, progress=seen)))
            await seen.is_started.wait()
            other = group.create_task(bench.run("p.wasm", tree=tree))
            os.kill(pid, signal.SIGKILL)

        assert isinstance(lost.result(), WorkerFailure)
        assert "died at its work" in str(lost.result())
        assert other.result().exit_code == 7

    @needs_compiler
    async def test_programs_run_at_the_same_time(self, bench: Bench) -> None:
        seen = [Seen() for _ in range(3)]
        async with asyncio.TaskGroup() as group:
            endless = [
                group.create_task(
                    bench.run("e.wasm", tree={"e.wasm": module(ENDLESS)}, progress=one)
                )
                for one in seen[:2]
            ]
            for one in seen[:2]:
                await one.is_started.wait()
            assert await bench.says("echo meanwhile") == "meanwhile\n"
            for task in endless:
                task.cancel()

        assert all(task.cancelled() for task in endless)

    async def test_worker_of_a_component_is_not_used_again(self, tmp_path: Path) -> None:
        async with open_bench(tmp_path) as bench:
            await bench.run("p.wasm", tree={"p.wasm": exiting(0)})
            assert len(workers_of(bench)) == 1

            await bench.run("c.wasm", tree={"c.wasm": component("(i32.const 1)")})

            assert not workers_of(bench)

    async def test_program_that_cannot_be_loaded_is_compiled_anew(self, tmp_path: Path) -> None:
        tree = {"p.wasm": exiting(0)}
        async with open_bench(tmp_path, cache=tmp_path / "programs", idle_workers=0) as bench:
            await bench.run("p.wasm", tree=tree)
            [compiled] = wasm_of(bench)._modules._known.values()
            broken = os.memfd_create("broken")
            os.write(broken, b"of another engine")
            os.dup2(broken, compiled.fd)
            os.close(broken)

            with pytest.raises(WorkerFailure, match="cannot be loaded"):
                await bench.run("p.wasm", tree=tree)

            assert (await bench.run("p.wasm", tree=tree)).exit_code == 0

    async def test_cancelling_at_any_moment_leaves_nothing(self, bench: Bench) -> None:
        root = await put_tree(bench.store, {"e.wasm": module(ENDLESS)})
        for delay_ms in (0, 1, 3, 10, 30):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay_ms / 1000):
                    await bench.run("e.wasm", input_root=root)
            assert bench.leftovers() == []

    async def test_nothing_is_left_after_close(self, tmp_path: Path) -> None:
        descriptors = os.listdir("/proc/self/fd")
        async with open_bench(tmp_path) as bench:
            await bench.run("p.wasm", tree={"p.wasm": exiting(0)})
            pids = workers_of(bench)

        assert pids
        assert not pids & {int(name) for name in os.listdir("/proc") if name.isdigit()}
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors)

    async def test_scratch_in_use_is_refused(self, bench: Bench) -> None:
        with pytest.raises(SandboxUnavailable, match="another process uses it"):
            async with open_bench(bench.scratch.parent):
                pass


async def failure_of(running: Any) -> Exception | None:
    try:
        await running
    except WorkerFailure as error:
        return error
    return None
