"""A daemon's record over its HTTP port, for those who audit it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from armitage.audit.query import Query
from armitage.audit.rows import Named
from armitage.client.errors import ClientError, NoAnswer, NotThere, UntrustworthyAnswer, UsageError
from armitage.log.note import PublicKey, parse_public_key
from armitage.log.tiles import Tile
from cas.digest import Buffer, Digest, DigestFunction
from cas.errors import BlobNotFound

_PIECE = 1 << 20
_LENGTH_BYTES = 4
_ABSENT = 0xFFFFFFFF
_MOST_JSON_BYTES = 256 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=120)


class HttpRecord:
    """What `armitage.audit.auditor.Auditor` answers, as JSON has it, and a Source for
    `armitage.audit.verify`.
    """

    def __init__(self, url: str, http: aiohttp.ClientSession, past: int | None = None) -> None:
        """As a Source: of the log that goes on, or of one that ended, by its number."""
        self._url = url
        self._http = http
        self._past = past
        self._log = "/log" if past is None else f"/log/past/{past}"
        self._loop = asyncio.get_running_loop()

    # Questions

    async def state(self) -> Any:
        """How the log stands."""
        return await self._json("/api/audit/state")

    async def page(self, query: Query) -> Any:
        """One page of entries."""
        return await self._json(f"/api/audit/entries?{query.parameters()}")

    async def entry(self, index: int) -> Any:
        """All of one entry."""
        return await self._json(f"/api/audit/entries/{index}")

    async def why(self, hashed: str) -> Any:
        """Where something comes from."""
        return await self._json(f"/api/audit/why/{quote(hashed)}")

    async def diff(self, a: str, b: str) -> Any:
        """What two builds fetched, compared."""
        return await self._json(f"/api/audit/diff?a={quote(a)}&b={quote(b)}")

    async def explain(self, action: str, instance: str) -> Any:
        """What became of an action (armitage.reapi.explaining)."""
        asked = f"action={quote(action, safe='')}&instance={quote(instance, safe='')}"
        return await self._json(f"/api/explain?{asked}")

    # See armitage.audit.source.Source.

    async def key(self) -> PublicKey:
        """See Source."""
        state = await self.state()
        told = state if self._past is None else state["past"][self._past]
        return parse_public_key(told["key"])

    async def past(self) -> list[HttpRecord]:
        """The logs that ended as Sources, the newest first. Raises ClientError where some cannot be
        read there.
        """
        state = await self.state()
        if state["past_problem"]:
            raise ClientError(
                f"of the logs that ended, {self._url} cannot read some: {state['past_problem']}"
            )
        count = len(state["past"])
        return [HttpRecord(self._url, self._http, number) for number in reversed(range(count))]

    async def attestation_keys(self) -> bytes:
        """See Source."""
        return await self._bytes("/api/audit/attestation-keys")

    async def checkpoint(self) -> bytes:
        """See Source."""
        return await self._bytes(f"{self._log}/checkpoint")

    def tile(self, tile: Tile) -> bytes:
        """See Source."""
        asked = asyncio.run_coroutine_threadsafe(
            self._bytes(f"{self._log}/{tile.path}"), self._loop
        )
        return asked.result()

    async def records(self, first: int, named: Sequence[Named | None]) -> list[bytes | None]:
        """See Source."""
        which = "" if self._past is None else f"&past={self._past}"
        path = f"/api/audit/records?first={first}&count={len(named)}{which}"
        found = _frames(await self._bytes(path))
        if len(found) != len(named):
            raise UntrustworthyAnswer(f"{path}: answered {len(found)} records")
        return found

    async def get(self, digest: Digest) -> bytes:
        """See Source."""
        named = Named(digest.hash, digest.size_bytes)
        found = b"".join([bytes(piece) async for piece in self.read(named)])
        if digest.function.digest(found) != digest:
            raise BlobNotFound(digest)
        return found

    async def read(self, named: Named) -> AsyncIterator[Buffer]:
        """See Source."""
        path = f"/api/audit/blobs/{named.hash}/{named.size_bytes}"
        try:
            async with self._asked(path) as answer:
                async for piece in answer.content.iter_chunked(_PIECE):
                    yield piece
        except NotThere:
            digest = Digest(DigestFunction.SHA256, named.hash, named.size_bytes)
            raise BlobNotFound(digest) from None

    async def _json(self, path: str) -> Any:
        data = await self._bytes(path)
        try:
            return json.loads(data)
        except ValueError:
            raise UntrustworthyAnswer(f"{self._url}{path}: answered no JSON") from None

    async def _bytes(self, path: str) -> bytes:
        async with self._asked(path) as answer:
            found = bytearray()
            async for piece in answer.content.iter_chunked(_PIECE):
                found += piece
                if len(found) > _MOST_JSON_BYTES:
                    raise UntrustworthyAnswer(f"{self._url}{path}: answers without end")
            return bytes(found)

    @asynccontextmanager
    async def _asked(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises NotThere, ClientError for a refusal, NoAnswer."""
        try:
            async with self._http.get(f"{self._url}{path}", allow_redirects=False) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, await answer.text(errors="replace"), self._url)
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswer(
                f"no answer from {self._url}: {error}; is the daemon running there? (--server names"
                " its HTTP port, 8982 unless configured)"
            ) from error


@asynccontextmanager
async def open_http_record(
    url: str, tls: Mapping[str, Path | None] | None = None
) -> AsyncIterator[HttpRecord]:
    """A daemon's record; `tls` has `ca`, `cert` and `key` for https. Raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        raise UsageError(f"{url!r} is no server; write http://HOST:PORT, or https:// for TLS")
    files = {name: path for name, path in (tls or {}).items() if path is not None}
    if files and parts.scheme == "http":
        raise UsageError(f"TLS files are given, but {url} is plain; write https://")
    context = _context(files) if parts.scheme == "https" else None
    connector = aiohttp.TCPConnector(ssl=context or True)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as http:
        yield HttpRecord(f"{parts.scheme}://{parts.netloc}", http)


def _context(files: Mapping[str, Path]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            context.load_cert_chain(files["cert"], files.get("key"))
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(str(path) for path in files.values())
        raise UsageError(f"TLS files {names}: {error}") from None
    return context


def _refusal(status: int, text: str, url: str) -> ClientError:
    try:
        message = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        message = text.strip()[:500] or f"HTTP status {status}"
    if status == 404:
        return NotThere(message)
    if status == 400:
        return UsageError(message)
    return ClientError(f"{url} refused: {message}")


def _frames(data: bytes) -> list[bytes | None]:
    """Splits what `/api/audit/records` answers. Raises UntrustworthyAnswer."""
    found: list[bytes | None] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        length = int.from_bytes(data[at:start], "big")
        at = start if length == _ABSENT else start + length
        found.append(None if length == _ABSENT else data[start:at])
    if at != len(data):
        raise UntrustworthyAnswer("the records end in the middle of one")
    return found
