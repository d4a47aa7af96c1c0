"""A large record: verifying all of it, indexing it, and searching it.

    python benchmarks/audit.py [--entries 1000000] [--directory DIR]

Verifying is told apart: the log alone (every entry against every tile and the root), and all of it
(every record against its entry, too). Both are compared with the least that anybody can do, which
is hashing as many bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from common import print_table

from armitage.attest.archived import known_own
from armitage.attest.audit import AttestationEntries
from armitage.audit.auditor import Auditor, open_auditor
from armitage.audit.query import Query
from armitage.audit.source import ArchiveSource
from armitage.audit.verify import verify
from armitage.clock import SystemClock
from armitage.log.verify import verified_entries
from armitage.witness.archive import Archive, open_archive
from armitage.witness.evidence import (
    Body,
    Entry,
    Exchange,
    Kind,
    Peer,
    Subject,
    close_record,
    exchange_record,
    open_record,
)
from cas.digest import Digest, DigestFunction
from cas.store import BatchPut

A_SESSION = 100
AT_ONCE = 2000
_EXCHANGE = exchange_record(
    "SESSION",
    4242424242,
    Exchange(
        *(1_790_000_000.0, 1_790_000_000.5, "GET", "https://HOST/packages/NAME.tar.gz", "ab" * 16),
        Peer("HOST", 443, "HOST:443", "HOST", "192.0.2.1", "TLSv1.3", "cd" * 32),
        allowed=True,
        rule="declared",
        request_headers=[["host", "HOST"], ["accept", "*/*"], ["user-agent", "pip/24.0"]],
        status=200,
        response_headers=[["content-type", "application/gzip"], ["etag", '"abcdef"']],
        response_body=Body("sha256:" + sha256(b"").hexdigest(), 0),
    ),
)


def made_up(number: int) -> tuple[str, int, Kind, bytes]:
    """One entry of a proxy's sessions, which are all alike."""
    session, place = f"s{number // A_SESSION:07d}", number % A_SESSION
    if place == 0:
        return (
            session,
            0,
            Kind.OPEN,
            open_record(session, 1.79e9, Subject(identity="ci"), "network"),
        )
    if place == A_SESSION - 1:
        return session, place, Kind.CLOSE, close_record(session, place, 1.79e9, "", 0)
    record = _EXCHANGE.replace(b"SESSION", session.encode()).replace(b"4242424242", b"%d" % place)
    host = b"host%d.example" % (number % 50)
    return (
        session,
        place,
        Kind.EXCHANGE,
        record.replace(b"HOST", host).replace(b"NAME", b"%d" % number),
    )


async def fill(archive: Archive, count: int) -> None:
    """Makes the record."""
    for first in range(0, count, AT_ONCE):
        puts, entries = [], []
        for number in range(first, min(count, first + AT_ONCE)):
            session, place, kind, record = made_up(number)
            digest = Digest(DigestFunction.SHA256, sha256(record).hexdigest(), len(record))
            puts.append(BatchPut([digest], record))
            entry = Entry(session, place, kind, f"sha256:{digest.hash}", len(record))
            entries.append(entry.encode())
        await archive.store.put_many(puts)
        await asyncio.to_thread(archive.log.store.append, entries)


def verify_log(archive: Archive) -> float:
    """Seconds for the tree alone."""
    store, began = archive.log.store, time.perf_counter()
    for _ in verified_entries(store.checkpoint, store.read):
        pass
    return time.perf_counter() - began


async def verify_all(archive: Archive) -> float:
    """Seconds for all of it, as `armitage audit verify` does it."""
    source = ArchiveSource(archive)
    attested = AttestationEntries(source.get, known_own((), archive.log.store.key, {}))
    began = time.perf_counter()
    async for findings in verify(source, None, [attested]):
        assert not findings.faults, findings.faults[0]
    return time.perf_counter() - began


def hash_alone(count: int) -> float:
    """Seconds to hash as many entries and records."""
    entry, began = bytes(220), time.perf_counter()
    for _ in range(count):
        sha256(entry).digest()
        sha256(_EXCHANGE).digest()
    return time.perf_counter() - began


async def timed(ask: Callable[[], Awaitable[object]]) -> str:
    """The median of five, in milliseconds."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    return f"{sorted(took)[2] * 1000:.1f} ms"


async def search(auditor: Auditor, size: int) -> list[list[str]]:
    """How long pages take."""
    asked = {
        "the newest page": Query(),
        "a page from the middle": Query(before=size // 2),
        "by host": Query(host="host7.example"),
        "by host, and refused (none)": Query(host="host7.example", outcome="refused"),
        "by session": Query(session="s0000001"),
        "by the beginning of a hash": Query(digest="abcd1234"),
        "by a part of the URL that is rare": Query(text=f"/{size // 3}."),
        "by a part of no URL": Query(text="no such thing"),
    }
    rows = [[name, await timed(partial(auditor.page, query))] for name, query in asked.items()]
    return [*rows, ["the overview", await timed(lambda: auditor.overview(24))]]


async def run(directory: Path, count: int) -> None:
    """Makes it and measures."""
    async with open_archive(directory, "log.example/benchmark", SystemClock()) as archive:
        await fill(archive, count)
        log, everything, hashed = verify_log(archive), await verify_all(archive), hash_alone(count)
        async with open_auditor(archive, SystemClock()) as auditor:
            began = time.perf_counter()
            await auditor.catch_up()
            indexed = time.perf_counter() - began
            searches = await search(auditor, count)
    size = (directory / "index.sqlite").stat().st_size / count
    print_table(
        f"{count} entries",
        ["", "seconds", "a second", "of hashing alone"],
        [
            ["the log verified", f"{log:.1f}", f"{count / log:.0f}", f"{log / hashed:.1f}x"],
            [
                *("everything verified", f"{everything:.1f}", f"{count / everything:.0f}"),
                f"{everything / hashed:.1f}x",
            ],
            ["indexed", f"{indexed:.1f}", f"{count / indexed:.0f}", f"{size:.0f} bytes each"],
        ],
    )
    print_table("searches, with counting", ["", "median of 5"], searches)
    print(f"memory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--directory", help="where to write (default: the temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as made:
        asyncio.run(run(Path(made), options.entries))


if __name__ == "__main__":
    main()
