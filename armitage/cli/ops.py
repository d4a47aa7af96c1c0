"""`armitage ops`: the server's operations (running and recent actions)."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, table

if TYPE_CHECKING:
    from google.longrunning import operations_pb2 as longrunning

    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

_PAGE = 500


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "ops", "list, show and cancel operations")
    listing = options.add_command(
        group, "list", lambda args: asyncio.run(_list(args)), "list running and recent operations"
    )
    options.add_connection(listing)
    show = options.add_command(
        group, "show", lambda args: asyncio.run(_show(args)), "show one operation"
    )
    show.add_argument("name", metavar="NAME", help="as `ops list` prints it")
    options.add_connection(show)
    cancel = options.add_command(
        group,
        "cancel",
        lambda args: asyncio.run(_cancel(args)),
        "cancel an operation, for everybody who waits for it",
    )
    cancel.add_argument("name", metavar="NAME", help="as `ops list` prints it")
    options.add_connection(cancel)


async def _list(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    found: list[dict[str, Any]] = []
    async with channel_for(args) as channel:
        token = ""
        while True:
            request = rpcs.LIST_OPERATIONS.request(
                name=args.instance, page_size=_PAGE, page_token=token
            )
            page = await channel.call(rpcs.LIST_OPERATIONS, request)
            found += [_describe(operation) for operation in page.operations]
            token = page.next_page_token
            if not token:
                break
    rows = ((f["stage"], f["action"] or "-", _status(f), f["name"]) for f in found)
    lines = table(("STAGE", "ACTION", "STATUS", "NAME"), rows) if found else ["no operations"]
    emit(args, {"operations": found}, lines)
    return Exit.OK


def _status(described: dict[str, Any]) -> str:
    return described["status"] or ("nobody waits" if described["unwatched"] else "-")


async def _show(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    async with channel_for(args) as channel:
        request = rpcs.GET_OPERATION.request(name=args.name)
        operation = await channel.call(rpcs.GET_OPERATION, request)
    value = _describe(operation)
    lines = [f"{key.replace('_', ' '):12}{text}" for key, text in value.items() if text != ""]
    emit(args, value, lines)
    return Exit.OK


async def _cancel(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    async with channel_for(args) as channel:
        request = rpcs.CANCEL_OPERATION.request(name=args.name)
        await channel.call(rpcs.CANCEL_OPERATION, request)
    emit(args, {"name": args.name, "cancel_asked": True}, [f"asked to cancel {args.name}"])
    return Exit.OK


def _is_unwatched(metadata: reapi.ExecuteOperationMetadata) -> bool:
    """Tells what a daemon of ours says of an operation (armitage.reapi.operations)."""
    from google.protobuf.struct_pb2 import Struct

    told = Struct()
    return any(
        auxiliary.Unpack(told) and told.fields["unwatched"].bool_value
        for auxiliary in metadata.partial_execution_metadata.auxiliary_metadata
    )


def _describe(operation: longrunning.Operation) -> dict[str, Any]:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
    from armitage.transport.port import Code

    metadata, response = reapi.ExecuteOperationMetadata(), reapi.ExecuteResponse()
    operation.metadata.Unpack(metadata)
    action = metadata.action_digest
    described: dict[str, Any] = {
        "name": operation.name,
        "stage": reapi.ExecutionStage.Value.Name(metadata.stage).lower(),
        "done": operation.done,
        "action": f"{action.hash}/{action.size_bytes}" if action.hash else "",
        "status": "",
        "message": "",
        "exit_code": "",
        "cached": "",
        "unwatched": _is_unwatched(metadata),
    }
    if operation.done and operation.response.Unpack(response):
        described["status"] = Code(response.status.code).name
        described["message"] = response.status.message or response.message
        described["cached"] = response.cached_result
        if response.HasField("result"):
            described["exit_code"] = response.result.exit_code
    return described
