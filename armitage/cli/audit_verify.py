"""`armitage audit verify`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from armitage.cli.audit_record import known_keys, open_sources
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import emit, note, size_text
from armitage.cli.progress import ProgressLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from armitage.attest.verify import Check
    from armitage.audit.source import Source
    from armitage.audit.verify import Findings
    from armitage.log.note import PublicKey

_PLURALS = {
    "attestation": "attestations",
    "denied": "denials",
    "log-ends": "end of a log",
    "log-follows": "beginning after another log",
}


async def verify_record(args: argparse.Namespace) -> Exit:
    """Runs it: the log, and those before it that are at hand."""
    from armitage.cli.checkers import checkers
    from armitage.client.errors import UsageError
    from armitage.log.errors import LogError, MalformedNote
    from armitage.log.note import parse_public_key

    try:
        key = parse_public_key(args.key) if args.key else None
        witnesses = tuple(map(parse_public_key, args.witness))
    except MalformedNote as error:
        raise UsageError(f"--{'key' if args.key else 'witness'}: {error}") from None
    modules = checkers(args.module)
    async with open_sources(args) as sources:
        current, *past = sources
        try:
            found = [await _verify(args, current, key, witnesses, modules)]
            now = await current.key() if key is None else key
            for each in past:
                after = found[-1]
                if after.before is None:
                    after.blame("does not begin with the end of the log before it")
                    break
                # The key that the entry names, whatever the source says.
                before, ended = after.before
                found.append(await _verify(args, each, before, (), modules))
                if (found[-1].next, found[-1].checkpoint) != (now, ended):
                    found[-1].blame("ends in another way than the log that follows it says")
                now = before
        except LogError as error:
            raise NotStarted(f"the log cannot be verified: {error}") from None
    if found[-1].before is not None:
        absent = found[-1].before[0].name
        note(f"{found[-1].checkpoint.origin} follows {absent}, which was not there to be verified")
    told = [_told(findings) for findings in found]
    emit(
        args,
        {**told[0], "past": told[1:]},
        [line for findings in found for line in _lines(findings)],
    )
    return Exit.NO if any(findings.faults for findings in found) else Exit.OK


async def _verify(
    args: argparse.Namespace,
    source: Source,
    key: PublicKey | None,
    witnesses: tuple[PublicKey, ...],
    modules: Mapping[str, Check],
) -> Findings:
    from armitage.attest.audit import AttestationEntries
    from armitage.audit.verify import verify

    log = await source.key() if key is None else key
    known = await known_keys(source, log, args.attestation_keys, modules)
    others = [AttestationEntries(source.get, known)]
    bodies = not args.without_bodies
    findings: Findings | None = None
    with ProgressLine(shown=sys.stderr.isatty() and not args.json) as line:
        async for findings in verify(source, key, others, bodies=bodies, witnesses=witnesses):
            size = findings.checkpoint.size
            part = 100 * findings.entries // max(1, size)
            line.say(f"verifying {findings.checkpoint.origin}: {part} % of {size} entries")
    assert findings is not None
    return findings


def _told(findings: Findings) -> dict[str, Any]:
    checkpoint = findings.checkpoint
    return {
        "log": checkpoint.origin,
        "root": checkpoint.root.hex(),
        "entries": findings.entries,
        "exchanges": findings.exchanges,
        "bodies": findings.bodies,
        "body_bytes": findings.body_bytes,
        "attestations": findings.counts.get("attestation", 0),
        "denials": findings.counts.get("denied", 0),
        "faults": findings.faults,
        "more_faults": findings.more_faults,
    }


def _lines(findings: Findings) -> list[str]:
    count = len(findings.faults) + findings.more_faults
    others = [f"{number} {_PLURALS[kind]}" for kind, number in sorted(findings.counts.items())]
    return [
        *(f"FAULT  {fault}" for fault in findings.faults),
        *([f"FAULT  and {findings.more_faults} more"] if findings.more_faults else []),
        (
            f"{findings.checkpoint.origin}: {findings.entries} entries,"
            f" {findings.exchanges} exchanges, {findings.bodies} bodies with"
            f" {size_text(findings.body_bytes)}{', '.join(['', *others])}:"
            f" {f'{count} faults' if count else 'all as it was signed'}"
        ),
    ]
