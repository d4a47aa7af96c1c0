"""Bazel 4.2.3 (Debian's bazel-bootstrap) builds zstd and Brotli through the daemon: 79 C files,
their tools and tests.

Case 111 of docs/conformance.md asks for Bazel 6 to 9 too; none of them can be installed from a
package registry, so what is covered is what 4.2.3 can do: it knows no `--remote_cache_compression`
(that arrived in 5.0), and cannot rewind actions whose outputs were evicted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import bazel
from support.bazel import CACHED, REMOTE, Bazel, Build
from support.daemon import ServedDaemon
from support.witnessed import Origin, answering

from armitage._proto.armitage.storage.v1 import storage_pb2
from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import Channel
from armitage.reapi import rpcs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.sandbox,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bazel.unavailable() is not None, reason=bazel.unavailable() or ""),
]

EVERYTHING = ("//...",)
TEXT = b"what goes in comes out again\n" * 1000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazel]:
    directory = tmp_path_factory.mktemp("bazel")
    workspace = bazel.lay_out_workspace(directory / "workspace")
    client = Bazel(workspace, directory / "state")
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    with ServedDaemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def cold(client: Bazel, daemon: ServedDaemon) -> Build:
    """The first build of everything, tests run, against a daemon that has never seen any of it."""
    return client.build(*executor(daemon), *EVERYTHING, command="test")


def executor(daemon: ServedDaemon) -> list[str]:
    return [f"--remote_executor=grpc://{daemon.address}", "--jobs=8"]


def test_cold_build_runs_every_action_on_the_daemon(cold: Build) -> None:
    assert cold.status == 0, cold.log
    assert cold.runners() == {REMOTE: len(cold.spawns)}, cold.log

    compiled = {spawn.source for spawn in cold.ran("CppCompile")}
    assert len(compiled) > 50
    assert {spawn.source for spawn in cold.ran("CppCompile")} >= {
        "zstd/lib/compress/zstd_compress.c",
        "brotli/c/tools/brotli.c",
    }


def test_tests_pass_on_the_daemon(cold: Build) -> None:
    for name in ("zstd_test", "brotli_test", "tools_test"):
        assert f"//tests:{name}" in cold.log
    assert "Executed 3 out of 3 tests: 3 tests pass" in cold.log


def test_what_was_built_remotely_runs_here(client: Bazel, cold: Build) -> None:
    assert cold.status == 0, cold.log

    packed = client.run_tool("zstd/zst", "-c", "7", data=TEXT)
    assert client.run_tool("zstd/zst", "-d", data=packed) == TEXT
    packed = client.run_tool("brotli/brotli", "-c", data=TEXT)
    assert client.run_tool("brotli/brotli", "-d", "-c", data=packed) == TEXT
    archive = client.output("tests/text.zst").read_bytes()
    assert client.run_tool("zstd/zst", "-d", data=archive) == (
        client.output("tests/text.txt").read_bytes()
    )


def test_clean_rebuild_is_all_cache_hits(client: Bazel, daemon: ServedDaemon, cold: Build) -> None:
    client.clean()

    again = client.build(*executor(daemon), *EVERYTHING, command="test")

    assert again.status == 0, again.log
    assert again.runners() == {CACHED: len(cold.spawns)}, again.log


def test_changed_header_rebuilds_only_what_includes_it(
    client: Bazel, daemon: ServedDaemon, cold: Build
) -> None:
    build = client.build(*executor(daemon), *EVERYTHING)
    assert build.status == 0, build.log
    header = client.workspace / "brotli/c/common/version.h"
    original = header.read_text()
    changed = original.replace("_VERSION_PATCH 0", "_VERSION_PATCH 77")
    # The header holds its own versions against each other.
    header.write_text(changed.replace("_ABI_REVISION 0", "_ABI_REVISION 77"))

    try:
        build = client.build(*executor(daemon), *EVERYTHING)

        assert build.status == 0, build.log
        assert {spawn.source for spawn in build.ran("CppCompile")} == including(
            client.workspace, header
        )
        assert REMOTE in build.runners()
        assert set(build.runners()) <= {REMOTE, CACHED}
        assert b".77" in client.run_tool("brotli/brotli", "--version")
    finally:
        header.write_text(original)


def test_minimal_download_leaves_the_outputs_on_the_daemon(
    client: Bazel, daemon: ServedDaemon, cold: Build
) -> None:
    client.clean()

    build = client.build(*executor(daemon), "--remote_download_minimal", *EVERYTHING)

    assert build.status == 0, build.log
    assert build.runners() == {CACHED: len(build.spawns)}
    assert objects(client) == []
    assert not client.output("brotli/brotli").exists()


def test_toplevel_download_brings_the_program_alone(
    client: Bazel, daemon: ServedDaemon, cold: Build
) -> None:
    client.clean()

    build = client.build(*executor(daemon), "--remote_download_toplevel", "//brotli:brotli")

    assert build.status == 0, build.log
    assert objects(client) == []
    packed = client.run_tool("brotli/brotli", "-c", data=TEXT)
    assert client.run_tool("brotli/brotli", "-d", "-c", data=packed) == TEXT


def test_build_finishes_after_the_daemon_was_killed_in_the_middle(
    client: Bazel, tmp_path: Path
) -> None:
    client.clean()
    with ServedDaemon(tmp_path) as daemon:
        flags = [*executor(daemon), "--remote_retries=0", "//brotli:brotli"]
        interrupted = client.start(*flags)
        wait_for_objects(client, 5, interrupted)
        kept = asyncio.run(results_kept(daemon))
        daemon.kill()
        log, _ = interrupted.communicate(timeout=120)
        assert interrupted.returncode != 0, log

        daemon.start()
        client.clean()
        build = client.build(*flags)

        assert build.status == 0, build.log
        # What was kept before the kill was not lost with it: all but what was being attested.
        assert 0 < kept <= build.runners().get(CACHED, 0)
        assert build.runners().get(REMOTE, 0) > 0
        packed = client.run_tool("brotli/brotli", "-c", data=TEXT)
        assert client.run_tool("brotli/brotli", "-d", "-c", data=packed) == TEXT


def test_incremental_build_survives_a_daemon_that_lost_everything(
    client: Bazel, tmp_path: Path
) -> None:
    client.clean()
    source = client.workspace / "brotli/c/common/context.c"
    original = source.read_text()
    with ServedDaemon(tmp_path / "first") as first:
        build = client.build(*executor(first), "//brotli:decoder")
        assert build.status == 0, build.log
    source.write_text(original + "\nint an_addition;\n")

    try:
        with ServedDaemon(tmp_path / "second", port=first.port) as second:
            build = client.build(*executor(second), "//brotli:decoder")

            assert build.status == 0, build.log
            assert {spawn.source for spawn in build.ran("CppCompile")} == {
                "brotli/c/common/context.c"
            }
            assert set(build.runners()) == {REMOTE}
    finally:
        source.write_text(original)


@pytest.mark.parametrize("way", ["interrupt", "kill"])
def test_what_a_bazel_that_is_gone_left_running_is_stopped(
    client: Bazel, tmp_path: Path, way: str
) -> None:
    package = client.workspace / "endless"
    package.mkdir()
    duration = f"31415.{secrets.randbelow(10**8):08d}"
    command = f"sleep {duration} & sleep {duration}"
    (package / "BUILD").write_text(f'genrule(name="endless", outs=["x"], cmd="{command}")\n')
    try:
        with ServedDaemon(tmp_path, settings='[scheduler]\nrunning_grace_s = "1s"\n') as daemon:
            build = client.start(*executor(daemon), "//endless")
            wait_for(lambda: running(duration) == 2, build)

            if way == "interrupt":
                build.send_signal(signal.SIGINT)
            else:
                client.kill()
            log, _ = build.communicate(timeout=60)

            assert build.returncode != 0, log
            wait_for(lambda: running(duration) == 0)
            assert "was stopped, since nobody waited for it any more" in daemon.log()
    finally:
        shutil.rmtree(package)


def running(argument: str) -> int:
    """How many processes `sleep ARGUMENT` there are."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes() == f"sleep\0{argument}\0".encode()
    return found


