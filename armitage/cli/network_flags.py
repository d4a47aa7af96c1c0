"""Flags of the commands that fetch through a witness of their own: what may be fetched, from whom,
and where evidence is kept.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armitage.witness.credentials import Credentials
    from armitage.witness.options import WitnessOptions
    from armitage.witness.policy import Grant, Rule
    from armitage.witness.reach import Address


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    parser.add_argument(
        "--allow",
        metavar="HOST[:PORT]",
        action="append",
        type=_grant,
        default=[],
        help="what may be fetched from; `*.` in front stands for one label; repeatable (default:"
        " everything public)",
    )
    parser.add_argument(
        "--allow-network",
        metavar="CIDR",
        action="append",
        default=[],
        help="a network that is not public and may be fetched from, such as that of an internal"
        " mirror; repeatable",
    )
    parser.add_argument(
        "--resolve",
        metavar="HOST:ADDRESS",
        action="append",
        type=_known,
        default=[],
        help="the address of a host, in place of looking it up; repeatable",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="a daemon's configuration file, of which [witness] holds here as well: rules (before"
        " those of --allow-network), authorities, offline, limits and credentials;"
        " and trust.revoked_logs, in which nothing is found",
    )
    parser.add_argument(
        "--auth",
        metavar="NAME",
        action="append",
        default=[],
        help="a credential of --config that is added to requests to its hosts; repeatable (default:"
        " none)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="ask no origin: what is fetched must be on record in --data-dir already",
    )
    parser.add_argument(
        "--authorities",
        metavar="FILE",
        help="PEM file of the authorities that origins are checked with (default: the system's)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="where evidence is kept (default: witness below armitage's data directory)",
    )
    parser.add_argument(
        "--origin",
        metavar="NAME",
        default=f"armitage.witness/{socket.gethostname()}",
        help="name of the log that is signed, when it is made (default: armitage.witness/ and the"
        " host's name)",
    )


def _grant(text: str) -> Grant:
    from armitage.witness.policy import Grant, normal_host

    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, ""
    if normal_host(host.removeprefix("*.")) is None or not (port.isdecimal() or not colon):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST or HOST:PORT")
    return Grant(host, int(port) if colon else None)


def _known(text: str) -> tuple[str, Address]:
    from armitage.witness.policy import normal_host
    from armitage.witness.reach import parse_address

    host, _, place = text.partition(":")
    name, address = normal_host(host), parse_address(place)
    if not name or address is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:ADDRESS")
    return name, address


def witness_options(args: argparse.Namespace) -> WitnessOptions:
    """What the file and the flags come to; blocks. Raises UsageError, ConfigError."""
    from armitage.config import load

    told = load(args.config).witness
    return replace(
        told,
        offline=args.offline or told.offline,
        authorities=Path(args.authorities) if args.authorities else told.authorities,
        rules=(*told.rules, *_rules(args.allow_network)),
    )


def revoked_logs(args: argparse.Namespace) -> tuple[str, ...]:
    """The logs in which the file has nothing count; blocks. Raises ConfigError."""
    from armitage.config import load

    return load(args.config).trust.revoked_logs


def granted_credentials(args: argparse.Namespace, told: WitnessOptions) -> Credentials:
    """Those that --auth names, and no other's secret; blocks. Raises UsageError, ConfigError."""
    from armitage.client.errors import UsageError
    from armitage.witness.credentials import read_credentials

    for name in args.auth:
        if name not in told.credentials:
            raise UsageError(
                f"--auth {name}: no such credential; add witness.credentials.{name} to the file"
                " that --config names"
            )
    return read_credentials({name: told.credentials[name] for name in args.auth}, os.environ)


def open_environment(told: WitnessOptions) -> dict[str, str]:
    """This process's, without the secrets that credentials are read from."""
    secret = {one.environment for one in told.credentials.values()}
    return {name: value for name, value in os.environ.items() if name not in secret}


def declaration(grants: Sequence[Grant], auth: Sequence[str]) -> str:
    """What a session declares, as coeffects."""
    return "+".join([*map(word_of, grants), *(f"auth:{name}" for name in auth)])


def _rules(networks: list[str]) -> list[Rule]:
    """Reading from networks that are not public; what else may be sent is the policy's default."""
    from armitage.client.errors import UsageError
    from armitage.witness.policy import GIT_FETCH, READING, Rule, Verdict

    if not networks:
        return []
    try:
        reading = Rule(
            Verdict.ALLOW, "allow-network", methods=tuple(READING), networks=tuple(networks)
        )
    except ValueError as error:
        raise UsageError(f"--allow-network: {error}") from None
    return [reading, replace(GIT_FETCH, networks=tuple(networks))]


def word_of(grant: Grant) -> str:
    """A grant as a coeffect."""
    return ":".join(
        ["network", *filter(None, [grant.host]), *([str(grant.port)] * bool(grant.port))]
    )
