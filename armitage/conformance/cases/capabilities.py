"""Cases 1-4: capabilities and instance names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import wire
from armitage.conformance.control import Variant
from armitage.conformance.model import Level, NotSupported, Skipped, case
from armitage.conformance.session import (
    Session,
    describe,
    new_upload,
    random_bytes,
    write_requests,
)
from armitage.reapi import rpcs
from armitage.transport.port import Code

_ALL_COMPRESSORS = ("zstd", "deflate", "brotli")


@case(
    1,
    "Capabilities name what the server serves, and no enum is UNKNOWN",
    source="ServerCapabilities, CacheCapabilities, ExecutionCapabilities",
)
async def capabilities_are_complete(s: Session) -> None:
    request = reapi.GetCapabilitiesRequest(instance_name=s.instance)
    answer = await s.channel.call(rpcs.GET_CAPABILITIES, request, timeout=s.options.call_timeout_s)
    has_cache = answer.HasField("cache_capabilities")
    has_execution = answer.HasField("execution_capabilities")
    s.check(has_cache or has_execution, "neither cache_capabilities nor execution_capabilities")
    if has_cache:
        _check_cache(s, answer.cache_capabilities)
    if has_execution:
        _check_execution(s, answer.execution_capabilities)
    s.check(answer.HasField("low_api_version"), "low_api_version is unset", Level.SHOULD)
    s.check(answer.HasField("high_api_version"), "high_api_version is unset", Level.SHOULD)
    low, high = _version(answer.low_api_version), _version(answer.high_api_version)
    s.check(low <= high, f"low_api_version {low} is above high_api_version {high}")


def _version(version: object) -> tuple[int, int, int]:
    return (
        getattr(version, "major", 0),
        getattr(version, "minor", 0),
        getattr(version, "patch", 0),
    )


def _check_cache(s: Session, cache: reapi.CacheCapabilities) -> None:
    functions = list(cache.digest_functions)
    s.check(functions, "cache digest_functions is empty", Level.SHOULD)
    s.check(wire.Function.UNKNOWN not in functions, "cache digest_functions has UNKNOWN")
    s.check(
        cache.symlink_absolute_path_strategy != reapi.SymlinkAbsolutePathStrategy.UNKNOWN,
        "symlink_absolute_path_strategy is UNKNOWN",
        Level.SHOULD,
    )
    s.check(cache.max_batch_total_size_bytes >= 0, "max_batch_total_size_bytes is negative")
    s.check(cache.max_cas_blob_size_bytes >= 0, "max_cas_blob_size_bytes is negative")


def _check_execution(s: Session, execution: reapi.ExecutionCapabilities) -> None:
    one = execution.digest_function
    s.check(one != wire.Function.UNKNOWN, "execution digest_function is UNKNOWN")
    many = list(execution.digest_functions)
    s.check(wire.Function.UNKNOWN not in many, "execution digest_functions has UNKNOWN")
    s.check(
        not many or one in many,
        f"execution digest_functions lacks digest_function {wire.function_name(one)}",
    )


@case(
    2,
    "An unknown instance name gets one and the same code from every service",
    source="instance_name is the server's to define; one code lets clients explain it",
    level=Level.INTEROP,
)
async def unknown_instance_is_refused_alike(s: Session) -> None:
    (digest,) = await s.put(random_bytes(32))
    stranger = replace(
        s, options=replace(s.options, instance=f"no-such-instance-{new_upload()}"), findings=[]
    )
    seen = {name: await _code(call) for name, call in _calls(stranger, digest).items()}
    seen = {name: code for name, code in seen.items() if code != Code.UNIMPLEMENTED}
    if all(code == Code.OK for code in seen.values()):
        raise NotSupported("the server ignores the instance name")
    refusals = {Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED}
    refusals |= {Code.UNAUTHENTICATED}
    text = ", ".join(f"{name} {code.name}" for name, code in seen.items())
    codes = set(seen.values())
    s.check(len(codes) == 1 and codes <= refusals, text, Level.INTEROP)


def _calls(s: Session, digest: reapi.Digest) -> dict[str, Callable[[], Awaitable[object]]]:
    async def capabilities() -> object:
        request = reapi.GetCapabilitiesRequest(instance_name=s.instance)
        return await s.channel.call(
            rpcs.GET_CAPABILITIES, request, timeout=s.options.call_timeout_s
        )

    async def write() -> object:
        data = random_bytes(32)
        return await s.write(s.digest(data), data)

    return {
        "GetCapabilities": capabilities,
        "FindMissingBlobs": lambda: s.find_missing([digest]),
        "BatchReadBlobs": lambda: s.batch_read([digest]),
        "ByteStream.Read": lambda: s.read(digest),
        "ByteStream.Write": write,
    }


async def _code(call: Callable[[], Awaitable[object]]) -> Code:
    try:
        await call()
    except CallFailed as error:
        return error.code
    return Code.OK


@case(
    3,
    "The empty and a many-segment instance work in fields and in resource names",
    source="ContentAddressableStorage: instance_name, and its slash left out when empty",
    needs=(),
)
async def instance_names_work_everywhere(s: Session) -> None:
    await _round_trip(s, Level.MUST)
    try:
        async with s.elsewhere(Variant.INSTANCES) as other:
            for name in ("", "a/b/c"):
                await _round_trip(_as(other, name), Level.MUST)
    except Skipped:
        for name in {"", "a/b/c"} - {s.instance}:
            await _round_trip_if_served(_as(s, name))


def _as(s: Session, instance: str) -> Session:
    return replace(s, options=replace(s.options, instance=instance))


async def _round_trip_if_served(s: Session) -> None:
    try:
        await s.put(random_bytes(32))
    except CallFailed:
        return
    await _round_trip(s, Level.INTEROP)


async def _round_trip(s: Session, level: Level) -> None:
    by_field, by_name = random_bytes(100), random_bytes(100)
    (first,) = await s.put(by_field)
    second = s.digest(by_name)
    where = f"instance {s.instance!r}"
    try:
        await s.send_writes(write_requests(s.write_name(second), by_name))
        same = await s.read(first) == by_field
        s.check(same, f"{where}: Read gave other bytes than were written by a batch", level)
        answers = await s.batch_read([second])
        same = [answer.data for answer in answers] == [by_name]
        s.check(same, f"{where}: BatchReadBlobs lacks what was written by a stream", level)
    except CallFailed as error:
        s.fail(f"{where}: {describe(error)}", level)


@case(
    4,
    "A compressor that is not advertised is refused with INVALID_ARGUMENT",
    source="ContentAddressableStorage: compressor is one that the server supports and advertises",
    level=Level.SHOULD,
)
async def unadvertised_compressors_are_refused(s: Session) -> None:
    await _check_refused(s, "lzma9")
    for compressor in set(_ALL_COMPRESSORS) - set(s.compressors):
        await _check_refused(s, compressor)
    if not s.compressors:
        return
    try:
        async with s.elsewhere(Variant.NO_COMPRESSION) as other:
            for compressor in _ALL_COMPRESSORS:
                await _check_refused(other, compressor)
    except Skipped:
        return


async def _check_refused(s: Session, compressor: str) -> None:
    (digest,) = await s.put(random_bytes(64))
    honest = {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED}
    await s.rejected(
        s.read(digest, compressor=compressor), honest, f"read as {compressor}", level=Level.SHOULD
    )
    fresh = s.absent()
    name = s.write_name(fresh, compressor=compressor)
    await s.rejected(
        s.send_writes(write_requests(name, random_bytes(64))),
        honest,
        f"write as {compressor}",
        level=Level.SHOULD,
    )