def test_cache_only_mode_shares_what_was_built_here(client: Bazel, tmp_path: Path) -> None:
    client.clean()
    with ServedDaemon(tmp_path) as daemon:
        flags = [f"--remote_cache=grpc://{daemon.address}", "//brotli:decoder"]
        first = client.build(*flags)
        client.clean()
        second = client.build(*flags)

        assert first.status == 0, first.log
        assert set(first.runners()).isdisjoint({REMOTE, CACHED}), first.log
        assert second.status == 0, second.log
        assert second.runners() == {CACHED: len(first.spawns)}, second.log


async def test_downloads_come_from_what_was_pushed_to_the_daemon(
    client: Bazel, daemon: ServedDaemon
) -> None:
    text = b"Everybody may read this.\n"
    digest = reapi.Digest(hash=hashlib.sha256(text).hexdigest(), size_bytes=len(text))
    upload = reapi.BatchUpdateBlobsRequest()
    upload.requests.add(digest=digest, data=text)
    push = asset.PushBlobRequest(uris=["https://sources.invalid/notice.txt"], blob_digest=digest)
    async with Channel(daemon.address) as channel:
        await channel.call(rpcs.BATCH_UPDATE_BLOBS, upload)
        await channel.call(rpcs.PUSH_BLOB, push)

    downloader = f"--experimental_remote_downloader=grpc://{daemon.address}"
    build = client.build(*executor(daemon), downloader, "@notice//file")

    assert build.status == 0, build.log
    assert (client.external("notice") / "file" / "downloaded").read_bytes() == text


