"""What a client may get wrong, sent to a listening daemon: each ends in its documented status, and
the daemon serves on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from support.daemon import memory_config, running_daemon, without_sandbox

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.blobs import find_missing, upload
from armitage.client.channel import CallFailed, Channel
from armitage.client.remote import Remote, connect
from armitage.daemon import Daemon
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.transport.port import Code
from cas.compression import Codec
from cas.digest import Digest, DigestFunction

SHA256 = DigestFunction.SHA256
CHUNKING = ("SplitBlob", "SpliceBlob", "ChunkMapping")
RPCS = {
    rpc.path: rpc
    for rpc in vars(rpcs).values()
    if isinstance(rpc, rpcs.Rpc) and not rpc.path.endswith(CHUNKING)
}
TRUNCATED = b"\x0a\x7f"
"""A field that announces 127 bytes and brings none: no message of any type."""


async def raw_code(channel: grpc.aio.Channel, rpc: rpcs.Rpc[Any, Any], data: bytes) -> str:
    """How a call with these very bytes ends."""

    async def once() -> AsyncIterator[bytes]:
        yield data

    try:
        if rpc.request_stream:
            await channel.stream_unary(rpc.path)(once(), timeout=30)
        elif rpc.response_stream:
            async for _ in channel.unary_stream(rpc.path)(data, timeout=30):
                pass
        else:
            await channel.unary_unary(rpc.path)(data, timeout=30)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def not_utf_8(rpc: rpcs.Rpc[Any, Any]) -> list[bytes]:
    """A first field that is neither text nor a message; a request without one may pass over it."""
    descriptor = getattr(rpc.request, "DESCRIPTOR", None)
    field = descriptor.fields_by_number.get(1) if descriptor is not None else None
    fits = field is not None and field.cpp_type in {field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE}
    if descriptor is not None and not fits:
        return []
    return [b"\x0a\x02\xc3\x28"]


async def test_malformed_protobuf_is_an_invalid_argument_of_every_rpc() -> None:
    health: rpcs.Rpc[Any, Any] = rpcs.Rpc("/grpc.health.v1.Health/Check", Message, Message)
    assert len(RPCS) >= 21
    async with (
        running_daemon() as daemon,
        grpc.aio.insecure_channel(daemon.addresses.grpc[0]) as channel,
    ):
        seen = {
            (path, data): await raw_code(channel, rpc, data)
            for path, rpc in [*RPCS.items(), (health.path, health)]
            for data in (TRUNCATED, b"\xff" * 100, *not_utf_8(rpc))
        }

    assert {key: code for key, code in seen.items() if code != "INVALID_ARGUMENT"} == {}


BAD_DIGESTS = [
    reapi.Digest(),
    reapi.Digest(hash="", size_bytes=1),
    reapi.Digest(hash="0" * 63, size_bytes=1),
    reapi.Digest(hash="A" * 64, size_bytes=1),
    reapi.Digest(hash="g" * 64, size_bytes=1),
    reapi.Digest(hash="0" * 64, size_bytes=-1),
    reapi.Digest(hash="0" * 64, size_bytes=-(2**63)),
    reapi.Digest(hash="../" * 21 + "x", size_bytes=1),
    reapi.Digest(hash="0" * 100_000, size_bytes=1),
]
COMMAND = reapi.Command(arguments=["/bin/true"]).SerializeToString()
ACTION = reapi.Action(command_digest=wire_digest(SHA256.digest(COMMAND))).SerializeToString()
GOOD_ACTION = wire_digest(SHA256.digest(ACTION))
MAKERS: dict[str, tuple[rpcs.Rpc[Any, Any], Callable[[reapi.Digest], Message]]] = {
    "FindMissingBlobs": (
        rpcs.FIND_MISSING_BLOBS,
        lambda bad: reapi.FindMissingBlobsRequest(blob_digests=[bad]),
    ),
    "BatchReadBlobs": (
        rpcs.BATCH_READ_BLOBS,
        lambda bad: reapi.BatchReadBlobsRequest(digests=[bad]),
    ),
    "GetTree": (rpcs.GET_TREE, lambda bad: reapi.GetTreeRequest(root_digest=bad)),
    "GetActionResult": (
        rpcs.GET_ACTION_RESULT,
        lambda bad: reapi.GetActionResultRequest(action_digest=bad),
    ),
    "UpdateActionResult": (
        rpcs.UPDATE_ACTION_RESULT,
        lambda bad: reapi.UpdateActionResultRequest(
            action_digest=bad, action_result=reapi.ActionResult(exit_code=0)
        ),
    ),
    "UpdateActionResult of a file": (
        rpcs.UPDATE_ACTION_RESULT,
        lambda bad: reapi.UpdateActionResultRequest(
            action_digest=GOOD_ACTION,
            action_result=reapi.ActionResult(
                output_files=[reapi.OutputFile(path="out", digest=bad)]
            ),
        ),
    ),
    "Execute": (rpcs.EXECUTE, lambda bad: reapi.ExecuteRequest(action_digest=bad)),
    "PushBlob": (
        rpcs.PUSH_BLOB,
        lambda bad: asset.PushBlobRequest(uris=["urn:x"], blob_digest=bad),
    ),
    "PushDirectory": (
        rpcs.PUSH_DIRECTORY,
        lambda bad: asset.PushDirectoryRequest(uris=["urn:x"], root_directory_digest=bad),
    ),
}


def without_a_sandbox() -> Any:
    config = memory_config()
    return replace(
        config,
        executor=without_sandbox(config.executor),
        worker=replace(config.worker, accept_unsandboxed=True),
    )


async def test_a_malformed_digest_is_an_invalid_argument_wherever_one_is_sent() -> None:
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        await upload(remote, {SHA256.digest(blob): blob for blob in (COMMAND, ACTION)})
        async with grpc.aio.insecure_channel(daemon.addresses.grpc[0]) as channel:
            seen = {
                (name, bad.hash[:70], bad.size_bytes): await raw_code(
                    channel, rpc, make(bad).SerializeToString()
                )
                for name, (rpc, make) in MAKERS.items()
                for bad in BAD_DIGESTS
            }

    assert {key: code for key, code in seen.items() if code != "INVALID_ARGUMENT"} == {}


async def test_a_malformed_digest_fails_alone_in_a_batch_of_updates() -> None:
    good = reapi.BatchUpdateBlobsRequest.Request(
        digest=wire_digest(SHA256.digest(b"good")), data=b"good"
    )
    bad = [reapi.BatchUpdateBlobsRequest.Request(digest=bad, data=b"x") for bad in BAD_DIGESTS]
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        answer = await channel.call(
            rpcs.BATCH_UPDATE_BLOBS, reapi.BatchUpdateBlobsRequest(requests=[good, *bad])
        )

    codes = [Code(one.status.code) for one in answer.responses]
    assert codes == [Code.OK] + [Code.INVALID_ARGUMENT] * len(bad)


# Paths and trees, which reach the daemon inside of blobs.


@asynccontextmanager
async def remote_of(daemon: Daemon) -> AsyncIterator[Remote]:
    async with Channel(daemon.addresses.grpc[0]) as channel:
        yield await connect(channel, "")


async def execute_code(remote: Remote, command: bytes, root: Digest) -> tuple[Code, str]:
    """How an action with this Command and input root ends; skips the cache."""
    digest = SHA256.digest(command)
    action = reapi.Action(
        command_digest=wire_digest(digest),
        input_root_digest=wire_digest(root),
        do_not_cache=True,
    ).SerializeToString()
    await upload(remote, {digest: command, SHA256.digest(action): action})
    request = reapi.ExecuteRequest(action_digest=wire_digest(SHA256.digest(action)))
    last = rpcs.EXECUTE.response()
    try:
        async with aclosing(remote.channel.stream(rpcs.EXECUTE, request)) as messages:
            async for message in messages:
                last = message
    except CallFailed as failure:
        return failure.code, str(failure)
    assert last.done
    response = reapi.ExecuteResponse()
    assert last.response.Unpack(response)
    return Code(response.status.code), response.status.message


async def put(remote: Remote, *messages: Message) -> list[Digest]:
    blobs = [message.SerializeToString(deterministic=True) for message in messages]
    await upload(remote, {SHA256.digest(blob): blob for blob in blobs})
    return [SHA256.digest(blob) for blob in blobs]


TEN_THOUSAND = "/".join(["a"] * 10_000)
BAD_PATHS = ["..", "../up", "a/../../up", "/absolute", "nul\0byte", TEN_THOUSAND]


def bad_commands() -> Iterator[tuple[str, bytes]]:
    for path in BAD_PATHS:
        fields: Sequence[tuple[str, dict[str, Any]]] = [
            ("output_paths", {"output_paths": [path]}),
            ("output_files", {"output_files": [path]}),
            ("output_directories", {"output_directories": [path]}),
            ("working_directory", {"working_directory": path}),
        ]
        for name, field in fields:
            command = reapi.Command(arguments=["/bin/true"], **field)
            yield f"{name} {path[:20]!r}", command.SerializeToString()
    good = reapi.Command(arguments=["/bin/true"], output_paths=["xy"]).SerializeToString()
    yield "a path that is not UTF-8", good.replace(b"xy", b"\xc3\x28")
    yield "an argument with NUL", reapi.Command(arguments=["a\0b"]).SerializeToString()
    yield "no argument", reapi.Command().SerializeToString()
    yield "no Command at all", TRUNCATED


async def test_bad_paths_of_a_command_are_invalid_arguments() -> None:
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        (root,) = await put(remote, reapi.Directory())
        seen = {}
        for name, command in bad_commands():
            seen[name], said = await execute_code(remote, command, root)
            assert "\n" not in said
            assert len(said) < 2000, name

    assert {name: code for name, code in seen.items() if code != Code.INVALID_ARGUMENT} == {}


BAD_NAMES = ["", ".", "..", "a/b", "/etc", "nul\0byte"]


def bad_directories() -> Iterator[tuple[str, bytes]]:
    empty = wire_digest(SHA256.digest(b""))
    for name in BAD_NAMES:
        for kind, directory in (
            ("file", reapi.Directory(files=[reapi.FileNode(name=name, digest=empty)])),
            ("dir", reapi.Directory(directories=[reapi.DirectoryNode(name=name, digest=empty)])),
            ("link", reapi.Directory(symlinks=[reapi.SymlinkNode(name=name, target="t")])),
        ):
            yield f"{kind} {name!r}", directory.SerializeToString()
    twice = [reapi.FileNode(name="a", digest=empty)] * 2
    yield "a name twice", reapi.Directory(files=twice).SerializeToString()
    node = reapi.FileNode(name="xy", digest=empty)
    data = reapi.Directory(files=[node]).SerializeToString()
    yield "a name that is not UTF-8", data.replace(b"xy", b"\xc3\x28")
    yield "no Directory at all", TRUNCATED


async def test_bad_names_in_input_trees_are_invalid_arguments() -> None:
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        seen = {}
        for name, directory in bad_directories():
            root = SHA256.digest(directory)
            await upload(remote, {root: directory})
            seen[name], _ = await execute_code(remote, COMMAND, root)

    assert {name: code for name, code in seen.items() if code != Code.INVALID_ARGUMENT} == {}


async def tree_directories(remote: Remote, root: Digest) -> int:
    request = reapi.GetTreeRequest(root_digest=wire_digest(root))
    count = 0
    async with aclosing(remote.channel.stream(rpcs.GET_TREE, request)) as pages:
        async for page in pages:
            count += len(page.directories)
    return count


def chain(levels: int, *, width: int = 1) -> list[reapi.Directory]:
    """Directories each of which names the one before it `width` times; the root is the last."""
    made = [reapi.Directory()]
    for _ in range(levels):
        below = wire_digest(SHA256.digest(made[-1].SerializeToString(deterministic=True)))
        nodes = [reapi.DirectoryNode(name=f"d{n}", digest=below) for n in range(width)]
        made.append(reapi.Directory(directories=nodes))
    return made


@pytest.mark.slow
async def test_a_tree_a_thousand_deep_is_listed_and_executed() -> None:
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        *_, too_deep = await put(remote, *chain(1001))
        *_, root = chain(1000 - 1)
        deep = SHA256.digest(root.SerializeToString(deterministic=True))

        assert await tree_directories(remote, too_deep) == 1002
        assert await execute_code(remote, COMMAND, deep) == (Code.OK, "")
        code, said = await execute_code(remote, COMMAND, too_deep)
    assert code == Code.INVALID_ARGUMENT
    assert "deep" in said


@pytest.mark.slow
async def test_trees_that_unfold_without_end_are_listed_once_and_not_executed() -> None:
    """40 levels of two names each are 41 blobs and 2^40 directories."""
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        *_, root = await put(remote, *chain(40, width=2))

        async with asyncio.timeout(20):
            assert await tree_directories(remote, root) == 41
            code, said = await execute_code(remote, COMMAND, root)
    assert code == Code.INVALID_ARGUMENT
    assert "entries" in said


@pytest.mark.slow
async def test_a_tree_of_a_million_entries_is_listed_and_refused_as_an_input() -> None:
    """Fifty names of one directory of 20,000 files."""
    empty = wire_digest(SHA256.digest(b""))
    wide = reapi.Directory(
        files=[reapi.FileNode(name=f"{n:06}", digest=empty) for n in range(20_000)]
    )
    below = wire_digest(SHA256.digest(wide.SerializeToString(deterministic=True)))
    top = reapi.Directory(
        directories=[reapi.DirectoryNode(name=f"{n}", digest=below) for n in range(50)]
    )
    async with running_daemon(without_a_sandbox()) as daemon, remote_of(daemon) as remote:
        _, root = await put(remote, wide, top)

        assert await tree_directories(remote, root) == 2
        code, said = await execute_code(remote, COMMAND, root)
    assert code == Code.INVALID_ARGUMENT
    assert "entries" in said


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.DEFLATE, Codec.BROTLI])
async def test_a_stream_that_unpacks_to_more_than_was_announced_stores_nothing(
    codec: Codec,
) -> None:
    bomb = codec.compress(bytes(64 << 20))
    assert len(bomb) < 300_000
    digest = SHA256.digest(bytes(10))
    name = f"uploads/bomb/compressed-blobs/{codec.name.lower()}/{digest.hash}/{digest.size_bytes}"

    async def requests() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest(resource_name=name, data=bomb, finish_write=True)

    async with running_daemon() as daemon, remote_of(daemon) as remote:
        with pytest.raises(CallFailed) as caught:
            await remote.channel.send(rpcs.WRITE, requests(), timeout=20)
        assert await find_missing(remote, [digest]) == [digest]
    assert caught.value.code is Code.INVALID_ARGUMENT
