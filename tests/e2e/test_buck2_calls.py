"""The calls that Buck2's open-source client makes for a build, replayed in its order and shape
against the daemon.

This stands in for Buck2 itself, which no package registry carries; test_buck2.py runs the real
binary where there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.buck2 import REMOTE_DEP_FILE, Blob, Buck2Client, Buck2Fails
from support.daemon import ServedDaemon

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed, Channel
from armitage.reapi import rpcs
from cas.digest import DigestFunction

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(120)]

PLATFORM = {"OSFamily": "linux"}
FUNCTIONS = [DigestFunction.SHA256, DigestFunction.BLAKE3]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    with ServedDaemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(params=FUNCTIONS, ids=lambda function: function.value)
async def client(
    daemon: ServedDaemon, request: pytest.FixtureRequest
) -> AsyncIterator[Buck2Client]:
    async with Buck2Client(daemon.address, function=request.param) as client:
        yield client


class InputTree:
    """An input tree as Buck2 makes it: nested directories, empty ones too, and symlinks."""

    def __init__(self, client: Buck2Client) -> None:
        self._client = client
        self._files: dict[str, tuple[reapi.Digest, bool]] = {}
        self._symlinks: dict[str, str] = {}
        self._directories: set[str] = set()
        self._blobs: list[Blob] = []

    def file(self, path: str, data: bytes, *, executable: bool = False) -> InputTree:
        blob = self._client.blob(data)
        self._blobs.append(blob)
        return self.produced(path, blob.digest, executable=executable)

    def produced(self, path: str, digest: reapi.Digest, *, executable: bool = False) -> InputTree:
        """A file that another action made: its bytes were never here."""
        self._files[path] = (digest, executable)
        return self

    def symlink(self, path: str, target: str) -> InputTree:
        self._symlinks[path] = target
        return self

    def directory(self, path: str) -> InputTree:
        self._directories.add(path)
        return self

    def build(self) -> tuple[reapi.Digest, list[Blob]]:
        """The root's digest, and every blob that is here (files and directories)."""
        blobs = list(self._blobs)
        return self._build("", blobs), blobs

    def digests(self) -> list[reapi.Digest]:
        return [digest for digest, _ in self._files.values()]

    def _build(self, prefix: str, blobs: list[Blob]) -> reapi.Digest:
        message = reapi.Directory()
        children = set()
        for path in sorted([*self._files, *self._symlinks, *(p + "/" for p in self._directories)]):
            if not path.startswith(prefix) or path == prefix:
                continue
            name, slash, _ = path.removeprefix(prefix).partition("/")
            if slash:
                children.add(name)
            elif path in self._symlinks:
                message.symlinks.add(name=name, target=self._symlinks[path])
            else:
                digest, executable = self._files[path]
                message.files.add(name=name, digest=digest, is_executable=executable)
        for name in sorted(children):
            message.directories.add(name=name, digest=self._build(f"{prefix}{name}/", blobs))
        blob = self._client.blob(message.SerializeToString())
        blobs.append(blob)
        return blob.digest


async def run(
    client: Buck2Client,
    arguments: list[str],
    *,
    tree: InputTree | None = None,
    outputs: list[str] | None = None,
    **how: Any,
) -> reapi.ActionResult:
    """One action as Buck2 runs it: action cache, FindMissing, upload, Execute, stderr."""
    root, blobs = (tree or InputTree(client)).build()
    action = client.prepare(
        arguments, input_root=root, outputs=outputs or [], platform=PLATFORM, **how
    )
    if (cached := await client.get_action_result(action.digest)) is not None:
        return cached
    needed = {blob.digest.hash: blob for blob in [*blobs, *action.blobs]}
    produced = tree.digests() if tree else []
    missing = await client.find_missing([*(blob.digest for blob in needed.values()), *produced])
    await client.upload([blob for name, blob in needed.items() if name in missing])
    response = await client.execute(action.digest)
    await client.download([response.result.stderr_digest])
    return response.result


def a_build(client: Buck2Client, token: str) -> tuple[list[str], InputTree, str]:
    """An action with what Buck2 puts into an input tree; `token` makes its digest new."""
    output = f"buck-out/v2/gen/root/{token}/out/program"
    tree = (
        InputTree(client)
        .file("src/tool.sh", b"#!/bin/sh\ncat src/link/part.txt src/part.txt\n", executable=True)
        .file("src/real/part.txt", f"one {token}\n".encode())
        .symlink("src/link", "real")
        .file("src/part.txt", b"two\n")
        .directory(os.path.dirname(output))
    )
    return ["sh", "-c", f"./src/tool.sh > {output} && chmod +x {output}"], tree, output


