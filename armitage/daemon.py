"""The daemon: the one place where everything is built and wired together.

Start order: stores, execution, services, then the listeners, so that nobody is answered before all
of it works. A failure on the way takes down what was started, in reverse order. Drain order: tell
health checks, refuse new actions and let accepted ones end, then refuse all new calls and let
running ones end; `drain_s` is for all of that together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import aiohttp

from armitage.attest.archived import known_own
from armitage.attest.audit import AttestationEntries
from armitage.attest.export import REPOSITORY, Exporter
from armitage.attest.git import GitStore
from armitage.attest.holdings import Attested, OwnHoldings
from armitage.attest.notary import Notary
from armitage.attest.opening import Builders, Office, open_office, shared_checker
from armitage.attest.pulled import PulledHoldings
from armitage.audit.auditor import Auditor, open_auditor
from armitage.audit.fetches import SessionFetches
from armitage.audit.source import ArchiveSource
from armitage.audit.verifier import Verifier
from armitage.audit.verify import EntryAudit
from armitage.chores import Chores, Meanwhile
from armitage.clock import Clock, SystemClock
from armitage.config import Config, StorageKind, TransportKind, check, kept_from_actions
from armitage.errors import ConfigError
from armitage.executors import Execution, Means, open_executors
from armitage.gpus import open_gpus
from armitage.log.cosigning import Cosigner
from armitage.log.errors import LogError
from armitage.log.note import PublicKey as LogKey
from armitage.log.witnessed import Witnessed
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
from armitage.observability.traces import open_tracing
from armitage.proofs.modules import load_checkers
from armitage.reapi.action_cache import ActionCacheService
from armitage.reapi.asset import AssetService
from armitage.reapi.at_once import AtOnce
from armitage.reapi.bytestream import ByteStreamService
from armitage.reapi.capabilities import CapabilitiesService
from armitage.reapi.chunking import ChunkingService
from armitage.reapi.completeness import Completeness
from armitage.reapi.content import ContentService
from armitage.reapi.execution import ExecutionService
from armitage.reapi.explaining import Explainer
from armitage.reapi.gate import code_of, status_of
from armitage.reapi.gpus import GpuService
from armitage.reapi.input_files import inputs_of
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.live_output import LiveOutput
from armitage.reapi.logstream import LogStreams
from armitage.reapi.operations import OperationsService
from armitage.reapi.storage import StorageService
from armitage.reapi.trees import DirectoryCodec
from armitage.reapi.trusting import TrustGate
from armitage.recording import (
    CacheFigures,
    ask_witnesses,
    cache_lookups,
    open_cosigner,
    open_witnessed,
)
from armitage.remote import RemoteStats, open_remote, open_tiers
from armitage.scheduler.service import Scheduler
from armitage.scheduler.worker import EmbeddedWorker, WorkerOptions
from armitage.transport.fast.server import FastServer
from armitage.transport.health import HealthService
from armitage.transport.options import GrpcOptions
from armitage.transport.port import Interceptor, Method, wrap
from armitage.transport.reflection import ReflectionService, services_of
from armitage.trust.opening import open_trust
from armitage.trust.options import TrustOptions
from armitage.version import version
from armitage.web.access import Auditors
from armitage.web.audit.pages import AuditPages
from armitage.web.audit_api import AuditApi
from armitage.web.explain_api import ExplainApi
from armitage.web.log_tiles import LogTiles, past_tiles
from armitage.web.readiness import store_refuses_writes
from armitage.web.server import Part, WebServer
from armitage.web.witness_api import WitnessApi
from armitage.witness.archive import ADDRESS, Archive, open_archive
from armitage.witness.assets import AssetFetcher
from armitage.witness.credentials import Credentials, read_credentials
from armitage.witness.network import WitnessNetwork, open_means
from cas.action_cache import ActionCache, CacheStats, Recall
from cas.errors import StoreUnavailable
from cas.memory import MemoryActionCache, MemoryStore
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackStore
from cas.quotas import Quotas
from cas.scrub import Repair, repair_from
from cas.store import (
    BatchStore,
    BlobExporter,
    BlobImporter,
    BlobStore,
    Glimpse,
    Leases,
    Measured,
    Retention,
)
from cas.tiers import Here, Tiers
from cas.upkeep import Upkeep, segment_bytes_for
from executor.coeffects import SandboxKind
from executor.isospin.leasing import Discovery, GpuLeases, LeasingExecutor
from executor.ports import Executor
from executor.rlimits import raise_open_files
from executor.routing import RoutingExecutor

_log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 30.0
_UPKEEP_S = 1.0
_FETCH_S = 2.0
"""While draining, how long clients have to begin to fetch what the last action left."""
_LAST_CARRY_S = 10.0
"""What is not carried into git by then waits for the next start."""
_SPARE_SLOTS = 2
"""Beyond the CPUs: while an action is staged, waits for its sandbox or is stored, another runs."""
_ISAS = {"x86_64": "x86-64", "aarch64": "arm-a64", "riscv64": "riscv64", "ppc64le": "power-isa-le"}
"""From uname's names to those of REAPI's platform lexicon."""


class Store(
    BlobStore, BatchStore, Retention, Leases, BlobExporter, BlobImporter, Measured, Protocol
):
    """What the daemon needs of a store."""


class Server(Protocol):
    """What the daemon needs of a transport."""

    async def start(self) -> list[str]:
        """Binds and serves; answers the bound addresses. Raises ConfigError."""

    async def drain(self, grace_s: float) -> None:
        """Lets running calls end for so long, and closes."""


class Results(ActionCache, Protocol):
    """What the daemon needs of an action cache."""

    def stats(self) -> CacheStats:
        """Answers the figures of this moment."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the daemon really listens (port 0 resolved)."""

    grpc: tuple[str, ...]
    http: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Base:
    """What every service stands on."""

    store: Store
    cache: Results
    instances: Instances
    invocations: Invocations
    completeness: Completeness
    gate: TrustGate | None


