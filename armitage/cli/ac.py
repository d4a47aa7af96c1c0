"""`armitage ac`: the action cache."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit

if TYPE_CHECKING:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "ac", "look into the action cache")
    get = options.add_command(
        group,
        "get",
        lambda args: asyncio.run(_get(args)),
        "show the result remembered for an action (exit code 1 when there is none)",
    )
    get.add_argument(
        "digest", metavar="ACTION", help="digest of the Action: HASH/SIZE or FUNCTION:HASH/SIZE"
    )
    options.add_connection(get)


async def _get(args: argparse.Namespace) -> Exit:
    from google.protobuf.json_format import MessageToDict

    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
    from armitage.cli.connection import parse_digest, remote_for
    from armitage.reapi import rpcs
    from armitage.reapi.digests import wire_digest

    async with remote_for(args) as remote:
        action = parse_digest(args.digest, remote.function)
        request = reapi.GetActionResultRequest(
            instance_name=remote.instance,
            action_digest=wire_digest(action),
            digest_function=action.function.name,
        )
        result = await remote.channel.call(rpcs.GET_ACTION_RESULT, request)
    value = MessageToDict(result, preserving_proto_field_name=True)
    emit(args, value, _lines(result))
    return Exit.OK


def _lines(result: reapi.ActionResult) -> list[str]:
    lines = [f"exit code   {result.exit_code}"]
    metadata = result.execution_metadata
    if metadata.worker:
        lines.append(f"worker      {metadata.worker}")
    if metadata.HasField("worker_completed_timestamp"):
        lines.append(f"completed   {metadata.worker_completed_timestamp.ToJsonString()}")
    for name, inline, digest in (
        ("stdout", result.stdout_raw, result.stdout_digest),
        ("stderr", result.stderr_raw, result.stderr_digest),
    ):
        if digest.size_bytes:
            lines.append(f"{name}      {digest.hash}/{digest.size_bytes}")
        elif inline:
            lines.append(f"{name}      {len(inline)} bytes, inline")
    for file in result.output_files:
        mark = "  (executable)" if file.is_executable else ""
        lines.append(f"file        {file.digest.hash}/{file.digest.size_bytes}  {file.path}{mark}")
    lines += [
        f"directory   {d.tree_digest.hash}/{d.tree_digest.size_bytes}  {d.path}  (Tree)"
        for d in result.output_directories
    ]
    lines += [f"symlink     {link.path} -> {link.target}" for link in result.output_symlinks]
    return lines
