import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.clock import FakeClock
from support.daemon import (
    STOP_S,
    DaemonProcess,
    daemon_process,
    disk_config,
    memory_config,
    running_daemon,
    serve_command,
    without_sandbox,
)

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.blobs import find_missing, read, upload
from armitage.client.channel import CallFailed, Channel
from armitage.client.execution import Update, execute
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.clock import SystemClock
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.errors import ConfigError
from armitage.reapi import rpcs
from armitage.reapi.instances import Instance
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction
from cas.errors import StoreUnavailable
from executor.errors import SandboxUnavailable
from executor.namespace import NamespaceExecutor

EXECUTING = reapi.ExecutionStage.EXECUTING
BLOB = b"kept over every end" * 100
DIGEST = DigestFunction.SHA256.digest(BLOB)


@asynccontextmanager
async def remote_at(target: str, instance: str = "") -> AsyncIterator[Remote]:
    async with Channel(target) as channel:
        yield await connect(channel, instance)


def remote_of(daemon: Daemon) -> AbstractAsyncContextManager[Remote]:
    return remote_at(daemon.addresses.grpc[0])


async def updates(remote: Remote, *arguments: str) -> AsyncIterator[Update]:
    packed = pack(Run(arguments), remote.function)
    await upload(remote, packed.blobs)
    async for update in execute(remote, packed.action, monotonic=SystemClock().monotonic):
        yield update


async def ending(remote: Remote, update: Update) -> tuple[Code, int, bytes]:
    assert update.response is not None
    result = update.response.result
    stdout = Digest(remote.function, result.stdout_digest.hash, result.stdout_digest.size_bytes)
    return Code(update.response.status.code), result.exit_code, await read(remote, stdout)


async def run_to_end(remote: Remote, *arguments: str) -> tuple[Code, int, bytes]:
    *_, last = [update async for update in updates(remote, *arguments)]
    return await ending(remote, last)