async def test_cold_build_then_everything_from_the_cache(
    daemon: ServedDaemon, client: Buck2Client
) -> None:
    token = f"cold-{client.function}"
    arguments, tree, output = a_build(client, token)
    first = await run(client, arguments, tree=tree, outputs=[output])
    made = first.output_files[0]
    second_tree = InputTree(client).produced("in/program", made.digest, executable=True)
    second_arguments = ["sh", "-c", "wc -l < in/program > count"]
    second = await run(client, second_arguments, tree=second_tree, outputs=["count"])

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert (made.path, made.is_executable) == (output, True)
    contents = await client.download([made.digest, second.output_files[0].digest])
    assert contents[made.digest.hash] == f"one {token}\ntwo\n".encode()
    assert contents[second.output_files[0].digest.hash].strip() == b"2"

    # `buck2 clean && buck2 killall`: a daemon that remembers nothing.
    async with Buck2Client(daemon.address, function=client.function) as fresh:
        arguments, tree, output = a_build(fresh, token)
        root, _ = tree.build()
        action = fresh.prepare(arguments, input_root=root, outputs=[output], platform=PLATFORM)
        cached = await fresh.get_action_result(action.digest)
        assert cached is not None
        assert cached.output_files == first.output_files
        assert cached.execution_metadata == first.execution_metadata


async def test_metadata_that_buck2_reads_is_there(client: Buck2Client) -> None:
    result = await run(client, ["sh", "-c", f"echo err >&2; echo {client.function}"])

    metadata = result.execution_metadata
    assert metadata.worker
    times = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
    ]
    assert all(time.seconds > 0 for time in times)
    assert [t.ToNanoseconds() for t in times] == sorted(t.ToNanoseconds() for t in times)
    assert (await client.download([result.stderr_digest]))[result.stderr_digest.hash] == b"err\n"


async def test_second_execute_says_that_it_is_cached(client: Buck2Client) -> None:
    root, blobs = InputTree(client).build()
    # Long enough for news of its stage to be worth a message.
    action = client.prepare(["sh", "-c", f"sleep 0.3; : {client.function}"], input_root=root)
    await client.upload_missing([*blobs, *action.blobs])

    first = await client.execute(action.digest)
    second = await client.execute(action.digest)
    third = await client.execute(action.digest, skip_cache_lookup=True)

    assert (first.cached, second.cached, third.cached) == (False, True, False)
    assert second.result.execution_metadata == first.result.execution_metadata
    assert reapi.ExecutionStage.EXECUTING in first.stages


async def test_find_missing_goes_in_batches_of_a_hundred(client: Buck2Client) -> None:
    blobs = [client.blob(f"{client.function} {number}".encode()) for number in range(250)]
    await client.upload(blobs[::2])

    missing = await client.find_missing([blob.digest for blob in blobs])

    assert client.find_missing_calls == [100, 100, 50]
    assert missing == {blob.digest.hash for blob in blobs[1::2]}


async def test_known_blobs_are_uploaded_again_without_complaint(client: Buck2Client) -> None:
    blob = client.blob(f"again and again {client.function}".encode())
    await client.find_missing([blob.digest])
    for _ in range(3):  # Buck2 keeps "missing" even after its own upload.
        await client.upload_missing([blob])
    assert (await client.download([blob.digest]))[blob.digest.hash] == blob.data


async def test_batch_of_many_tiny_blobs_is_taken(client: Buck2Client) -> None:
    blobs = [client.blob(f"{number:06}{client.function}".encode()) for number in range(4_000)]

    await client.upload(blobs)

    sample = blobs[::200]
    found = await client.download([blob.digest for blob in sample])
    assert all(found[blob.digest.hash] == blob.data for blob in sample)


async def test_big_blobs_go_and_come_compressed_in_messages_of_a_whole_batch(
    client: Buck2Client,
) -> None:
    noise = client.blob(os.urandom(2 * client.batch_bytes + 12_345))
    text = client.blob(b"compressible " * 1_000_000)
    exact = client.blob(os.urandom(client.batch_bytes))

    await client.upload([noise, text, exact])

    assert client.compressor == "zstd"
    found = await client.download([noise.digest, text.digest, exact.digest])
    assert found[noise.digest.hash] == noise.data
    assert found[text.digest.hash] == text.data
    assert found[exact.digest.hash] == exact.data


