"""The record over HTTP, for programs: searches as JSON, what is named as bytes, news as
server-sent events. It only ever reads.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from armitage.audit.auditor import Auditor
from armitage.audit.differences import compare
from armitage.audit.plain import as_json
from armitage.audit.query import parse_hash, parse_number, parse_query
from armitage.audit.source import read_attestation_keys
from armitage.audit.verifier import Verifier
from armitage.audit.why import Inputs, why
from armitage.errors import Exhausted, InvalidRequest, NotFound
from armitage.web.access import Auditors, refusal
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LENGTH_BYTES = 4
_ABSENT = b"\xff" * _LENGTH_BYTES
_MOST_RECORDS = 1024
_MAX_HOURS = 24 * 366
_MAX_STREAMS = 32
_KEEP_ALIVE_S = 15.0
_NEWS_AT_ONCE = 200
_SESSION_COLUMNS = ("session", "action", "invocation")


class AuditApi:
    """Serves `/api/audit/`."""

    link = None

    def __init__(
        self,
        auditor: Auditor,
        auditors: Auditors,
        verifier: Verifier,
        inputs: Inputs | None = None,
    ) -> None:
        """`inputs` reads input trees, for the way from an action to what it was made from."""
        self._auditor = auditor
        self._verifier = verifier
        self._inputs = inputs
        self._auditors = auditors
        self._streams = 0
        self._ending = asyncio.Event()

    def add_to(self, application: web.Application) -> None:
        """See Part."""
        routes = {
            "state": self._state,
            "attestation-keys": self._attestation_keys,
            "entries": self._entries,
            "entries/{index}": self._entry,
            "records": self._records,
            "sessions": self._sessions,
            "why/{hash}": self._why,
            "diff": self._diff,
            "overview": self._overview,
            "blobs/{hash}/{size}": self._blob,
            "events": self._events,
            "verify": self._verify,
        }
        for path, handler in routes.items():
            guarded = self._auditors.only(handler)
            application.router.add_get(f"/api/audit/{path}", guarded, allow_head=False)
        application.on_shutdown.append(self._end)

    async def _end(self, _: web.Application) -> None:
        self._ending.set()

    async def _state(self, _: web.Request) -> web.Response:
        return _json(await self._auditor.state())

    async def _attestation_keys(self, _: web.Request) -> web.Response:
        keys = await asyncio.to_thread(read_attestation_keys, self._auditor.archive)
        return web.Response(body=keys, content_type="application/json")

    async def _entries(self, request: web.Request) -> web.Response:
        return _json(await self._auditor.page(parse_query(request.query)))

    async def _entry(self, request: web.Request) -> web.Response:
        index = parse_number("index", request.match_info["index"])
        return _json(await self._auditor.entry(index))

    async def _records(self, request: web.Request) -> web.Response:
        """The records of up to 1,024 entries, of the log that goes on or of the one that ended with
        the number `past` (from the oldest, 0, on), each after its length (4 bytes, big-endian; all
        ones for one that is not there), for those who verify.
        """
        first = parse_number("first", request.query.get("first", "0"))
        count = min(_MOST_RECORDS, parse_number("count", request.query.get("count", "256")))
        asked = request.query.get("past")
        past = None if asked is None else parse_number("past", asked)
        records = await self._auditor.records(first, count, past)
        frames = [
            _ABSENT if each is None else len(each).to_bytes(_LENGTH_BYTES, "big") + each
            for each in records
        ]
        return web.Response(body=b"".join(frames), content_type="application/octet-stream")

    async def _why(self, request: web.Request) -> web.Response:
        asked = parse_hash("hash", request.match_info["hash"])
        return _json(await why(self._auditor, asked, self._inputs))

    async def _diff(self, request: web.Request) -> web.Response:
        a, b = request.query.get("a", ""), request.query.get("b", "")
        if not a or not b:
            raise InvalidRequest("diff: say a and b, each an action, a session or an invocation")
        return _json(await compare(self._auditor, a, b))

    async def _sessions(self, request: web.Request) -> web.Response:
        for column in _SESSION_COLUMNS:
            if text := request.query.get(column):
                return _json(await self._auditor.sessions(column, text))
        raise InvalidRequest(f"sessions: say {', '.join(_SESSION_COLUMNS)}")

    async def _overview(self, request: web.Request) -> web.Response:
        hours = parse_number("hours", request.query.get("hours", "24"))
        return _json(await self._auditor.overview(max(1, min(_MAX_HOURS, hours))))

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        """Bytes that somebody else chose: never shown by a browser, always saved."""
        hashed, size = request.match_info["hash"], parse_number("size", request.match_info["size"])
        if not _SHA256.fullmatch(hashed):
            raise InvalidRequest(f"hash: {hashed!r} is no SHA-256 in hex")
        store = self._auditor.archive.store
        pieces = store.read(Digest(DigestFunction.SHA256, hashed, size))
        try:
            first = await anext(aiter(pieces), b"")
        except BlobNotFound:
            raise NotFound(f"{hashed}/{size} is not in the record") from None
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{hashed}"',
            "Content-Length": str(size),
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Entries that match, as they come, from the one after `after` or Last-Event-ID on."""
        query = parse_query(request.query)
        last = request.headers.get("Last-Event-ID")
        after = query.after if last is None else parse_number("Last-Event-ID", last)
        after = self._auditor.indexed - 1 if after is None else after
        if self._streams >= _MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{_MAX_STREAMS} others listen already\n")
        self._streams += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            await response.write(b": entries of the record as they are indexed\n\n")
            while not self._ending.is_set():
                news = replace(query, before=None, after=after, limit=_NEWS_AT_ONCE)
                indexed = self._auditor.indexed
                rows = await self._auditor.rows(news)
                for row in rows:
                    data = json.dumps(as_json(row))
                    await response.write(f"id: {row.index}\ndata: {data}\n\n".encode())
                after = rows[-1].index if len(rows) == _NEWS_AT_ONCE else indexed - 1
                if len(rows) < _NEWS_AT_ONCE:
                    await self._wait(response, indexed)
        except ConnectionError:
            pass  # The listener has gone.
        finally:
            self._streams -= 1
        return response

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        """Verifies the record here, and tells how far it is as server-sent events. This is work: no
        page of somebody else may have an auditor's browser ask for it.
        """
        if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            return refusal(request, 403, "not for pages of another site")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with aclosing(self._verifier.run()) as parts:
            try:
                async for found in parts:
                    if not response.prepared:
                        await response.prepare(request)
                    told = {"entries": found.entries, "size": found.size}
                    await response.write(_event("progress", told))
            except Exhausted as error:
                return refusal(request, 409, str(error))
            except ConnectionError:
                return response  # Whoever asked has gone.
            last = self._verifier.last
            assert last is not None
            await response.write(_event("done", {"faults": last.faults}))
        return response

    async def _wait(self, response: web.StreamResponse, indexed: int) -> None:
        """Until there is news or the end; says that it is still there meanwhile."""
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(self._auditor.wait_indexed(indexed)),
                group.create_task(self._ending.wait()),
            ]
            done, _ = await asyncio.wait(
                waits, timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
            )
            for each in waits:
                each.cancel()
        if not done:
            await response.write(b": still here\n\n")


def _event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


def _json(value: object) -> web.Response:
    return web.json_response(as_json(value))
