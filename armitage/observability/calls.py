"""Watches every call: counts and times it, makes it known to log lines, logs how it ended.

One interceptor does the three, and counts in plain integers of its own rather than in
prometheus_client's locked ones, since it is paid on each call. All of it belongs to one event loop;
a scrape (`collect`) must run there too.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import accumulate
from types import TracebackType

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from armitage.observability.context import forget_call, remember_call
from armitage.transport.port import (
    Bidi,
    BidiHandler,
    Call,
    ClientStream,
    ClientStreamHandler,
    Code,
    ImmediateHandler,
    Method,
    Response,
    ServerStream,
    ServerStreamHandler,
    Unary,
    UnaryHandler,
    close_stream,
    size_of,
)

_log = logging.getLogger(__name__)

BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""From a cache lookup to a long Execute stream."""

_LOUD = frozenset(
    {Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}
)
"""Endings that the operator should hear of; a cache miss (NOT_FOUND) is daily bread."""

_METHOD = ["service", "method"]


class _Tally:
    """The figures of one method."""

    __slots__ = ("bucketed", "codes", "labels", "open", "received", "seconds", "sent")

    def __init__(self, path: str) -> None:
        self.labels = path[1:].split("/")
        self.open = 0
        self.received = 0
        self.sent = 0
        self.seconds = 0.0
        self.codes = [0] * len(Code)
        self.bucketed = [0] * (len(BUCKETS_S) + 1)


