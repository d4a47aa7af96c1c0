from __future__ import annotations

import dataclasses
import logging

import pytest
from prometheus_client.exposition import generate_latest

from armitage.log.service import LogStats
from armitage.observability.figures import (
    CACHE,
    RECORD,
    SCHEDULER,
    STORE,
    WITNESS,
    FiguresCollector,
    open_registry,
)
from armitage.scheduler.core import SchedulerStats
from armitage.witness.counts import WitnessCounts, WitnessStats
from cas.action_cache import CacheStats
from cas.store import StoreStats

STATS = StoreStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)


@pytest.mark.parametrize(
    ("figures", "stats"),
    [
        (STORE, StoreStats),
        (CACHE, CacheStats),
        (SCHEDULER, SchedulerStats),
        (WITNESS, WitnessStats),
        (RECORD, LogStats),
    ],
)
def test_every_statistic_is_a_metric(figures: dict[str, object], stats: type) -> None:
    assert set(figures) == {field.name for field in dataclasses.fields(stats)}


def test_figures_are_read_anew_for_each_scrape() -> None:
    stats = STATS
    registry = open_registry("1.2.3")
    registry.register(FiguresCollector(STORE, lambda: stats))

    assert registry.get_sample_value("armitage_cas_blobs") == 1
    assert registry.get_sample_value("armitage_cas_evicted_bytes_total") == 8
    stats = dataclasses.replace(STATS, blobs=10)
    assert registry.get_sample_value("armitage_cas_blobs") == 10


def test_a_figure_by_reason_has_a_label() -> None:
    registry = open_registry("1")
    registry.register(FiguresCollector(WITNESS, WitnessCounts().read))

    assert registry.get_sample_value("armitage_witness_refused_total", {"reason": "address"}) == 0
    assert registry.get_sample_value("armitage_witness_refused_total", {"reason": "rule"}) == 0


def test_broken_part_does_not_hide_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> object:
        raise OSError("disk on fire")

    registry = open_registry("1.2.3")
    registry.register(FiguresCollector(CACHE, broken))
    registry.register(FiguresCollector(STORE, lambda: STATS))
    with caplog.at_level(logging.ERROR):
        text = generate_latest(registry).decode()

    assert "armitage_cas_blobs 1.0" in text
    assert "armitage_ac_results" not in text
    assert "disk on fire" in caplog.text


def test_registry_tells_version_and_process() -> None:
    registry = open_registry("1.2.3")

    assert registry.get_sample_value("armitage_build_info", {"version": "1.2.3"}) == 1
    assert registry.get_sample_value("process_resident_memory_bytes")
