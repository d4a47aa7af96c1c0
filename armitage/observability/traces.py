"""OpenTelemetry traces: one server span for each call, joined to the client's by `traceparent`.

Active only when an endpoint is configured; without one nothing here is imported or called. A span
says which method ran, for which invocation and action, and how it ended. It carries no metadata, no
message and no error text, since any of these could hold a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from armitage.errors import ConfigError
from armitage.observability.context import add_fields
from armitage.reapi.request_metadata import request_metadata
from armitage.transport.port import (
    Bidi,
    Call,
    ClientStream,
    Code,
    Method,
    Response,
    ServerStream,
    Unary,
    close_stream,
)

_SERVER_FAULTS = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL}
    | {Code.UNAVAILABLE, Code.DATA_LOSS}
)
"""Codes that make a server span an error (OpenTelemetry, semantic conventions for gRPC)."""


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Where spans go."""

    endpoint: str = ""
    """An OTLP/HTTP collector, for example `http://127.0.0.1:4318`; empty: no tracing. Headers and
    certificates for it are set as OpenTelemetry's own `OTEL_EXPORTER_OTLP_*` variables.
    """
    service_name: str = "armitage"
    sample_ratio: float = 1.0
    """The part of traces to keep, of those that no caller has decided on."""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint: write the collector as http://HOST:PORT or https://...")
        if not 0 <= self.sample_ratio <= 1:
            raise ValueError("sample_ratio: must be between 0 and 1")


class Tracing:
    """Makes spans. `provider` is an opentelemetry.sdk TracerProvider, which it owns."""

    def __init__(self, provider: Any, code_of: Callable[[BaseException], Code]) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context = context
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("armitage")
        self._code_of = code_of

    async def close(self) -> None:
        """Sends what is waiting to be sent, for as long as the exporter allows."""
        await asyncio.to_thread(self._provider.shutdown)

    def interceptor(self, method: Method) -> Method:
        """Wraps a method (see `armitage.transport.port.Interceptor`)."""
        match method:
            case Unary(path, unary):  # An immediate handler has no context to keep a span in.

                async def one(request: bytes, call: Call) -> bytes:
                    with self._span(call):
                        return await unary(request, call)

                return Unary(path, one)
            case ServerStream(path, server_stream):

                def many(request: bytes, call: Call) -> AsyncIterator[Response]:
                    return self._stream(call, lambda: server_stream(request, call))

                return ServerStream(path, many)
            case ClientStream(path, client_stream):

                async def taken(requests: AsyncIterator[bytes], call: Call) -> bytes:
                    with self._span(call):
                        return await client_stream(requests, call)

                return ClientStream(path, taken)
            case Bidi(path, bidi):

                def both(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[Response]:
                    return self._stream(call, lambda: bidi(requests, call))

                return Bidi(path, both)

    async def _stream(
        self, call: Call, start: Callable[[], AsyncIterator[Response]]
    ) -> AsyncIterator[Response]:
        with self._span(call):
            responses = start()
            try:
                async for response in responses:
                    yield response
            finally:
                await close_stream(responses)

    @contextmanager
    def _span(self, call: Call) -> Iterator[None]:
        service, _, name = call.path[1:].partition("/")
        parent = self._propagator.extract(
            {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        )
        said = request_metadata(call)
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "armitage.client": said.tool_name,
            "armitage.invocation": said.tool_invocation_id,
            "armitage.action": said.action_id,
        }
        span = self._tracer.start_span(
            call.path[1:],
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            attributes={key: value for key, value in attributes.items() if value},
        )
        add_fields(trace_id=format(span.get_span_context().trace_id, "032x"))
        # Never detached: the call has a context of its own, which ends with it.
        self._context.attach(self._trace.set_span_in_context(span))
        code = Code.OK
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            code = Code.CANCELLED
            raise
        except BaseException as error:
            code = self._code_of(error)
            raise
        finally:
            span.set_attribute("rpc.grpc.status_code", int(code))
            if code in _SERVER_FAULTS:
                span.set_status(self._trace.StatusCode.ERROR, code.name)
            span.end()


def open_tracing(
    options: TraceOptions, version: str, code_of: Callable[[BaseException], Code]
) -> Tracing | None:
    """Tracing as configured; None when it is not.

    Raises ConfigError when it is configured and the `telemetry` extra is not installed.
    """
    if not options.endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise ConfigError(
            "traces.endpoint: tracing is configured but OpenTelemetry is not installed; install "
            "armitage[telemetry], or remove the setting"
        ) from error
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(options.sample_ratio),
        resource=Resource.create(
            {"service.name": options.service_name, "service.version": version}
        ),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=f"{options.endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, code_of)
