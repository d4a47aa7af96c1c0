"""Cosigning the checkpoints of others' logs (C2SP tlog-witness), where this daemon is a witness."""

from __future__ import annotations

import asyncio

from aiohttp import web

from armitage.log.cosigning import MAX_REQUEST_BYTES, Cosigner

PREFIX = "/witness"


class WitnessApi:
    """Serves `POST /witness/add-checkpoint`. It is for everybody who reaches the port: what is not
    signed by a log that is known here changes nothing.
    """

    link = None

    def __init__(self, cosigner: Cosigner) -> None:
        self._cosigner = cosigner
        self._turn = asyncio.Lock()

    def add_to(self, application: web.Application) -> None:
        """See Part."""
        application.router.add_post(f"{PREFIX}/add-checkpoint", self._add_checkpoint)

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        body = await request.content.read(MAX_REQUEST_BYTES + 1)
        while len(body) <= MAX_REQUEST_BYTES and (more := await request.content.readany()):
            body += more
        async with self._turn:
            try:
                answer = await asyncio.to_thread(self._cosigner.add_checkpoint, body)
            except OSError as error:
                return web.Response(status=503, text=f"cannot remember it: {error.strerror}\n")
        return web.Response(
            status=answer.status,
            body=answer.body.encode(),
            headers={"Content-Type": answer.content_type},
        )
