"""What became of an action, over HTTP, for `armitage explain`."""

from __future__ import annotations

from aiohttp import web

from armitage.audit.plain import as_json
from armitage.errors import InvalidRequest
from armitage.reapi.explaining import Explainer
from armitage.web.access import Auditors


class ExplainApi:
    """Serves `/api/explain`."""

    link = None

    def __init__(self, explainer: Explainer, auditors: Auditors) -> None:
        self._explainer = explainer
        self._auditors = auditors

    def add_to(self, application: web.Application) -> None:
        """See Part."""
        handler = self._auditors.only(self._explain)
        application.router.add_get("/api/explain", handler, allow_head=False)

    async def _explain(self, request: web.Request) -> web.Response:
        action, instance = request.query.get("action", ""), request.query.get("instance", "")
        if not action:
            raise InvalidRequest("explain: say which action")
        return web.json_response(as_json(await self._explainer.explain(action, instance)))
