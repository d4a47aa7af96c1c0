"""`armitage key`: the keys that logs and witnesses sign with."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit

if TYPE_CHECKING:
    from armitage.log.note import PublicKey


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "key", "make and show the keys that logs are signed with")
    new = options.add_command(
        group,
        "new",
        _new,
        "make a private key, and print the public one",
        "Makes an ed25519 private key in a new file that only its owner can read, and prints the"
        " public key (C2SP signed-note vkey) for those who verify.",
    )
    new.add_argument(
        "name",
        metavar="NAME",
        help="the key's name: for a log its origin, such as log.example.com/builds",
    )
    new.add_argument("file", metavar="FILE", type=Path, help="must not exist yet")
    new.add_argument(
        "--witness",
        action="store_true",
        help="a key to cosign other logs' checkpoints with, not to sign a log",
    )
    show = options.add_command(group, "show", _show, "print the public key of a private one")
    show.add_argument("file", metavar="FILE", type=Path)


def _new(args: argparse.Namespace) -> Exit:
    from armitage.client.errors import UsageError
    from armitage.log.errors import MalformedNote
    from armitage.log.keys import SEED_BYTES, write_key
    from armitage.log.note import KeyType

    kind = KeyType.COSIGNATURE if args.witness else KeyType.ED25519
    try:
        signer = write_key(args.file, args.name, kind, secrets.token_bytes(SEED_BYTES))
    except MalformedNote as error:
        raise UsageError(str(error)) from None
    except FileExistsError:
        raise UsageError(f"{args.file}: exists; a key is never written over") from None
    return _print(args, signer.public)


def _show(args: argparse.Namespace) -> Exit:
    from armitage.log.keys import read_key

    return _print(args, read_key(args.file).public)


def _print(args: argparse.Namespace, key: PublicKey) -> Exit:
    emit(
        args,
        {
            "file": str(args.file),
            "key": str(key),
            "key_id": key.key_id.hex(),
            "name": key.name,
            "type": key.type.name.lower(),
        },
        [str(key)],
    )
    return Exit.OK
