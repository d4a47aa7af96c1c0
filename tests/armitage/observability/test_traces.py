from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the telemetry extra is not installed")

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import ConfigError, NotFound, Unavailable
from armitage.observability.context import current_fields
from armitage.observability.traces import TraceOptions, Tracing, open_tracing
from armitage.reapi.gate import code_of
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Bidi, Call, ClientStream, Method, ServerStream, Unary

PATH = "/pkg.Service/Method"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
METADATA: dict[str, str | bytes] = {
    "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
    "authorization": "Bearer s3cret",
    HEADER: reapi.RequestMetadata(
        tool_details=reapi.ToolDetails(tool_name="bazel"), tool_invocation_id="inv"
    ).SerializeToString(),
}
CALL = Call(PATH, METADATA)


class Traced:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider, code_of)

    def handler(self, method: Method) -> Any:
        return self.tracing.interceptor(method).handler

    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())


async def echo(request: bytes, call: Call) -> bytes:
    return request


async def messages(*data: bytes) -> AsyncIterator[bytes]:
    for message in data:
        yield message


async def test_span_joins_the_clients_trace_and_names_the_invocation() -> None:
    traced = Traced()
    assert await traced.handler(Unary(PATH, echo))(b"x", CALL) == b"x"

    [span] = traced.spans()
    assert span.name == "pkg.Service/Method"
    assert format(span.context.trace_id, "032x") == TRACE_ID
    assert format(span.parent.span_id, "016x") == PARENT_ID
    assert dict(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "pkg.Service",
        "rpc.method": "Method",
        "rpc.grpc.status_code": 0,
        "armitage.client": "bazel",
        "armitage.invocation": "inv",
    }


async def test_call_without_or_with_broken_traceparent_starts_a_trace() -> None:
    traced = Traced()
    handler = traced.handler(Unary(PATH, echo))
    await handler(b"", Call(PATH))
    await handler(b"", Call(PATH, {"traceparent": "00-zz-yy-01"}))

    assert [span.parent for span in traced.spans()] == [None, None]


async def test_each_kind_of_method_gets_one_span() -> None:
    async def many(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield request
        yield request

    async def taken(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return b"".join([request async for request in requests])

    async def both(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    traced = Traced()
    assert [m async for m in traced.handler(ServerStream(PATH, many))(b"a", CALL)] == [b"a", b"a"]
    assert await traced.handler(ClientStream(PATH, taken))(messages(b"a", b"b"), CALL) == b"ab"
    assert [m async for m in traced.handler(Bidi(PATH, both))(messages(b"a"), CALL)] == [b"a"]
    assert len(traced.spans()) == 3


@pytest.mark.parametrize(
    ("error", "code", "is_error"),
    [
        (NotFound("hunter2"), 5, False),
        (Unavailable("hunter2"), 14, True),
        (RuntimeError("hunter2"), 13, True),
        (asyncio.CancelledError(), 1, False),
    ],
)
async def test_span_tells_the_code_and_no_error_text(
    error: BaseException, code: int, is_error: bool
) -> None:
    async def fail(request: bytes, call: Call) -> bytes:
        raise error

    traced = Traced()
    with pytest.raises(type(error)):
        await traced.handler(Unary(PATH, fail))(b"", CALL)

    [span] = traced.spans()
    assert span.attributes["rpc.grpc.status_code"] == code
    assert (span.status.status_code.name == "ERROR") is is_error
    assert "hunter2" not in span.to_json()
    assert "s3cret" not in span.to_json()


async def test_log_lines_of_the_call_carry_the_trace() -> None:
    seen = {}

    async def look(request: bytes, call: Call) -> bytes:
        seen.update(current_fields())
        return b""

    await Traced().handler(Unary(PATH, look))(b"", CALL)

    assert seen["trace_id"] == TRACE_ID


async def test_spans_reach_the_configured_collector() -> None:
    received: list[ExportTraceServiceRequest] = []

    async def collect(request: web.Request) -> web.Response:
        received.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    tracing = open_tracing(TraceOptions(f"http://{host}:{port}/"), "1.2.3", code_of)
    assert tracing is not None

    handler: Any = tracing.interceptor(Unary(PATH, echo)).handler
    await handler(b"", CALL)
    await tracing.close()
    await runner.cleanup()

    [export] = received
    [resource] = export.resource_spans
    attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert (attributes["service.name"], attributes["service.version"]) == ("armitage", "1.2.3")
    assert [span.name for span in resource.scope_spans[0].spans] == ["pkg.Service/Method"]


def test_nothing_configured_is_no_tracing_and_imports_nothing() -> None:
    code = (
        "import sys; from armitage.observability.traces import TraceOptions, open_tracing;"
        "assert open_tracing(TraceOptions(), '1', None) is None;"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configured_but_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"traces\.endpoint.*armitage\[telemetry\]"):
        open_tracing(TraceOptions("http://127.0.0.1:4318"), "1", code_of)


@pytest.mark.parametrize(
    "options", [{"endpoint": "127.0.0.1:4318"}, {"sample_ratio": 1.5}, {"sample_ratio": -0.1}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"write the collector|between 0 and 1"):
        TraceOptions(**options)
