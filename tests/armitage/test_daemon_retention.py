"""A small store under pressure, asked over gRPC: what a live invocation, or an action that waits or
runs, refers to stays, and all else goes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.daemon import disk_config, memory_config, without_sandbox

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed, Channel
from armitage.config import Config
from armitage.daemon import Daemon
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.reapi.instances import Instance
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction

SHA256 = DigestFunction.SHA256
STAGE = reapi.ExecutionStage
STORE_BYTES = 1 << 20
PIECE_BYTES = 64 << 10
IDLE_S = 600.0
Header = tuple[str, bytes]


def build_of(invocation: str) -> list[Header]:
    """The metadata of one build's calls."""
    metadata = reapi.RequestMetadata(tool_invocation_id=invocation)
    return [(HEADER, metadata.SerializeToString())]


def small(config: Config) -> Config:
    """One slot, and a store of 1 MiB whose leases are over at once: only what is held stays."""
    return replace(
        config,
        disk=replace(config.disk, max_bytes=STORE_BYTES, min_lease_s=0),
        memory=replace(config.memory, max_bytes=STORE_BYTES, min_lease_s=0),
        invocations=replace(config.invocations, idle_s=IDLE_S),
        executor=without_sandbox(config.executor),
        worker=replace(config.worker, accept_unsandboxed=True, slots=1),
    )


