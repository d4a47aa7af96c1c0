"""`armitage gpu`: the GPUs of a server's host and who holds them."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, table

if TYPE_CHECKING:
    from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
    from armitage.client.channel import Channel

_TIMEOUT_S = 30


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "gpu", "list, lease and release the server's GPUs")
    listing = options.add_command(
        group,
        "list",
        lambda args: asyncio.run(_list(args)),
        "list GPUs, who holds them and who waits",
        "Lists GPUs, who holds them and who waits. For the server's operators.",
    )
    options.add_connection(listing)
    lease = options.add_command(
        group,
        "lease",
        lambda args: asyncio.run(_lease(args)),
        "take GPUs out of what actions can get, for a time",
        "Takes GPUs out of what actions can get, and prints the variables that make programs use"
        " them. Never waits: exit code 5 when they are not free. For the server's operators.",
    )
    lease.add_argument("--count", metavar="N", type=int, default=1, help="devices (default: 1)")
    lease.add_argument(
        "--memory", metavar="MIB", type=int, default=0, help="of each, at least, in MiB"
    )
    lease.add_argument(
        "--sm", metavar="N", type=int, default=0, help="compute capability at least: 90 is sm_90"
    )
    lease.add_argument(
        "--for",
        dest="held_s",
        metavar="TIME",
        type=options.duration,
        default=3600.0,
        help="the lease ends by itself after this long (default: 1h)",
    )
    lease.add_argument("--purpose", metavar="TEXT", default="", help="shown beside the lease")
    options.add_connection(lease)
    release = options.add_command(
        group, "release", lambda args: asyncio.run(_release(args)), "give a lease by hand back"
    )
    release.add_argument("id", metavar="ID", type=int, help="as `gpu lease` prints it")
    options.add_connection(release)


async def _list(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import channel_for

    async with channel_for(args) as channel:
        answer = await listed(channel)
    value = describe(answer)
    emit(args, value, lines_of(value))
    return Exit.OK


async def listed(channel: Channel) -> pb.ListGpusResponse:
    """Asks for the list. Raises CallFailed."""
    from armitage.reapi import rpcs

    return await channel.call(rpcs.LIST_GPUS, rpcs.LIST_GPUS.request(), timeout=_TIMEOUT_S)


async def _lease(args: argparse.Namespace) -> Exit:
    from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    request = pb.LeaseGpusRequest(
        need=pb.Need(count=args.count, memory_mib=args.memory, sm=args.sm),
        purpose=args.purpose,
        held_s=args.held_s,
    )
    async with channel_for(args) as channel:
        lease = await channel.call(rpcs.LEASE_GPUS, request, timeout=_TIMEOUT_S)
    value = _lease_value(lease) | {"environment": dict(sorted(lease.environment.items()))}
    lines = [f"# lease {lease.id}; give it back with: armitage gpu release {lease.id}"]
    lines += [f"export {name}={shlex.quote(text)}" for name, text in value["environment"].items()]
    emit(args, value, lines)
    return Exit.OK


async def _release(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs

    async with channel_for(args) as channel:
        request = rpcs.RELEASE_GPUS.request(id=args.id)
        await channel.call(rpcs.RELEASE_GPUS, request, timeout=_TIMEOUT_S)
    emit(args, {"id": args.id, "released": True}, [f"released {args.id}"])
    return Exit.OK


def describe(answer: pb.ListGpusResponse) -> dict[str, Any]:
    """The list as plain values."""
    return {
        "devices": [
            {
                "uuid": one.uuid,
                "name": one.name,
                "memory_mib": one.memory_mib,
                "sm": one.sm,
                "driver": one.driver,
                "cuda": one.cuda,
                "profile": one.profile,
                "fault": one.fault,
            }
            for one in answer.devices
        ],
        "leases": [_lease_value(lease) for lease in answer.leases],
        "waiting": [{"holder": one.holder, "need": one.need} for one in answer.waiting],
        "why_none": answer.why_none,
    }


def _lease_value(lease: pb.Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "holder": lease.holder,
        "by_hand": lease.by_hand,
        "devices": [{"uuid": one.uuid, "memory_mib": one.memory_mib} for one in lease.parts],
    }


def lines_of(value: dict[str, Any]) -> list[str]:
    """The list for people."""
    if not value["devices"]:
        return [f"no GPU: {value['why_none']}"]
    holders: dict[str, list[str]] = {}
    for lease in value["leases"]:
        for part in lease["devices"]:
            text = f"{lease['id']} {lease['holder']} ({part['memory_mib']} MiB)"
            holders.setdefault(part["uuid"], []).append(text)
    rows = (
        (
            one["uuid"],
            f"{one['name']} {one['profile']}".rstrip(),
            f"{one['memory_mib']} MiB",
            f"sm_{one['sm']}",
            one["driver"],
            one["fault"] or ", ".join(holders.get(one["uuid"], ["free"])),
        )
        for one in value["devices"]
    )
    lines = table(("UUID", "NAME", "MEMORY", "SM", "DRIVER", "HELD BY"), rows)
    return lines + [f"waits: {one['holder']} for {one['need']}" for one in value["waiting"]]
