"""`armitage key`: the keys that logs, witnesses and attestations are signed with."""

from __future__ import annotations

import argparse
import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import emit

if TYPE_CHECKING:
    from armitage.attest.keys import PublicKey as AttestationKey
    from armitage.log.note import PublicKey


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(
        commands, "key", "make, show and rotate the keys that logs and attestations are signed with"
    )
    new = options.add_command(
        group,
        "new",
        _new,
        "make a private key, and print the public one",
        "Makes an ed25519 private key in a new file that only its owner can read, and prints the"
        " public key for those who verify: a C2SP signed-note vkey, or, with --attestation, the"
        " base64 of a SubjectPublicKeyInfo. A daemon makes its own keys by itself.",
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
    new.add_argument(
        "--attestation",
        action="store_true",
        help="a key to sign attestations with, in PKCS#8 form; NAME is not kept in it",
    )
    show = options.add_command(
        group,
        "show",
        _show,
        "print the public key of a private one",
        "Prints the public key of a private one of any kind: a log's or a witness's, one for"
        " attestations, one for commits (a line for allowed_signers).",
    )
    show.add_argument("file", metavar="FILE", type=Path)
    show.add_argument("--pem", action="store_true", help="in PEM form, for openssl and others")
    rotate_log = options.add_command(
        group,
        "rotate-log",
        _rotate_log,
        "end a record's log, and begin the next with a new key",
        "Ends the log of a record that nobody uses, and begins the next: the last entry of the one"
        " names the key of the other, whose first entry holds the final checkpoint. The old private"
        " key is gone then; the old log stays, and is verified with the new one.",
    )
    rotate_log.add_argument(
        "origin", metavar="ORIGIN", help="the name of the next log; not that of the one that ends"
    )
    rotate_log.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="where the record is (default: as for armitage audit)",
    )
    rotate = options.add_command(
        group,
        "rotate",
        lambda args: asyncio.run(_rotate(args)),
        "make a new key for a daemon's attestations",
        "Makes a new key the one that a daemon signs attestations with, while it does not run. What"
        " the one before signed until now goes on counting; its private half is gone.",
    )
    rotate.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="the daemon's data (default: $XDG_DATA_HOME/armitage or ~/.local/share/armitage)",
    )
    rotate.add_argument(
        "--valid",
        metavar="DURATION",
        type=options.duration,
        help="how long the new key signs, such as 90d (default: until the next rotation)",
    )


def _new(args: argparse.Namespace) -> Exit:
    from armitage.client.errors import UsageError
    from armitage.log.errors import MalformedNote
    from armitage.log.keys import SEED_BYTES, write_key
    from armitage.log.note import KeyType

    if args.attestation and args.witness:
        raise UsageError("--attestation and --witness are two kinds of keys; choose one")
    if args.attestation:
        return _new_attestation_key(args)
    kind = KeyType.COSIGNATURE if args.witness else KeyType.ED25519
    try:
        signer = write_key(args.file, args.name, kind, secrets.token_bytes(SEED_BYTES))
    except MalformedNote as error:
        raise UsageError(str(error)) from None
    except FileExistsError:
        raise UsageError(f"{args.file}: exists; a key is never written over") from None
    return _print(args, signer.public)


def _new_attestation_key(args: argparse.Namespace) -> Exit:
    from armitage.attest.keys import SEED_BYTES, write_key
    from armitage.client.errors import UsageError

    try:
        public = write_key(args.file, secrets.token_bytes(SEED_BYTES)).public
    except FileExistsError:
        raise UsageError(f"{args.file}: exists; a key is never written over") from None
    return _print_attestation_key(args, public)


def _show(args: argparse.Namespace) -> Exit:
    from armitage.attest import keys
    from armitage.attest.sshsig import read_ssh_key
    from armitage.client.errors import UsageError
    from armitage.log.keys import read_key
    from armitage.private_file import read_private

    content = read_private(args.file)
    if content.startswith(b"-----BEGIN PRIVATE KEY"):
        return _print_attestation_key(args, keys.read_key(args.file).public)
    if args.pem:
        raise UsageError(f"{args.file}: only keys for attestations have a PEM form")
    if content.startswith(b"-----BEGIN OPENSSH"):
        line = read_ssh_key(args.file).public
        emit(args, {"file": str(args.file), "key": line, "type": "git"}, [line])
        return Exit.OK
    return _print(args, read_key(args.file).public)


def _rotate_log(args: argparse.Namespace) -> Exit:
    from armitage.cli.audit_record import find_directory
    from armitage.log.errors import LogError
    from armitage.witness.rotation import rotate_log
    from cas.errors import StoreUnavailable

    try:
        done = rotate_log(find_directory(args.data_dir), args.origin)
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error
    told = {"before": str(done.before), "entries": done.size, "key": str(done.following)}
    lines = [
        f"{done.before.name} ended with {done.size} entries, and is in {done.past}",
        f"the key of the log that follows: {done.following}",
    ]
    emit(args, told, lines)
    return Exit.OK


async def _rotate(args: argparse.Namespace) -> Exit:
    from armitage.attest.keyring import rotate
    from armitage.cli.overrides import default_data_dir
    from armitage.client.errors import UsageError
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable

    record, clock = Path(args.data_dir or default_data_dir()) / "record", SystemClock()
    if not (record / "log.key").exists():
        raise UsageError(f"{record}: no daemon keeps a record there; name its --data-dir")
    try:
        async with open_archive(record, "", clock):  # So that no daemon runs meanwhile.
            ring = rotate(record, clock.wall(), args.valid)
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error
    return _print_attestation_key(args, ring[-1].public)


def _print_attestation_key(args: argparse.Namespace, public: AttestationKey) -> Exit:
    told = {"key": str(public), "key_id": public.key_id, "type": "attestation"}
    if getattr(args, "pem", False):
        emit(args, {**told, "pem": public.pem()}, public.pem().splitlines())
    else:
        emit(args, told, [str(public)])
    return Exit.OK


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
