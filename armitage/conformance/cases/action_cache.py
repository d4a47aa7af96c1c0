"""Cases 58-66: the action cache."""

from __future__ import annotations

from google.protobuf import any_pb2

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import actions, wire
from armitage.conformance.control import Variant
from armitage.conformance.model import Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import Session, describe, random_bytes
from armitage.transport.port import Code

_MESSAGE_LIMIT = 4 * 1024 * 1024
_NEEDS = (Need.ACTION_CACHE, Need.UPDATE)
_INCOMPLETE = frozenset({Code.NOT_FOUND})


async def _action(s: Session) -> reapi.Digest:
    """Uploads an action that nobody has ever had, with its command."""
    prepared = actions.prepare(s, ["/bin/true"])
    await s.put(*prepared.blobs)
    return prepared.action_digest


def _result(**fields: object) -> reapi.ActionResult:
    result = reapi.ActionResult(**fields)  # type: ignore[arg-type]
    result.execution_metadata.worker = "armitage-conformance"
    return result


@case(
    58,
    "A miss is NOT_FOUND; after an update the same result comes back, unknown Any and all",
    source="GetActionResult, UpdateActionResult; Buck2 keeps dep files in auxiliary_metadata",
    needs=_NEEDS,
)
async def update_then_get_is_the_same(s: Session) -> None:
    action = await _action(s)
    await s.rejected(s.get_action_result(action), {Code.NOT_FOUND}, "before the update")
    output, stdout = await s.put(random_bytes(300), random_bytes(100))
    result = _result(exit_code=0, stdout_digest=stdout)
    result.output_files.add(path="out/file", digest=output, is_executable=True)
    result.output_symlinks.add(path="out/link", target="file")
    box = any_pb2.Any(type_url="remote_dep_file", value=random_bytes(40))
    result.execution_metadata.auxiliary_metadata.append(box)
    returned = await s.update_action_result(action, result)
    got = await s.get_action_result(action)
    for what, answer in (("the update's answer", returned), ("GetActionResult", got)):
        files = [(f.path, wire.key(f.digest), f.is_executable) for f in answer.output_files]
        s.check(files == [("out/file", wire.key(output), True)], f"{what}: output_files differ")
        s.check(wire.key(answer.stdout_digest) == wire.key(stdout), f"{what}: stdout differs")
        links = [(link.path, link.target) for link in answer.output_symlinks]
        s.check(links == [("out/link", "file")], f"{what}: output_symlinks differ")
        boxes = list(answer.execution_metadata.auxiliary_metadata)
        s.check(box in boxes, f"{what}: the unknown Any is lost", Level.INTEROP)


async def _check_incomplete(
    s: Session, result: reapi.ActionResult, gone: reapi.Digest, what: str
) -> None:
    """Expects no hit for a result of which one blob was never there."""
    action = await _action(s)
    try:
        await s.update_action_result(action, result)
    except CallFailed as error:
        refusals = {Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT, Code.NOT_FOUND}
        s.check(error.code in refusals, f"update, {what}: {describe(error)}", Level.SHOULD)
        return
    get = s.get_action_result(action)
    await s.rejected(get, _INCOMPLETE, f"{what} absent", level=Level.SHOULD)
    s.check(await s.is_missing(gone), f"{what}: an absent blob is said to be there")


async def _check_evicted(
    s: Session, result: reapi.ActionResult, gone: reapi.Digest, what: str
) -> None:
    """Expects a hit until one blob is evicted, then none. Needs control."""
    action = await _action(s)
    await s.update_action_result(action, result)
    try:
        await s.get_action_result(action)
    except CallFailed as error:
        s.fail(f"{what}: with every blob there, {describe(error)}", Level.INTEROP)
        return
    try:
        await s.control.evict(gone)
    except Skipped:
        return
    get = s.get_action_result(action)
    await s.rejected(get, _INCOMPLETE, f"{what} evicted", level=Level.SHOULD)