class CallObserver(Collector):
    """An interceptor, and the metrics that it makes; register it with a CollectorRegistry.

    `code_of` names the code of what a handler raised (the gate's), `monotonic` tells seconds.
    Codes are as the handler ended: a call whose client left counts as CANCELLED, whatever the
    client was told.
    """

    def __init__(
        self, code_of: Callable[[BaseException], Code], monotonic: Callable[[], float]
    ) -> None:
        self._code_of = code_of
        self._monotonic = monotonic
        self._tallies: dict[str, _Tally] = {}

    def interceptor(self, method: Method) -> Method:
        """Wraps a method (see `armitage.transport.port.Interceptor`)."""
        tally = self._tallies.setdefault(method.path, _Tally(method.path))
        match method:
            case Unary(path, inner, immediate):
                return Unary(
                    path,
                    self._unary(tally, inner),
                    None if immediate is None else self._immediate(tally, immediate),
                )
            case ServerStream(path, inner):
                return ServerStream(path, self._server_stream(tally, inner))
            case ClientStream(path, inner):
                return ClientStream(path, self._client_stream(tally, inner))
            case Bidi(path, inner):
                return Bidi(path, self._bidi(tally, inner))

    def codes_of(self, path: str) -> Sequence[int]:
        """How many calls of a method ended with each code, which is the index."""
        tally = self._tallies.get(path)
        return [0] * len(Code) if tally is None else tuple(tally.codes)

    def begin(self, tally: _Tally, call: Call) -> float:
        """Counts a call in, and answers when it began."""
        remember_call(call)
        tally.open += 1
        return self._monotonic()

    def end(self, tally: _Tally, began: float, error: BaseException | None) -> None:
        """Counts a call out that the error, if any, ended."""
        elapsed = self._monotonic() - began
        code = Code.OK if error is None else self._code(error)
        tally.open -= 1
        tally.codes[code] += 1
        tally.seconds += elapsed
        tally.bucketed[bisect_left(BUCKETS_S, elapsed)] += 1
        level = logging.WARNING if code in _LOUD else logging.DEBUG
        if _log.isEnabledFor(level):
            why = f": {error}" if code in _LOUD else ""
            _log.log(level, "call ended %s after %.1f ms%s", code.name, elapsed * 1e3, why)

    def collect(self) -> Iterable[Metric]:
        """Answers the figures, as prometheus_client asks for them."""
        calls = CounterMetricFamily(
            "armitage_rpc_calls",
            "Calls that ended, by the code they ended with.",
            labels=[*_METHOD, "code"],
        )
        open_calls = GaugeMetricFamily(
            "armitage_rpc_open_calls", "Calls being handled now.", labels=_METHOD
        )
        seconds = HistogramMetricFamily(
            "armitage_rpc_duration_seconds",
            "From a call's arrival at its handler to the handler's end.",
            labels=_METHOD,
        )
        received = CounterMetricFamily(
            "armitage_rpc_received_bytes", "Request messages, without framing.", labels=_METHOD
        )
        sent = CounterMetricFamily(
            "armitage_rpc_sent_bytes", "Response messages, without framing.", labels=_METHOD
        )
        limits = [*map(repr, BUCKETS_S), "+Inf"]
        for tally in self._tallies.values():
            labels = tally.labels
            for code in Code:
                if tally.codes[code]:
                    calls.add_metric([*labels, code.name], tally.codes[code])
            open_calls.add_metric(labels, tally.open)
            reached = list(zip(limits, accumulate(tally.bucketed), strict=True))
            seconds.add_metric(labels, buckets=reached, sum_value=tally.seconds)
            received.add_metric(labels, tally.received)
            sent.add_metric(labels, tally.sent)
        return [calls, open_calls, seconds, received, sent]

    def _code(self, error: BaseException) -> Code:
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return Code.CANCELLED
        return self._code_of(error)

    def _unary(self, tally: _Tally, inner: UnaryHandler) -> UnaryHandler:
        async def handler(request: bytes, call: Call) -> bytes:
            with _Watch(self, tally, call):
                tally.received += len(request)
                response = await inner(request, call)
                tally.sent += len(response)
                return response

        return handler

    def _immediate(self, tally: _Tally, inner: ImmediateHandler) -> ImmediateHandler:
        """Counts what ends at once; what is left to the handler is counted there."""
        monotonic = self._monotonic

        def handler(request: bytes, call: Call) -> bytes | None:
            began = monotonic()
            token = remember_call(call)
            failure: Exception | None = None
            response: bytes | None = None
            try:
                response = inner(request, call)
                if response is None:
                    return None
                tally.sent += len(response)
                return response
            except Exception as error:
                failure = error
                raise
            finally:
                if response is not None or failure is not None:
                    tally.open += 1
                    tally.received += len(request)
                    self.end(tally, began, failure)
                forget_call(token)

        return handler

    def _server_stream(self, tally: _Tally, inner: ServerStreamHandler) -> ServerStreamHandler:
        async def handler(request: bytes, call: Call) -> AsyncIterator[Response]:
            with _Watch(self, tally, call):
                tally.received += len(request)
                responses = inner(request, call)
                try:
                    async for response in responses:
                        tally.sent += size_of(response)
                        yield response
                finally:
                    await close_stream(responses)

        return handler

    def _client_stream(self, tally: _Tally, inner: ClientStreamHandler) -> ClientStreamHandler:
        async def handler(requests: AsyncIterator[bytes], call: Call) -> bytes:
            with _Watch(self, tally, call):
                response = await inner(_Counted(requests, tally), call)
                tally.sent += len(response)
                return response

        return handler

    def _bidi(self, tally: _Tally, inner: BidiHandler) -> BidiHandler:
        async def handler(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[Response]:
            with _Watch(self, tally, call):
                responses = inner(_Counted(requests, tally), call)
                try:
                    async for response in responses:
                        tally.sent += size_of(response)
                        yield response
                finally:
                    await close_stream(responses)

        return handler


class _Watch:
    """The span of one call."""

    __slots__ = ("_began", "_observer", "_tally")

    def __init__(self, observer: CallObserver, tally: _Tally, call: Call) -> None:
        self._observer = observer
        self._tally = tally
        self._began = observer.begin(tally, call)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._observer.end(self._tally, self._began, error)


class _Counted:
    """Requests, counted as they are read."""

    __slots__ = ("_requests", "_tally")

    def __init__(self, requests: AsyncIterator[bytes], tally: _Tally) -> None:
        self._requests = requests
        self._tally = tally

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        request = await self._requests.__anext__()
        self._tally.received += len(request)
        return request
