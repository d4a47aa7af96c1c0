"""ActionCache and completeness over a memory store."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from support.wire import BLAKE3, SHA256, Failed, Services, code_of, wire

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi import rpcs
from armitage.reapi.instances import Instance
from armitage.reapi.limits import Limits
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Code
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.memory import MemoryOptions, MemoryStore

BUILD = {HEADER: reapi.RequestMetadata(tool_invocation_id="build").SerializeToString()}


async def action(
    services: Services, function: DigestFunction = SHA256, salt: bytes = b""
) -> Digest:
    command = await services.put(reapi.Command(arguments=["true"]).SerializeToString(), function)
    wire_action = reapi.Action(command_digest=wire(command), salt=salt)
    return await services.put(wire_action.SerializeToString(), function)


async def update(
    services: Services, digest: Digest, result: reapi.ActionResult, instance: str = ""
) -> reapi.ActionResult:
    return await services.call(
        rpcs.UPDATE_ACTION_RESULT,
        reapi.UpdateActionResultRequest(
            instance_name=instance, action_digest=wire(digest), action_result=result
        ),
    )


async def get(services: Services, digest: Digest, **fields: object) -> reapi.ActionResult:
    request = reapi.GetActionResultRequest(action_digest=wire(digest), **fields)  # type: ignore[arg-type]
    return await services.call(rpcs.GET_ACTION_RESULT, request, BUILD)


def file(path: str, digest: Digest) -> reapi.OutputFile:
    return reapi.OutputFile(path=path, digest=wire(digest))


async def test_a_miss_is_not_found() -> None:
    services = Services()

    assert await code_of(get(services, await action(services))) == Code.NOT_FOUND


async def test_an_updated_result_is_answered_as_it_was() -> None:
    services = Services()
    digest = await action(services)
    note = any_pb2.Any(type_url="remote_dep_file", value=b"\x00\xffnot a message")
    result = reapi.ActionResult(
        output_files=[file("out", await services.put(b"out"))],
        execution_metadata=reapi.ExecutedActionMetadata(worker="laptop", auxiliary_metadata=[note]),
    )

    assert await update(services, digest, result) == result
    assert await get(services, digest) == result


async def test_a_result_without_a_worker_is_given_one() -> None:
    services = Services(require_action=True)
    command = await services.put(b"command")
    probe = await services.put(reapi.Action(command_digest=wire(command)).SerializeToString())

    answer = await update(services, probe, reapi.ActionResult())

    assert answer.execution_metadata.worker == "client"
    assert (await get(services, probe)).execution_metadata.worker == "client"


async def test_a_failed_result_is_answered_but_not_remembered() -> None:
    services = Services()
    digest = await action(services)

    assert (await update(services, digest, reapi.ActionResult(exit_code=1))).exit_code == 1
    assert await code_of(get(services, digest)) == Code.NOT_FOUND


async def test_results_are_apart_for_each_instance() -> None:
    services = Services([Instance("a"), Instance("b/c")])
    digest = await action(services)
    await update(services, digest, reapi.ActionResult(), "a")

    assert await code_of(get(services, digest, instance_name="a")) == Code.OK
    assert await code_of(get(services, digest, instance_name="b/c")) == Code.NOT_FOUND
    assert await code_of(get(services, digest, instance_name="b")) == Code.NOT_FOUND


@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_results_go_by_unmarked_digests_of_either_function(
    function: DigestFunction,
) -> None:
    services = Services(require_action=True)
    digest = await action(services, function)
    result = reapi.ActionResult(output_files=[file("o", await services.put(b"out", function))])

    await update(services, digest, result)

    assert (await get(services, digest)).output_files == result.output_files


@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_without_a_stored_action_the_outputs_tell_the_function(
    function: DigestFunction,
) -> None:
    services = Services()
    absent = function.digest(b"an action that was never uploaded")
    result = reapi.ActionResult(output_files=[file("o", await services.put(b"x", function))])

    await update(services, absent, result)

    assert (await get(services, absent)).output_files == result.output_files


async def test_a_read_only_instance_denies_updates() -> None:
    services = Services([Instance(action_cache_update_enabled=False)])
    digest = await action(services)

    assert await code_of(update(services, digest, reapi.ActionResult())) == Code.PERMISSION_DENIED


async def test_an_update_without_a_result_is_an_invalid_argument() -> None:
    services = Services()
    request = reapi.UpdateActionResultRequest(action_digest=wire(await action(services)))

    assert await code_of(services.call(rpcs.UPDATE_ACTION_RESULT, request)) == Code.INVALID_ARGUMENT


async def test_an_update_of_an_absent_action_names_it_where_that_is_required() -> None:
    services = Services(require_action=True)
    absent = SHA256.digest(b"absent")

    with pytest.raises(Failed) as failed:
        await update(services, absent, reapi.ActionResult())

    assert failed.value.code == Code.FAILED_PRECONDITION
    assert violations(failed.value) == [f"blobs/{absent.hash}/{absent.size_bytes}"]


async def test_an_update_whose_command_is_absent_names_it_where_that_is_required() -> None:
    services = Services(require_action=True)
    command = SHA256.digest(b"absent command")
    digest = await services.put(reapi.Action(command_digest=wire(command)).SerializeToString())

    with pytest.raises(Failed) as failed:
        await update(services, digest, reapi.ActionResult())

    assert violations(failed.value) == [f"blobs/{command.hash}/{command.size_bytes}"]


async def test_an_update_with_an_absent_output_names_each() -> None:
    services = Services()
    digest = await action(services)
    absent = [SHA256.digest(b"1"), SHA256.digest(b"22")]
    result = reapi.ActionResult(output_files=[file(str(n), d) for n, d in enumerate(absent)])

    with pytest.raises(Failed) as failed:
        await update(services, digest, result)

    assert failed.value.code == Code.FAILED_PRECONDITION
    assert set(violations(failed.value)) == {f"blobs/{d.hash}/{d.size_bytes}" for d in absent}


async def test_empty_outputs_need_no_upload() -> None:
    services = Services()
    digest = await action(services)
    result = reapi.ActionResult(
        output_files=[file("empty", SHA256.empty)], stdout_digest=wire(SHA256.empty)
    )

    await update(services, digest, result)

    assert await code_of(get(services, digest)) == Code.OK


@pytest.mark.parametrize(
    "result",
    [
        reapi.ActionResult(output_files=[reapi.OutputFile(path="x")]),
        reapi.ActionResult(stdout_digest=reapi.Digest(hash="zz", size_bytes=1)),
        reapi.ActionResult(output_directories=[reapi.OutputDirectory(path="d")]),
    ],
)
async def test_a_malformed_result_is_an_invalid_argument(result: reapi.ActionResult) -> None:
    services = Services()
    digest = await action(services)

    assert await code_of(update(services, digest, result)) == Code.INVALID_ARGUMENT


async def whole_result(services: Services) -> tuple[reapi.ActionResult, dict[str, Digest]]:
    """A result with one of everything, and the blobs that it must not lose."""
    parts = {
        name: await services.put(name.encode())
        for name in ("file", "stdout", "stderr", "in root", "in child", "in dir")
    }
    child = reapi.Directory(files=[node("f", parts["in child"])])
    child_digest = SHA256.digest(child.SerializeToString())
    root = reapi.Directory(
        files=[node("f", parts["in root"])],
        directories=[reapi.DirectoryNode(name="d", digest=wire(child_digest))],
    )
    tree = reapi.Tree(root=root, children=[child])
    parts["tree"] = await services.put(tree.SerializeToString())
    both_child = reapi.Directory(files=[node("g", parts["in dir"])])
    parts["both child"] = await services.put(both_child.SerializeToString())
    both_root = reapi.Directory(
        directories=[reapi.DirectoryNode(name="d", digest=wire(parts["both child"]))]
    )
    parts["both root"] = await services.put(both_root.SerializeToString())
    both = reapi.Tree(root=both_root, children=[both_child])
    parts["both tree"] = await services.put(both.SerializeToString())
    result = reapi.ActionResult(
        output_files=[file("file", parts["file"])],
        stdout_digest=wire(parts["stdout"]),
        stderr_digest=wire(parts["stderr"]),
        output_directories=[
            reapi.OutputDirectory(path="tree", tree_digest=wire(parts["tree"])),
            reapi.OutputDirectory(
                path="both",
                tree_digest=wire(parts["both tree"]),
                root_directory_digest=wire(parts["both root"]),
            ),
            reapi.OutputDirectory(path="only", root_directory_digest=wire(parts["both root"])),
        ],
    )
    return result, parts


def node(name: str, digest: Digest) -> reapi.FileNode:
    return reapi.FileNode(name=name, digest=wire(digest))


PARTS = (
    "file",
    "stdout",
    "stderr",
    "in root",
    "in child",
    "in dir",
    "tree",
    "both child",
    "both root",
    "both tree",
)


class LosingStore(MemoryStore):
    """Has lost some blobs."""

    lost: frozenset[Digest] = frozenset()

    async def find_missing(self, digests: Iterable[Digest]) -> list[Digest]:
        digests = list(digests)
        missing = await super().find_missing(digests)
        return [d for d in digests if d in self.lost or d in missing]

    async def get(self, digest: Digest) -> bytes:
        if digest in self.lost:
            raise BlobNotFound(digest)
        return await super().get(digest)


@pytest.mark.parametrize("lost", PARTS)
@pytest.mark.parametrize("is_remembered", [False, True])
async def test_a_result_that_lost_any_blob_is_a_miss(lost: str, is_remembered: bool) -> None:
    store = LosingStore()
    services = Services(store=store)
    result, parts = await whole_result(services)
    digest = await action(services)
    await services.cache.put("", digest, result.SerializeToString())
    if is_remembered:
        await get(services, digest)

    store.lost = frozenset({parts[lost]})
    assert await code_of(get(services, digest)) == Code.NOT_FOUND

    store.lost = frozenset()
    assert await code_of(get(services, digest)) == Code.OK


async def test_a_hit_holds_and_renews_everything_in_it() -> None:
    services = Services()
    result, parts = await whole_result(services)
    digest = await action(services)
    await update(services, digest, result)

    await get(services, digest)

    assert services.store.stats().held == len(parts)


async def test_a_repeated_check_reads_no_blob_again() -> None:
    class CountingStore(MemoryStore):
        gets = 0

        async def get(self, digest: Digest) -> bytes:
            self.gets += 1
            return await super().get(digest)

    store = CountingStore()
    services = Services(store=store)
    result, _ = await whole_result(services)
    digest = await action(services)
    await update(services, digest, result)
    before = store.gets

    for _ in range(5):
        await get(services, digest)

    assert store.gets == before


async def test_a_stored_result_of_no_use_is_a_miss() -> None:
    services = Services()
    digest = await action(services)
    await services.cache.put("", digest, b"\xffnot a result")

    assert await code_of(get(services, digest)) == Code.NOT_FOUND


async def test_a_tree_that_is_none_makes_the_update_invalid() -> None:
    services = Services()
    digest = await action(services)
    not_a_tree = await services.put(b"\xff\xff")
    result = reapi.ActionResult(
        output_directories=[reapi.OutputDirectory(path="d", tree_digest=wire(not_a_tree))]
    )

    assert await code_of(update(services, digest, result)) == Code.INVALID_ARGUMENT


@pytest.mark.slow
async def test_a_tree_of_a_million_entries_is_checked() -> None:
    services = Services(store=MemoryStore(MemoryOptions(max_bytes=1 << 30)))
    one = await services.put(b"one")
    directory = reapi.Directory(files=[node(f"{n:07}", one) for n in range(100_000)])
    tree = reapi.Tree(children=[directory] * 10)
    result = reapi.ActionResult(
        output_directories=[
            reapi.OutputDirectory(
                path="d", tree_digest=wire(await services.put(tree.SerializeToString()))
            )
        ]
    )
    digest = await action(services)

    await update(services, digest, result)

    assert await code_of(get(services, digest)) == Code.OK


async def test_stdout_and_files_are_inlined_as_asked_and_digests_stay() -> None:
    services = Services()
    digest = await action(services)
    out, wanted, other = [await services.put(d) for d in (b"stdout", b"wanted", b"other")]
    result = reapi.ActionResult(
        output_files=[file("wanted.d", wanted), file("other", other)], stdout_digest=wire(out)
    )
    await update(services, digest, result)

    plain = await get(services, digest)
    asked = await get(
        services,
        digest,
        inline_stdout=True,
        inline_stderr=True,
        inline_output_files=["wanted.d", "no such output"],
    )

    assert (plain.stdout_raw, plain.output_files[0].contents) == (b"", b"")
    assert asked.stdout_raw == b"stdout"
    assert asked.stdout_digest == wire(out)
    assert [f.contents for f in asked.output_files] == [b"wanted", b""]
    assert [f.digest for f in asked.output_files] == [wire(wanted), wire(other)]


async def test_what_does_not_fit_in_a_message_is_not_inlined() -> None:
    services = Services(limits=Limits(max_response_bytes=1000))
    digest = await action(services)
    large, small = await services.put(bytes(2000)), await services.put(b"small")
    result = reapi.ActionResult(stdout_digest=wire(large), stderr_digest=wire(small))
    await update(services, digest, result)

    asked = await get(services, digest, inline_stdout=True, inline_stderr=True)

    assert (asked.stdout_raw, asked.stderr_raw) == (b"", b"small")
    assert asked.ByteSize() <= 1000


def violations(failed: Failed) -> list[str]:
    status = status_pb2.Status.FromString(failed.status.details)
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert {violation.type for violation in failure.violations} == {"MISSING"}
    return [violation.subject for violation in failure.violations]