@case(
    59,
    "A result is a miss once an output file is gone",
    source="GetActionResult: SHOULD ensure that referenced blobs are available",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def lost_output_file_is_a_miss(s: Session) -> None:
    (kept, evicted), absent = await s.put(random_bytes(50), random_bytes(50)), s.absent()
    for gone, check in ((absent, _check_incomplete), (evicted, _check_evicted)):
        result = _result()
        result.output_files.add(path="a", digest=kept)
        result.output_files.add(path="b", digest=gone)
        await check(s, result, gone, "an output file")


@case(
    60,
    "A result is a miss once a file inside an output directory's Tree is gone",
    source="GetActionResult: SHOULD ensure that referenced blobs are available",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def lost_file_in_tree_is_a_miss(s: Session) -> None:
    (evicted,), absent = await s.put(random_bytes(50)), s.absent()
    for gone, check in ((absent, _check_incomplete), (evicted, _check_evicted)):
        child, root = reapi.Directory(), reapi.Directory()
        child.files.add(name="deep", digest=gone)
        root.directories.add(name="child", digest=s.digest(child))
        tree = reapi.Tree(root=root, children=[child])
        (digest,) = await s.put(tree)
        result = _result()
        result.output_directories.add(path="out", tree_digest=digest)
        await check(s, result, gone, "a file in a Tree")


@case(
    61,
    "A result is a miss once its stdout is gone",
    source="GetActionResult: SHOULD ensure that referenced blobs are available",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def lost_stdout_is_a_miss(s: Session) -> None:
    (evicted,), absent = await s.put(random_bytes(50)), s.absent()
    for gone, check in ((absent, _check_incomplete), (evicted, _check_evicted)):
        await check(s, _result(stdout_digest=gone), gone, "stdout")


@case(
    62,
    "An update whose Action was never uploaded is FAILED_PRECONDITION, or taken",
    source="UpdateActionResult: FAILED_PRECONDITION, such as a missing command or action",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def update_without_action(s: Session) -> None:
    try:
        await s.update_action_result(s.absent(), _result(exit_code=0))
    except CallFailed as error:
        s.check(error.code == Code.FAILED_PRECONDITION, describe(error), Level.SHOULD)


@case(
    63,
    "Buck2's permission probe is taken: an Action without input root, an empty result",
    source="Buck2 asks so whether it may upload; it needs execution_metadata in the answer",
    level=Level.INTEROP,
    needs=_NEEDS,
)
async def permission_probe_is_taken(s: Session) -> None:
    command = reapi.Command(
        arguments=["/command", "-to", "check permission", random_bytes(8).hex()]
    )
    action = reapi.Action(command_digest=s.digest(command))
    await s.put(command, action)
    result = reapi.ActionResult()
    result.execution_metadata.SetInParent()
    try:
        answer = await s.update_action_result(s.digest(action), result)
    except CallFailed as error:
        s.fail(describe(error), Level.INTEROP)
        return
    has = answer.HasField("execution_metadata")
    s.check(has, "the answer lacks execution_metadata", Level.INTEROP)


@case(
    64,
    "Where updates are off, update_enabled is false and an update is PERMISSION_DENIED",
    source="ActionCacheUpdateCapabilities.update_enabled",
    level=Level.SHOULD,
    needs=(Need.ACTION_CACHE,),
)
async def read_only_cache_says_so(s: Session) -> None:
    if not s.cache.action_cache_update_capabilities.update_enabled:
        await _check_read_only(s)
        return
    await s.update_action_result(await _action(s), _result(exit_code=0))
    async with s.elsewhere(Variant.READ_ONLY_CACHE) as other:
        enabled = other.cache.action_cache_update_capabilities.update_enabled
        s.check(not enabled, "update_enabled is true on a read-only cache")
        await _check_read_only(other)


async def _check_read_only(s: Session) -> None:
    action = await _action(s)
    update = s.update_action_result(action, _result(exit_code=0))
    denials = {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED}
    await s.rejected(update, denials, "update while update_enabled is false", level=Level.SHOULD)


@case(
    65,
    "inline_stdout fills stdout_raw and keeps the digest, but never past 4 MiB",
    source="ActionResult.stdout_raw: MUST omit if it would exceed message size limits",
    needs=_NEEDS,
)
async def stdout_is_inlined_within_limits(s: Session) -> None:
    small, large = random_bytes(500), random_bytes((10 if s.options.full else 5) * 1024 * 1024)
    for data in (large, small):
        (stdout,) = await s.put(data)
        action = await _action(s)
        await s.update_action_result(action, _result(stdout_digest=stdout))
        got = await s.get_action_result(action, stdout=True)
        kept = wire.key(got.stdout_digest) == wire.key(stdout)
        s.check(kept, f"{len(data)} bytes: stdout_digest is gone", Level.INTEROP)
        s.check(got.stdout_raw in (data, b""), f"{len(data)} bytes: stdout_raw is other bytes")
        size = got.ByteSize()
        s.check(size <= _MESSAGE_LIMIT, f"stdout of {len(data)} bytes: a message of {size} bytes")
        if data is small and not got.stdout_raw:
            raise NotSupported("stdout is not inlined, which a server may choose")


@case(
    66,
    "inline_output_files fills the contents of those files alone",
    source="GetActionResultRequest.inline_output_files",
    needs=_NEEDS,
)
async def named_files_are_inlined(s: Session) -> None:
    wanted, other = random_bytes(200), random_bytes(200)
    first, second = await s.put(wanted, other)
    result = _result()
    result.output_files.add(path="wanted", digest=first)
    result.output_files.add(path="other", digest=second)
    action = await _action(s)
    await s.update_action_result(action, result)
    got = await s.get_action_result(action, files=["wanted", "unmatched"])
    files = {file.path: file for file in got.output_files}
    if not s.check(set(files) == {"wanted", "other"}, f"output_files are {sorted(files)}"):
        return
    s.check(not files["other"].contents, "a file not asked for is inlined", Level.SHOULD)
    s.check(files["wanted"].contents in (wanted, b""), "the contents are other bytes")
    s.check(wire.key(files["wanted"].digest) == wire.key(first), "the digest is gone")
    if not files["wanted"].contents:
        raise NotSupported("files are not inlined, which a server may choose")