def open_files() -> set[str]:
    """What this process has open, but for what libraries open once and keep."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(descriptor))
        except OSError:
            continue
    return {name for name in found if name.startswith(("/", "socket:"))}


async def test_a_started_daemon_answers_and_a_stopped_one_is_gone() -> None:
    async with running_daemon() as daemon, remote_of(daemon) as remote:
        target = daemon.addresses.grpc[0]
        await upload(remote, {DIGEST: BLOB})
        assert await read(remote, DIGEST) == BLOB

    with pytest.raises(CallFailed) as caught:
        async with remote_at(target):
            pass
    assert caught.value.code is Code.UNAVAILABLE


async def test_instances_share_blobs_and_unknown_ones_are_refused() -> None:
    config = replace(memory_config(), instances=(Instance("a"), Instance("b/c")))
    async with running_daemon(config) as daemon:
        target = daemon.addresses.grpc[0]
        async with remote_at(target, "a") as remote:
            await upload(remote, {DIGEST: BLOB})
        async with remote_at(target, "b/c") as remote:
            assert await find_missing(remote, [DIGEST]) == []
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            async with remote_at(target, "other"):
                pass


def served_rpcs() -> list[rpcs.Rpc[Any, Any]]:
    """All that the API has, but for what is honestly not offered yet."""
    known = [value for value in vars(rpcs).values() if isinstance(value, rpcs.Rpc)]
    chunking = ("SplitBlob", "SpliceBlob", "ChunkMapping")
    return [rpc for rpc in known if not rpc.path.endswith(chunking)]


async def test_every_rpc_is_wired() -> None:
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        for rpc in served_rpcs():
            seen = Code.OK
            try:
                if rpc.request_stream:
                    await channel.send(rpc, no_requests())
                elif rpc.response_stream:
                    async with aclosing(channel.stream(rpc, rpc.request())) as responses:
                        async for _ in responses:
                            break
                else:
                    await channel.call(rpc, rpc.request())
            except CallFailed as failure:
                seen = failure.code

            assert seen not in {Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNKNOWN}, rpc.path


async def no_requests() -> AsyncIterator[Any]:
    none: tuple[Any, ...] = ()
    for nothing in none:
        yield nothing


async def test_a_daemon_that_was_stopped_has_nothing_open(tmp_path: Path) -> None:
    config = disk_config(tmp_path / "data")
    async with Channel("127.0.0.1:1"):  # While there is one, grpc keeps its own things open.
        async with running_daemon(config), running_daemon(disk_config(tmp_path / "warm-up")):
            pass
        before = open_files()

        async with running_daemon(config) as daemon, remote_of(daemon) as remote:
            await upload(remote, {DIGEST: BLOB})
            await read(remote, DIGEST)

        assert open_files() - before == set()


async def test_a_scratch_directory_in_use_is_no_reason_to_run_unsandboxed(tmp_path: Path) -> None:
    config = memory_config()
    config = replace(config, executor=replace(config.executor, scratch=tmp_path))
    accepting = replace(config, worker=replace(config.worker, accept_unsandboxed=True))

    async with running_daemon(accepting):
        async with running_daemon(config) as second:
            assert not second.execution.enabled
            assert "another process uses it" in second.execution.reason
        with pytest.raises(SandboxUnavailable, match="another process uses it"):
            await Daemon(accepting).start()


async def test_a_scratch_directory_that_is_nearly_full_is_told_of_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = memory_config()
    config = replace(config, executor=replace(config.executor, reserve_bytes=1 << 60))

    async with running_daemon(config):
        pass

    assert "will be killed: under" in caplog.text
    assert "lower executor.reserve_bytes" in caplog.text


async def test_trees_that_are_kept_are_tidied_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    tidied = asyncio.Event()

    async def tidy(_: NamespaceExecutor) -> None:
        tidied.set()

    monkeypatch.setattr("armitage.executors._TIDY_S", 0.001)
    monkeypatch.setattr(NamespaceExecutor, "tidy", tidy)
    async with running_daemon(memory_config()) as daemon:
        if not daemon.execution.sandboxed:
            pytest.skip(daemon.execution.reason)
        async with asyncio.timeout(5):
            await tidied.wait()


async def test_stopping_twice_does_no_harm() -> None:
    daemon = Daemon(memory_config())
    await daemon.start()

    await daemon.stop()
    await daemon.stop()


async def test_blobs_outlive_the_daemon_on_disk(tmp_path: Path) -> None:
    for missing_before in (True, False):
        async with running_daemon(disk_config(tmp_path)) as daemon, remote_of(daemon) as remote:
            assert (await find_missing(remote, [DIGEST]) == [DIGEST]) is missing_before
            await upload(remote, {DIGEST: BLOB})


async def test_two_daemons_cannot_share_a_data_directory(tmp_path: Path) -> None:
    async with running_daemon(disk_config(tmp_path)):
        with pytest.raises(StoreUnavailable, match=rf"in use by process {os.getpid()}; stop that"):
            await Daemon(disk_config(tmp_path)).start()


@pytest.mark.parametrize("listener", ["grpc", "web"])
async def test_a_port_in_use_is_named_and_nothing_is_left_open(
    tmp_path: Path, listener: str
) -> None:
    async with running_daemon(disk_config(tmp_path / "warm-up")):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = disk_config(tmp_path / "data")
        config = replace(
            config, **{listener: replace(getattr(config, listener), addresses=(address,))}
        )
        before = open_files()

        with pytest.raises(ConfigError, match=rf"{address}: is already in use"):
            await Daemon(config).start()

        assert open_files() - before == set()
    async with running_daemon(config):
        pass  # The data directory was let go, too.


async def test_disk_storage_needs_a_directory() -> None:
    config = replace(disk_config(Path("/nowhere")), data_dir=None)

    with pytest.raises(ConfigError, match="data_dir: required"):
        await Daemon(config).start()


async def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    with pytest.raises(StoreUnavailable, match=r"cannot keep data in .*/data/cas"):
        await Daemon(disk_config(tmp_path / "data")).start()


@pytest.mark.sandbox
async def test_actions_run_in_a_sandbox_where_the_host_can() -> None:
    async with running_daemon() as daemon:
        if not daemon.execution.enabled:
            pytest.skip(daemon.execution.reason)
        async with remote_of(daemon) as remote:
            assert remote.exec_enabled
            ran = await run_to_end(remote, "/bin/sh", "-c", "echo hello; ls /home; exit 3")

    assert daemon.execution.sandboxed
    assert ran == (Code.OK, 3, b"hello\n")


def without_a_sandbox(config: Config) -> Config:
    return replace(config, executor=without_sandbox(config.executor))


async def test_a_host_that_cannot_sandbox_serves_caches_and_refuses_to_execute() -> None:
    config = without_a_sandbox(memory_config())

    async with running_daemon(config) as daemon, remote_of(daemon) as remote:
        assert not remote.exec_enabled
        await upload(remote, {DIGEST: BLOB})
        with pytest.raises(CallFailed) as caught:
            await run_to_end(remote, "/bin/true")

    assert caught.value.code is Code.UNIMPLEMENTED
    assert not daemon.execution.enabled
    assert "--accept-unsandboxed" in daemon.execution.reason


async def test_only_the_accepted_risk_runs_actions_without_a_sandbox() -> None:
    config = without_a_sandbox(memory_config())
    config = replace(config, worker=replace(config.worker, accept_unsandboxed=True))

    async with running_daemon(config) as daemon, remote_of(daemon) as remote:
        ran = await run_to_end(remote, "/bin/sh", "-c", "echo hello")

    assert ran == (Code.OK, 0, b"hello\n")
    assert not daemon.execution.sandboxed
    assert "WITHOUT" in daemon.execution.reason


def timestamps(response: reapi.ExecuteResponse) -> list[float]:
    """All times of one result, in the order in which they must be."""
    metadata = response.result.execution_metadata
    return [
        at.ToNanoseconds() / 1e9
        for at in (
            metadata.queued_timestamp,
            metadata.worker_start_timestamp,
            metadata.input_fetch_start_timestamp,
            metadata.input_fetch_completed_timestamp,
            metadata.execution_start_timestamp,
            metadata.execution_completed_timestamp,
            metadata.output_upload_start_timestamp,
            metadata.output_upload_completed_timestamp,
            metadata.worker_completed_timestamp,
        )
    ]


@pytest.mark.slow
async def test_a_wall_clock_that_steps_back_loses_nothing_and_orders_every_result(
    tmp_path: Path,
) -> None:
    """It steps back while an action runs, and again between two lives of the daemon."""
    clock = FakeClock()
    config = without_a_sandbox(disk_config(tmp_path / "data"))
    config = replace(config, worker=replace(config.worker, accept_unsandboxed=True))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with Daemon(config, clock) as daemon, remote_of(daemon) as remote:
        packed = pack(Run(("/bin/sh", "-c", f"cat {gate}; echo once")), remote.function)
        await upload(remote, packed.blobs)
        async with aclosing(execute(remote, packed.action, monotonic=clock.monotonic)) as seen:
            async for update in seen:
                if update.metadata.stage == EXECUTING:
                    clock.step_wall(-3600)
                    await asyncio.to_thread(gate.write_bytes, b"")
        assert update.response is not None
        first = timestamps(update.response)

    clock.step_wall(-30 * 86400)
    async with Daemon(config, clock) as daemon, remote_of(daemon) as remote:
        assert await find_missing(remote, list(packed.blobs)) == []
        *_, again = [
            update async for update in execute(remote, packed.action, monotonic=clock.monotonic)
        ]
        anew = await run_to_end(remote, "/bin/sh", "-c", "echo anew")

    assert again.response is not None
    assert again.response.cached_result
    assert timestamps(again.response) == first
    assert first == sorted(first)
    assert first[0] > 0
    assert anew == (Code.OK, 0, b"anew\n")


async def test_a_worker_that_is_switched_off_leaves_a_cache() -> None:
    config = memory_config()
    config = replace(config, worker=replace(config.worker, enabled=False))

    async with running_daemon(config) as daemon, remote_of(daemon) as remote:
        assert not remote.exec_enabled


async def test_the_http_port_tells_status_metrics_and_readiness() -> None:
    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as response:
            return str(response.read().decode())

    async with running_daemon() as daemon:
        address = daemon.addresses.http[0]
        async with remote_of(daemon) as remote:
            await upload(remote, {DIGEST: BLOB})
        status = json.loads(await asyncio.to_thread(get, "/status"))
        metrics = await asyncio.to_thread(get, "/metrics")

        assert await asyncio.to_thread(get, "/readyz") == "ready\n"
    assert status["ready"] is True
    assert status["addresses"]["grpc"] == list(daemon.addresses.grpc)
    assert status["cas"]["blobs"] == 1
    assert "armitage_cas_blobs 1.0" in metrics
    assert 'service="build.bazel.remote.execution.v2.ContentAddressableStorage"' in metrics


def blob_is_there(daemon: DaemonProcess) -> bool:
    async def ask() -> bool:
        async with remote_at(daemon.target) as remote:
            return await read(remote, DIGEST) == BLOB

    return asyncio.run(ask())


def put_blob(daemon: DaemonProcess) -> None:
    async def put() -> None:
        async with remote_at(daemon.target) as remote:
            await upload(remote, {DIGEST: BLOB})

    asyncio.run(put())


@pytest.mark.slow
def test_blobs_outlive_kill_9(tmp_path: Path) -> None:
    with daemon_process(tmp_path) as daemon:
        put_blob(daemon)
        daemon.kill()

    with daemon_process(tmp_path) as daemon:
        assert blob_is_there(daemon)


@pytest.mark.slow
def test_sigterm_lets_a_running_action_end_and_exits_0(tmp_path: Path) -> None:
    async def run() -> tuple[Code, int, bytes]:
        signalled = False
        async with remote_at(daemon.target) as remote:
            async for update in updates(remote, "/bin/sh", "-c", "sleep 1; echo late"):
                if update.metadata.stage == EXECUTING and not signalled:
                    daemon.process.send_signal(signal.SIGTERM)
                    signalled = True
            return await ending(remote, update)

    with daemon_process(tmp_path, "--accept-unsandboxed") as daemon:
        assert asyncio.run(run()) == (Code.OK, 0, b"late\n")
        assert daemon.process.wait(STOP_S) == 0
    assert not (tmp_path / "ready.json").exists()


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    async def start() -> None:
        async with remote_at(daemon.target) as remote:
            async for update in updates(remote, "/bin/sleep", "1234.5678"):
                if update.metadata.stage == EXECUTING:
                    daemon.process.send_signal(signal.SIGTERM)
                    await asyncio.to_thread(wait_for_text, daemon.log, "draining")
                    daemon.process.send_signal(signal.SIGTERM)
                    return

    with daemon_process(tmp_path, "--accept-unsandboxed") as daemon:
        asyncio.run(start())
        assert daemon.process.wait(20) == 128 + signal.SIGTERM
    assert "1234.5678" not in processes()


@pytest.mark.slow
@pytest.mark.parametrize("second", ["--data-dir", "--listen"])
def test_a_daemon_that_cannot_start_says_why_in_one_line(tmp_path: Path, second: str) -> None:
    with daemon_process(tmp_path) as daemon:
        flags = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        if second == "--data-dir":
            flags += ["--data-dir", str(daemon.facts["data_dir"])]
            reason = f"{daemon.facts['data_dir']}/cas is in use by process {daemon.process.pid}; "
        else:
            flags[1] = daemon.target
            flags += ["--storage", "memory"]
            reason = f"listen address {daemon.target}: is already in use; "
        done = subprocess.run(serve_command(*flags), capture_output=True, text=True, check=False)

    assert done.returncode == 6
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"armitage: cannot start: {reason}")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_directory_is_named(tmp_path: Path) -> None:
    assert_read_only_is_named(tmp_path, serve_command())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_mount_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mount = f'mount -t tmpfs -o ro none {data} && exec "$@"'
    assert_read_only_is_named(
        tmp_path, ["unshare", "--mount", "sh", "-c", mount, "sh", *serve_command()]
    )


def assert_read_only_is_named(tmp_path: Path, command: list[str]) -> None:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    data.chmod(0o500)
    flags = ["--data-dir", str(data), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]

    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith(
        f"armitage: cannot start: cannot keep data in {data}/cas: "
    )


def wait_for_text(file: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in file.read_text():
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.01)


def processes() -> str:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(cmdline.read_text())
        except OSError:
            continue
    return "\n".join(found)
