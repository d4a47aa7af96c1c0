"""Finds out, from a distance, which parts of the API a server leaves out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from google.longrunning import operations_pb2 as longrunning

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as logstream
from armitage.client.channel import CallFailed
from armitage.conformance import actions
from armitage.conformance.model import Need, NotSupported, Skipped
from armitage.conformance.session import Session
from armitage.reapi import rpcs
from armitage.transport.port import Code


async def demand(need: Need, session: Session) -> None:
    """Raises NotSupported, with the evidence, when the server lacks what is needed."""
    if need == Need.SHELL:
        await _demand_shell(session)
    elif need in _ADVERTISED:
        if not _ADVERTISED[need](session):
            raise NotSupported(_NOT_ADVERTISED[need])
    else:
        await _probe(need, session)


async def _probe(need: Need, session: Session) -> None:
    method, probe = _PROBES[need]
    try:
        await probe(session)
    except CallFailed as error:
        if error.code == Code.UNIMPLEMENTED:
            raise NotSupported(f"{method}: UNIMPLEMENTED") from None


async def _demand_shell(session: Session) -> None:
    await demand(Need.EXECUTION, session)
    memory = session.memory
    async with memory.lock:
        if memory.shell is None:
            verdict = await actions.run_script(session, "exit 0")
            fine = verdict.code == Code.OK and verdict.result.exit_code == 0
            exit_code = f", exit code {verdict.result.exit_code}"
            says = verdict.says() + ("" if verdict.code != Code.OK else exit_code)
            memory.shell = "" if fine else f"a trial of /bin/sh: {says}"
    if memory.shell:
        raise Skipped(f"{memory.shell}; are --platform properties needed?")


_ADVERTISED: dict[Need, Callable[[Session], bool]] = {
    Need.EXECUTION: lambda s: s.capabilities.execution_capabilities.exec_enabled,
    Need.UPDATE: lambda s: s.cache.action_cache_update_capabilities.update_enabled,
    Need.ZSTD: lambda s: "zstd" in s.compressors,
    Need.DEFLATE: lambda s: "deflate" in s.compressors,
    Need.BLAKE3: lambda s: reapi.DigestFunction.BLAKE3 in s.cache.digest_functions,
    Need.SPLIT: lambda s: s.cache.split_blob_support,
    Need.SPLICE: lambda s: s.cache.splice_blob_support,
}
_NOT_ADVERTISED = {
    Need.EXECUTION: "exec_enabled is not set",
    Need.UPDATE: "update_enabled is not set",
    Need.ZSTD: "zstd is not among supported_compressors",
    Need.DEFLATE: "deflate is not among supported_compressors",
    Need.BLAKE3: "BLAKE3 is not among digest_functions",
    Need.SPLIT: "split_blob_support is not set",
    Need.SPLICE: "splice_blob_support is not set",
}


async def _action_cache(session: Session) -> None:
    await session.get_action_result(session.absent())


async def _batch(session: Session) -> None:
    await session.batch_read([session.absent()])


async def _get_tree(session: Session) -> None:
    await session.get_tree(session.absent())


async def _bytestream(session: Session) -> None:
    await session.read(session.absent())


async def _query(session: Session) -> None:
    await session.write_status(session.write_name(session.absent()))


async def _operations(session: Session) -> None:
    request = longrunning.GetOperationRequest(name="operations/no-such-operation")
    await session.channel.call(rpcs.GET_OPERATION, request, timeout=session.options.call_timeout_s)


async def _fetch(session: Session) -> None:
    request = asset.FetchBlobRequest(instance_name=session.instance)
    await session.channel.call(rpcs.FETCH_BLOB, request, timeout=session.options.call_timeout_s)


async def _push(session: Session) -> None:
    request = asset.PushBlobRequest(instance_name=session.instance)
    await session.channel.call(rpcs.PUSH_BLOB, request, timeout=session.options.call_timeout_s)


async def _logstream(session: Session) -> None:
    request = logstream.CreateLogStreamRequest(parent="no-such-parent")
    await session.channel.call(
        rpcs.CREATE_LOG_STREAM, request, timeout=session.options.call_timeout_s
    )


_PROBES: dict[Need, tuple[str, Callable[[Session], Awaitable[None]]]] = {
    Need.ACTION_CACHE: ("GetActionResult", _action_cache),
    Need.BATCH: ("BatchReadBlobs", _batch),
    Need.GET_TREE: ("GetTree", _get_tree),
    Need.BYTESTREAM: ("ByteStream.Read", _bytestream),
    Need.QUERY: ("QueryWriteStatus", _query),
    Need.OPERATIONS: ("GetOperation", _operations),
    Need.FETCH: ("FetchBlob", _fetch),
    Need.PUSH: ("PushBlob", _push),
    Need.LOGSTREAM: ("CreateLogStream", _logstream),
}