class World:
    """A daemon, its clock and a channel to it."""

    def __init__(self, channel: Channel, clock: FakeClock) -> None:
        self.channel = channel
        self.clock = clock

    async def put(self, blobs: Sequence[bytes], metadata: Sequence[Header] = ()) -> list[Digest]:
        digests = [SHA256.digest(blob) for blob in blobs]
        request = reapi.BatchUpdateBlobsRequest(
            requests=[
                reapi.BatchUpdateBlobsRequest.Request(digest=wire_digest(digest), data=blob)
                for digest, blob in zip(digests, blobs, strict=True)
            ]
        )
        answer = await self.channel.call(rpcs.BATCH_UPDATE_BLOBS, request, metadata=metadata)
        for one in answer.responses:
            assert one.status.code == 0, one.status.message
        return digests

    async def missing(
        self, digests: Sequence[Digest], metadata: Sequence[Header] = ()
    ) -> list[Digest]:
        request = reapi.FindMissingBlobsRequest(blob_digests=[wire_digest(d) for d in digests])
        answer = await self.channel.call(rpcs.FIND_MISSING_BLOBS, request, metadata=metadata)
        absent = {blob.hash for blob in answer.missing_blob_digests}
        return [digest for digest in digests if digest.hash in absent]

    async def press(self) -> None:
        """Writes three times what the store holds, for nobody's build."""
        for _ in range(3 * STORE_BYTES // PIECE_BYTES):
            await self.put([os.urandom(PIECE_BYTES)])

    async def action(self, script: str, input_file: bytes, metadata: Sequence[Header]) -> Digest:
        """Uploads an action that runs a script beside the file `input`."""
        directory = reapi.Directory(
            files=[reapi.FileNode(name="input", digest=wire_digest(SHA256.digest(input_file)))]
        ).SerializeToString()
        command = reapi.Command(
            arguments=["/bin/sh", "-c", script], output_paths=["out"]
        ).SerializeToString()
        action = reapi.Action(
            command_digest=wire_digest(SHA256.digest(command)),
            input_root_digest=wire_digest(SHA256.digest(directory)),
        ).SerializeToString()
        await self.put([input_file, directory, command, action], metadata)
        return SHA256.digest(action)

    async def execute(
        self, action: Digest, stages: "asyncio.Queue[int]", metadata: Sequence[Header]
    ) -> reapi.ExecuteResponse:
        request = reapi.ExecuteRequest(action_digest=wire_digest(action))
        stream = self.channel.stream(rpcs.EXECUTE, request, metadata=metadata)
        async with aclosing(stream) as operations:
            async for operation in operations:
                seen = reapi.ExecuteOperationMetadata()
                operation.metadata.Unpack(seen)
                stages.put_nowait(seen.stage)
        response = reapi.ExecuteResponse()
        assert operation.response.Unpack(response)
        return response

    async def read(self, wire: reapi.Digest, metadata: Sequence[Header] = ()) -> bytes:
        request = reapi.BatchReadBlobsRequest(digests=[wire])
        answer = await self.channel.call(rpcs.BATCH_READ_BLOBS, request, metadata=metadata)
        assert answer.responses[0].status.code == 0
        return bytes(answer.responses[0].data)


async def until(stages: "asyncio.Queue[int]", stage: int) -> None:
    async with asyncio.timeout(20):
        while await stages.get() != stage:
            pass


@asynccontextmanager
async def world_of(config: Config) -> AsyncIterator[World]:
    clock = FakeClock()
    async with (
        Daemon(small(config), clock) as daemon,
        Channel(daemon.addresses.grpc[0]) as channel,
    ):
        yield World(channel, clock)


@pytest.fixture(params=["memory", "disk"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return memory_config() if request.param == "memory" else disk_config(tmp_path)


async def test_pressure_evicts_what_nobody_refers_to(config: Config) -> None:
    """What makes the other tests of this file able to fail."""
    async with world_of(config) as world:
        blobs = await world.put([b"nobody's"])
        await world.press()

        assert await world.missing(blobs) == blobs


async def test_what_a_live_invocation_uploaded_or_found_outlives_pressure(config: Config) -> None:
    async with world_of(config) as world:
        uploaded = await world.put([b"uploaded"], build_of("one"))
        found = await world.put([b"found by another"])
        assert await world.missing(found, build_of("two")) == []
        await world.press()
        world.clock.advance(IDLE_S - 1)
        await world.press()

        assert await world.missing([*uploaded, *found]) == []


async def test_an_invocation_that_fell_silent_holds_nothing_more(config: Config) -> None:
    async with world_of(config) as world:
        blobs = await world.put([b"of a build that is over"], build_of("one"))
        world.clock.advance(IDLE_S + 1)
        await world.put([b"some other build"], build_of("two"))
        await world.press()

        assert await world.missing(blobs) == blobs


async def test_what_is_held_makes_the_store_full_and_is_not_given_up(config: Config) -> None:
    async with world_of(config) as world:
        pieces = [os.urandom(PIECE_BYTES) for _ in range(STORE_BYTES // PIECE_BYTES)]
        held = [(await world.put([piece], build_of("one")))[0] for piece in pieces]
        request = reapi.BatchUpdateBlobsRequest(
            requests=[
                reapi.BatchUpdateBlobsRequest.Request(
                    digest=wire_digest(SHA256.digest(b"one more")), data=b"one more"
                )
            ]
        )
        answer = await world.channel.call(rpcs.BATCH_UPDATE_BLOBS, request)

        assert Code(answer.responses[0].status.code) == Code.RESOURCE_EXHAUSTED
        assert await world.missing(held) == []


@pytest.mark.slow
async def test_what_a_queued_and_a_running_action_refer_to_outlives_pressure(
    config: Config, tmp_path: Path
) -> None:
    """Nobody's invocation: the operations themselves must hold."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with world_of(config) as world:
        first = await world.action(f"cat {gate} input >out", b"of the running one", ())
        second = await world.action("cat input >out", b"of the queued one", ())
        running: asyncio.Queue[int] = asyncio.Queue()
        queued: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            one = group.create_task(world.execute(first, running, ()))
            await until(running, STAGE.EXECUTING)
            two = group.create_task(world.execute(second, queued, ()))
            await until(queued, STAGE.QUEUED)
            await world.press()
            inputs = [SHA256.digest(data) for data in (b"of the running one", b"of the queued one")]
            seen_missing = await world.missing([first, second, *inputs])
            await asyncio.to_thread(gate.write_bytes, b"")

        assert seen_missing == []
        for response in (one.result(), two.result()):
            assert response.status.code == 0, response.status.message
            assert response.result.exit_code == 0

        await world.press()
        assert await world.missing([first, second, *inputs]) == [first, second, *inputs]


@pytest.mark.slow
async def test_what_an_action_made_is_kept_for_the_invocation_that_is_to_fetch_it(
    config: Config,
) -> None:
    """Freshly made, and answered from the cache to another build."""
    async with world_of(config) as world:
        action = await world.action("cat input >out", b"an output", build_of("maker"))
        made = await world.execute(action, asyncio.Queue(), build_of("maker"))
        output = made.result.output_files[0].digest
        await world.press()
        assert await world.read(output) == b"an output"

        get = reapi.GetActionResultRequest(action_digest=wire_digest(action))
        cached = await world.channel.call(
            rpcs.GET_ACTION_RESULT, get, metadata=build_of("a later build")
        )
        world.clock.advance(IDLE_S - 1)
        await world.missing([], build_of("a later build"))
        world.clock.advance(2)  # The maker has fallen silent by now, the later build has not.
        await world.press()
        assert await world.read(cached.output_files[0].digest) == b"an output"

        world.clock.advance(IDLE_S + 1)
        await world.missing([], build_of("yet another"))
        await world.press()
        with pytest.raises(CallFailed) as caught:
            await world.channel.call(rpcs.GET_ACTION_RESULT, get)
        assert caught.value.code == Code.NOT_FOUND


async def test_an_instance_over_its_quota_is_told_so_and_others_go_on(tmp_path: Path) -> None:
    config = disk_config(tmp_path)
    limited = Instance("limited", quota_bytes=3 * PIECE_BYTES)
    config = replace(config, instances=(limited, Instance("")))
    async with Daemon(config) as daemon, Channel(daemon.addresses.grpc[0]) as channel:

        async def put(instance: str) -> Code:
            data = os.urandom(PIECE_BYTES)
            request = reapi.BatchUpdateBlobsRequest(instance_name=instance)
            request.requests.add(digest=wire_digest(SHA256.digest(data)), data=data)
            try:
                answer = await channel.call(rpcs.BATCH_UPDATE_BLOBS, request)
            except CallFailed as failure:
                return failure.code
            return Code(answer.responses[0].status.code)

        seen = [await put("limited") for _ in range(4)]

        assert seen == [Code.OK, Code.OK, Code.OK, Code.RESOURCE_EXHAUSTED]
        assert await put("") == Code.OK
