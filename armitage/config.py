"""The daemon's configuration: one TOML file, laid under the command line's flags, as frozen
dataclasses.

Every section is the options class of what it configures, so a setting is declared once, beside the
code that obeys it. docs/armitage.example.toml shows them all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from armitage import settings
from armitage.attest.keyring import AttestOptions
from armitage.errors import ConfigError
from armitage.observability.logs import LogOptions
from armitage.observability.traces import TraceOptions
from armitage.reapi.asset import AssetOptions
from armitage.reapi.bytestream import ByteStreamOptions
from armitage.reapi.chunking import ChunkingOptions
from armitage.reapi.execution import ExecutionOptions
from armitage.reapi.instances import Instance
from armitage.reapi.limits import Limits
from armitage.reapi.logstream import LogLimits
from armitage.reapi.operators import LOOPBACK
from armitage.remote import RemoteOptions, check_remote
from armitage.scheduler.core import CoreOptions
from armitage.scheduler.platforms import PlatformRules
from armitage.transport.addresses import is_loopback
from armitage.transport.options import GrpcOptions
from armitage.transport.tls import TlsFiles
from armitage.trust.options import TrustOptions
from armitage.web.server import WebOptions
from armitage.witness.archive import RecordOptions
from armitage.witness.options import WitnessOptions
from cas.memory import MemoryCacheOptions, MemoryOptions
from cas.pack_action_cache import CacheOptions
from cas.pack_store import PackOptions
from cas.upkeep import UpkeepOptions
from executor.isospin.leasing import GpuOptions
from executor.microvm.machine import MicrovmOptions
from executor.options import ExecutorOptions


class StorageKind(StrEnum):
    """Where blobs and action results are kept."""

    DISK = "disk"
    MEMORY = "memory"


class TransportKind(StrEnum):
    """What carries gRPC."""

    FAST = "fast"
    """Our own HTTP/2."""
    GRPCIO = "grpcio"
    """gRPC's own library."""


