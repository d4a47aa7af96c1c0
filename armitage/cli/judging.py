"""Flags that say whose attestations count, and by which policy, and what they come to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli.checkers import add_modules, checkers

if TYPE_CHECKING:
    from armitage.attest.verify import EndedLog
    from armitage.log.note import PublicKey as LogKey
    from armitage.trust.opening import Judges
    from armitage.trust.options import TrustOptions


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("whose word counts")
    group.add_argument(
        "--key",
        metavar="PUBLIC",
        action="append",
        default=[],
        help="a key for attestations, as `armitage key show` prints it, or a file with it; with"
        " --log, instead of the keys in --config; repeatable, with a --log each",
    )
    group.add_argument(
        "--log",
        metavar="VKEY",
        action="append",
        default=[],
        help="the public key of the log of that --key's daemon, or a file with it",
    )
    group.add_argument(
        "--policy",
        metavar="POLICY",
        help="instead of those in --config (docs/trust.md); with --key, they are called key:1,"
        " key:2 and org:given (default then: org:given)",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="a daemon's settings, for their [trust]",
    )
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="a daemon's data, for its own keys (default: what --config says, else"
        " $XDG_DATA_HOME/armitage or ~/.local/share/armitage)",
    )
    add_modules(group)


def open_judges(args: argparse.Namespace) -> Judges:
    """What the flags say. Raises UsageError, ConfigError."""
    from armitage.attest.keyring import read_ring
    from armitage.client.errors import UsageError
    from armitage.log.keys import read_key
    from armitage.proofs import Checker
    from armitage.trust.opening import open_trust

    if len(args.key) != len(args.log):
        raise UsageError("every --key needs the --log that its attestations stand in")
    options = _given(args) if args.key else _configured(args)
    record = record_directory(args)
    ring = () if args.key else read_ring(record)
    log = read_key(record / "log.key").public if ring else None
    ended = () if log is None else _ended(record, log)
    known, module = checkers(args.module), Checker().module_sha256
    return open_trust(options, ring, log, known, module, ended=ended)


def _ended(record: Path, log: LogKey) -> tuple[EndedLog, ...]:
    """This daemon's logs that have ended. None counts where one is damaged."""
    from armitage.attest.verify import EndedLog
    from armitage.cli.output import note
    from armitage.log.errors import LogError
    from armitage.witness.past import read_past

    try:
        return tuple(EndedLog(each.key, each.check) for each in read_past(record, log))
    except (LogError, OSError) as error:
        note(f"of the logs that ended, none counts here: {error}")
        return ()


def record_directory(args: argparse.Namespace) -> Path:
    """Where the daemon keeps its record."""
    from armitage.cli.overrides import default_data_dir
    from armitage.config import load

    configured = load(args.config).data_dir if args.config else None
    return Path(args.data_dir or configured or default_data_dir()) / "record"


def git_environment() -> dict[str, str]:
    """What git may see of ours: how to find programs, and how to be let in by remotes."""
    import os

    names = ("PATH", "HOME", "USER", "SSH_AUTH_SOCK", "SSH_AGENT_PID", "GIT_SSH_COMMAND")
    return {name: os.environ[name] for name in names if name in os.environ}


def _configured(args: argparse.Namespace) -> TrustOptions:
    from dataclasses import replace

    from armitage.config import load
    from armitage.trust.options import TrustOptions

    options = load(args.config).trust if args.config else TrustOptions(policy="self")
    if args.policy is None:
        return options
    with _as_usage():
        return replace(options, policy=args.policy, rules=())


def _given(args: argparse.Namespace) -> TrustOptions:
    from armitage.trust.options import TrustedKey, TrustOptions

    with _as_usage():
        keys = tuple(
            TrustedKey(str(number), _text(key), _text(log))
            for number, (key, log) in enumerate(zip(args.key, args.log, strict=True), 1)
        )
        orgs = {"given": tuple(key.name for key in keys)}
        return TrustOptions(policy=args.policy or "org:given", keys=keys, orgs=orgs)


def _text(value: str) -> str:
    """A value, or what the file of that name holds."""
    path = Path(value)
    return path.read_text() if len(value) < 256 and path.is_file() else value


@contextmanager
def _as_usage() -> Iterator[None]:
    from armitage.client.errors import UsageError

    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None
