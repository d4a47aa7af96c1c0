"""How actions run that are WebAssembly programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest


@dataclass(frozen=True, slots=True)
class WasmOptions:
    """How actions run that are WebAssembly programs (`sandbox:wasm`)."""

    enabled: bool = True
    deterministic: bool = True
    """Whether programs find the same clocks and random numbers in every run."""
    toolchains: Mapping[str, str] = field(default_factory=dict)
    """Programs that actions may name as arguments[0] without having them in their inputs: a file of
    this host, by its absolute path, or a blob of the store, by `HASH/SIZE` (of SHA-256).
    """
    memory_bytes: int = 4 << 30
    """The most that a program's memory may grow to."""
    fuel_per_s: int = 10_000_000_000
    """Instructions that a program may execute for each second of its timeout, whatever the host's
    speed. The default is more than a processor manages, and only backs the timeout.
    """
    idle_workers: int = 8
    """Processes that wait for the next program; more are started when more run at once."""
    cache: Path = Path("wasm-programs")
    """Directory for compiled programs, and the key that says they are ours."""
    cache_bytes: int = 1 << 30
    """Compiled programs that are kept; the least recently used goes first."""
    compile_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if self.fuel_per_s < 1:
            raise ValueError("fuel_per_s must be at least 1: without fuel no program runs")
        if self.idle_workers < 0:
            raise ValueError("idle_workers must be at least 0")
        for name, where in self.toolchains.items():
            if not name or "/" in name:
                raise ValueError(f"toolchains: {name!r} cannot name a program: leave out slashes")
            if not where.startswith("/") and blob_of(where) is None:
                raise ValueError(
                    f"toolchains: {name} is {where!r}; write an absolute path, or HASH/SIZE of a"
                    " blob in the store"
                )


def blob_of(where: str) -> Digest | None:
    """Answers the blob that a toolchain is; None where it is a file."""
    hash_, _, size = where.partition("/")
    try:
        return Digest(DigestFunction.SHA256, hash_, int(size))
    except (InvalidDigest, ValueError):
        return None
