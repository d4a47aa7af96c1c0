"""`armitage verify`: from an artefact to the log's checkpoint, to the checker and to the policy."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.judging import add_judging, git_environment, open_judges, record_directory
from armitage.cli.output import emit, table

if TYPE_CHECKING:
    from armitage.trust.report import Artefact, Report

_SUFFIX = ".intoto.jsonl"


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "verify",
        _verify,
        "verify an artefact: attestation, log, checker, policy (exit code 1 when something fails)",
        "Recomputes everything from the artefact to the log's checkpoint: that the attestation is"
        " about it, the signature, the statements, the log's entry and its receipt, the documents,"
        " the checker's verdict, and last the policy. Nothing is fetched from anywhere, unless a"
        " --server is named.",
    )
    parser.add_argument(
        "artefact",
        metavar="ARTEFACT",
        help="a file, or a digest: [FUNCTION:]HASH of an output or of an action",
    )
    add_bundles(parser)
    parser.add_argument(
        "--server",
        metavar="URL",
        help="the HTTP port of the daemon whose log gave the receipts, http://HOST:PORT: asks it"
        " whether its log still begins with what it signed then (default: nobody is asked)",
    )
    add_judging(parser)


def add_bundles(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where attestations are."""
    parser.add_argument(
        "--bundle",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help=f"an attestation ({_SUFFIX}); repeatable (default: those beside the file, and those in"
        " the daemon's git repository)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="take attestations from --bundle and from beside the file alone",
    )
    parser.add_argument(
        "--instance",
        metavar="NAME",
        help="the instance that the policy is asked for (default: the one that is attested)",
    )


def _verify(args: argparse.Namespace) -> Exit:
    from armitage.client.errors import UsageError

    artefact = artefact_of(args.artefact)
    bundles = list(_bundles(args, artefact))
    if not bundles:
        raise UsageError(
            f"{args.artefact}: there is no attestation of it at hand; name one with --bundle, or"
            " the daemon's --data-dir (it has new ones there within half a minute)"
        )
    if args.server and args.offline:
        raise UsageError("--offline asks nobody, so there is no --server with it")
    made = judge(args, bundles, artefact)
    if args.server:
        asyncio.run(_ask_log(args.server, bundles, made))
    return tell(args, made)


def judge(
    args: argparse.Namespace, bundles: list[tuple[str, bytes]], artefact: Artefact | None
) -> Report:
    """Verifies, and asks the policy."""
    from armitage.clock import SystemClock
    from armitage.trust.report import report

    return report(bundles, open_judges(args), SystemClock().wall(), artefact, args.instance)


def tell(args: argparse.Namespace, made: Report) -> Exit:
    """Prints every step."""
    told = {
        "holds": made.holds,
        "steps": [dataclasses.asdict(row) for row in made.rows],
        "reasons": list(made.reasons),
        "attestations": [
            {
                "record": f"sha256:{each.record.hash}",
                "action": str(each.claim.action),
                "instance": each.claim.instance,
                "key": each.key_id,
                "log": each.log,
                "index": each.index,
                "module": each.claim.module_sha256,
                "invocation": each.claim.invocation,
                "builder": each.claim.builder,
                "refused": None
                if each.claim.refused is None
                else [attempt.url for attempt in each.claim.refused],
            }
            for each in made.verified
        ],
    }
    emit(args, told, _lines(made))
    return Exit.OK if made.holds else Exit.NO


async def _ask_log(server: str, bundles: list[tuple[str, bytes]], made: Report) -> None:
    """Adds to the report whether the log that gave each receipt, which may have ended, only grew
    since.
    """
    from armitage.attest.bundle import parse_bundle
    from armitage.attest.errors import AttestationError
    from armitage.client.errors import UntrustworthyAnswer
    from armitage.client.record import HttpRecord, open_http_record
    from armitage.log.checkpoint import parse_checkpoint
    from armitage.log.errors import LogError
    from armitage.log.growth import verify_growth
    from armitage.log.note import parse_note, parse_public_key
    from armitage.trust.report import Row

    asked = False
    logs = {key.name: key for key in (parse_public_key(each.log) for each in made.verified)}
    async with open_http_record(server) as record:
        served: dict[str, tuple[HttpRecord, bytes]] = {}
        for source in (record, *await record.past()):
            now = await source.checkpoint()
            try:
                origin = parse_checkpoint(parse_note(now).text).origin
            except LogError as error:
                raise UntrustworthyAnswer(f"{server}: answered no checkpoint: {error}") from None
            served.setdefault(origin, (source, now))
        for name, data in bundles:
            try:
                then = parse_bundle(data).receipt.checkpoint
                origin = parse_checkpoint(parse_note(then).text).origin
            except (AttestationError, LogError):
                continue  # It failed before.
            if origin not in served or origin not in logs:
                continue
            asked = True
            source, now = served[origin]
            try:
                grown = await asyncio.to_thread(verify_growth, then, now, logs[origin], source.tile)
            except LogError as error:
                made.holds = False
                made.rows.append(Row(name, "growth", holds=False, told=str(error)))
            else:
                told = f"{origin} has {grown.size} entries now and begins with those"
                made.rows.append(Row(name, "growth", holds=True, told=told))
    if not asked:
        made.holds = False
        told = f"{server} keeps other logs: {', '.join(served)}"
        made.rows.append(Row("", "growth", holds=False, told=told))


def _lines(made: Report) -> list[str]:
    several = len({row.bundle for row in made.rows if row.bundle}) > 1
    header = ["STEP", "", "FOUND", *(["ATTESTATION"] * several)]
    rows = [
        [row.step, "ok" if row.holds else "FAILS", row.told, *([row.bundle] * several)]
        for row in made.rows
    ]
    return [*table(header, rows), *(f"  {reason}" for reason in made.reasons[1:])]


def artefact_of(text: str) -> Artefact:
    """A file, or a digest. Raises UsageError."""
    from armitage.client.errors import UsageError
    from armitage.trust.report import Artefact
    from cas.digest import DigestFunction

    path = Path(text)
    if path.is_file():
        with path.open("rb") as file:
            hashers = {f: f.hasher() for f in DigestFunction if f is not DigestFunction.SHA1}
            while piece := file.read(1 << 20):
                for hasher in hashers.values():
                    hasher.update(piece)
        return Artefact(text, {f.value: hasher.hexdigest() for f, hasher in hashers.items()})
    function, colon, hashed = text.partition("/")[0].rpartition(":")
    try:
        named = DigestFunction(function if colon else "sha256")
    except ValueError:
        named = None
    if named is None or len(hashed) != named.hex_length or set(hashed) - set("0123456789abcdef"):
        raise UsageError(f"{text}: is no file here, and no digest such as sha256:{'0' * 8}...")
    return Artefact(text, {named.value: hashed})


def read_bundles(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    """The files of --bundle."""
    for path in paths:
        yield str(path), path.read_bytes()


def _bundles(args: argparse.Namespace, artefact: Artefact) -> Iterator[tuple[str, bytes]]:
    yield from read_bundles(args.bundle)
    beside = Path(f"{args.artefact}{_SUFFIX}")
    if not args.bundle and beside.is_file():
        yield str(beside), beside.read_bytes()
    if args.offline or args.bundle:
        return
    from armitage.attest.export import REPOSITORY
    from armitage.attest.git import GitStore

    store = GitStore(record_directory(args) / REPOSITORY, git_environment())
    if store.exists():
        yield from ((each.name, each.data) for each in store.find(artefact.digests.values()))
