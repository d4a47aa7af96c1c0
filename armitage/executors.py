"""The executors of this host, opened for the worker inside the daemon: what it has, what it lacks.

The default runs actions that accept any sandbox: the namespaces, or nothing at all where that risk
was accepted. Without a default nothing is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from armitage.chores import Chores
from cas.store import BlobStore
from executor.coeffects import SandboxKind
from executor.errors import SandboxUnavailable
from executor.local import LocalExecutor
from executor.microvm.executor import MicrovmExecutor
from executor.microvm.machine import MicrovmOptions
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.ports import Network, TreeCodec
from executor.routing import Route, RoutingExecutor
from executor.space import Space
from executor.unsandboxed import UnsandboxedExecutor
from executor.wasm.executor import WasmExecutor

_log = logging.getLogger(__name__)

_TIDY_S = 30.0


@dataclass(frozen=True, slots=True)
class Execution:
    """Whether actions are executed, and how; `reason` says it in one line."""

    enabled: bool
    sandboxed: bool
    reason: str
    kinds: tuple[str, ...] = ()
    """Sandboxes that actions may ask for by name (`sandbox:KIND`), the preferred first."""


@dataclass(frozen=True, slots=True)
class Means:
    """What executors work with."""

    store: BlobStore
    codec: TreeCodec
    wall: Callable[[], float]
    """Answers seconds since the epoch."""
    network: Network | None = None
    """What gives actions a network that declare one; None where they are refused."""
    space: Space = field(default_factory=Space)
    """What the actions of all executors take of the disk."""


@dataclass(frozen=True, slots=True)
class _Default:
    """Runs what accepts any sandbox."""

    executor: LocalExecutor
    routes: tuple[Route, ...] = ()
    lacking: str = ""
    """Why there is no namespace sandbox."""


async def open_executors(
    stack: AsyncExitStack,
    means: Means,
    options: ExecutorOptions,
    machine: MicrovmOptions,
    *,
    accept_unsandboxed: bool,
) -> tuple[RoutingExecutor | None, Execution]:
    """Opens all that this host can do; None where actions are not executed, and why.

    Blocks for as long as trials take. Raises SandboxUnavailable where the risk of running without a
    sandbox was accepted and even that fails.
    """
    try:
        default = _open_default(means, options, accept_unsandboxed=accept_unsandboxed)
    except SandboxUnavailable as error:
        if accept_unsandboxed:
            raise
        _log.warning("actions are not executed: %s", error)
        return None, Execution(enabled=False, sandboxed=False, reason=f"off: {error}")
    stack.push_async_callback(default.executor.close)
    if isinstance(default.executor, NamespaceExecutor):
        await stack.enter_async_context(Chores(_TIDY_S, [], [default.executor.tidy]))
    if shortage := default.executor.shortage():
        _log.warning(
            "actions that take longer than a moment will be killed: %s", shortage.complaint
        )
    lacking = {SandboxKind.NAMESPACE: default.lacking} if default.lacking else {}
    # First, as the cheapest, for actions that accept several kinds.
    routes = [*_open_wasm(stack, means, options, lacking), *default.routes]
    routes += _open_microvm(stack, means, options, machine, lacking)
    routing = RoutingExecutor(routes, default.executor, lacking)
    return routing, _describe(default, routing)


def _open_default(means: Means, options: ExecutorOptions, *, accept_unsandboxed: bool) -> _Default:
    parts = (means.store, means.codec, options, means.wall)
    try:
        namespace = NamespaceExecutor(*parts, network=means.network, space=means.space)
        if namespace.fallback:
            _log.warning("bubblewrap makes sandboxes: %s", namespace.fallback)
        elif namespace.no_overlay:
            _log.info("every input tree is copied: %s", namespace.no_overlay)
        return _Default(namespace, (Route(SandboxKind.NAMESPACE, namespace),))
    except SandboxUnavailable as error:
        if not accept_unsandboxed:
            raise
        _log.warning("actions run WITHOUT a sandbox, as accepted: %s", error)
        return _Default(UnsandboxedExecutor(*parts, space=means.space), lacking=str(error))


def _open_wasm(
    stack: AsyncExitStack, means: Means, options: ExecutorOptions, lacking: dict[SandboxKind, str]
) -> list[Route]:
    if not options.wasm.enabled:
        lacking[SandboxKind.WASM] = "executor.wasm.enabled = false"
        return []
    # Scratch space is for one executor alone.
    own = options.scratch.with_name(f"{options.scratch.name}-wasm")
    try:
        parts = (means.store, means.codec, replace(options, scratch=own), means.wall)
        wasm = WasmExecutor(*parts, space=means.space)
    except SandboxUnavailable as error:
        lacking[SandboxKind.WASM] = str(error)
        _log.warning("actions cannot run as WebAssembly: %s", error)
        return []
    stack.push_async_callback(wasm.close)
    return [Route(SandboxKind.WASM, wasm, wasm.suits)]


def _open_microvm(
    stack: AsyncExitStack,
    means: Means,
    options: ExecutorOptions,
    machine: MicrovmOptions,
    lacking: dict[SandboxKind, str],
) -> list[Route]:
    if not machine.enabled:
        lacking[SandboxKind.MICROVM] = "microvm.enabled = false"
        return []
    own = replace(options, scratch=options.scratch.with_name(f"{options.scratch.name}-microvm"))
    try:
        microvm = MicrovmExecutor(
            *(means.store, means.codec, own, means.wall),
            machine,
            network=means.network,
            space=means.space,
        )
    except SandboxUnavailable as error:
        lacking[SandboxKind.MICROVM] = str(error)
        return []
    stack.push_async_callback(microvm.close)
    return [Route(SandboxKind.MICROVM, microvm, microvm.suits)]


def _describe(default: _Default, routing: RoutingExecutor) -> Execution:
    sandbox = default.executor.sandbox()
    limits = sandbox.get("limits", "")
    kinds = tuple(kind.value for kind in routing.kinds)
    how = Execution(enabled=True, sandboxed=bool(default.routes), reason="", kinds=kinds)
    offered = f"; kinds of sandbox: {', '.join(kinds)}" if kinds else ""
    if not how.sandboxed:
        return replace(how, reason=f"WITHOUT a sandbox, as accepted; limits: {limits}{offered}")
    launcher = sandbox["launcher"]
    network = _network_of(default.executor)
    return replace(how, reason=f"in a sandbox ({launcher}; {network}; limits: {limits}){offered}")


def _network_of(executor: LocalExecutor) -> str:
    has_one = isinstance(executor, NamespaceExecutor) and executor.offers_network
    return "network by the witness alone" if has_one else "no network"
