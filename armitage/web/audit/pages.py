"""The record as pages, for people: below /audit, to auditors alone."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from aiohttp import web

from armitage.audit.auditor import Auditor
from armitage.audit.query import Query, parse_hash, parse_number, parse_query
from armitage.audit.rows import Row
from armitage.audit.verifier import Verifier
from armitage.audit.why import Graph, Inputs, why, why_fetch
from armitage.errors import InvalidRequest, NotFound
from armitage.web.access import Auditors, Handler
from armitage.web.audit import checkpoint, overview, search, things
from armitage.web.audit.layout import CONTENT_SECURITY_POLICY, assets, page, what
from armitage.web.html import Child, tag

_LATEST = 10
_DRAWN = 60
_LISTED = 200
_FOR_EVER = "public, max-age=31536000, immutable"
_NAMED_ROLES = ("body", "decoded", "sent", "record", "output", "input", "fetched")


class AuditPages:
    """Serves the pages."""

    link = ("/audit", "audit")

    def __init__(
        self,
        auditor: Auditor,
        auditors: Auditors,
        verifier: Verifier,
        inputs: Inputs | None = None,
    ) -> None:
        self._auditor = auditor
        self._auditors = auditors
        self._verifier = verifier
        self._inputs = inputs

    def add_to(self, application: web.Application) -> None:
        """See Part."""
        routes: dict[str, Handler] = {
            "": self._overview,
            "/log": self._log,
            "/find": self._find,
            "/entry/{index}": self._entry,
            "/entry/{index}/receipt": self._receipt,
            "/action/{hash}": self._action,
            "/artefact/{hash}": self._artefact,
            "/session/{id}": self._session,
            "/checkpoint": self._checkpoint,
        }
        for path, handler in routes.items():
            application.router.add_get(f"/audit{path}", self._guarded(handler))
        for path, content, kind in assets():
            application.router.add_get(path, _asset(content, kind))

    def _guarded(self, handler: Handler) -> Handler:
        """For auditors alone; what is wrong is said as a page."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (InvalidRequest, NotFound) as error:
                status, title = (
                    (404, "Not found") if isinstance(error, NotFound) else (400, "Not possible")
                )
                return self._page(title, str(error), status=status)

        return self._auditors.only(guarded)

    def _page(
        self, title: str, lead: Child, *content: Child, here: str = "", status: int = 200
    ) -> web.Response:
        origin = self._auditor.archive.log.store.key.name
        return web.Response(
            text=page(title, lead, *content, here=here, origin=origin),
            status=status,
            content_type="text/html",
            headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
        )

    async def _overview(self, request: web.Request) -> web.Response:
        period = request.query.get("period", "day")
        hours = overview.PERIODS.get(period)
        if hours is None:
            raise InvalidRequest(f"period: is one of {', '.join(overview.PERIODS)}")
        found = await self._auditor.overview(hours)
        latest = await self._auditor.rows(Query(limit=_LATEST))
        lead = "What was fetched, by whom and from where, and what was attested."
        return self._page("Overview", lead, overview.content(found, latest, period), here="/audit")

    async def _log(self, request: web.Request) -> web.Response:
        hosts = [each.host for each in (await self._auditor.overview(1, 50)).hosts]
        logs = [each.origin for each in self._auditor.logs.begins]
        try:
            query, error = parse_query(request.query), ""
        except InvalidRequest as invalid:
            query, error = Query(), str(invalid)
        found = None if error else await self._auditor.page(query)
        content = search.content(query, found, hosts, logs, error)
        return self._page(
            "Log", "Every entry, in the order it was signed.", content, here="/audit/log"
        )

    async def _find(self, request: web.Request) -> web.Response:
        """Leads to what a word names."""
        asked = request.query.get("q", "").strip()
        if asked.isdecimal() and len(asked) < 12:
            raise web.HTTPSeeOther(f"/audit/entry/{asked}")
        try:
            prefix = parse_hash("hash", asked)
        except InvalidRequest:
            raise web.HTTPSeeOther(f"/audit/log?{urlencode({'text': asked})}") from None
        found = await self._auditor.hashes(prefix, 2)
        if len(found) != 1 and prefix not in found:
            raise web.HTTPSeeOther(f"/audit/log?digest={prefix}")
        hashed = prefix if prefix in found else found[0]
        kind = "action" if await self._auditor.naming(hashed, ["action"], 1) else "artefact"
        raise web.HTTPSeeOther(f"/audit/{kind}/{hashed}")

    async def _entry(self, request: web.Request) -> web.Response:
        index = parse_number("entry", request.match_info["index"])
        view = await self._auditor.entry(index)
        graph = await self._behind(view.row)
        return self._page(f"Entry {index}", what(view.row), things.entry(view, graph))

    async def _behind(self, row: Row) -> Graph | None:
        if row.kind == "exchange":
            return await why_fetch(self._auditor, row.index)
        if row.kind in {"attestation", "denied"} and row.action:
            return await why(self._auditor, row.action, self._inputs, _DRAWN)
        return None

    async def _receipt(self, request: web.Request) -> web.Response:
        index = parse_number("entry", request.match_info["index"])
        view = await self._auditor.entry(index)
        name = f'attachment; filename="entry-{index}.tlog-proof"'
        return web.Response(
            text=view.receipt, content_type="text/plain", headers={"Content-Disposition": name}
        )

    async def _action(self, request: web.Request) -> web.Response:
        hashed = parse_hash("action", request.match_info["hash"])
        graph = await why(self._auditor, hashed, self._inputs, _DRAWN)
        sessions = await self._auditor.sessions("action", hashed)
        rows = await self._auditor.rows(Query(action=hashed, limit=_LISTED))
        content = things.action(hashed, sessions, rows, graph)
        return self._page("Action", tag("code", hashed), content)

    async def _artefact(self, request: web.Request) -> web.Response:
        hashed = parse_hash("artefact", request.match_info["hash"])
        graph = await why(self._auditor, hashed, self._inputs, _DRAWN)
        rows = await self._auditor.naming(hashed, _NAMED_ROLES, _LISTED)
        return self._page("Artefact", tag("code", hashed), things.artefact(hashed, rows, graph))

    async def _session(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        sessions = await self._auditor.sessions("session", name, 1)
        if not sessions:
            raise NotFound(f"there is no session {name}")
        rows = await self._auditor.rows(replace(Query(), session=name, limit=_LISTED))
        return self._page("Session", tag("code", name), things.session(sessions[0], rows))

    async def _checkpoint(self, _: web.Request) -> web.Response:
        state = await self._auditor.state()
        content = checkpoint.content(state, self._verifier.last)
        lead = "What the log has promised, and whether the record keeps it."
        return self._page("Checkpoint", lead, content, here="/audit/checkpoint")


def _asset(content: bytes, kind: str) -> Handler:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(
            body=content, content_type=kind, charset="utf-8", headers={"Cache-Control": _FOR_EVER}
        )

    return serve