async def test_retried_upload_under_the_same_uuid_starts_again(
    daemon: ServedDaemon, client: Buck2Client
) -> None:
    client.compressor = None
    blob = client.blob(os.urandom(3_000_000))
    name = client._upload_name(blob.digest)
    half_sent = asyncio.Event()
    give_up = asyncio.Event()

    async def dying() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest(resource_name=name, data=blob.data[:1_000_000])
        half_sent.set()
        await give_up.wait()

    async with Channel(daemon.address) as other, asyncio.TaskGroup() as group:

        async def first() -> None:
            with pytest.raises((CallFailed, asyncio.CancelledError)):
                await other.send(rpcs.WRITE, dying(), timeout=20)

        task = group.create_task(first())
        await half_sent.wait()
        await client.write(name, blob.data)
        task.cancel()

    assert (await client.download([blob.digest]))[blob.digest.hash] == blob.data


async def test_trees_are_encoded_as_buck2_encodes_them(client: Buck2Client) -> None:
    script = (
        "mkdir -p out/a/b out/z && echo 1 > out/a/b/one && echo 2 > out/z/two && chmod +x out/z/two"
        f" && cp -r out/a out/copy && echo {client.function} > out/last"
    )
    result = await run(client, ["sh", "-c", script], outputs=["out"])

    files = await client.directory_files(result.output_directories[0].tree_digest)

    assert sorted(files) == ["a/b/one", "copy/b/one", "last", "z/two"]
    assert files["z/two"].is_executable
    assert not files["last"].is_executable
    contents = await client.download([files["copy/b/one"].digest])
    assert contents[files["copy/b/one"].digest.hash] == b"1\n"


async def test_symlink_outputs_come_in_the_list_buck2_reads(client: Buck2Client) -> None:
    script = f"echo {client.function} > file && ln -s file link"
    result = await run(client, ["sh", "-c", script], outputs=["file", "link"])

    assert [(link.path, link.target) for link in result.output_symlinks] == [("link", "file")]
    assert [file.path for file in result.output_files] == ["file"]


async def test_compatibility_outputs_come_back_by_what_they_are(client: Buck2Client) -> None:
    script = f"mkdir tree && echo {client.function} > tree/leaf && echo 1 > plain"
    result = await run(
        client,
        ["sh", "-c", script],
        outputs=["plain", "tree"],
        output_paths="compatibility",
    )

    assert [file.path for file in result.output_files] == ["plain"]
    assert [directory.path for directory in result.output_directories] == ["tree"]


async def test_failed_action_is_a_result_and_is_not_cached(client: Buck2Client) -> None:
    script = f"echo {client.function} > out; echo broken >&2; exit 3"
    arguments = ["sh", "-c", script]
    result = await run(client, arguments, outputs=["out"])

    assert result.exit_code == 3
    assert (await client.download([result.stderr_digest])).popitem()[1] == b"broken\n"
    root, _ = InputTree(client).build()
    action = client.prepare(arguments, input_root=root, outputs=["out"], platform=PLATFORM)
    assert await client.get_action_result(action.digest) is None


async def test_timeout_is_an_error_with_its_code(client: Buck2Client) -> None:
    with pytest.raises(Buck2Fails, match="DEADLINE_EXCEEDED"):
        await run(client, ["sleep", "30"], timeout_s=1)


async def test_evicted_input_is_named_in_the_error(client: Buck2Client) -> None:
    gone = client.blob(f"never uploaded {client.function}".encode())
    tree = InputTree(client).produced("in", gone.digest)
    root, blobs = tree.build()
    action = client.prepare(["cat", "in"], input_root=root)
    await client.upload_missing([*blobs, *action.blobs])

    with pytest.raises((Buck2Fails, CallFailed), match=gone.digest.hash):
        await client.execute(action.digest)


