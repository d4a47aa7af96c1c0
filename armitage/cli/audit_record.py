"""From flags to a record that answers: a daemon's, or a directory's that nobody has open."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from armitage.cli.exits import NotStarted
from armitage.cli.output import note

if TYPE_CHECKING:
    from armitage.attest.verify import Check, Known
    from armitage.audit.auditor import Auditor
    from armitage.audit.query import Query
    from armitage.audit.source import Source
    from armitage.log.note import PublicKey
    from armitage.witness.archive import Archive

KEY = "log.key"


class Record(Protocol):
    """What the commands ask; answers are as JSON has them."""

    async def state(self) -> Any:
        """How the log stands."""

    async def page(self, query: Query) -> Any:
        """One page of entries."""

    async def entry(self, index: int) -> Any:
        """All of one entry."""

    async def why(self, hashed: str) -> Any:
        """Where something comes from."""

    async def diff(self, a: str, b: str) -> Any:
        """What two builds fetched, compared."""


class DirectoryRecord:
    """One that is open here."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    async def state(self) -> Any:
        """See Record."""
        from armitage.audit.plain import as_json

        return as_json(await self._auditor.state())

    async def page(self, query: Query) -> Any:
        """See Record."""
        from armitage.audit.plain import as_json

        return as_json(await self._auditor.page(query))

    async def entry(self, index: int) -> Any:
        """See Record."""
        from armitage.audit.plain import as_json

        return as_json(await self._auditor.entry(index))

    async def why(self, hashed: str) -> Any:
        """See Record."""
        from armitage.audit.plain import as_json
        from armitage.audit.why import why

        return as_json(await why(self._auditor, hashed))

    async def diff(self, a: str, b: str) -> Any:
        """See Record."""
        from armitage.audit.differences import compare
        from armitage.audit.plain import as_json

        return as_json(await compare(self._auditor, a, b))


def add_record_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say whose record is meant."""
    group = parser.add_argument_group("record")
    group.add_argument(
        "--server",
        metavar="URL",
        default=os.environ.get("ARMITAGE_HTTP"),
        help="the HTTP port of a running daemon, http://HOST:PORT or https:// (default:"
        " $ARMITAGE_HTTP, else --data-dir)",
    )
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="a directory that a witness or a daemon keeps its record in; a daemon that runs on it"
        " is asked in its place (default: witness or record below armitage's data directory)",
    )
    group.add_argument("--tls-ca", metavar="FILE", type=Path, help="PEM of the authority to trust")
    group.add_argument(
        "--tls-cert", metavar="FILE", type=Path, help="PEM of our certificate (mutual TLS)"
    )
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="PEM of its key")


@asynccontextmanager
async def open_record(args: argparse.Namespace) -> AsyncIterator[Record]:
    """The record to ask. Raises UsageError, NotStarted, ClientError."""
    from armitage.audit.auditor import open_auditor
    from armitage.client.record import open_http_record
    from armitage.clock import SystemClock

    directory = None if args.server else find_directory(args.data_dir)
    url = args.server if directory is None else await _daemon_on(directory, args)
    if url:
        async with open_http_record(url, _tls(args)) as record:
            yield record
        return
    assert directory is not None
    async with (
        _archive(directory) as archive,
        open_auditor(archive, SystemClock()) as auditor,
    ):
        await auditor.catch_up()
        yield DirectoryRecord(auditor)


@asynccontextmanager
async def open_sources(args: argparse.Namespace) -> AsyncIterator[list[Source]]:
    """The record to verify, without an index; after its log, those that have ended, the newest
    first, where they are at hand. Raises UsageError, NotStarted, ClientError.
    """
    from armitage.audit.source import ArchiveSource
    from armitage.client.record import open_http_record

    directory = None if args.server else find_directory(args.data_dir)
    url = args.server if directory is None else await _daemon_on(directory, args)
    if url:
        async with open_http_record(url, _tls(args)) as record:
            yield [record, *await record.past()]
        return
    assert directory is not None
    async with _archive(directory) as archive:
        if archive.past.problem:
            raise NotStarted(f"of the logs that ended, some cannot be read: {archive.past.problem}")
        yield [ArchiveSource(archive, log) for log in reversed(archive.logs)]


def find_directory(given: Path | None) -> Path:
    """The archive that is meant. Raises UsageError."""
    from armitage.cli.overrides import default_data_dir
    from armitage.client.errors import UsageError

    around = default_data_dir() if given is None else given
    names = ("witness", "record") if given is None else ("", "record")
    found = [around / name for name in names if (around / name / KEY).exists()]
    if not found:
        raise UsageError(f"{around}: no evidence is kept there; name its --data-dir, or a --server")
    if len(found) > 1:
        raise UsageError(
            f"{found[0]} (armitage witness) and {found[1]} (the daemon) both keep evidence; name"
            " one of them with --data-dir"
        )
    return found[0]


async def _daemon_on(directory: Path, args: argparse.Namespace) -> str:
    """The address that the daemon which has the directory open noted; empty where none runs."""
    from armitage.client.errors import NoAnswer
    from armitage.client.record import open_http_record
    from armitage.log.keys import read_key
    from armitage.witness.archive import ADDRESS

    try:
        url = (directory / ADDRESS).read_text().strip()
    except OSError:
        return ""
    try:
        async with open_http_record(url, _tls(args)) as record:
            state = await record.state()
    except NoAnswer:
        return ""  # That daemon was killed; the directory is free, or its lock says who has it.
    if state["key"] != str(read_key(directory / KEY).public):
        return ""
    note(f"asking the daemon at {url}, which has {directory} open")
    return url


@asynccontextmanager
async def _archive(directory: Path) -> AsyncIterator[Archive]:
    from armitage.clock import SystemClock
    from armitage.log.errors import LogError
    from armitage.witness.archive import open_archive
    from cas.errors import StoreUnavailable

    try:
        async with open_archive(directory, "", SystemClock()) as archive:
            yield archive
    except (LogError, StoreUnavailable) as error:
        raise NotStarted(str(error)) from error


def _tls(args: argparse.Namespace) -> dict[str, Path | None]:
    return {"ca": args.tls_ca, "cert": args.tls_cert, "key": args.tls_key}


async def known_keys(
    source: Source, log: PublicKey, ring: Path | None, modules: Mapping[str, Check]
) -> Known:
    """With what the record's attestations are verified: the keys in a file of the auditor's, or
    else those that the record has. Raises UsageError.
    """
    from armitage.attest.archived import known_own
    from armitage.attest.errors import AttestationError
    from armitage.attest.keyring import parse_ring
    from armitage.client.errors import UsageError
    from armitage.errors import ConfigError

    data = (
        await source.attestation_keys()
        if ring is None
        else await asyncio.to_thread(ring.read_bytes)
    )
    try:
        keys = parse_ring(data) if data else ()
    except (AttestationError, ConfigError, ValueError) as error:
        where = "the record's" if ring is None else f"{ring}:"
        raise UsageError(f"{where} list of attestation keys cannot be read: {error}") from None
    return known_own(keys, log, modules)
