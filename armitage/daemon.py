"""The daemon: the one place where everything is built and wired together.

Start order: stores, execution, services, then the listeners, so that nobody is answered before all
of it works. A failure on the way takes down what was started, in reverse order. Stop order: tell
health checks, refuse new work, let running work end (both for `drain_s` together), close listeners,
end execution, close stores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from armitage.clock import Clock, SystemClock
from armitage.config import Config, StorageKind, check
from armitage.errors import ConfigError
from armitage.reapi.action_cache import ActionCacheService
from armitage.reapi.capabilities import CapabilitiesService
from armitage.reapi.completeness import Completeness
from armitage.reapi.content import ContentService
from armitage.reapi.gate import status_of
from armitage.reapi.instances import Instances
from armitage.reapi.invocations import Invocations
from armitage.transport.grpcio import GrpcioServer
from armitage.transport.health import HealthService
from armitage.transport.port import Method
from armitage.transport.reflection import ReflectionService, services_of
from cas.action_cache import ActionCache
from cas.disk import DiskStore
from cas.memory import MemoryActionCache, MemoryStore
from cas.store import BlobStore, Retention

_log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 30.0


class _Store(BlobStore, Retention, Protocol):
    """What the daemon needs of a store."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the daemon really listens (port 0 resolved)."""

    grpc: tuple[str, ...]
    http: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Execution:
    """Whether actions are executed, and how; `reason` says it in one line."""

    enabled: bool
    sandboxed: bool
    reason: str


class Daemon:
    """One running server. An async context manager; start and stop are for the same task.

    Raises ConfigError and cas.errors.StoreUnavailable at start, with nothing left open.
    """

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        check(config)
        self._config = config
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._server: GrpcioServer | None = None
        self._health: HealthService | None = None
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

        May be cancelled (then stop cuts short what is left), and is for any task.
        """
        if self._health is not None:
            self._health.set_serving(serving=False)
        if self._server is not None:
            await self._server.drain(self._config.drain_s)

    async def stop(self) -> None:
        """Stops everything at once; whoever wants running work to end drains before.

        Calling it again does no harm.
        """
        await self._stack.aclose()

    async def _build(self, stack: AsyncExitStack) -> None:
        config = self._config
        store, cache = await self._open_stores(stack)
        instances = Instances(
            replace(instance, exec_enabled=instance.exec_enabled and self._execution.enabled)
            for instance in config.instances
        )
        invocations = Invocations(
            store,
            self._clock.monotonic,
            idle_s=config.invocations.idle_s,
            max_invocations=config.invocations.max_invocations,
        )
        completeness = Completeness(store, limits=config.limits)
        methods: list[Method] = [
            *CapabilitiesService(instances, limits=config.limits).methods(),
            *ContentService(store, instances, invocations, limits=config.limits).methods(),
            *ActionCacheService(
                cache, store, instances, invocations, completeness, limits=config.limits
            ).methods(),
        ]
        await stack.enter_async_context(_Periodic(_HOUSEKEEPING_S, [invocations.expire]))
        await self._listen(stack, methods)

    async def _open_stores(self, stack: AsyncExitStack) -> tuple[_Store, ActionCache]:
        config = self._config
        if config.storage is StorageKind.MEMORY:
            memory = MemoryStore(config.memory, self._clock.monotonic)
            stack.push_async_callback(memory.close)
            cache = MemoryActionCache(config.memory_action_cache)
            stack.push_async_callback(cache.close)
            return memory, cache
        if config.data_dir is None:
            raise ConfigError("data_dir: required with storage = disk; name a directory")
        disk = await DiskStore.open(
            config.data_dir / "cas",
            config.disk,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
        )
        stack.push_async_callback(disk.close)
        results = MemoryActionCache(config.memory_action_cache)
        stack.push_async_callback(results.close)
        return disk, results

    async def _listen(self, stack: AsyncExitStack, methods: Sequence[Method]) -> None:
        config = self._config
        health = HealthService(services_of(methods))
        served = [*methods, *health.methods()]
        served += ReflectionService(services_of(served)).methods()
        options = replace(config.grpc, plaintext_beyond_loopback=config.accept_insecure_network)
        server = GrpcioServer(served, status_of, options)
        bound = await server.start()
        stack.push_async_callback(server.drain, 0)
        self._health, self._server = health, server
        self._addresses = Addresses(tuple(bound))


class _Periodic:
    """Calls functions every so often, in a task that ends with the context."""

    def __init__(self, period_s: float, functions: Sequence[Callable[[], None]]) -> None:
        self._period_s = period_s
        self._functions = functions
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._group.__aexit__(None, None, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            for function in self._functions:
                function()
