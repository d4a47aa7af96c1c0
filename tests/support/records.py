"""An archive with a few sessions in it, as a witness leaves them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

from armitage.audit.auditor import Auditor, open_auditor
from armitage.clock import SystemClock
from armitage.witness.archive import Archive, open_archive
from armitage.witness.evidence import Body, Exchange, Peer, Subject
from armitage.witness.sessions import Sessions
from cas.digest import DigestFunction

T0 = 1_790_000_000.0
"""When it all begins: 2026-09-21, 13:33 UTC."""
ORIGIN = "log.example/record"


@dataclass(frozen=True)
class Fetch:
    url: str
    body: bytes | None = b"content"
    status: int | None = 200
    allowed: bool = True
    rule: str = "declared"
    error: str = ""
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()


@dataclass
class Record:
    """An open archive, and one who reads it."""

    archive: Archive
    auditor: Auditor
    directory: Path
    sessions: Sessions
    seconds: count[int]

    async def session(
        self, *fetches: Fetch, close: bool = True, declared: str = "network", **subject: str
    ) -> str:
        """Keeps one session with these exchanges."""
        session = await self.sessions.open(Subject(**subject), declared)
        for fetch in fetches:
            await session.record(await self.exchange(fetch))
        if close:
            await session.close()
        await self.auditor.catch_up()
        return session.id

    async def exchange(self, fetch: Fetch) -> Exchange:
        """What came of a fetch, its body stored."""
        at_s = T0 + next(self.seconds)
        host = fetch.url.partition("://")[2].partition("/")[0]
        body = None
        if fetch.body is not None:
            digest = DigestFunction.SHA256.digest(fetch.body)
            body = Body(name_of(fetch.body), len(fetch.body))
            if fetch.allowed:
                await self.archive.store.put([digest], fetch.body)
        return Exchange(
            at_s,
            at_s + 0.5,
            fetch.method,
            fetch.url,
            "tag",
            Peer(host, 443, f"{host}:443", host, "192.0.2.1", "TLSv1.3", "ab" * 32),
            fetch.allowed,
            fetch.rule,
            [["host", host], *map(list, fetch.headers)],
            None,
            fetch.status,
            [["content-type", "text/plain"]],
            body,
            error=fetch.error,
        )


def name_of(body: bytes) -> str:
    return f"sha256:{hash_of(body)}"


def hash_of(body: bytes) -> str:
    return sha256(body).hexdigest()


@asynccontextmanager
async def record(directory: Path, origin: str = ORIGIN) -> AsyncIterator[Record]:
    """An empty one, or what is in the directory."""
    clock, ids = _Clock(), count()
    async with (
        open_archive(directory, origin, SystemClock()) as archive,
        open_auditor(archive, clock) as auditor,
    ):
        await auditor.catch_up()
        first = auditor.logs.size
        sessions = Sessions(
            archive.store, archive.log.append, clock, lambda: f"session-{first}-{next(ids)}"
        )
        yield Record(archive, auditor, directory, sessions, count())


class _Clock:
    def wall(self) -> float:
        return T0

    def monotonic(self) -> float:
        return 0.0
