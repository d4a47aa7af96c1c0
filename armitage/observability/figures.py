"""Figures that other parts keep (stores, caches, the scheduler), as metrics: read when scraped, and
costing nothing otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

_log = logging.getLogger(__name__)


class Kind(Enum):
    """How a figure moves."""

    GAUGE = "gauge"
    """Up and down."""
    COUNTER = "counter"
    """Up only, from 0 when the daemon starts; its name gets `_total`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric, with one label at most."""

    name: str
    kind: Kind
    help: str
    label: str = ""
    """Where there is one, the figure is a mapping from its values to numbers."""


def _gauge(name: str, text: str) -> Figure:
    return Figure(f"armitage_{name}", Kind.GAUGE, text)


def _counter(name: str, text: str, label: str = "") -> Figure:
    return Figure(f"armitage_{name}", Kind.COUNTER, text, label)


STORE: Mapping[str, Figure] = {
    "blobs": _gauge("cas_blobs", "Stored blobs."),
    "bytes": _gauge("cas_bytes", "Bytes of stored blobs, without those being written."),
    "max_bytes": _gauge("cas_max_bytes", "The size that eviction keeps the store under."),
    "reserved_bytes": _gauge("cas_reserved_bytes", "Set aside for blobs being written."),
    "holders": _gauge("cas_holders", "Live invocations and operations that keep blobs."),
    "held": _gauge("cas_held_digests", "Digests that some holder keeps, stored or not."),
    "evicted_blobs": _counter("cas_evicted_blobs", "Blobs dropped to make room."),
    "evicted_bytes": _counter("cas_evicted_bytes", "Bytes dropped to make room."),
    "damaged_blobs": _counter("cas_damaged_blobs", "Blobs found damaged or gone, and dropped."),
    "refused_evictions": _counter(
        "cas_refused_evictions", "Writes refused since leases protect all that could go."
    ),
    "garbage_bytes": _gauge("cas_garbage_bytes", "On disk, of blobs that have gone."),
}
"""The fields of `cas.store.StoreStats`."""

CACHE: Mapping[str, Figure] = {
    "results": _gauge("ac_results", "Action results in the cache."),
    "bytes": _gauge("ac_bytes", "Bytes of action results."),
    "max_bytes": _gauge("ac_max_bytes", "The size that eviction keeps the cache under."),
    "evicted_results": _counter("ac_evicted_results", "Results dropped to make room."),
    "damaged_results": _counter("ac_damaged_results", "Results found damaged, and dropped."),
}
"""The fields of `cas.action_cache.CacheStats`."""

TIERS: Mapping[str, Figure] = {
    "downloads": _counter("remote_downloads", "Blobs brought over from the remote."),
    "downloaded_bytes": _counter("remote_downloaded_bytes", "Bytes of those."),
    "shared_downloads": _counter(
        "remote_shared_downloads", "Reads that joined a download under way."
    ),
    "asked": _counter("remote_asked", "Digests that the remote was asked about."),
    "recalled": _counter(
        "remote_recalled", "Digests for which an answer of the remote was still remembered."
    ),
    "unanswered": _counter(
        "remote_unanswered", "Questions that the remote failed, or that went over their budget."
    ),
    "result_hits": _counter("remote_result_hits", "Action results that only the remote had."),
    "pending": _gauge("remote_pending", "Blobs and results not yet copied to the remote."),
    "pending_bytes": _gauge("remote_pending_bytes", "Bytes of those blobs."),
    "uploaded": _counter("remote_uploaded", "Blobs and results copied to the remote."),
    "uploaded_bytes": _counter("remote_uploaded_bytes", "Bytes of those blobs."),
    "failed_uploads": _counter("remote_failed_uploads", "Copies put off since the remote failed."),
    "lost": _counter("remote_lost", "Blobs and results gone here before they were copied."),
}
"""The fields of `cas.tiers.TiersStats`; only with a remote tier."""

WIRE: Mapping[str, Figure] = {
    "requests": _counter("s3_requests", "Requests to the bucket, each attempt counted."),
    "retries": _counter("s3_retries", "Attempts after the first."),
    "hedges": _counter("s3_hedges", "Requests repeated since the first was slow."),
    "failures": _counter("s3_failures", "Requests given up after all attempts."),
    "denials": _counter("s3_denials", "Requests that the bucket refused."),
    "damaged": _counter("s3_damaged_objects", "Objects found damaged in the bucket."),
    "sent_bytes": _counter("s3_sent_bytes", "Bytes of objects written."),
    "received_bytes": _counter("s3_received_bytes", "Bytes of objects read."),
}
"""The fields of `cas.s3.S3Stats`; only with a remote tier."""

SCHEDULER: Mapping[str, Figure] = {
    "is_draining": _gauge("scheduler_draining", "1 while new work is refused."),
    "workers": _gauge("scheduler_workers", "Connected workers."),
    "slots": _gauge("scheduler_slots", "Actions that the workers can run at once."),
    "busy_slots": _gauge("scheduler_busy_slots", "Slots that run an action."),
    "operations_queued": _gauge("scheduler_operations_queued", "Operations that wait."),
    "operations_executing": _gauge("scheduler_operations_executing", "Operations that run."),
    "operations_finished_kept": _gauge(
        "scheduler_operations_kept", "Finished operations that can still be asked for."
    ),
    "tasks": _gauge("scheduler_tasks", "Distinct actions, queued or running."),
    "clients_waiting": _gauge("scheduler_clients_waiting", "Clients with queued actions."),
    "oldest_queued_s": _gauge(
        "scheduler_oldest_queued_seconds", "How long the oldest queued action has waited."
    ),
    "submitted": _counter("scheduler_submitted", "Execute requests."),
    "shared": _counter("scheduler_shared", "Requests that joined an equal action in flight."),
    "refused": _counter("scheduler_refused", "Requests refused: queue full, no worker, drain."),
    "from_cache": _counter("scheduler_from_cache", "Requests answered from the action cache."),
    "concluded": _counter("scheduler_concluded", "Operations that came to an end."),
    "failed": _counter("scheduler_failed", "Operations ended by an error of the scheduler's own."),
    "cancelled": _counter("scheduler_cancelled", "Operations that somebody cancelled."),
    "dropped": _counter("scheduler_dropped", "Operations dropped since nobody waited any more."),
    "stopped": _counter("scheduler_stopped", "Running actions stopped since nobody waited."),
    "retried": _counter("scheduler_retried", "Runs repeated after a worker was lost."),
}
"""The fields of `armitage.scheduler.core.SchedulerStats`."""

GPUS: Mapping[str, Figure] = {
    "devices": _gauge("gpu_devices", "GPUs and MIG slices that were found."),
    "faulty": _gauge("gpu_faulty", "Those that have a fault, and are given to nobody."),
    "held": _gauge("gpu_held", "Those of which somebody holds at least a share."),
    "leases": _gauge("gpu_leases", "Leases, of actions and by hand."),
    "waiting": _gauge("gpu_waiting", "Actions that wait for devices."),
    "granted": _counter("gpu_granted", "Leases granted."),
    "refused": _counter("gpu_refused", "Asks refused: none can ever do, or none is to wait for."),
    "revoked": _counter("gpu_revoked", "Leases lost since a device failed."),
}
"""The fields of `executor.isospin.pool.PoolStats`; only where actions are executed."""

NOTARY: Mapping[str, Figure] = {
    "approved": _counter("attest_approved", "Executions that the checker approved."),
    "denied": _counter("attest_denied", "Executions refused for what they did not declare."),
    "attested": _counter("attest_attested", "Results attested."),
    "unattested": _counter("attest_unattested", "Approved results that could not be attested."),
    "under_way": _gauge("attest_under_way", "Attestations being made."),
}
"""The fields of `armitage.attest.notary.NotaryStats`; only with a record."""

TRUST: Mapping[str, Figure] = {
    "believed": _counter("trust_believed", "Cached results that the trust policy let through."),
    "refused": _counter("trust_refused", "Cached results that it did not: misses."),
}
"""The fields of `armitage.reapi.trusting.TrustStats`; only with a record or a policy."""

WITNESS: Mapping[str, Figure] = {
    "open_sessions": _gauge("witness_open_sessions", "Sessions that run."),
    "sessions": _counter("witness_sessions", "Sessions begun."),
    "passed": _counter("witness_passed", "Exchanges with an origin that went through."),
    "replayed": _counter("witness_replayed", "Exchanges answered from the record."),
    "failed": _counter("witness_failed", "Exchanges allowed, and cut off or failed."),
    "refused_for": _counter("witness_refused", "Exchanges refused.", label="reason"),
    "received_bytes": _counter("witness_received_bytes", "Bodies of answers of origins."),
    "sent_bytes": _counter("witness_sent_bytes", "Bodies of requests to origins."),
    "credentials": _counter("witness_credentials", "Requests that a credential was added to."),
    "unkept": _counter("witness_unkept", "Records that could not be kept."),
}
"""The fields of `armitage.witness.counts.WitnessStats`; only where there is a witness."""

RECORD: Mapping[str, Figure] = {
    "entries": _gauge("record_log_entries", "Entries of the record's log."),
    "appended": _counter("record_appended", "Entries appended."),
    "checkpoints": _counter("record_checkpoints", "Checkpoints signed: one for each batch."),
    "failed": _counter("record_failed_appends", "Entries that could not be appended."),
}
"""The fields of `armitage.log.service.LogStats`; only with a record."""


def _hostile(name: str, text: str) -> Figure:
    return _counter(f"http2_{name}", text)


TRANSPORT: Mapping[str, Figure] = {
    "connections": _gauge("http2_connections", "Connected gRPC clients."),
    "connection_errors": _hostile("connection_errors", "Connections ended for wrong HTTP/2."),
    "stream_errors": _hostile("stream_errors", "Streams reset for wrong HTTP/2."),
    "refused_streams": _hostile("refused_streams", "Calls over the limit of one connection."),
    "reset_floods": _hostile("reset_floods", "Connections ended for opening and resetting calls."),
    "continuation_floods": _hostile(
        "continuation_floods", "Connections ended for endless header blocks."
    ),
    "header_bombs": _hostile("header_bombs", "Calls refused for too large headers."),
    "ping_floods": _hostile("ping_floods", "Connections ended for too many pings."),
    "settings_floods": _hostile("settings_floods", "Connections ended for too many settings."),
    "empty_frame_floods": _hostile("empty_frame_floods", "Connections ended for empty frames."),
    "priority_floods": _hostile("priority_floods", "Connections ended for priority frames."),
    "window_update_floods": _hostile(
        "window_update_floods", "Connections ended for too many window updates."
    ),
    "late_frame_floods": _hostile(
        "late_frame_floods", "Connections ended for frames of calls that were over."
    ),
    "window_violations": _hostile(
        "window_violations", "Peers that sent more than we let them, or let us send too much."
    ),
    "bad_prefaces": _hostile("bad_prefaces", "Connections that did not begin with HTTP/2."),
    "http1_requests": _hostile("http1_requests", "Connections that began with HTTP/1."),
}
"""The fields of `armitage.transport.fast.server.FastServer.figures`."""


class FiguresCollector(Collector):
    """The figures of one object, an attribute each, read anew for each scrape.

    What `read` raises is logged and leaves the figures out of that scrape: the rest of the metrics
    must stay visible when something is broken.
    """

    def __init__(self, figures: Mapping[str, Figure], read: Callable[[], object]) -> None:
        self._figures = figures
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Answers the names, without reading anything."""
        return [_family(figure) for figure in self._figures.values()]

    def collect(self) -> Iterable[Metric]:
        """Answers the figures, as prometheus_client asks for them."""
        try:
            state = self._read()
            values = {name: getattr(state, name) for name in self._figures}
        except Exception:  # noqa: BLE001 (one part's fault must not hide the others' metrics)
            _log.exception("reading figures failed")
            return []
        families = []
        for name, figure in self._figures.items():
            family = _family(figure)
            if figure.label:
                for value, number in values[name].items():
                    family.add_metric([value], number)
            else:
                family.add_metric([], float(values[name]))
            families.append(family)
        return families


class _BuildInfo(Collector):
    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterable[Metric]:
        return [InfoMetricFamily("armitage_build", "This server.", {"version": self._version})]


def open_registry(version: str) -> CollectorRegistry:
    """A registry with the figures of the process itself, for others to register with."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_BuildInfo(version))
    return registry


def _family(figure: Figure) -> GaugeMetricFamily | CounterMetricFamily:
    kind = GaugeMetricFamily if figure.kind is Kind.GAUGE else CounterMetricFamily
    return kind(figure.name, figure.help, labels=[figure.label] if figure.label else [])
