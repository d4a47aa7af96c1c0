"""The logs for anybody's tools: C2SP tlog-tiles below `/log/`, of those that ended below
`/log/past/N/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from armitage.errors import NotFound
from armitage.log.errors import NotLogged
from armitage.log.store import LogStore
from armitage.log.tiles import parse_path
from armitage.web.access import Auditors, Handler

PREFIX = "/log"
PAST = f"{PREFIX}/past"
"""Below it, by their numbers from the oldest (0) on, the logs that ended."""
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
        prefix: str = PREFIX,
    ) -> None:
        """`checkpoint` answers the one to publish, with the cosignatures that it has. Raises
        NotLogged while there is none. A log that ended has a prefix of its own.
        """
        self._prefix = prefix
        self._store = store
        self._newest = checkpoint
        self._auditors = auditors
        self._public = public

    def add_to(self, application: web.Application) -> None:
        """See Part."""

        def guarded(handler: Handler) -> Handler:
            return handler if self._public else self._auditors.only(handler)

        application.router.add_get(f"{self._prefix}/checkpoint", guarded(self._checkpoint))
        application.router.add_get(f"{self._prefix}/{{path:tile/.+}}", guarded(self._tile))

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


def past_tiles(
    logs: Sequence[LogStore], auditors: Auditors, *, public: bool = False
) -> list[LogTiles]:
    """Serves logs that ended, given from the oldest on."""

    def tiles(number: int, log: LogStore) -> LogTiles:
        def final() -> bytes:
            return log.signed_checkpoint

        return LogTiles(log, final, auditors, public=public, prefix=f"{PAST}/{number}")

    return [tiles(number, log) for number, log in enumerate(logs)]
