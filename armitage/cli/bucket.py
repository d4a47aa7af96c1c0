"""`armitage bucket`: the bucket behind the daemon's stores."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit
from armitage.cli.overrides import add_overrides, effective_config

if TYPE_CHECKING:
    from armitage.bucket import Finding
    from armitage.remote import RemoteOptions


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "bucket", "set up and check the bucket of the remote tier")
    init = options.add_command(
        group,
        "init",
        _init,
        "make the bucket and its rules",
        "Makes the bucket of the configuration (remote.s3) unless it is there, sets its lifecycle"
        " and CORS rules (those of others stay), and tries out what the daemon needs. Credentials"
        " come from the standard chain of AWS tools.",
    )
    init.add_argument(
        "--expire-days",
        metavar="N",
        type=_days,
        help="remove blobs and results N days after they were written (default: never)",
    )
    init.add_argument(
        "--cors-origin",
        metavar="URL",
        action="append",
        default=[],
        help="web page that may read from the bucket, such as https://builds.example; repeatable",
    )
    add_overrides(init)
    check = options.add_command(
        group,
        "check",
        _check,
        "say whether the bucket will do (exit code 1 when it will not)",
        "Looks at the bucket of the configuration (remote.s3) and its rules, and tries out what the"
        " daemon needs with a few objects below probe/, which are removed again.",
    )
    add_overrides(check)


def _days(text: str) -> int:
    days = int(text)
    if days < 2:
        raise argparse.ArgumentTypeError("at least 2, so that a blob outlives its lease")
    return days


def _init(args: argparse.Namespace) -> Exit:
    from armitage.bucket import Wishes, set_up

    remote = _options(args)
    wishes = Wishes(args.expire_days, tuple(args.cors_origin))
    return _report(args, remote, set_up(remote, wishes))


def _check(args: argparse.Namespace) -> Exit:
    from armitage.bucket import look

    remote = _options(args)
    return _report(args, remote, look(remote))


def _options(args: argparse.Namespace) -> RemoteOptions:
    from armitage.errors import ConfigError

    remote = effective_config(args).remote
    if not remote.s3.bucket:
        raise ConfigError("remote.s3.bucket: names no bucket; set it, and remote.s3.endpoint")
    return remote


def _report(args: argparse.Namespace, remote: RemoteOptions, findings: list[Finding]) -> Exit:
    if findings[0].is_fine:
        findings = findings + asyncio.run(_try_out(remote))
    is_fine = all(finding.is_fine for finding in findings)
    value = {
        "bucket": remote.s3.bucket,
        "url": remote.s3.url,
        "ok": is_fine,
        "findings": [finding._asdict() for finding in findings],
    }
    lines = [f"{remote.s3.bucket} at {remote.s3.url}"]
    lines += [
        f"  {'ok  ' if finding.is_fine else 'FAIL'}  {finding.name}: {finding.text}"
        for finding in findings
    ]
    emit(args, value, lines)
    return Exit.OK if is_fine else Exit.NO


async def _try_out(remote: RemoteOptions) -> list[Finding]:
    from armitage.bucket import try_out
    from armitage.clock import SystemClock
    from armitage.remote import open_remote

    with tempfile.TemporaryDirectory() as spool:
        opened = open_remote(remote, SystemClock(), spool=Path(spool))
        return await try_out(opened.bucket, remote)
