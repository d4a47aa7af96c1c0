"""Execute and WaitExecution over a scripted executor and a memory store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from support.execution_world import (
    SHA256,
    Setup,
    World,
    call_of,
    metadata_of,
    missing_of,
    platform_of,
    response_of,
    serving,
)
from support.scripted_executor import Run

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest, NotFound, PreconditionFailed, Unavailable
from armitage.reapi.actions import ActionLimits
from armitage.reapi.digests import wire_digest
from armitage.reapi.execution import ExecutionOptions
from armitage.reapi.inputs import InputLimits
from armitage.scheduler.core import CoreOptions
from armitage.scheduler.platforms import PlatformRules
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction
from executor.coeffects import PURE, Coeffects, NetworkGrant
from executor.errors import (
    InputsMissing,
    InvalidOutput,
    SandboxUnavailable,
    TimedOut,
    WorkerFailure,
)
from executor.spec import OutputDirectory, OutputKind, OutputSymlink


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as made:
        yield made


# The run.


async def test_execute_streams_rising_stages_to_one_done_answer(world: World) -> None:
    states = await world.states(await world.action("echo", "hello"))

    stages = [metadata_of(state).stage for state in states]
    assert stages == sorted(stages)
    assert stages[-1] == reapi.ExecutionStage.COMPLETED
    assert [state.done for state in states] == [False] * (len(states) - 1) + [True]
    assert len({state.name for state in states}) == 1
    result = response_of(states[-1]).result
    assert result.exit_code == 0
    assert await world.store.get(Digest(SHA256, result.stdout_digest.hash, 6)) == b"hello\n"


async def test_result_has_worker_and_rising_times(world: World) -> None:
    async def step_back(run: Run) -> int:
        world.clock.step_wall(-3600)
        return 0

    world.executor.scripts["tardis"] = step_back

    metadata = (await world.execute(await world.action("tardis"))).result.execution_metadata

    times = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ]
    assert metadata.worker == "test-worker"
    assert [t.ToNanoseconds() for t in times] == sorted(t.ToNanoseconds() for t in times)
    assert metadata.HasField("virtual_execution_duration")
    used = Struct()
    assert metadata.auxiliary_metadata[0].Unpack(used)
    assert used["cpu_s"] == 0.25
    assert used["written_bytes"] == 4096
    assert "read_bytes" not in used  # Nobody could tell.


async def test_what_the_machinery_adds_is_told(world: World) -> None:
    async def fetch(run: Run) -> int:
        run.message = "evil.example was refused: it is not declared"
        return 7

    world.executor.scripts["fetch"] = fetch

    response = await world.execute(await world.action("fetch"))

    assert response.message == "evil.example was refused: it is not declared"


async def test_second_execute_is_answered_from_cache_with_original_times(world: World) -> None:
    action = await world.action("echo")
    first = await world.execute(action)
    world.clock.advance(100)

    second = await world.execute(action)

    assert (first.cached_result, second.cached_result) == (False, True)
    assert second.result == first.result
    assert len(world.executor.runs) == 1


async def test_cached_operation_can_be_asked_for_again(world: World) -> None:
    action = await world.action("echo")
    await world.execute(action)

    operation = (await world.states(action))[-1]

    assert await world.wait(operation.name) == [operation]


async def test_cached_result_with_lost_output_runs_again(world: World) -> None:
    action = await world.action("echo")
    digest = SHA256.digest(action.SerializeToString())
    stale = reapi.ActionResult(output_files=[{"path": "gone", "digest": wire_digest(digest)}])
    key = Digest(SHA256, action.hash, action.size_bytes)
    await world.cache.put("", key, stale.SerializeToString())

    response = await world.execute(action)

    assert not response.cached_result
    assert len(world.executor.runs) == 1


@pytest.mark.parametrize("cached", [b"\xff", reapi.ActionResult(exit_code=1).SerializeToString()])
async def test_cached_nonsense_or_failure_is_a_miss(world: World, cached: bytes) -> None:
    action = await world.action("echo")
    await world.cache.put("", Digest(SHA256, action.hash, action.size_bytes), cached)

    assert not (await world.execute(action)).cached_result


async def test_skip_cache_lookup_runs_again_and_overwrites(world: World) -> None:
    action = await world.action("echo")
    key = Digest(SHA256, action.hash, action.size_bytes)
    await world.execute(action)
    world.clock.advance(100)

    again = await world.execute(action, skip_cache_lookup=True)

    assert not again.cached_result
    assert len(world.executor.runs) == 2
    assert await world.cache.get("", key) == again.result.SerializeToString()


async def test_do_not_cache_runs_each_and_is_never_cached() -> None:
    async with serving(Setup(slots=2)) as world:
        action = await world.action("echo", action={"do_not_cache": True})

        await asyncio.gather(world.execute(action), world.execute(action))
        await world.execute(action)

        assert len(world.executor.runs) == 3
        assert await world.cache.get("", Digest(SHA256, action.hash, action.size_bytes)) is None


async def test_instances_do_not_share_results(world: World) -> None:
    action = await world.action("echo")
    await world.execute(action)

    assert not (await world.execute(action, instance_name="other")).cached_result


async def test_equal_executes_share_one_run_and_its_streams(world: World) -> None:
    action = await world.action("block")

    async with world.open_execute(action) as first, world.open_execute(action) as second:
        one, two = await anext(first), await anext(second)
        world.executor.release()
        finals = [[state async for state in states][-1] for states in (first, second)]

    assert one.name != two.name
    assert metadata_of(one).stdout_stream_name == metadata_of(two).stdout_stream_name
    assert response_of(finals[0]).result == response_of(finals[1]).result
    assert len(world.executor.runs) == 1


async def test_failed_command_is_answered_with_outputs_but_not_cached(world: World) -> None:
    async def fail(run: Run) -> int:
        await run.write("log", b"why")
        return 3

    world.executor.scripts["fail"] = fail
    action = await world.action("fail", output_paths=["log"])

    response = await world.execute(action)

    assert response.status.code == Code.OK
    assert response.result.exit_code == 3
    assert [file.path for file in response.result.output_files] == ["log"]
    assert await world.cache.get("", Digest(SHA256, action.hash, action.size_bytes)) is None
    assert not (await world.execute(action)).cached_result


async def test_timeout_is_deadline_exceeded_with_what_was_printed(world: World) -> None:
    async def hang(run: Run) -> int:
        raise TimedOut(1.5, await run.put(b"so far"), run.work.digest_function.empty)

    world.executor.scripts["hang"] = hang
    action = await world.action("hang", action={"timeout": Duration(seconds=1, nanos=500_000_000)})

    response = await world.execute(action, inline_stdout=True)

    assert world.executor.runs[0].timeout_s == 1.5
    assert response.status.code == Code.DEADLINE_EXCEEDED
    assert response.result.stdout_raw == b"so far"
    assert response.result.exit_code != 0
    assert response.result.execution_metadata.worker == "test-worker"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidOutput("a socket"), Code.FAILED_PRECONDITION),
        (SandboxUnavailable("no namespaces"), Code.FAILED_PRECONDITION),
        (WorkerFailure("scratch space is full"), Code.INTERNAL),
        (RuntimeError("a bug"), Code.INTERNAL),
    ],
)
async def test_executor_error_is_status_of_response(
    world: World, error: Exception, code: Code
) -> None:
    async def broken(run: Run) -> int:
        raise error

    world.executor.scripts["broken"] = broken

    response = await world.execute(await world.action("broken"))

    assert response.status.code == code
    assert not response.status.details


async def test_worker_failure_is_tried_again(world: World) -> None:
    async def flaky(run: Run) -> int:
        if len(world.executor.runs) == 1:
            raise WorkerFailure("launcher died")
        return 0

    world.executor.scripts["flaky"] = flaky

    response = await world.execute(await world.action("flaky"))

    assert response.status.code == Code.OK
    assert [work.name for work in world.executor.runs] == ["op-1-1", "op-1-2"]


async def test_input_found_damaged_during_the_run_is_missing_with_subject(world: World) -> None:
    lost = SHA256.digest(b"lost")

    async def stage(run: Run) -> int:
        raise InputsMissing([lost])

    world.executor.scripts["stage"] = stage

    response = await world.execute(await world.action("stage"))

    assert missing_of(response) == {f"blobs/{lost.hash}/4"}


async def test_full_cache_does_not_lose_the_result(world: World) -> None:
    await world.cache.close()

    response = await world.execute(
        await world.action("echo", "kept"), skip_cache_lookup=True, inline_stdout=True
    )

    assert response.result.stdout_raw == b"kept\n"


# What is refused.


async def test_all_missing_blobs_are_named_at_once(world: World) -> None:
    there, gone = await world.put(b"there"), wire_digest(SHA256.digest(b"gone"))
    inner = reapi.Directory(files=[{"name": "gone", "digest": gone}])
    hidden = wire_digest(SHA256.digest(b"a directory that was not uploaded"))
    root = reapi.Directory(
        files=[{"name": "also_gone", "digest": gone}, {"name": "there", "digest": there}],
        directories=[
            {"name": "inner", "digest": await world.put_message(inner)},
            {"name": "hidden", "digest": hidden},
        ],
    )
    command = wire_digest(SHA256.digest(b"a command that was not uploaded"))
    action = reapi.Action(command_digest=command, input_root_digest=await world.put_message(root))

    response = await world.execute(await world.put_message(action))

    expected = {f"blobs/{d.hash}/{d.size_bytes}" for d in (gone, hidden, command)}
    assert missing_of(response) == expected
    assert not world.executor.runs


async def test_missing_action_is_named_as_the_client_wrote_it(world: World) -> None:
    digest = DigestFunction.BLAKE3.digest(b"absent")

    marked = await world.execute(wire_digest(digest), digest_function=reapi.DigestFunction.BLAKE3)
    unmarked = await world.execute(wire_digest(digest))

    assert missing_of(marked) == {f"blobs/blake3/{digest.hash}/6"}
    assert missing_of(unmarked) == {f"blobs/{digest.hash}/6"}


async def test_uploading_the_missing_blobs_helps(world: World) -> None:
    root = reapi.Directory(files=[{"name": "late", "digest": wire_digest(SHA256.digest(b"late"))}])
    action = await world.action("true", root=root)
    assert missing_of(await world.execute(action))

    await world.put(b"late")

    assert (await world.execute(action)).status.code == Code.OK


async def test_unmarked_blake3_action_runs_with_blake3() -> None:
    async with serving(Setup(function=DigestFunction.BLAKE3)) as world:
        response = await world.execute(await world.action("echo", "x"))

        assert response.status.code == Code.OK
        assert world.executor.runs[0].digest_function is DigestFunction.BLAKE3


async def test_platform_without_worker_is_precondition_without_missing(world: World) -> None:
    action = await world.action(platform=platform_of(OSFamily="plan9"))

    with pytest.raises(PreconditionFailed) as caught:
        await world.execute(action)

    assert caught.value.missing == ()
    assert "OSFamily=plan9" in str(caught.value)


async def test_unknown_property_is_refused_unless_ignored() -> None:
    asked = platform_of(OSFamily="linux", persistentWorkerKey="k", flavour="mint")
    async with serving() as strict:
        action = await strict.action(platform=asked)
        with pytest.raises(PreconditionFailed):
            await strict.execute(action)
    for rules in (
        PlatformRules(strict=False),
        PlatformRules(ignore=frozenset({"flavour", "persistentWorkerKey"})),
    ):
        async with serving(Setup(rules=rules)) as world:
            action = await world.action(platform=asked)
            assert (await world.execute(action)).status.code == Code.OK


async def test_declared_coeffects_reach_the_executor_and_choose_no_worker(world: World) -> None:
    action = await world.action(
        action={"platform": platform_of(OSFamily="linux", coeffects="network:Example.org.:443")}
    )

    await world.execute(action)
    await world.execute(await world.action("true", "plain"))

    declared, plain = world.executor.runs
    assert declared.coeffects == Coeffects(network=(NetworkGrant("example.org", 443),))
    assert declared.action == Digest(SHA256, action.hash, action.size_bytes)
    assert plain.coeffects == PURE


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("coeffects", "netwrok")], "did you mean network"),
        ([("coeffects", "")], "write `pure`"),
        ([("coeffects", "pure"), ("coeffects", "network")], "it is there twice"),
        ([("coeffects", "network:" + "a" * 70_000)], "are over 65536"),
    ],
)
async def test_malformed_coeffects_are_refused_by_field(
    world: World, pairs: list[tuple[str, str]], words: str
) -> None:
    platform = {"properties": [{"name": name, "value": value} for name, value in pairs]}
    action = await world.action(action={"platform": platform})

    with pytest.raises(InvalidRequest) as error:
        await world.execute(action)

    ((field, description),) = error.value.violations
    assert field == "platform.coeffects"
    assert words in description
    assert world.executor.runs == []


async def test_platform_of_action_wins_over_that_of_command(world: World) -> None:
    good, bad = platform_of(OSFamily="linux"), platform_of(OSFamily="plan9")

    await world.execute(await world.action(platform=bad, action={"platform": good}))
    with pytest.raises(PreconditionFailed):
        await world.execute(await world.action(platform=good, action={"platform": bad}))

    assert world.executor.runs[0].platform == (("OSFamily", "linux"),)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ({"arguments": [""]}, "arguments"),
        ({"arguments": ["a\0b"]}, "NUL"),
        ({"output_paths": ["/abs"]}, "absolute"),
        ({"output_paths": ["../out"]}, "leaves the input root"),
        ({"output_paths": ["dir/"]}, "slash"),
        ({"output_files": ["nul\0"]}, "NUL"),
        ({"output_directories": ["a/../../b"]}, "leaves the input root"),
        ({"output_paths": ["a/" * 10_000 + "b"]}, "over 4095 bytes"),
        ({"working_directory": "../up"}, "leaves the input root"),
        ({"working_directory": "/abs"}, "absolute"),
        ({"output_node_properties": ["mtime"]}, "not supported"),
        ({"environment_variables": [{"name": "A=B", "value": ""}]}, "A=B"),
        ({"environment_variables": [{"name": "A"}, {"name": "A"}]}, "twice"),
    ],
)
async def test_bad_command_is_refused_by_name(
    world: World, command: dict[str, Any], what: str
) -> None:
    arguments = command.pop("arguments", ["true"])
    assert isinstance(arguments, Sequence)
    action = await world.action(*arguments, **command)

    with pytest.raises(InvalidRequest, match=what) as caught:
        await world.execute(action)

    assert caught.value.violations[0][0].startswith("command.")


async def test_command_without_arguments_is_refused(world: World) -> None:
    command = await world.put_message(reapi.Command(working_directory="w"))
    root = await world.put_message(reapi.Directory())
    action = reapi.Action(command_digest=command, input_root_digest=root)

    with pytest.raises(InvalidRequest, match=r"command\.arguments"):
        await world.execute(await world.put_message(action))


@pytest.mark.parametrize(
    ("timeout", "what"),
    [(Duration(seconds=25 * 3600), "maximum"), (Duration(seconds=-1), "negative")],
)
async def test_timeout_out_of_range_is_refused(world: World, timeout: Duration, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        await world.execute(await world.action(action={"timeout": timeout}))


async def test_absent_timeout_is_the_default() -> None:
    options = ExecutionOptions(actions=ActionLimits(default_timeout_s=77))
    async with serving(Setup(execution=options)) as world:
        await world.execute(await world.action())

        assert world.executor.runs[0].timeout_s == 77


async def test_blobs_that_are_no_messages_are_refused(world: World) -> None:
    noise = await world.put(b"\xff\xff\xff")
    command = await world.put_message(reapi.Command(arguments=["true"]))
    root = await world.put_message(reapi.Directory())

    with pytest.raises(InvalidRequest, match="not an Action"):
        await world.execute(noise)
    for what, digests in (
        ("not a Command", {"command_digest": noise, "input_root_digest": root}),
        ("malformed", {"command_digest": command, "input_root_digest": noise}),
    ):
        action = await world.put_message(reapi.Action(**digests))  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=what):
            await world.execute(action)


async def test_huge_announced_action_is_refused_unread(world: World) -> None:
    digest = reapi.Digest(hash="ab" * 32, size_bytes=2**40)

    with pytest.raises(InvalidRequest, match="limit"):
        await world.execute(digest)


async def test_unknown_instance_and_disabled_execution_are_refused(world: World) -> None:
    action = await world.action()

    with pytest.raises(NotFound):
        await world.execute(action, instance_name="nowhere")
    with pytest.raises(Exception, match="does not execute actions: it is off"):
        await world.execute(action, instance_name="off")


async def test_queue_over_its_limit_is_unavailable_with_a_hint() -> None:
    async with serving(Setup(core=CoreOptions(max_queued=1))) as world:
        blocked = [await world.action("block", str(i)) for i in range(3)]
        async with (
            world.open_execute(blocked[0]) as first,
            world.open_execute(blocked[1]) as second,
        ):
            await anext(first)
            await world.executor.started.acquire()
            await anext(second)

            with pytest.raises(Unavailable) as caught:
                await world.execute(blocked[2])

            assert caught.value.retry_after_s
            assert "operation:operations/op-3" not in world.store.held


async def test_draining_refuses_new_and_finishes_running(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        await anext(states)
        await world.executor.started.acquire()
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(world.scheduler.drain(5))
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="shutting down"):
                await world.execute(await world.action("echo"))
            world.executor.release()

        assert drained.result()
        assert response_of([state async for state in states][-1]).status.code == Code.OK


# Outputs.


async def test_outputs_are_answered_in_new_and_old_lists(world: World) -> None:
    async def make(run: Run) -> int:
        await run.write("tool", b"#!", is_executable=True)
        tree = await run.put(reapi.Tree(root={}).SerializeToString())
        run.directories.append(OutputDirectory("dir", tree, run.work.digest_function.empty))
        run.symlinks += [
            OutputSymlink("to_file", "tool", OutputKind.FILE),
            OutputSymlink("to_dir", "dir", OutputKind.DIRECTORY),
            OutputSymlink("nowhere", "gone", None),
        ]
        return 0

    world.executor.scripts["make"] = make
    paths = ["dir", "nowhere", "to_dir", "to_file", "tool"]

    result = (await world.execute(await world.action("make", output_paths=paths))).result

    assert [(file.path, file.is_executable) for file in result.output_files] == [("tool", True)]
    assert result.output_directories[0].HasField("tree_digest")
    assert not result.output_directories[0].HasField("root_directory_digest")
    assert [link.path for link in result.output_symlinks] == ["to_file", "to_dir", "nowhere"]
    assert [link.path for link in result.output_file_symlinks] == ["to_file", "nowhere"]
    assert [link.path for link in result.output_directory_symlinks] == ["to_dir"]


@pytest.mark.parametrize(
    ("output_format", "with_root"),
    [("TREE_ONLY", False), ("DIRECTORY_ONLY", True), ("TREE_AND_DIRECTORY", True)],
)
async def test_root_directory_is_named_when_asked_for(
    world: World, output_format: str, with_root: bool
) -> None:
    async def make(run: Run) -> int:
        tree = await run.put(reapi.Tree(root={}).SerializeToString())
        run.directories.append(OutputDirectory("dir", tree, run.work.digest_function.empty))
        return 0

    world.executor.scripts["make"] = make
    action = await world.action(
        "make",
        output_paths=["dir"],
        output_directory_format=reapi.Command.OutputDirectoryFormat.Value(output_format),
    )

    directory = (await world.execute(action)).result.output_directories[0]

    assert directory.HasField("tree_digest")
    assert directory.HasField("root_directory_digest") == with_root


async def test_output_lists_become_requests(world: World) -> None:
    await world.execute(await world.action(output_paths=["new"], output_files=["hidden"]))
    await world.execute(
        await world.action(output_files=["both", "file"], output_directories=["both", "dir"])
    )
    await world.execute(await world.action(working_directory="a/b", output_directories=["../.."]))

    asked = [{out.path: out.kind for out in work.outputs} for work in world.executor.runs]
    assert asked == [
        {"new": OutputKind.ANY},
        {"both": OutputKind.ANY, "file": OutputKind.FILE, "dir": OutputKind.DIRECTORY},
        {"../..": OutputKind.DIRECTORY},
    ]


async def test_inlining_fills_what_was_asked_and_keeps_digests(world: World) -> None:
    async def make(run: Run) -> int:
        run.print("said")
        await run.write("wanted", b"content")
        await run.write("other", b"content")
        return 0

    world.executor.scripts["make"] = make
    action = await world.action("make", output_paths=["other", "wanted"])

    for _ in range(2):  # From the run, then from the cache.
        result = (
            await world.execute(action, inline_stdout=True, inline_output_files=["wanted", "x"])
        ).result
        assert result.stdout_raw == b"said"
        assert result.stdout_digest.size_bytes == 4
        assert {f.path: f.contents for f in result.output_files} == {
            "wanted": b"content",
            "other": b"",
        }


async def test_inlining_is_dropped_where_it_would_not_fit(world: World) -> None:
    async def shout(run: Run) -> int:
        run.print("x" * 5_000_000)
        return 0

    world.executor.scripts["shout"] = shout

    states = await world.states(await world.action("shout"), inline_stdout=True)

    assert states[-1].ByteSize() < 4 * 2**20
    assert response_of(states[-1]).result.stdout_digest.size_bytes == 5_000_000


async def test_live_output_goes_to_named_streams(world: World) -> None:
    async with world.open_execute(await world.action("echo", "live")) as states:
        operation = await anext(states)
        async for _ in states:
            pass

    stream = world.streams[metadata_of(operation).stdout_stream_name]
    assert stream.data == b"live\n"


# Input trees.


async def deep_tree(world: World, depth: int) -> reapi.Digest:
    digest = await world.put_message(reapi.Directory())
    for _ in range(depth - 1):
        level = reapi.Directory(directories=[{"name": "d", "digest": digest}])
        digest = await world.put_message(level)
    return digest


async def execute_root(world: World, root: reapi.Digest) -> reapi.ExecuteResponse:
    command = await world.put_message(reapi.Command(arguments=["true"]))
    action = reapi.Action(command_digest=command, input_root_digest=root)
    return await world.execute(await world.put_message(action))


async def test_tree_of_a_thousand_levels_runs_and_one_more_is_refused(world: World) -> None:
    assert (await execute_root(world, await deep_tree(world, 1000))).status.code == Code.OK
    with pytest.raises(InvalidRequest, match="1000 directories deep"):
        await execute_root(world, await deep_tree(world, 1001))


async def test_small_blobs_that_stand_for_an_enormous_tree_are_refused(world: World) -> None:
    digest = await world.put_message(reapi.Directory())
    for _ in range(40):
        twice = [{"name": name, "digest": digest} for name in "ab"]
        digest = await world.put_message(reapi.Directory(directories=twice))

    with pytest.raises(InvalidRequest, match="1000000 entries"):
        await execute_root(world, digest)


async def test_entries_over_the_limit_are_refused() -> None:
    options = ExecutionOptions(inputs=InputLimits(max_entries=10))
    async with serving(Setup(execution=options)) as world:
        file = await world.put(b"")
        names = [{"name": str(i), "digest": file} for i in range(11)]
        root = await world.put_message(reapi.Directory(files=names))

        with pytest.raises(InvalidRequest, match="over 10 entries"):
            await execute_root(world, root)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "nul\0"])
async def test_bad_name_in_the_tree_is_refused(world: World, name: str) -> None:
    file = await world.put(b"")
    root = await world.put_message(reapi.Directory(files=[{"name": name, "digest": file}]))

    with pytest.raises(InvalidRequest):
        await execute_root(world, root)


async def test_remembered_tree_is_not_read_again_but_looked_for(world: World) -> None:
    reads = 0
    get = world.store.get

    async def counting(digest: Digest) -> bytes:
        nonlocal reads
        reads += 1
        return await get(digest)

    levels = await deep_tree(world, 50)
    await execute_root(world, levels)
    world.store.get = counting  # type: ignore[method-assign]
    again = await world.action(
        "echo", root=reapi.Directory(directories=[{"name": "x", "digest": levels}])
    )

    await world.execute(again)

    assert reads < 10


# Holding.


async def test_inputs_are_held_from_acceptance_to_the_end(world: World) -> None:
    file = await world.put(b"input")
    root = reapi.Directory(files=[{"name": "f", "digest": file}])
    action = await world.action("block", root=root)

    async with world.open_execute(action) as states:
        operation = await anext(states)
        held = world.store.held[f"operation:{operation.name}"]
        assert SHA256.digest(b"input") in held
        assert SHA256.digest(root.SerializeToString()) in held
        assert Digest(SHA256, action.hash, action.size_bytes) in held
        world.executor.release()
        async for _ in states:
            pass

    assert f"operation:{operation.name}" not in world.store.held


async def test_outputs_are_held_for_every_invocation_answered(world: World) -> None:
    async def make(run: Run) -> int:
        await world.executor.scripts["block"](run)
        await run.write("out", b"output")
        return 0

    world.executor.scripts["make"] = make
    action = await world.action("make", output_paths=["out"])
    output = SHA256.digest(b"output")

    async with asyncio.TaskGroup() as group:
        group.create_task(world.execute(action, call_of("one")))
        group.create_task(world.execute(action, call_of("two")))
        await world.executor.started.acquire()
        await asyncio.sleep(0)
        world.executor.release()
    await world.execute(action, call_of("three"))

    for invocation in ("one", "two", "three"):
        assert output in world.store.held[f"invocation:{invocation}"]


async def test_invocation_that_fell_silent_during_the_run_still_ends_some_day(
    world: World,
) -> None:
    async def make(run: Run) -> int:
        await world.executor.scripts["block"](run)
        await run.write("out", b"output")
        return 0

    world.executor.scripts["make"] = make
    async with world.open_execute(
        await world.action("make", output_paths=["out"]), call_of("gone")
    ) as states:
        name = (await anext(states)).name
    world.clock.advance(100_000)
    world.invocations.expire()
    assert "invocation:gone" not in world.store.held

    world.executor.release()
    await world.wait(name)
    assert "invocation:gone" in world.store.held
    world.clock.advance(100_000)
    world.invocations.expire()

    assert "invocation:gone" not in world.store.held


# Watching, leaving, cancelling.


async def test_wait_execution_joins_and_gets_the_answer_of_one_run(world: World) -> None:
    async with world.open_execute(await world.action("block")) as states:
        name = (await anext(states)).name
    await world.executor.started.acquire()
    async with asyncio.TaskGroup() as group:
        waited = group.create_task(world.wait(name))
        await asyncio.sleep(0)
        world.executor.release()

    assert response_of(waited.result()[-1]).status.code == Code.OK
    assert len(world.executor.runs) == 1
    assert (await world.wait(name))[-1] == waited.result()[-1]


async def test_wait_execution_of_unknown_name_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.wait("operations/never")


async def test_waiting_client_is_reminded_of_an_unchanged_state() -> None:
    options = ExecutionOptions(remind_s=0.01)
    async with (
        serving(Setup(execution=options)) as world,
        world.open_execute(await world.action("block")) as states,
    ):
        first = await anext(states)
        seen = [await anext(states) for _ in range(3)]

        assert {state.name for state in seen} == {first.name}


async def test_higher_priority_runs_first(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.execute(await world.action("block")))
        await world.executor.started.acquire()
        for priority in (5, -5):
            action = await world.action("echo", str(priority))
            policy = reapi.ExecutionPolicy(priority=priority)
            group.create_task(world.execute(action, execution_policy=policy))
            await asyncio.sleep(0.01)
        world.executor.release()

    assert [work.arguments[-1] for work in world.executor.runs[1:]] == ["-5", "5"]


async def test_one_line_is_logged_for_a_finished_action(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "armitage.reapi")
    action = await world.action("echo")

    await world.execute(action)

    (record,) = [record for record in caplog.records if "action" in record.getMessage()]
    assert record.getMessage() == f"action {action.hash[:12]} exited with 0"
    for name in ("queued_s", "staging_s", "run_s", "upload_s", "total_s"):
        assert float(vars(record)[name]) >= 0
    assert vars(record)["worker"] == "test-worker"


@pytest.mark.parametrize(("script", "what"), [("nonsense", "failed: there is no program")])
async def test_one_line_is_logged_for_a_failed_action(
    world: World, caplog: pytest.LogCaptureFixture, script: str, what: str
) -> None:
    caplog.set_level("INFO", "armitage.reapi")

    await world.execute(await world.action(script))

    (record,) = [record for record in caplog.records if "action" in record.getMessage()]
    assert what in record.getMessage()