@dataclass(frozen=True, slots=True)
class InvocationOptions:
    """How long what a build (RequestMetadata) refers to is kept for its sake, beyond any lease."""

    idle_s: float = 1800.0
    """A build that is silent for so long counts as over."""
    max_invocations: int = 4096
    """Builds remembered at once; one more ends the one that has been silent longest."""

    def __post_init__(self) -> None:
        if self.max_invocations < 1:
            raise ValueError("max_invocations must be at least 1")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The worker inside the daemon."""

    enabled: bool = True
    """Whether to execute at all; otherwise this is a cache."""
    accept_unsandboxed: bool = False
    """Where this host cannot sandbox, run actions with all rights of this user all the same."""
    name: str = ""
    """Shown in every result; empty: the host's name."""
    slots: int = 0
    """Actions at once; 0: two more than there are CPUs."""
    properties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the worker offers (REAPI `Platform`), beside and before what the host says of itself:
    OSFamily and ISA.
    """

    def __post_init__(self) -> None:
        if self.slots < 0:
            raise ValueError("slots must be at least 1, or 0 for two more than there are CPUs")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the daemon."""

    data_dir: Path | None = None
    """Where everything that outlives the daemon is kept; `armitage serve` has a default."""
    storage: StorageKind = StorageKind.DISK
    transport: TransportKind = TransportKind.FAST
    accept_insecure_network: bool = False
    """Listen beyond loopback without TLS and client certificates: whoever reaches the port can
    read, forge and execute everything.
    """
    operators: tuple[str, ...] = (LOOPBACK,)
    """Who may list what is stored, scrub and collect: subjects of client certificates, as in the
    log's `identity`, and `loopback` for every program of this host.
    """
    auditors: tuple[str, ...] = (LOOPBACK,)
    """Who may read the record of fetches and attestations on the HTTP port: as for `operators`."""
    drain_s: float = 30.0
    """How long running calls may take to end after SIGTERM."""
    instances: tuple[Instance, ...] = (Instance(),)
    grpc: GrpcOptions = field(default_factory=GrpcOptions)
    web: WebOptions = field(default_factory=WebOptions)
    limits: Limits = field(default_factory=Limits)
    invocations: InvocationOptions = field(default_factory=InvocationOptions)
    disk: PackOptions = field(default_factory=PackOptions)
    disk_action_cache: CacheOptions = field(default_factory=CacheOptions)
    upkeep: UpkeepOptions = field(default_factory=UpkeepOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    memory_action_cache: MemoryCacheOptions = field(default_factory=MemoryCacheOptions)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    bytestream: ByteStreamOptions = field(default_factory=ByteStreamOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    logstream: LogLimits = field(default_factory=LogLimits)
    asset: AssetOptions = field(default_factory=AssetOptions)
    execute: ExecutionOptions = field(default_factory=ExecutionOptions)
    scheduler: CoreOptions = field(default_factory=CoreOptions)
    platform: PlatformRules = field(default_factory=PlatformRules)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    gpu: GpuOptions = field(default_factory=GpuOptions)
    microvm: MicrovmOptions = field(default_factory=MicrovmOptions)
    record: RecordOptions = field(default_factory=RecordOptions)
    attest: AttestOptions = field(default_factory=AttestOptions)
    trust: TrustOptions = field(default_factory=TrustOptions)
    witness: WitnessOptions = field(default_factory=WitnessOptions)
    log: LogOptions = field(default_factory=LogOptions)
    traces: TraceOptions = field(default_factory=TraceOptions)


def kept_from_actions(config: Config) -> tuple[Path, ...]:
    """Answers the daemon's data and the files of secrets: what no action is ever shown, whatever
    directory of the host it is given.
    """
    keys = [tls.key for tls in (config.grpc.tls, config.web.tls) if tls is not None]
    secrets = [one.file for one in config.witness.credentials.values() if one.file is not None]
    data = [] if config.data_dir is None else [config.data_dir]
    return (*data, *keys, *secrets)


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a file (None: all defaults), lays flags over it, and checks the whole.

    Raises ConfigError.
    """
    table = settings.merge({} if path is None else _read(path), overrides or {})
    config = settings.build(Config, table)
    check(config)
    return config


def check(config: Config) -> None:
    """Checks what no section can check alone. Raises ConfigError."""
    if not config.instances:
        raise ConfigError('instances: none is left; write at least one (its name may be "")')
    names = [instance.name for instance in config.instances]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"instances: {name!r} is there twice; keep one")
    if config.storage is StorageKind.MEMORY and any(one.quota_bytes for one in config.instances):
        raise ConfigError(
            'instances: quota_bytes needs storage = "disk"; leave it out, or store on disk'
        )
    for name in config.witness.fetch.credentials:
        if name not in config.witness.credentials:
            raise ConfigError(
                f"witness.fetch.credentials: {name!r} is not under witness.credentials; add it"
            )
    _check_reach(config)
    check_remote(
        config.remote,
        keeps_nothing=config.storage is StorageKind.MEMORY,
        accept_insecure_network=config.accept_insecure_network,
    )


def _check_reach(config: Config) -> None:
    """Beyond loopback, everybody must be encrypted and known, or the risk explicitly accepted."""
    if config.accept_insecure_network:
        return
    listeners: tuple[tuple[str, tuple[str, ...], TlsFiles | None], ...] = (
        ("grpc", config.grpc.addresses, config.grpc.tls),
        ("web", config.web.addresses, config.web.tls),
    )
    for section, addresses, tls in listeners:
        for address in addresses:
            if is_loopback(address) or (tls is not None and tls.client_authority is not None):
                continue
            lacking = "TLS" if tls is None else "client certificates"
            raise ConfigError(
                f"{section}.addresses: {address} reaches beyond this host without {lacking}; set"
                f" {section}.tls with certificate, key and client_authority, listen on 127.0.0.1,"
                " or accept the risk with accept_insecure_network = true"
                " (--accept-insecure-network)"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