async def test_local_results_are_shared_after_the_permission_probe(
    daemon: ServedDaemon, client: Buck2Client
) -> None:
    assert await client.has_permission_to_upload(PLATFORM)
    output = client.blob(f"made here {client.function}".encode())
    leaf = client.blob(b"leaf")
    inner = reapi.Directory()
    inner.files.add(name="leaf", digest=leaf.digest)
    inner_blob = client.blob(inner.SerializeToString())
    outer = reapi.Directory()
    outer.directories.add(name="inner", digest=inner_blob.digest)
    outer_blob = client.blob(outer.SerializeToString())
    tree = client.blob(reapi.Tree(root=outer, children=[inner]).SerializeToString())
    root, _ = InputTree(client).build()
    action = client.prepare(["true"], input_root=root, outputs=["out", "dir"], platform=PLATFORM)
    await client.upload(action.blobs)  # Only Action and Command: the inputs may never be there.
    await client.upload([output])
    await client.upload_missing([tree, outer_blob, inner_blob, leaf])
    result = reapi.ActionResult()
    result.output_files.add(path="out", digest=output.digest)
    result.output_directories.add(path="dir", tree_digest=tree.digest)
    result.execution_metadata.SetInParent()

    stored = await client.write_action_result(action.digest, result)

    assert stored.output_files == result.output_files
    async with Buck2Client(daemon.address, function=client.function) as other:
        found = await other.get_action_result(action.digest)
        assert found is not None
        assert (await other.download([output.digest])).popitem()[1] == output.data
        assert list(await other.directory_files(tree.digest)) == ["inner/leaf"]


async def test_remote_dep_file_comes_back_byte_for_byte(client: Buck2Client) -> None:
    action = client.prepare(["dep-file", str(client.function)], input_root=None)
    await client.upload(action.blobs)
    result = reapi.ActionResult()
    payload = b"\x00\xff not a message of any known type"
    result.execution_metadata.auxiliary_metadata.add(type_url=REMOTE_DEP_FILE, value=payload)

    await client.write_action_result(action.digest, result)

    found = await client.get_action_result(action.digest)
    assert found is not None
    (any_value,) = found.execution_metadata.auxiliary_metadata
    assert (any_value.type_url, any_value.value) == (REMOTE_DEP_FILE, payload)


async def test_pings_faster_than_buck2s_do_not_end_the_connection(daemon: ServedDaemon) -> None:
    # Buck2 pings each 30 s; a hundred times that makes the refusal show at once if there is one.
    async with Buck2Client(daemon.address, keepalive_s=0.3) as client:
        await asyncio.sleep(1)
        result = await run(client, ["sleep", "3"])
    assert result.exit_code == 0


async def test_an_unfinished_stream_counts_as_nothing_written(
    daemon: ServedDaemon, client: Buck2Client
) -> None:
    blob = client.blob(os.urandom(100_000))
    client.compressor = None
    name = client._upload_name(blob.digest)

    async def unfinished() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest(resource_name=name, data=blob.data[:50_000])

    async with Channel(daemon.address) as other:
        # Refused, or answered with what is kept for a resumption: either is right.
        with contextlib.suppress(CallFailed):
            await other.send(rpcs.WRITE, unfinished(), timeout=20)
    assert await client.find_missing([blob.digest]) == {blob.digest.hash}


async def test_instance_of_several_segments_is_a_world_of_its_own(tmp_path: Path) -> None:
    instances = '[[instances]]\nname = ""\n[[instances]]\nname = "team/project"\n'
    with ServedDaemon(tmp_path, settings=instances) as daemon:
        async with (
            Buck2Client(daemon.address, instance="team/project") as named,
            Buck2Client(daemon.address) as other,
        ):
            big = named.blob(os.urandom(named.batch_bytes + 1))
            await named.upload([big])
            assert (await named.download([big.digest])).popitem()[1] == big.data

            result = await run(named, ["echo", "hello"])
            assert result.exit_code == 0
            root, _ = InputTree(named).build()
            action = named.prepare(["echo", "hello"], input_root=root, platform=PLATFORM)
            assert await named.get_action_result(action.digest) is not None
            assert await other.get_action_result(action.digest) is None


async def test_lost_blobs_fail_a_client_that_trusts_and_spare_one_that_asks(
    tmp_path: Path,
) -> None:
    # Case 110: Buck2 trusts for hours what it was told, so only a new Buck2 daemon recovers.
    with ServedDaemon(tmp_path) as daemon:
        async with Buck2Client(daemon.address) as first, Buck2Client(daemon.address) as trusting:
            tree = InputTree(first).file("in", b"to be lost")
            root, blobs = tree.build()
            await first.upload(blobs)
            await run(trusting, ["cat", "in"], tree=tree)
            daemon.kill()
            shutil.rmtree(tmp_path / "data")
            daemon.start()

            with pytest.raises((Buck2Fails, CallFailed), match=root.hash):
                await run(trusting, ["cat", "./in"], tree=tree)

        async with Buck2Client(daemon.address) as fresh:
            tree = InputTree(fresh).file("in", b"to be lost")
            assert (await run(fresh, ["cat", "./in"], tree=tree)).exit_code == 0
