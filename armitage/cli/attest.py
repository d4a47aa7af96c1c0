"""`armitage attest`: attestations as files, and in git repositories of others."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.judging import add_judging, git_environment, open_judges, record_directory
from armitage.cli.output import emit, table

if TYPE_CHECKING:
    from armitage.attest.git import GitStore
    from armitage.attest.sshsig import SshSigner


def add(commands: options.Commands) -> None:
    """Adds the commands."""
    group = options.add_group(commands, "attest", "carry attestations to others and from them")
    commit = options.add_command(
        group,
        "commit",
        lambda args: asyncio.run(_commit(args)),
        "carry new attestations from the record into the git repository",
        "Carries what the log has more than data_dir/record/git, in signed commits. The daemon does"
        " so by itself while it runs; this is for when it does not.",
    )
    push = options.add_command(
        group,
        "push",
        _push,
        "push attestations to a git remote",
        "Pushes refs/attestations/* to a remote, merged with what others pushed there before.",
    )
    pull = options.add_command(
        group,
        "pull",
        _pull,
        "fetch attestations from a git remote, and verify them (exit code 1 when some fail)",
        "Fetches refs/attestations/* of a remote and takes every new attestation through every step"
        " of `armitage verify`, policy apart. What fails is told, and never counts.",
    )
    for parser in (push, pull):
        parser.add_argument("remote", metavar="REMOTE", help="URL or directory")
    bundle = options.add_command(
        group,
        "bundle",
        _bundle,
        "write the attestations of an output or an action as files",
        "Writes one RECORD.intoto.jsonl for each attestation that the git repository has of an"
        " output or an action: envelopes, log entry, receipt and documents, to verify offline.",
    )
    bundle.add_argument("artefact", metavar="ARTEFACT", help="a file, or a digest: [FUNCTION:]HASH")
    bundle.add_argument(
        "--to", metavar="DIR", type=Path, default=Path(), help="(default: the current directory)"
    )
    unpack = options.add_command(
        group,
        "unpack",
        _unpack,
        "write what is in a bundle as files, for other tools",
        "Writes each statement, what was signed of it (.pae) and the raw ed25519 signature (.sig),"
        " the log's entry, its receipt and the documents. Verifies nothing.",
    )
    unpack.add_argument("bundle", metavar="BUNDLE", type=Path, help="an .intoto.jsonl file")
    unpack.add_argument(
        "--to", metavar="DIR", type=Path, required=True, help="is made if it is not there"
    )
    for parser in (commit, push, bundle):
        parser.add_argument(
            "--data-dir",
            metavar="DIR",
            type=Path,
            help="a daemon's data (default: $XDG_DATA_HOME/armitage or ~/.local/share/armitage)",
        )
        parser.set_defaults(config=None)
    add_judging(pull)


def _open(args: argparse.Namespace) -> tuple[GitStore, SshSigner]:
    from armitage.attest.export import KEY, REPOSITORY
    from armitage.attest.git import GitStore
    from armitage.attest.sshsig import open_ssh_key
    from armitage.client.errors import UsageError

    record = record_directory(args)
    if not (record / "log.key").exists():
        raise UsageError(f"{record}: no daemon keeps a record there; name its --data-dir")
    return GitStore.open(record / REPOSITORY, git_environment()), open_ssh_key(record / KEY)


async def _commit(args: argparse.Namespace) -> Exit:
    from armitage.attest.export import Exporter
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable

    (store, _), clock = _open(args), SystemClock()
    try:
        async with open_archive(record_directory(args), "", clock) as archive:
            done = await Exporter(archive, store, clock).run()
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error
    emit(args, {"carried": done}, [f"carried {done} attestations over"])
    return Exit.OK


def _push(args: argparse.Namespace) -> Exit:
    from armitage.clock import SystemClock

    store, signer = _open(args)
    pushed = store.push(args.remote, signer, SystemClock().wall())
    emit(args, {"refs": pushed}, table(("REF", "COMMIT"), sorted(pushed.items())))
    return Exit.OK


def _pull(args: argparse.Namespace) -> Exit:
    from armitage.attest.bundle import parse_bundle
    from armitage.attest.errors import AttestationError
    from armitage.attest.export import REPOSITORY
    from armitage.attest.git import GitStore
    from armitage.attest.verify import verify_bundle

    known = open_judges(args).known
    store = GitStore.open(record_directory(args) / REPOSITORY, git_environment())
    verified, failed = [], []
    for _, before, now in store.fetch(args.remote):
        for found in store.since(before, now):
            try:
                made = verify_bundle(parse_bundle(found.data), known)
                verified.append({"name": found.name, "key": made.key_id})
            except AttestationError as error:
                failed.append({"name": found.name, "why": str(error)})
    lines = [f"FAILS  {each['name']}: {each['why']}" for each in failed]
    lines.append(f"{len(verified)} new attestations hold, {len(failed)} do not")
    emit(args, {"verified": verified, "failed": failed}, lines)
    return Exit.NO if failed else Exit.OK


def _bundle(args: argparse.Namespace) -> Exit:
    from armitage.cli.verify import artefact_of

    store, _ = _open(args)
    written = []
    for found in store.find(artefact_of(args.artefact).digests.values()):
        path = args.to / found.name
        path.write_bytes(found.data)
        written.append(str(path))
    emit(args, {"files": written}, written)
    return Exit.OK if written else Exit.NO


def _unpack(args: argparse.Namespace) -> Exit:
    from armitage.attest.bundle import parse_bundle
    from armitage.attest.unpacked import unpacked

    args.to.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in unpacked(parse_bundle(args.bundle.read_bytes())).items():
        (args.to / name).write_bytes(content)
        written.append(str(args.to / name))
    emit(args, {"files": written}, written)
    return Exit.OK
