"""docs/metrics.md lists exactly the metrics that the daemon has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from prometheus_client.registry import CollectorRegistry

from armitage.observability.calls import CallObserver
from armitage.observability.figures import (
    CACHE,
    GPUS,
    NOTARY,
    RECORD,
    SCHEDULER,
    STORE,
    TIERS,
    TRANSPORT,
    TRUST,
    WIRE,
    WITNESS,
    FiguresCollector,
    open_registry,
)
from armitage.reapi.gate import code_of, status_of
from armitage.transport.fast.server import FastServer
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Call, Unary

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


class Zeros:
    refused_for: ClassVar = {"": 0.0}

    def __getattr__(self, name: str) -> float:
        return 0.0


async def everything() -> CollectorRegistry:
    async def echo(request: bytes, call: Call) -> bytes:
        return request

    registry = open_registry("1")
    observer = CallObserver(code_of, lambda: 0.0)
    handler: Any = observer.interceptor(Unary("/s/M", echo)).handler
    await handler(b"", Call("/s/M"))
    registry.register(observer)
    parts = (STORE, CACHE, TIERS, WIRE, SCHEDULER, TRANSPORT, GPUS, NOTARY, TRUST, WITNESS, RECORD)
    for figures in parts:
        registry.register(FiguresCollector(figures, Zeros))
    return registry


async def rows_of_registry() -> set[str]:
    rows = set()
    for family in (await everything()).collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        kind = "gauge" if family.type == "info" else family.type
        names = dict.fromkeys(name for sample in family.samples for name in sample.labels)
        labels = ", ".join(f"`{name}`" for name in names if name != "le")
        rows.add(f"| `{family.name}{suffix}` | {kind} | {labels} | {family.documentation} |")
    return rows


async def test_document_and_registry_agree() -> None:
    lines = DOCUMENT.read_text().splitlines()
    documented = [line for line in lines if line.startswith("| `")]

    assert set(documented) == await rows_of_registry()
    assert len(documented) == len(set(documented))


def test_figures_of_the_transport_are_all_of_its_counters() -> None:
    server = FastServer([], status_of, GrpcOptions())

    assert set(vars(server.figures())) == set(TRANSPORT)