class Daemon:
    """One running server. An async context manager; start and stop are for the same task.

    Raises ConfigError, cas.errors.StoreUnavailable and executor.errors.SandboxUnavailable (the last
    only where the risk of running without was accepted, and even that fails) at start, with nothing
    left open.
    """

    def __init__(
        self, config: Config, clock: Clock | None = None, *, gpus: Discovery | None = None
    ) -> None:
        """`gpus` takes the place of the GPU driver in tests."""
        check(config)
        self._discovery = gpus
        self._config = config
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._health: HealthService | None = None
        self._scheduler: Scheduler | None = None
        self._is_draining = False
        self._tiers: Tiers | None = None
        self._remote_stats: Callable[[], RemoteStats] | None = None
        self._upkeep: Upkeep | None = None
        self._repair: Repair | None = None
        self._quotas: Quotas | None = None
        self._archive: Archive | None = None
        self._gpus: GpuLeases | None = None
        self._network: WitnessNetwork | None = None
        self._office: Office | None = None
        self._auditor: Auditor | None = None
        self._witnessed: Witnessed | None = None
        self._cosigner: Cosigner | None = None
        self._credentials = Credentials()
        self._addresses = Addresses(())
        self._execution = Execution(enabled=False, sandboxed=False, reason="not started")

    @property
    def addresses(self) -> Addresses:
        """Where it listens, once started."""
        return self._addresses

    @property
    def execution(self) -> Execution:
        """What it does with actions, once started."""
        return self._execution

    def remote_stats(self) -> RemoteStats | None:
        """How the bucket fares, if there is one, once started."""
        return None if self._remote_stats is None else self._remote_stats()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts everything, or nothing."""
        async with AsyncExitStack() as stack:
            await self._build(stack)
            self._stack = stack.pop_all()

    async def drain(self) -> None:
        """Refuses new work and waits for what runs, up to the configured time.

        Executions end first, with all else still served: whoever waited for one fetches its
        outputs next. May be cancelled (then stop cuts short what is left), and is for any task.
        """
        assert self._health is not None
        assert self._scheduler is not None
        assert self._server is not None
        deadline = self._clock.monotonic() + self._config.drain_s
        self._is_draining = True
        self._health.set_serving(serving=False)
        figures = self._scheduler.stats()
        if figures.operations_queued or figures.operations_executing:
            await self._scheduler.drain(self._config.drain_s)
            await asyncio.sleep(min(_FETCH_S, max(0.0, deadline - self._clock.monotonic())))
        await self._server.drain(max(0.0, deadline - self._clock.monotonic()))
        if self._tiers is not None:
            await self._tiers.flush(max(0.0, deadline - self._clock.monotonic()))

    async def stop(self) -> None:
        """Stops everything at once; whoever wants running work to end drains before.

        Calling it again does no harm.
        """
        await self._stack.aclose()

    async def _build(self, stack: AsyncExitStack) -> None:
        config = self._config
        codec = DirectoryCodec()
        here = await self._open_stores(stack)
        store, cache = await self._open_tiers(stack, *here)
        self._archive = await self._open_archive(stack)
        await self._carry_attestations(stack)
        self._network = await self._open_network(stack)
        self._auditor = await self._open_auditor(stack)
        self._office = await self._open_office(stack, store)
        executor = await self._with_gpus(stack, await self._open_executor(stack, store, codec))
        instances = Instances(
            (self._effective(instance) for instance in config.instances), self._quotas
        )
        invocations = Invocations(
            store,
            self._clock.monotonic,
            idle_s=config.invocations.idle_s,
            max_invocations=config.invocations.max_invocations,
        )
        completeness = Completeness(store, limits=config.limits)
        gate = await self._open_gate(stack, store)
        base = _Base(store, cache, instances, invocations, completeness, gate)
        logs = LogStreams(instances, self._clock.monotonic, limits=config.logstream)
        streams = ByteStreamService(
            store, instances, invocations, logs, self._clock.monotonic, options=config.bytestream
        )
        assets = AssetService(
            # What pushes keep is a matter of each daemon's own.
            here[1],
            store,
            store,
            instances,
            invocations,
            clock=self._clock,
            limits=config.limits,
            options=config.asset,
            origin=self._fetcher(store, codec),
            gate=gate,
        )
        await assets.restore()
        methods = [
            *self._cache_methods(base),
            *assets.methods(),
            *streams.methods(),
            *logs.methods(),
            *await self._execution_methods(stack, base, codec, executor, logs),
        ]
        chores = Chores(
            _HOUSEKEEPING_S, [invocations.expire, logs.expire, assets.expire], [streams.expire]
        )
        await stack.enter_async_context(chores)
        await self._listen(stack, base, methods)

    def _effective(self, instance: Instance) -> Instance:
        """The instance with what this host and its store do not have left out."""
        config = self._config
        disk = config.storage is StorageKind.DISK
        store_limit = (config.disk if disk else config.memory).max_blob_bytes or 0
        limits = [limit for limit in (instance.max_blob_size_bytes, store_limit) if limit]
        return replace(
            instance,
            exec_enabled=instance.exec_enabled and self._execution.enabled,
            max_blob_size_bytes=min(limits, default=0),
        )

    async def _open_stores(self, stack: AsyncExitStack) -> tuple[Store, Results]:
        config = self._config
        if config.storage is StorageKind.MEMORY:
            memory = MemoryStore(config.memory, self._clock.monotonic)
            stack.push_async_callback(memory.close)
            cache = MemoryActionCache(config.memory_action_cache)
            stack.push_async_callback(cache.close)
            return memory, cache
        if config.data_dir is None:
            raise ConfigError('data_dir: required with storage = "disk"; name a directory')
        storage = await PackStorage.open(
            config.data_dir / "cas",
            StorageOptions(
                config.disk, config.disk_action_cache, segment_bytes_for(config.disk.max_bytes)
            ),
            Clocks(self._clock.monotonic, self._clock.wall),
        )
        stack.push_async_callback(storage.close)
        self._upkeep = Upkeep(storage, config.upkeep)
        await stack.enter_async_context(Chores(_UPKEEP_S, [], [self._upkeep.run]))
        await self._open_quotas(stack, storage.store, config.data_dir)
        return storage.store, storage.cache

    async def _open_quotas(self, stack: AsyncExitStack, store: PackStore, data_dir: Path) -> None:
        limits = {one.name: one.quota_bytes for one in self._config.instances if one.quota_bytes}
        if not limits:
            return
        path = data_dir / "quotas"
        quotas = await asyncio.to_thread(Quotas, limits, store, store.index.__contains__, path)
        stack.callback(quotas.close)
        store.on_gone = quotas.gone
        await stack.enter_async_context(Chores(_HOUSEKEEPING_S, [], [quotas.tidy]))
        self._quotas = quotas

    async def _open_tiers(
        self, stack: AsyncExitStack, store: Store, cache: Results
    ) -> tuple[Store, Results]:
        """The same, with the bucket behind them if there is one."""
        options, data_dir = self._config.remote, self._config.data_dir
        if not options.s3.bucket:
            return store, cache
        pending, spool = None, Path(tempfile.gettempdir())
        if self._config.storage is StorageKind.DISK and data_dir is not None:
            pending, spool = data_dir / "pending-uploads.sqlite", data_dir / "spool"
            spool.mkdir(exist_ok=True)
        remote = open_remote(options, self._clock, spool=spool)
        here = Here(store, cache)
        tiers = await open_tiers(
            stack, here, remote, options.tiers, pending=pending, clock=self._clock
        )
        self._repair = repair_from(remote.store, store)
        self._tiers = tiers
        self._remote_stats = lambda: RemoteStats(tiers.stats(), remote.bucket.stats)
        return tiers.store, tiers.cache

    async def _open_archive(self, stack: AsyncExitStack) -> Archive | None:
        """The record of fetches and attestations; None where nothing outlives the daemon."""
        config = self._config
        if config.storage is StorageKind.MEMORY or config.data_dir is None:
            return None
        origin = config.record.origin or f"armitage.record/{socket.gethostname()}"
        directory = config.data_dir / "record"
        try:
            return await stack.enter_async_context(open_archive(directory, origin, self._clock))
        except LogError as error:
            raise StoreUnavailable(f"{directory}: {error}") from error

    async def _open_network(self, stack: AsyncExitStack) -> WitnessNetwork | None:
        """What actions with a network use; None where they are refused: no record, no network."""
        options = self._config.witness
        if self._archive is None or not options.enabled:
            return None
        known = await asyncio.to_thread(read_credentials, options.credentials, os.environ)
        self._credentials = known
        revoked = self._config.trust.revoked_logs
        means = open_means(self._archive, options, known, self._clock, revoked=revoked)
        network = WitnessNetwork(self._archive, means, known)
        stack.push_async_callback(network.close)
        await stack.enter_async_context(Chores(_HOUSEKEEPING_S, [], [network.catch_up]))
        return network

    async def _open_office(self, stack: AsyncExitStack, store: Store) -> Office | None:
        """Who judges and attests; None where there is no record to keep it in."""
        auditor = self._auditor
        if auditor is None:
            return None
        archive = auditor.archive
        builders = Builders(self._config.attest, socket.gethostname())
        fetches = SessionFetches(auditor)
        office = open_office(archive, store, builders, self._clock, fetches=fetches)
        try:
            return await stack.enter_async_context(office)
        except (LogError, OSError) as error:
            raise StoreUnavailable(f"{archive.directory}: {error}") from error

    async def _open_auditor(self, stack: AsyncExitStack) -> Auditor | None:
        archive = self._archive
        if archive is None:
            return None
        try:
            auditor = await stack.enter_async_context(open_auditor(archive, self._clock))
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"the index in {archive.directory}: {error}") from error
        await stack.enter_async_context(Meanwhile(auditor.follow))
        await self._open_witnesses(stack, auditor)
        return auditor

    async def _open_gate(self, stack: AsyncExitStack, store: Store) -> TrustGate | None:
        """Who says what of the cache may be served; None where all of it, and nobody need know
        why.
        """
        config, archive, office = self._config, self._archive, self._office
        if office is None and config.trust == TrustOptions():
            return None
        checker = await asyncio.to_thread(shared_checker)
        checkers = await asyncio.to_thread(load_checkers, checker, config.trust.modules)
        module, checks = checker.module_sha256, {name: c.check for name, c in checkers.items()}
        if archive is None or office is None:
            _log.warning("without a record, which data_dir takes, this daemon attests nothing")
            judges = open_trust(config.trust, (), None, checks, module)
            return TrustGate(judges.trust, [], store, self._clock)
        log = archive.log.store.key
        ring, past = office.own.keys, [past.key for past, _ in office.past]
        judges = open_trust(config.trust, ring, log, checks, module, past=past)
        sources: list[Attested] = [
            OwnHoldings(archive, office.ledger, judges.known, office.threads),
            *(
                OwnHoldings(
                    archive, ledger, known_own(ring, ended.key, checks), office.threads, ended
                )
                for ended, ledger in office.past
            ),
        ]
        if config.trust.keys:  # Otherwise nobody else's can count.
            repository = self._repository(archive)
            pulled = PulledHoldings(repository, judges.known, office.threads, self._clock)
            stack.callback(pulled.close)
            sources.append(pulled)
        return TrustGate(judges.trust, sources, store, self._clock)

    async def _carry_attestations(self, stack: AsyncExitStack) -> None:
        """Into git, while the daemon runs and once when nothing more is attested."""
        archive = self._archive
        if archive is not None and self._config.attest.git:
            repository = self._repository(archive)
            exporter = Exporter(archive, repository, self._clock)
            stack.push_async_callback(exporter.carry, _LAST_CARRY_S)
            await stack.enter_async_context(Chores(_HOUSEKEEPING_S, [], [exporter.carry]))

    def _repository(self, archive: Archive) -> GitStore:
        """Where attestations of ours and of others are kept in git; it need not be there."""
        path = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        return GitStore(archive.directory / REPOSITORY, path)

    def _fetcher(self, store: Store, codec: DirectoryCodec) -> AssetFetcher | None:
        """What fetches for clients; None where they may have nothing fetched."""
        options, network, archive = self._config.witness.fetch, self._network, self._archive
        if network is None or archive is None or not options.hosts:
            return None
        return AssetFetcher(
            network, archive, store, codec, credentials=self._credentials, options=options
        )

    async def _open_executor(
        self, stack: AsyncExitStack, store: Store, codec: DirectoryCodec
    ) -> RoutingExecutor | None:
        worker = self._config.worker
        if not worker.enabled:
            self._execution = Execution(
                enabled=False, sandboxed=False, reason="off (worker.enabled = false)"
            )
            return None
        chosen, scratch = self._config.executor, self._scratch(stack)
        programs = (self._config.data_dir or scratch.parent) / chosen.wasm.cache
        options = replace(
            chosen,
            scratch=scratch,
            private=kept_from_actions(self._config),
            wasm=replace(chosen.wasm, cache=programs),
            max_timeout_s=self._config.execute.actions.max_timeout_s,
        )
        raise_open_files()
        executor, self._execution = await open_executors(
            stack,
            Means(store, codec, self._clock.wall, self._network),
            options,
            self._config.microvm,
            accept_unsandboxed=worker.accept_unsandboxed,
        )
        return executor

    async def _with_gpus(
        self, stack: AsyncExitStack, executor: RoutingExecutor | None
    ) -> Executor | None:
        """The same, with a lease around each action that declares `gpu`."""
        if executor is None:
            return None
        self._gpus = await open_gpus(stack, self._config.gpu, self._discovery)
        return LeasingExecutor(
            executor, self._gpus, lambda work: executor.kind_of(work) is SandboxKind.MICROVM
        )

    def _scratch(self, stack: AsyncExitStack) -> Path:
        """Below the data directory where there is one; a relative path is meant from there."""
        config = self._config
        if config.data_dir is None and not config.executor.scratch.is_absolute():
            made = tempfile.TemporaryDirectory(prefix="armitage-", ignore_cleanup_errors=True)
            return Path(stack.enter_context(made)) / config.executor.scratch
        return (config.data_dir or Path()) / config.executor.scratch

    def _cache_methods(self, base: _Base) -> list[Method]:
        limits, chunking = self._config.limits, self._config.chunking
        scheduler = self._config.scheduler
        priorities = (scheduler.priority_min, scheduler.priority_max)
        shared = (base.instances, base.invocations)
        notary = None if self._office is None else self._office.notary
        at_once = _at_once(base, notary)
        return [
            *CapabilitiesService(
                base.instances, limits=limits, chunking=chunking, priorities=priorities
            ).methods(),
            *ContentService(base.store, *shared, limits=limits, at_once=at_once).methods(),
            *ChunkingService(base.store, *shared, limits=limits, options=chunking).methods(),
            *ActionCacheService(
                base.cache,
                base.store,
                *shared,
                base.completeness,
                limits=limits,
                at_once=at_once,
                notary=notary,
                gate=base.gate,
            ).methods(),
            *StorageService(
                base.store,
                *shared,
                (base.store.stats, base.cache.stats),
                disk=self._upkeep,
                repair=self._repair,
                operators=self._config.operators,
            ).methods(),
        ]

    async def _execution_methods(
        self,
        stack: AsyncExitStack,
        base: _Base,
        codec: DirectoryCodec,
        executor: Executor | None,
        logs: LogStreams,
    ) -> list[Method]:
        config = self._config
        workers = [] if executor is None else [EmbeddedWorker(executor, self._worker_options())]
        scheduler = Scheduler(workers, self._clock, options=config.scheduler, rules=config.platform)
        await scheduler.start()
        stack.push_async_callback(scheduler.stop)
        self._scheduler = scheduler
        execution = ExecutionService(
            scheduler=scheduler,
            store=base.store,
            retention=base.store,
            action_cache=base.cache,
            instances=base.instances,
            invocations=base.invocations,
            completeness=base.completeness,
            codec=codec,
            clock=self._clock,
            new_id=lambda: secrets.token_hex(16),
            options=config.execute,
            limits=config.limits,
            open_streams=LiveOutput(logs).open,
            notary=None if self._office is None else self._office.notary,
            gate=base.gate,
            why_disabled=self._execution.reason,
        )
        operations = OperationsService(scheduler, base.store, limits=config.limits)
        methods = [*execution.methods(), *operations.methods()]
        if self._gpus is not None:
            methods += GpuService(self._gpus, config.operators).methods()
        return methods

    def _worker_options(self) -> WorkerOptions:
        worker = self._config.worker
        return WorkerOptions(
            name=worker.name or socket.gethostname() or "local",
            slots=worker.slots or len(os.sched_getaffinity(0)) + _SPARE_SLOTS,
            properties={**_host_properties(), **worker.properties},
        )

    async def _listen(self, stack: AsyncExitStack, base: _Base, methods: Sequence[Method]) -> None:
        config = self._config
        health = HealthService(services_of(methods))
        served = [*methods, *health.methods()]
        served += ReflectionService(services_of(served)).methods()
        observer = CallObserver(code_of, self._clock.monotonic)
        interceptors: list[Interceptor] = [observer.interceptor]
        tracing = open_tracing(config.traces, version(), code_of)
        if tracing is not None:
            stack.push_async_callback(tracing.close)
            interceptors.append(tracing.interceptor)
        options = replace(config.grpc, plaintext_beyond_loopback=config.accept_insecure_network)
        server = self._transport(wrap(served, interceptors), options)
        self._health, self._server = health, server
        grpc = await server.start()
        stack.push_async_callback(server.drain, 0)
        web = self._web(base, observer)
        self._addresses = Addresses(tuple(grpc), tuple(await web.start()))
        stack.push_async_callback(web.stop)
        await self._note_figures(stack, observer)
        self._note_address(stack)

    def _note_address(self, stack: AsyncExitStack) -> None:
        """Leaves beside the record where it can be asked, for `armitage audit --data-dir`."""
        archive, addresses = self._archive, self._addresses.http
        if archive is None or not addresses:
            return
        note = archive.directory / ADDRESS
        scheme = "http" if self._config.web.tls is None else "https"
        with suppress(OSError):  # Then the address has to be named, with --server.
            note.write_text(f"{scheme}://{addresses[0]}\n")
        stack.callback(note.unlink, missing_ok=True)

    def _transport(self, methods: Sequence[Method], options: GrpcOptions) -> Server:
        match self._config.transport:
            case TransportKind.FAST:
                return FastServer(methods, status_of, options)
            case TransportKind.GRPCIO:
                from armitage.transport.grpcio import GrpcioServer  # Large, and often not needed.

                return GrpcioServer(methods, status_of, options)

    def _web(self, base: _Base, observer: CallObserver) -> WebServer:
        config, scheduler = self._config, self._scheduler
        assert scheduler is not None
        registry = open_registry(version())
        registry.register(observer)
        registry.register(FiguresCollector(STORE, base.store.stats))
        registry.register(FiguresCollector(CACHE, base.cache.stats))
        registry.register(FiguresCollector(SCHEDULER, scheduler.stats))
        if self._gpus is not None:
            registry.register(FiguresCollector(GPUS, self._gpus.stats))
        if self._office is not None:
            registry.register(FiguresCollector(NOTARY, self._office.notary.stats))
        if self._archive is not None:
            registry.register(FiguresCollector(RECORD, self._archive.log.stats))
        if self._network is not None:
            registry.register(FiguresCollector(WITNESS, self._network.stats))
        if base.gate is not None:
            registry.register(FiguresCollector(TRUST, base.gate.stats))
        remote = self._remote_stats
        if remote is not None:
            registry.register(FiguresCollector(TIERS, lambda: remote().tiers))
            registry.register(FiguresCollector(WIRE, lambda: remote().wire))
        if isinstance(self._server, FastServer):
            registry.register(FiguresCollector(TRANSPORT, self._server.figures))
        started = self._clock.monotonic()

        def status() -> Mapping[str, object]:
            return {
                "version": version(),
                "uptime_s": round(self._clock.monotonic() - started, 1),
                "addresses": self._addresses,
                "instances": [instance.name for instance in base.instances],
                "execution": self._execution,
                "storage": config.storage.value,
                "transport": config.transport.value,
                "data_dir": "" if config.data_dir is None else str(config.data_dir),
                "live_invocations": len(base.invocations),
                "cas": base.store.stats(),
                "action_cache": base.cache.stats(),
                "remote": self.remote_stats(),
                "scheduler": scheduler.stats(),
                "gpus": None if self._gpus is None else self._gpus.stats(),
            }

        async def drains() -> str | None:
            return "the daemon is shutting down" if self._is_draining else None

        return WebServer(
            replace(config.web, plaintext_beyond_loopback=config.accept_insecure_network),
            registry,
            status,
            [drains, lambda: store_refuses_writes(base.store)],
            self._web_parts(base),
        )

    async def _note_figures(self, stack: AsyncExitStack, observer: CallObserver) -> None:
        if self._auditor is not None:
            figures = CacheFigures(self._auditor, lambda: cache_lookups(observer))
            await stack.enter_async_context(Chores(_HOUSEKEEPING_S, [], [figures.note]))

    async def _open_witnesses(self, stack: AsyncExitStack, auditor: Auditor) -> None:
        """Those who cosign the record's log, and those whose logs this daemon cosigns."""
        options, archive = self._config.record, auditor.archive
        http = await stack.enter_async_context(aiohttp.ClientSession())
        witnessed = await asyncio.to_thread(open_witnessed, archive, options, http)
        auditor.witnesses = witnessed.standing
        self._witnessed = witnessed
        if options.witnesses:
            asking = Chores(options.cosign_s, [], [partial(ask_witnesses, witnessed)])
            await stack.enter_async_context(asking)
        directory = archive.directory.parent / "cosigner"
        cosigner = await asyncio.to_thread(open_cosigner, directory, options, self._clock)
        if cosigner is not None:
            stack.callback(cosigner.close)
            self._cosigner = cosigner

    def _own_entries(self, log: LogKey) -> list[EntryAudit]:
        """What knows the attestations in one log of the record."""
        office, archive = self._office, self._archive
        assert office is not None
        assert archive is not None
        checkers = {office.judge.module_sha256: office.judge.check}
        known = known_own(office.own.keys, log, checkers)
        return [AttestationEntries(ArchiveSource(archive).get, known)]

    def _web_parts(self, base: _Base) -> list[Part]:
        auditor = self._auditor
        if auditor is None or self._witnessed is None:
            return []
        auditors, log = Auditors(self._config.auditors), auditor.archive.log.store
        public = self._config.record.public
        inputs = inputs_of(base.store, DirectoryCodec())
        verifier = Verifier(auditor.archive, self._own_entries, self._clock)
        parts: list[Part] = [
            AuditApi(auditor, auditors, verifier, inputs),
            AuditPages(auditor, auditors, verifier, inputs),
            LogTiles(log, self._witnessed.checkpoint, auditors, public=public),
            *past_tiles(auditor.archive.past.logs, auditors, public=public),
        ]
        if self._cosigner is not None:
            parts.append(WitnessApi(self._cosigner))
        if self._office is not None and base.gate is not None:
            archive = auditor.archive
            explainer = Explainer(self._office, archive, base.cache, base.instances, base.gate)
            parts.append(ExplainApi(explainer, auditors))
        return parts


def _at_once(base: _Base, notary: Notary | None) -> AtOnce | None:
    """For stores and caches that know something without an await."""
    if not isinstance(base.store, Glimpse) or not isinstance(base.cache, Recall):
        return None
    return AtOnce(
        base.store,
        base.cache,
        base.instances,
        base.invocations,
        base.completeness,
        gate=base.gate,
        is_under_way=None if notary is None else notary.is_under_way,
    )


def _host_properties() -> Mapping[str, tuple[str, ...]]:
    machine = platform.machine()
    return {
        "OSFamily": (platform.system().lower(),),
        "ISA": (_ISAS.get(machine, machine),),
    }
