"""`armitage proxy`: a witness for machines that build without Armitage."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.network_flags import (
    add_network_flags,
    declaration,
    granted_credentials,
    revoked_logs,
    witness_options,
)
from armitage.cli.output import note

if TYPE_CHECKING:
    from armitage.witness.archive import Archive
    from armitage.witness.authority import SessionAuthority
    from armitage.witness.proxy import Proxy
    from armitage.witness.standing import StandingProxy

_AUTHORITY_DAYS = 365
_TIDY_S = 30.0
_MAX_CONNECTIONS = 4096
"""At once; those that come later wait."""


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "proxy",
        lambda args: asyncio.run(_run(args)),
        "a standing proxy that records what CI machines fetch, with an identity for each user",
        "Serves an HTTP proxy until SIGTERM or Ctrl-C. Users prove who they are by name and secret"
        " (http://NAME:SECRET@HOST:PORT as the proxy), and have a session each in the signed log."
        " Clients must trust the authority in ca.pem below --data-dir, which is made at each start."
        " Nothing forces a client to use it; `armitage witness` and actions have no other way out.",
    )
    parser.add_argument(
        "--users",
        metavar="FILE",
        type=Path,
        required=True,
        help="lines of NAME:SECRET, readable by its owner alone",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:8981",
        help="where to listen; port 0 is any free one (default: 127.0.0.1:8981)",
    )
    parser.add_argument(
        "--accept-insecure-network",
        action="store_true",
        help="accept that names and secrets of users cross a network beyond loopback in clear",
    )
    add_network_flags(parser)


async def _run(args: argparse.Namespace) -> int:
    from armitage.cli.overrides import default_data_dir
    from armitage.client.errors import UsageError
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.transport.addresses import is_loopback
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable

    if not args.accept_insecure_network and not is_loopback(args.listen):
        raise UsageError(
            f"--listen {args.listen} reaches beyond this host, and users' secrets would cross the"
            " network in clear; listen on 127.0.0.1 behind a tunnel, or --accept-insecure-network"
        )
    directory = args.data_dir or default_data_dir() / "witness"
    try:
        async with open_archive(directory, args.origin, SystemClock()) as archive:
            return await _serve(args, archive, directory)
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error


async def _serve(args: argparse.Namespace, archive: Archive, directory: Path) -> int:
    from armitage.chores import Chores
    from armitage.clock import SystemClock
    from armitage.transport.fast.listener import bind
    from armitage.witness.authority import SessionAuthority
    from armitage.witness.stream import serving

    clock, stopped = SystemClock(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    authority = SessionAuthority("proxy", clock.wall(), timedelta(days=_AUTHORITY_DAYS))
    async with AsyncExitStack() as stack:
        standing = await _open(args, archive, authority, stack)
        stack.push_async_callback(standing.close)
        listeners, where = bind(args.listen)
        for listener in listeners:
            stack.callback(listener.close)
        await stack.enter_async_context(serving(listeners, standing.serve, _MAX_CONNECTIONS))
        await stack.enter_async_context(Chores(_TIDY_S, [], [standing.tidy]))
        bundle = directory / "ca.pem"
        await asyncio.to_thread(bundle.write_bytes, authority.certificate)
        told = {"address": where, "authority": str(bundle)}
        print(json.dumps(told) if args.json else f"proxy on {where}, CA in {bundle}", flush=True)
        await stopped.wait()
        note("stopping")
    return Exit.OK


async def _open(
    args: argparse.Namespace, archive: Archive, authority: SessionAuthority, stack: AsyncExitStack
) -> StandingProxy:
    from armitage.clock import SystemClock
    from armitage.witness.evidence import Subject
    from armitage.witness.network import WitnessNetwork, open_means
    from armitage.witness.origins import resolve_with
    from armitage.witness.policy import Grant
    from armitage.witness.standing import StandingProxy, read_users
    from armitage.witness.terms import Terms

    users, clock = await asyncio.to_thread(read_users, args.users), SystemClock()
    resolve = resolve_with(dict(args.resolve))
    told = await asyncio.to_thread(witness_options, args)
    credentials = await asyncio.to_thread(granted_credentials, args, told)
    revoked = await asyncio.to_thread(revoked_logs, args)
    means = open_means(archive, told, credentials, clock, resolve, revoked=revoked)
    network = WitnessNetwork(archive, means, credentials)
    stack.push_async_callback(network.close)
    grants = args.allow or [Grant()]
    declared, granted = declaration(grants, args.auth), frozenset(args.auth)
    inject = credentials.inject(granted)

    async def open_proxy(user: str) -> Proxy:
        # What one user fetched is nobody else's to have again.
        instance = f"user:{user}"
        terms = Terms(grants=grants, inject=inject, credentials=granted, instance=instance)
        subject = Subject(instance=instance, identity=user)
        return await network.proxy(terms, subject, declared, authority)

    return StandingProxy(users, open_proxy, clock, client_s=means.limits.idle_s)
