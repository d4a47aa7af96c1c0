"""Actions that are WebAssembly programs, through the whole daemon."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.daemon import memory_config, running_daemon
from support.wasi_programs import component, printing

from armitage.client.blobs import upload
from armitage.client.channel import Channel
from armitage.client.execution import execute
from armitage.client.remote import connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.transport.port import Code


def without_wasm() -> Config:
    config = memory_config()
    wasm = replace(config.executor.wasm, enabled=False)
    return replace(config, executor=replace(config.executor, wasm=wasm))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "hello.wasm").write_bytes(printing("hello"))
    (tmp_path / "fail.wasm").write_bytes(component("(i32.const 1)"))
    return tmp_path


async def run(daemon: Daemon, tree: Path, coeffects: str, program: str) -> tuple[Code, int, str]:
    """Executes one program; answers the status, the exit code, and stdout or the message."""
    async with Channel(daemon.addresses.grpc[0]) as channel:
        remote = await connect(channel, "")
        command = Run((program,), input=tree, platform=(("coeffects", coeffects),))
        packed = pack(command, remote.function)
        await upload(remote, packed.blobs)
        updates = execute(remote, packed.action, monotonic=SystemClock().monotonic)
        *_, last = [update async for update in updates]
    assert last.response is not None
    status, result = last.response.status, last.response.result
    return Code(status.code), result.exit_code, status.message or result.stdout_raw.decode()


@pytest.mark.sandbox
async def test_program_runs_as_the_action_declares(tree: Path) -> None:
    async with running_daemon() as daemon:
        if not daemon.execution.enabled:
            pytest.skip(daemon.execution.reason)
        assert "wasm" in daemon.execution.kinds
        assert "kinds of sandbox: wasm, " in daemon.execution.reason

        code, exit_code, _ = await run(daemon, tree, "sandbox:wasm", "hello.wasm")
        failed, its_exit_code, _ = await run(daemon, tree, "sandbox:wasm", "fail.wasm")
        refused, _, why = await run(daemon, tree, "network:a.example+sandbox:wasm", "hello.wasm")

    assert (code, exit_code) == (Code.OK, 0)
    assert (failed, its_exit_code) == (Code.OK, 1)
    assert refused is Code.INVALID_ARGUMENT
    assert "declares network, which sandbox:wasm cannot give" in why


@pytest.mark.sandbox
async def test_worker_without_wasm_says_why_it_has_none(tree: Path) -> None:
    async with running_daemon(without_wasm()) as daemon:
        if not daemon.execution.enabled:
            pytest.skip(daemon.execution.reason)
        assert "wasm" not in daemon.execution.kinds

        code, _, why = await run(daemon, tree, "sandbox:wasm", "hello.wasm")

    assert code is Code.FAILED_PRECONDITION
    assert "accepts no sandbox but wasm" in why
    assert "wasm: executor.wasm.enabled = false" in why
