"""What an action declares that it needs of the world: plain values (docs/proofs.md, "Coeffects").

Which evidence a declaration covers is not decided here but by the proven checker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SandboxKind(StrEnum):
    """Where an action may run."""

    WASM = "wasm"
    NAMESPACE = "namespace"
    MICROVM = "microvm"


@dataclass(frozen=True, slots=True)
class NetworkGrant:
    """Connections to a host. None stands for every host, or every port."""

    host: str | None = None
    """In normal form; `*.` and a name is every host with exactly one more label."""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class FilesystemGrant:
    """A directory of the host's and all below it."""

    path: str
    """Absolute and in normal form, not percent-encoded."""
    writable: bool = False


@dataclass(frozen=True, slots=True)
class GpuGrant:
    """Devices held at the same time."""

    count: int = 1
    memory_mib: int = 0
    """At least, of each."""
    sm: int = 0
    """Compute capability at least: 90 is `sm_90`."""


@dataclass(frozen=True, slots=True)
class Coeffects:
    """A declaration. Nothing at all is `pure`."""

    network: tuple[NetworkGrant, ...] = ()
    auth: tuple[str, ...] = ()
    filesystem: tuple[FilesystemGrant, ...] = ()
    gpu: GpuGrant | None = None
    sandboxes: frozenset[SandboxKind] = frozenset()
    """Any of these will do; empty leaves the choice to the daemon."""


PURE = Coeffects()
