"""`armitage trust`: what the policies demand, and whether attestations fulfil them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.judging import add_judging, open_judges
from armitage.cli.output import emit, table

if TYPE_CHECKING:
    from armitage.trust.evaluate import Key


def add(commands: options.Commands) -> None:
    """Adds the commands."""
    group = options.add_group(commands, "trust", "ask the trust policies")
    check = options.add_command(
        group,
        "check",
        _check,
        "decide whether attestations of one result fulfil the policy (exit code 1 when not)",
        "Verifies every attestation as `armitage verify` does, and asks the policy about the result"
        " that the first is about.",
    )
    check.add_argument("bundles", metavar="BUNDLE", type=Path, nargs="+", help="attestations")
    check.add_argument(
        "--instance",
        metavar="NAME",
        help="the instance that is asked for (default: the one that is attested)",
    )
    add_judging(check)
    explain = options.add_command(
        group, "explain", _explain, "show what each policy demands, and which keys count now"
    )
    explain.add_argument(
        "--instance", metavar="NAME", default="", help="of this instance (default: empty)"
    )
    add_judging(explain)


def _check(args: argparse.Namespace) -> Exit:
    from armitage.cli.verify import judge, read_bundles, tell

    return tell(args, judge(args, list(read_bundles(args.bundles)), None))


def _explain(args: argparse.Namespace) -> Exit:
    from armitage.clock import SystemClock

    trust, now_s = open_judges(args).trust, SystemClock().wall()
    rules = trust.describe(args.instance)
    keys = sorted(trust.keys.by_id.values(), key=lambda key: key.name)
    told = {
        "instance": args.instance,
        "open": trust.is_open(args.instance),
        "rules": [{"applies": applies, "policy": policy} for applies, policy in rules],
        "keys": [
            {
                "name": key.name,
                "id": key.key_id,
                "log": key.log,
                "past_logs": sorted(key.past_logs),
                "state": _state(key, now_s),
            }
            for key in keys
        ],
        "revoked_logs": sorted(trust.keys.revoked_logs),
    }
    lines = table(("APPLIES TO", "POLICY"), rules)
    if keys:
        rows = [(key.name, key.key_id[:16], _state(key, now_s)) for key in keys]
        lines += ["", *table(("KEY", "ID", "COUNTS"), rows)]
    if ended := sorted({log for key in keys for log in key.past_logs}):
        logs = [
            (
                log.partition("+")[0],
                "no: revoked" if log in trust.keys.revoked_logs else "up to its end",
            )
            for log in ended
        ]
        lines += ["", *table(("LOG THAT ENDED", "COUNTS"), logs)]
    emit(args, told, lines)
    return Exit.OK


def _state(key: Key, now_s: float) -> str:
    from armitage.attest.statement import time_text

    if key.revoked:
        return "no: revoked"
    if key.not_before_s is not None and now_s < key.not_before_s:
        return f"from {time_text(key.not_before_s)}"
    if key.not_after_s is None:
        return "yes"
    ended = now_s >= key.not_after_s
    return f"{'for what it signed ' if ended else ''}until {time_text(key.not_after_s)}"
