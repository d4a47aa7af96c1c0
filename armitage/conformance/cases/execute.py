"""Cases 67-79: executing actions, caching, timeouts, missing inputs, platforms."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import actions, wire
from armitage.conformance.actions import Stage, Verdict
from armitage.conformance.control import Variant
from armitage.conformance.model import Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import Session, describe
from armitage.transport.port import Code

_ANY = (Need.EXECUTION,)
_NEEDS = (Need.SHELL,)
_RANDOM = "od -An -N16 -tx1 /dev/urandom"
_TEN_YEARS_S = 10 * 365 * 24 * 3600.0


@case(
    67,
    "A command runs: stages, exit code, stdout, ordered times, the worker's name",
    source="Execute, ExecuteOperationMetadata, ExecutedActionMetadata",
    needs=_ANY,
)
async def command_runs(s: Session) -> None:
    word = secrets.token_hex(8)
    script = f"test -d empty || exit 9; echo {word}"
    prepared = actions.prepare(s, ["/bin/sh", "-c", script], {"empty": {}, "file": b"x"})
    verdict = await actions.run_prepared(s, prepared)
    for operation in verdict.operations:
        actions.check_operation(s, operation, verdict.name)
    _check_stages(s, verdict, prepared.action_digest)
    result = verdict.expect_ok(None)
    _check_times(s, result.execution_metadata)
    s.check(result.execution_metadata.worker, "worker is empty", Level.SHOULD)
    s.check(not verdict.response.cached_result, "cached_result is true on a first run")
    if result.exit_code not in {0, 9}:
        raise Skipped(f"/bin/sh does not run there: exit code {result.exit_code}")
    s.check(result.exit_code == 0, "an empty input directory is not made")
    stdout = await actions.stdout_of(s, result)
    s.check(result.exit_code or stdout == f"{word}\n".encode(), "stdout is other bytes")
    s.check(
        result.exit_code or result.stdout_digest.size_bytes,
        "stdout_digest is not set",
        Level.SHOULD,
    )


def _check_stages(s: Session, verdict: Verdict, action: reapi.Digest) -> None:
    stages = []
    for operation in verdict.operations:
        metadata = actions.metadata_of(operation)
        if metadata is not None:
            stages.append(metadata.stage)
            same = wire.key(metadata.action_digest) == wire.key(action)
            s.check(same, "action_digest in the metadata is another", Level.SHOULD)
    s.check(Stage.UNKNOWN not in stages, "a stage is UNKNOWN")
    s.check(len(stages) > 1, "no message came before the last", Level.SHOULD)


def _check_times(s: Session, metadata: reapi.ExecutedActionMetadata) -> None:
    names = (
        "queued",
        "worker_start",
        "input_fetch_start",
        "input_fetch_completed",
        "execution_start",
        "execution_completed",
        "output_upload_start",
        "output_upload_completed",
        "worker_completed",
    )
    present = [name for name in names if metadata.HasField(f"{name}_timestamp")]
    missing = [name for name in names if name not in present]
    s.check(not missing, f"times not set: {', '.join(missing)}", Level.SHOULD)
    times = [getattr(metadata, f"{name}_timestamp").ToNanoseconds() for name in present]
    s.check(times == sorted(times), "the times are not in order", Level.SHOULD)


@case(
    68,
    "A second Execute is served from the cache, with the original run's metadata",
    source="Execute: clients SHOULD expect the server to cache; execution_metadata",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def second_run_is_cached(s: Session) -> None:
    prepared = actions.prepare(s, ["/bin/sh", "-c", _RANDOM])
    first = (await actions.run_prepared(s, prepared)).expect_ok()
    verdict = await actions.execute(s, prepared.action_digest)
    second = verdict.expect_ok()
    if not verdict.response.cached_result:
        s.fail("cached_result is false", Level.SHOULD)
        return
    s.check(await _same_stdout(s, first, second), "the cached stdout is another")
    one, two = first.execution_metadata, second.execution_metadata
    same = one.execution_start_timestamp == two.execution_start_timestamp
    s.check(same, "the cached result has other times than the run", Level.SHOULD)


async def _same_stdout(s: Session, one: reapi.ActionResult, two: reapi.ActionResult) -> bool:
    return await actions.stdout_of(s, one) == await actions.stdout_of(s, two)


@case(
    69,
    "skip_cache_lookup runs the action again and replaces the cached result",
    source="ExecuteRequest.skip_cache_lookup",
    needs=_NEEDS,
)
async def skip_cache_lookup_runs_again(s: Session) -> None:
    prepared = actions.prepare(s, ["/bin/sh", "-c", _RANDOM])
    first = (await actions.run_prepared(s, prepared)).expect_ok()
    verdict = await actions.execute(s, prepared.action_digest, skip_cache_lookup=True)
    second = verdict.expect_ok()
    s.check(not verdict.response.cached_result, "cached_result is true")
    s.check(not await _same_stdout(s, first, second), "the earlier result came back")
    try:
        cached = await s.get_action_result(prepared.action_digest)
    except CallFailed as error:
        if error.code in {Code.NOT_FOUND, Code.UNIMPLEMENTED}:
            raise NotSupported(f"results are not cached: {describe(error)}") from None
        raise
    s.check(await _same_stdout(s, cached, second), "the cache keeps the old one", Level.SHOULD)


@case(
    70,
    "do_not_cache is never cached, and two at once are two runs",
    source="Action.do_not_cache: cannot be cached, may not be merged",
    needs=_NEEDS,
)
async def do_not_cache_is_kept(s: Session) -> None:
    prepared = actions.prepare(s, ["/bin/sh", "-c", f"sleep 0.5; {_RANDOM}"], do_not_cache=True)
    await s.put(*prepared.blobs)
    one, two = await asyncio.gather(
        actions.execute(s, prepared.action_digest), actions.execute(s, prepared.action_digest)
    )
    cached = one.response.cached_result or two.response.cached_result
    s.check(not cached, "cached_result is true")
    different = not await _same_stdout(s, one.expect_ok(), two.expect_ok())
    s.check(different, "two requests at once were merged into one run")
    await _check_uncached(s, prepared.action_digest, "do_not_cache")
    third = await actions.execute(s, prepared.action_digest)
    fresh = not await _same_stdout(s, one.result, third.expect_ok())
    s.check(fresh and not third.response.cached_result, "a third one was served from a cache")


async def _check_uncached(
    s: Session, action: reapi.Digest, what: str, level: Level = Level.MUST
) -> None:
    try:
        await s.get_action_result(action)
    except CallFailed as error:
        if error.code != Code.UNIMPLEMENTED:
            s.check(error.code == Code.NOT_FOUND, f"{what}: {describe(error)}", level)
        return
    s.fail(f"{what}: the result is in the action cache", level)


@case(
    71,
    "Two equal Executes at once both end well, sharing one run where the server merges",
    source="Execute: at most one run is not promised, merging is allowed",
    needs=_NEEDS,
)
async def equal_requests_share_a_run(s: Session) -> None:
    prepared = actions.prepare(s, ["/bin/sh", "-c", f"sleep 1; {_RANDOM}"])
    await s.put(*prepared.blobs)
    one, two = await asyncio.gather(
        actions.execute(s, prepared.action_digest), actions.execute(s, prepared.action_digest)
    )
    if not await _same_stdout(s, one.expect_ok(), two.expect_ok()):
        raise NotSupported("equal requests in flight run twice, which a server may do")


@case(
    72,
    "A command that fails is an OK status with its exit code and outputs, and is not cached",
    source="ExecuteResponse.status is about running at all; cached failures break clients",
    needs=_NEEDS,
)
async def failing_command_is_a_result(s: Session) -> None:
    script = "echo out; echo err >&2; echo data > made; exit 3"
    prepared = actions.prepare(s, ["/bin/sh", "-c", script], output_paths=["made"])
    result = (await actions.run_prepared(s, prepared)).expect_ok(exit_code=3)
    s.check(await actions.stdout_of(s, result) == b"out\n", "stdout is other bytes")
    names = [file.path for file in result.output_files]
    s.check(names == ["made"], f"output_files are {names}")
    await _check_uncached(s, prepared.action_digest, "exit code 3", Level.INTEROP)


@case(
    73,
    "A command past its timeout is DEADLINE_EXCEEDED, dead with its children, not cached",
    source="Action.timeout; ExecuteResponse.status: MUST NOT be cached",
    needs=_NEEDS,
)
async def timeout_kills(s: Session) -> None:
    marker = f"7{secrets.randbelow(10**8):08d}"
    script = f"echo begun; (sleep {marker} & sleep {marker}) & sleep {marker}"
    prepared = actions.prepare(s, ["/bin/sh", "-c", script], timeout_s=1.0)
    verdict = await actions.run_prepared(s, prepared)
    s.check(verdict.code == Code.DEADLINE_EXCEEDED, verdict.says())
    await _check_uncached(s, prepared.action_digest, "timed out")
    stdout = await actions.stdout_of(s, verdict.result)
    s.check(stdout == b"begun\n", "what it printed before is lost", Level.INTEROP)
    try:
        alive = await s.control.is_running(marker)
    except Skipped:
        return
    s.check(not alive, "child processes outlive the timeout", Level.SHOULD)


@case(
    74,
    "A timeout over the server's maximum is INVALID_ARGUMENT",
    source="Action.timeout: the server MUST reject the request",
    needs=_NEEDS,
)
async def long_timeout_is_refused(s: Session) -> None:
    if await _check_long_timeout(s, _TEN_YEARS_S):
        return
    try:
        async with s.elsewhere(Variant.SHORT_TIMEOUT) as other:
            if not await _check_long_timeout(other, 601.0):
                s.fail("an action may ask for more than the server's maximum timeout")
    except Skipped:
        raise NotSupported("any timeout is taken (ten years were)") from None


async def _check_long_timeout(s: Session, timeout_s: float) -> bool:
    prepared = actions.prepare(s, ["/bin/sh", "-c", "true"], timeout_s=timeout_s)
    verdict = await actions.run_prepared(s, prepared)
    if verdict.code == Code.OK:
        return False
    s.check(verdict.code == Code.INVALID_ARGUMENT, f"{timeout_s:g} s: {verdict.says()}")
    return True


@case(
    75,
    "Missing blobs are FAILED_PRECONDITION with a MISSING violation each, exactly named",
    source="Execute: PreconditionFailure, subject blobs/{digest_function/}{hash}/{size}",
    needs=_ANY,
)
async def missing_inputs_are_named(s: Session) -> None:
    await _check_missing(s)
    offered = s.capabilities.execution_capabilities.digest_functions
    if wire.Function.BLAKE3 in offered and s.function != wire.Function.BLAKE3:
        await _check_missing(replace(s, function=wire.Function.BLAKE3))


async def _check_missing(s: Session) -> None:
    what = wire.function_name(s.function)
    tree = {"a": secrets.token_bytes(20), "b": secrets.token_bytes(20), "d": {"c": b"c"}}
    prepared = actions.prepare(s, ["/bin/sh", "-c", "cat a b"], tree)
    root = prepared.action.input_root_digest
    directory = reapi.Directory.FromString(_blob(s, prepared, root))
    absent = [
        *(file.digest for file in directory.files),
        *(node.digest for node in directory.directories),
        prepared.action.command_digest,
    ]
    keys = {wire.key(digest) for digest in absent}
    await s.put(*(blob for blob in prepared.blobs if wire.key(s.digest(blob)) not in keys))
    verdict = await actions.execute(s, prepared.action_digest)
    if not s.check(verdict.code == Code.FAILED_PRECONDITION, f"{what}: {verdict.says()}"):
        return
    wanted = {wire.subject(digest, s.function) for digest in absent}
    named = set(verdict.missing())
    strange = named - wanted
    s.check(not strange, f"{what}: it names {min(strange, default='')}")
    s.check(named, f"{what}: no MISSING violation (Bazel then does not upload)", Level.SHOULD)
    s.check(wanted <= named, f"{what}: {len(named)} of {len(wanted)} are named", Level.SHOULD)
    others = [v.type for v in verdict.violations() if v.type != "MISSING"]
    s.check(not others, f"{what}: violations of other types: {others}", Level.INTEROP)
    gone = s.absent()
    verdict = await actions.execute(s, gone)
    if s.check(verdict.code == Code.FAILED_PRECONDITION, f"{what}, no Action: {verdict.says()}"):
        fine = verdict.missing() == [wire.subject(gone, s.function)]
        s.check(fine, f"{what}, no Action: it names {verdict.missing()}", Level.SHOULD)


def _blob(s: Session, prepared: actions.Prepared, digest: reapi.Digest) -> bytes:
    blobs = prepared.blobs
    return next(blob for blob in blobs if wire.key(s.digest(blob)) == wire.key(digest))


@case(
    76,
    "After the missing blobs are uploaded, the same action runs",
    source="Execute: the client may be able to fix the errors and retry",
    needs=_NEEDS,
)
async def uploaded_inputs_heal(s: Session) -> None:
    data = secrets.token_bytes(20)
    prepared = actions.prepare(s, ["/bin/sh", "-c", "cat deep/file"], {"deep": {"file": data}})
    await s.put(*(blob for blob in prepared.blobs if blob != data))
    verdict = await actions.execute(s, prepared.action_digest)
    s.check(verdict.code == Code.FAILED_PRECONDITION, f"without a file: {verdict.says()}")
    await s.put(data)
    result = (await actions.execute(s, prepared.action_digest)).expect_ok()
    s.check(await actions.stdout_of(s, result) == data, "stdout is other bytes")


async def _started(s: Session, prepared: actions.Prepared) -> Verdict | None:
    """Executes, but takes no answer in good time for `queued` and answers None."""
    await s.put(*prepared.blobs)
    try:
        async with asyncio.timeout(s.options.patience_s * 2):
            return await actions.execute(s, prepared.action_digest)
    except TimeoutError:
        return None


@case(
    77,
    "An action that no worker matches is refused without MISSING, or waits for one",
    source="Execute: FAILED_PRECONDITION when no worker is available",
    level=Level.SHOULD,
    needs=_ANY,
)
async def unmatched_platform_is_refused(s: Session) -> None:
    system = f"no-such-system-{secrets.token_hex(4)}"
    properties = [*s.options.platform, ("OSFamily", system)]
    prepared = actions.prepare(
        s,
        ["/bin/sh", "-c", "true"],
        action_platform=properties,
        command_platform=properties,
    )
    verdict = await _started(s, prepared)
    if verdict is None:
        return
    fine = {Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}
    s.check(verdict.code in fine, f"OSFamily {system}: {verdict.says()}", Level.SHOULD)
    s.check(not verdict.missing(), "it is said to be a missing blob: clients loop")


@case(
    78,
    "An unknown platform property is refused, one that the server ignores is not",
    source="Platform.Property: the server SHOULD reject unknown names",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def unknown_property_is_refused(s: Session) -> None:
    try:
        async with s.elsewhere(Variant.STRICT_PLATFORM) as other:
            await _check_unknown(other)
            ignored = [("conformance-ignored", "anything"), *other.options.platform]
            verdict = await actions.run_script(
                other, "true", action_platform=ignored, command_platform=ignored
            )
            verdict.expect_ok()
    except Skipped:
        await _check_unknown(s)


async def _check_unknown(s: Session) -> None:
    properties = [*s.options.platform, (f"conformance-{secrets.token_hex(4)}", "x")]
    prepared = actions.prepare(
        s,
        ["/bin/sh", "-c", "true"],
        action_platform=properties,
        command_platform=properties,
    )
    verdict = await _started(s, prepared)
    if verdict is not None:
        refused = verdict.code in {Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT}
        s.check(refused, f"an unknown property: {verdict.says()}", Level.SHOULD)


@case(
    79,
    "A platform on the Command alone is honoured; where both differ, the Action's wins",
    source="Action.platform: servers SHOULD prefer it; Buck2 sends only Command.platform",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def both_platforms_are_read(s: Session) -> None:
    impossible = [("OSFamily", f"no-such-system-{secrets.token_hex(4)}")]
    only = actions.prepare(
        s, ["/bin/sh", "-c", "true"], action_platform=[], command_platform=impossible
    )
    verdict = await _started(s, only)
    ignored = verdict is not None and verdict.code == Code.OK
    s.check(not ignored, "a platform on the Command alone is ignored", Level.INTEROP)
    platform = s.options.platform or await _own_platform(s)
    both = actions.prepare(
        s, ["/bin/sh", "-c", "true"], action_platform=platform, command_platform=impossible
    )
    verdict = await _started(s, both)
    seen = "no answer" if verdict is None else verdict.says()
    won = verdict is not None and verdict.code == Code.OK
    s.check(won, f"the Command's platform overrides the Action's: {seen}", Level.SHOULD)


async def _own_platform(s: Session) -> tuple[tuple[str, str], ...]:
    """Finds a platform that the server has; an Action with none at all has nothing to prefer."""
    for candidate in (("OSFamily", "linux"), ("OSFamily", "Linux")):
        verdict = await _started(
            s, actions.prepare(s, ["/bin/sh", "-c", "true"], action_platform=[candidate])
        )
        if verdict is not None and verdict.code == Code.OK:
            return (candidate,)
    raise Skipped("give a platform that the server has, with --platform NAME=VALUE")
