"""`armitage explain`: why an action was refused, or is not served from the cache."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit

_DEFAULT = "http://127.0.0.1:8982"


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "explain",
        lambda args: asyncio.run(_explain(args)),
        "show what an action declared, what it used, what was decided, and what to declare",
        "Shows each execution of an action that was judged, with what it declared and used, the"
        " verdict and its reasons, the least declaration that would do, and whether its cached"
        " result is served. Exit code 1 when the last execution was denied, or the cached result is"
        " not served.",
    )
    parser.add_argument(
        "action",
        metavar="ACTION",
        help="[FUNCTION:]HASH/SIZE, or the first 8 characters of its hash or more",
    )
    parser.add_argument("--instance", metavar="NAME", default="", help="instance (default: empty)")
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="URL",
        default=os.environ.get("ARMITAGE_HTTP", _DEFAULT),
        help="the HTTP port of a running daemon, http://HOST:PORT or https:// (default:"
        f" $ARMITAGE_HTTP, else {_DEFAULT})",
    )
    group.add_argument("--tls-ca", metavar="FILE", type=Path, help="PEM of the authority to trust")
    group.add_argument(
        "--tls-cert", metavar="FILE", type=Path, help="PEM of our certificate (mutual TLS)"
    )
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="PEM of its key")


async def _explain(args: argparse.Namespace) -> Exit:
    from armitage.client.record import open_http_record

    tls = {"ca": args.tls_ca, "cert": args.tls_cert, "key": args.tls_key}
    async with open_http_record(args.server, tls) as record:
        told = await record.explain(args.action, args.instance)
    emit(args, told, _lines(told))
    runs, cached = told["runs"], told["cached"]
    last = next((run for run in runs if run["instance"] == args.instance), None)
    denied = last is not None and last["verdict"] == "denied"
    return Exit.NO if denied or (cached and not cached["is_served"]) else Exit.OK


def _lines(told: Any) -> Iterator[str]:
    yield f"action      {told['action']}"
    for run in told["runs"]:
        yield ""
        yield f"entry {run['index']}     {run['verdict']}, {run['time']}, {run['invocation']}"
        is_past = run.get("is_past", False)
        if is_past or run.get("log_index", run["index"]) != run["index"]:
            ended = ", which has ended" if is_past else ""
            yield f"log         {run['log']}{ended}; entry {run['log_index']} there"
        if run["instance"] != told["instance"]:
            yield f"instance    {run['instance']}"
        yield f"declared    {run['declared']}"
        for number, used in enumerate(run["used"]):
            yield f"{'' if number else 'used':<12}{used}"
        for number, refused in enumerate(run.get("refused", ())):
            yield f"{'' if number else 'refused':<12}{refused}"
        for number, reason in enumerate(run["reasons"]):
            yield f"{'' if number else 'because':<12}{reason}"
        if run["sufficient"]:
            yield f"would do    coeffects={run['sufficient']}"
    yield ""
    yield from _cached_lines(told["cached"])


def _cached_lines(cached: Any) -> Iterator[str]:
    if cached is None:
        yield "cached      no"
        return
    yield f"cached      yes, {'served' if cached['is_served'] else 'NOT served'}"
    if cached["policy"]:
        yield f"policy      {cached['policy']}"
    for number, reason in enumerate(cached["reasons"]):
        yield f"{'' if number else 'because':<12}{reason}"
