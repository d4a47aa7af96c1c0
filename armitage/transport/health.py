"""grpc.health.v1 as byte handlers, so that every transport serves the same one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from armitage._proto.grpc.health.v1 import health_pb2 as pb
from armitage.errors import NotFound
from armitage.transport.port import Call, Method, ServerStream, Unary

SERVICE = "grpc.health.v1.Health"

_Answer = pb.HealthCheckResponse


class HealthService:
    """Tells clients and load balancers whether the server and each of its services serve.

    The empty name stands for the server as a whole. Owned by one event loop.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._serving = dict.fromkeys(["", *services], True)
        self._changed = asyncio.Event()

    def methods(self) -> list[Method]:
        """The methods to serve."""
        return [
            Unary(f"/{SERVICE}/Check", self._check),
            Unary(f"/{SERVICE}/List", self._list),
            ServerStream(f"/{SERVICE}/Watch", self._watch),
        ]

    def set_serving(self, *, serving: bool, service: str | None = None) -> None:
        """Sets the state of one service (adding it if it is new), or of all; wakes the watchers."""
        names = list(self._serving) if service is None else [service]
        self._serving.update(dict.fromkeys(names, serving))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _answer(self, service: str) -> _Answer:
        serving = self._serving.get(service)
        if serving is None:
            return _Answer(status=_Answer.SERVICE_UNKNOWN)
        return _Answer(status=_Answer.SERVING if serving else _Answer.NOT_SERVING)

    async def _check(self, request: bytes, _: Call) -> bytes:
        service = pb.HealthCheckRequest.FromString(request).service
        if service not in self._serving:
            raise NotFound(f"no service {service!r} here")
        return self._answer(service).SerializeToString()

    async def _list(self, _: bytes, __: Call) -> bytes:
        answers = {name: self._answer(name) for name in self._serving}
        return pb.HealthListResponse(statuses=answers).SerializeToString()

    async def _watch(self, request: bytes, _: Call) -> AsyncIterator[bytes]:
        service = pb.HealthCheckRequest.FromString(request).service
        told: bytes | None = None
        while True:
            changed = self._changed
            now = self._answer(service).SerializeToString()
            if now != told:
                told = now
                yield now
            await changed.wait()
