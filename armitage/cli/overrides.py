"""Flags that override settings, shared by `serve` and `config show`."""

from __future__ import annotations

import argparse
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli.options import pair

if TYPE_CHECKING:
    from armitage.config import Config


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds `--config` and the flags that override it."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings (docs/armitage.example.toml)"
    )
    group = parser.add_argument_group("settings (each overrides the file)")
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where data is kept (default: $XDG_DATA_HOME/armitage or ~/.local/share/armitage)",
    )
    group.add_argument(
        "--storage",
        choices=("disk", "memory"),
        help="disk, or memory (nothing outlives the daemon)",
    )
    group.add_argument(
        "--durability",
        choices=("full", "none"),
        help="what an acknowledged write survives: power failures too, or, for pure caches, only"
        " the end of the daemon (default: full)",
    )
    group.add_argument(
        "--transport",
        choices=("fast", "grpcio"),
        help="what carries gRPC: our own HTTP/2, or gRPC's library (default: fast)",
    )
    group.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        help="gRPC address; port 0 is any free one; repeatable (default: 127.0.0.1:8980)",
    )
    group.add_argument(
        "--http-listen",
        metavar="HOST:PORT",
        help="HTTP address: metrics, health, status (default: 127.0.0.1:8982)",
    )
    group.add_argument(
        "--instance", metavar="NAME", action="append", help="instance to serve; repeatable"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="PEM of the server's certificate")
    group.add_argument("--tls-key", metavar="FILE", help="PEM of its key")
    group.add_argument(
        "--tls-client-ca", metavar="FILE", help="PEM of the authority that clients need (mTLS)"
    )
    group.add_argument(
        "--accept-insecure-network",
        action="store_true",
        help="accept that anybody who reaches a port beyond loopback reads, forges and runs all",
    )
    group.add_argument(
        "--accept-unsandboxed",
        action="store_true",
        help="accept that actions run without a sandbox, with all rights of this user",
    )
    group.add_argument(
        "--offline",
        action="store_true",
        help="ask no origin: what actions and clients fetch must be on record already",
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        type=pair,
        default=[],
        help="any setting by its path, e.g. disk.max_bytes=20GiB; repeatable",
    )


def effective_config(args: argparse.Namespace) -> Config:
    """Reads the file and lays the flags over it. Raises ConfigError."""
    from armitage import config, settings

    loaded = config.load(args.config, overrides(args))
    if loaded.data_dir is None and loaded.storage is config.StorageKind.DISK:
        table = settings.merge(overrides(args), {"data_dir": str(default_data_dir())})
        loaded = config.load(args.config, table)
    if loaded.data_dir is not None:
        loaded = replace(loaded, data_dir=loaded.data_dir.absolute())
    return loaded


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/armitage`, or `~/.local/share/armitage`."""
    base = os.environ.get("XDG_DATA_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local/share"
    return root / "armitage"


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The flags given, as the tables of a configuration file."""
    table: dict[str, Any] = {}
    for path, value in (
        ("data_dir", args.data_dir),
        ("storage", args.storage),
        ("disk.durability", args.durability),
        ("transport", args.transport),
        ("grpc.addresses", args.listen),
        ("web.addresses", [args.http_listen] if args.http_listen else None),
        ("instances", args.instance and [{"name": name} for name in args.instance]),
        ("grpc.tls.certificate", args.tls_cert),
        ("grpc.tls.key", args.tls_key),
        ("grpc.tls.client_authority", args.tls_client_ca),
        ("accept_insecure_network", args.accept_insecure_network or None),
        ("worker.accept_unsandboxed", args.accept_unsandboxed or None),
        ("witness.offline", args.offline or None),
    ):
        if value is not None:
            _put(table, path, value)
    for path, text in args.set:
        _put(table, path, _value(text))
    return table


def _put(table: dict[str, Any], path: str, value: object) -> None:
    *above, last = path.split(".")
    for name in above:
        below: object = table.setdefault(name, {})
        if not isinstance(below, dict):
            from armitage.errors import ConfigError

            raise ConfigError(f"{path}: {name} is set as a whole by another flag; drop one")
        table = below
    table[last] = value


def _value(text: str) -> object:
    """A TOML value; what is none is text, so that quotes can be left out."""
    try:
        read = tomllib.loads(f"value = {text}")
        return read["value"] if len(read) == 1 else text
    except tomllib.TOMLDecodeError:
        return text
