"""The log for anybody's tools: C2SP tlog-tiles below `/log/`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from armitage.errors import NotFound
from armitage.log.errors import NotLogged
from armitage.log.store import LogStore
from armitage.log.tiles import parse_path
from armitage.web.access import Auditors, Handler

PREFIX = "/log"
_FOR_EVER = "max-age=31536000, immutable"


class LogTiles:
    """Serves the checkpoint and the tiles of a log, to auditors, or to everybody where it is
    public.
    """

    link = None

    def __init__(
        self,
        store: LogStore,
        checkpoint: Callable[[], bytes],
        auditors: Auditors,
        *,
        public: bool = False,
    ) -> None:
        """`checkpoint` answers the one to publish, with the cosignatures that it has. Raises
        NotLogged while there is none.
        """
        self._store = store
        self._newest = checkpoint
        self._auditors = auditors
        self._public = public

    def add_to(self, application: web.Application) -> None:
        """See Part."""

        def guarded(handler: Handler) -> Handler:
            return handler if self._public else self._auditors.only(handler)

        application.router.add_get(f"{PREFIX}/checkpoint", guarded(self._checkpoint))
        application.router.add_get(f"{PREFIX}/{{path:tile/.+}}", guarded(self._tile))

    async def _checkpoint(self, _: web.Request) -> web.Response:
        try:
            note = self._newest()
        except NotLogged as error:
            return web.Response(status=404, text=f"{error}\n")
        return web.Response(body=note, content_type="text/plain", charset="utf-8")

    async def _tile(self, request: web.Request) -> web.Response:
        """Tiles never change, the partial ones neither: another width is another tile."""
        tile = parse_path(request.match_info["path"])
        try:
            if tile is None:
                raise NotFound(f"no tile is called {request.match_info['path']!r}")
            data = await asyncio.to_thread(self._store.read, tile)
        except (NotLogged, NotFound) as error:
            return web.Response(status=404, text=f"{error}\n")
        scope = "public" if self._public else "private"
        return web.Response(
            body=data,
            content_type="application/octet-stream",
            headers={"Cache-Control": f"{scope}, {_FOR_EVER}"},
        )