@pytest.mark.skipif(
    not bazel.WASM.exists(), reason="Brotli was not built for WASI: run tests/e2e/prepare"
)
def test_rule_runs_a_webassembly_program(client: Bazel, daemon: ServedDaemon) -> None:
    package = bazel.lay_out_wasm(client.workspace)
    (package / "text.txt").write_bytes(TEXT)
    try:
        build = client.build(*executor(daemon), "//wasm:unpacked")
    finally:
        shutil.rmtree(package)

    assert build.status == 0, build.log
    assert [(spawn.mnemonic, spawn.runner) for spawn in build.spawns] == [("WasmRun", REMOTE)] * 2
    assert {spawn.arguments[0] for spawn in build.spawns} == {"wasm/brotli.wasm"}
    assert client.output("wasm/text.out").read_bytes() == TEXT
    assert client.output("wasm/text.br").stat().st_size < len(TEXT) / 10


TRUSTING = """
[trust]
policy = "self and checker"

[[witness.rules]]
verdict = "allow"
name = "loopback"
methods = ["GET"]
networks = ["127.0.0.0/8"]
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)")
async def test_declared_actions_are_trusted_and_a_liar_gets_nowhere(
    client: Bazel, tmp_path: Path
) -> None:
    origin = Origin(answering(b"fetched"))
    honest = ("//declared:pure", "//declared:fetched")
    with ServedDaemon(tmp_path, settings=TRUSTING) as daemon:
        async with origin.listening():
            package = bazel.lay_out_declared(client.workspace, origin.port)
            try:
                flags = executor(daemon)
                first = await asyncio.to_thread(client.build, *flags, *honest)
                fetched = client.output("declared/fetched.txt").read_bytes()
                await asyncio.to_thread(client.clean)
                again = await asyncio.to_thread(client.build, *flags, *honest)
                liar = await asyncio.to_thread(client.build, *flags, "//declared:liar")
                typo = await asyncio.to_thread(client.build, *flags, "//declared:typo")
            finally:
                shutil.rmtree(package)

    assert first.status == 0, first.log
    assert first.runners() == {REMOTE: 2}
    assert fetched == b"fetched"
    assert again.runners() == {CACHED: 2}, again.log
    assert liar.status != 0, liar.log
    assert typo.status != 0, typo.log
    assert "did you mean network" in typo.log
    assert len(origin.heads) == 1


def including(workspace: Path, header: Path) -> set[str]:
    """The C files that include a header, as the compiler itself tells."""
    name = str(header.relative_to(workspace))
    found = set()
    for source in [*workspace.glob("brotli/c/*/*.c"), workspace / "tests/brotli_test.c"]:
        path = str(source.relative_to(workspace))
        done = subprocess.run(
            ["/usr/bin/gcc", "-MM", "-Ibrotli/c/include", path],
            cwd=workspace,
            capture_output=True,
            text=True,
            check=True,
        )
        rule = done.stdout.replace("\\\n", " ").split()
        if name in {os.path.normpath(prerequisite) for prerequisite in rule}:
            found.add(path)
    return found


def objects(client: Bazel) -> list[Path]:
    return sorted(client.workspace.glob("bazel-out/*/bin/**/*.o"))


async def results_kept(daemon: ServedDaemon) -> int:
    """How many results the daemon's action cache has."""
    async with Channel(daemon.address) as channel:
        figures = await channel.call(rpcs.GET_STATS, storage_pb2.GetStatsRequest())
    return int(figures.results["results"])


def wait_for_objects(client: Bazel, count: int, build: subprocess.Popen[str]) -> None:
    """Waits until so many objects of a running build have arrived."""
    wait_for(lambda: len(objects(client)) >= count, build)


def wait_for(condition: Callable[[], bool], build: subprocess.Popen[str] | None = None) -> None:
    """Waits for something that comes while a build runs, or any time."""
    deadline = time.monotonic() + 90
    while not condition():
        assert build is None or build.poll() is None, build.communicate()[0]
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)
