"""`armitage status`: does a server answer, and what does it offer."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, size_text

if TYPE_CHECKING:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
    from armitage.client.channel import Channel

_TIMEOUT_S = 10


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "status",
        lambda args: asyncio.run(_status(args)),
        "ask a server for its health and capabilities",
        "Asks any Remote Execution server what it offers. Exit code 1 when it says that it does not"
        " serve, 4 when it does not answer.",
    )
    options.add_connection(parser)


async def _status(args: argparse.Namespace) -> Exit:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    async with channel_for(args) as channel:
        request = reapi.GetCapabilitiesRequest(instance_name=args.instance)
        answer = await channel.call(rpcs.GET_CAPABILITIES, request, timeout=_TIMEOUT_S)
        health = await _health(channel)
        gpus = await _gpus(channel)
    value = {"server": args.server, "instance": args.instance, "health": health}
    value |= _describe(answer) | {"gpus": gpus}
    emit(args, value, _lines(value))
    return Exit.NO if health == "not serving" else Exit.OK


async def _health(channel: Channel) -> str:
    from armitage._proto.grpc.health.v1 import health_pb2 as pb
    from armitage.client.channel import CallFailed
    from armitage.reapi.rpcs import Rpc
    from armitage.transport.port import Code

    check = Rpc("/grpc.health.v1.Health/Check", pb.HealthCheckRequest, pb.HealthCheckResponse)
    try:
        answer = await channel.call(check, pb.HealthCheckRequest(), timeout=_TIMEOUT_S)
    except CallFailed as failure:
        if failure.code == Code.UNIMPLEMENTED:
            return "unknown (no health service)"
        raise
    serving = pb.HealthCheckResponse.ServingStatus.Name(answer.status)
    return serving.lower().replace("_", " ")


async def _gpus(channel: Channel) -> dict[str, Any] | None:
    """The GPUs and their leases; None from a server that has none, or does not tell us."""
    from armitage.cli import gpu
    from armitage.client.channel import CallFailed
    from armitage.transport.port import Code

    try:
        answer = await gpu.listed(channel)
    except CallFailed as failure:
        if failure.code in (Code.UNIMPLEMENTED, Code.PERMISSION_DENIED):
            return None
        raise
    return gpu.describe(answer) if answer.devices else None


def _describe(answer: reapi.ServerCapabilities) -> dict[str, Any]:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

    cache, execution = answer.cache_capabilities, answer.execution_capabilities
    low, high = answer.low_api_version, answer.high_api_version
    return {
        "api": f"{low.major}.{low.minor} to {high.major}.{high.minor}",
        "digest_functions": [
            reapi.DigestFunction.Value.Name(function).lower() for function in cache.digest_functions
        ],
        "compressors": [
            reapi.Compressor.Value.Name(one).lower() for one in cache.supported_compressors
        ],
        "max_batch_total_size_bytes": cache.max_batch_total_size_bytes,
        "max_cas_blob_size_bytes": cache.max_cas_blob_size_bytes,
        "action_cache_update_enabled": cache.action_cache_update_capabilities.update_enabled,
        "exec_enabled": execution.exec_enabled,
    }


def _lines(value: dict[str, Any]) -> list[str]:
    limit = value["max_cas_blob_size_bytes"]
    name = value["instance"]
    lines = [
        f"server            {value['server']}" + (f", instance {name}" if name else ""),
        f"health            {value['health']}",
        f"executes          {'yes' if value['exec_enabled'] else 'no, caches only'}",
        f"API               {value['api']}",
        f"digest functions  {', '.join(value['digest_functions'])}",
        f"compressors       {', '.join(value['compressors']) or 'none'}",
        f"batches           up to {size_text(value['max_batch_total_size_bytes'])}",
        f"blobs             up to {size_text(limit) if limit else 'any size'}",
        f"results           {'writable' if value['action_cache_update_enabled'] else 'read-only'}",
    ]
    if value["gpus"]:
        from armitage.cli.gpu import lines_of

        lines += ["", *lines_of(value["gpus"])]
    return lines
