"""The `[witness]` section: what may be fetched, with what, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from armitage.witness.credentials import CredentialOptions
from armitage.witness.policy import Rule, normal_host
from armitage.witness.terms import ProxyLimits


@dataclass(frozen=True, slots=True)
class AssetFetchOptions:
    """What clients may have the daemon fetch for them (Remote Asset)."""

    hosts: tuple[str, ...] = ()
    """Names, `*.` and a name for every host with exactly one more label, or `*` for every host;
    empty: nothing is fetched, and only what was pushed is answered.
    """
    credentials: tuple[str, ...] = ()
    """Names of the credentials that are used for them: every client can then fetch what these open.
    """
    max_redirects: int = 10
    unpacked_bytes: int = 16 << 30
    """What one archive may hold, unpacked (FetchDirectory)."""
    unpacked_entries: int = 500_000
    timeout_s: float = 3600.0
    """For a fetch whose client names none, and the longest that one may name."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            if host != "*" and normal_host(host.removeprefix("*.")) is None:
                raise ValueError(f"{host!r} is no host name; write h.example, *.example or *")


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """How actions that declare a network reach it."""

    enabled: bool = True
    """Otherwise no action has any network, whatever it declares."""
    offline: bool = False
    """Ask no origin: everything must be on record already. Flag: --offline."""
    authorities: Path | None = None
    """PEM file of the authorities that origins are checked with; unset: the system's."""
    limits: ProxyLimits = field(default_factory=ProxyLimits)
    rules: tuple[Rule, ...] = ()
    """Read in order; the first that matches decides. Where none does, reading is allowed."""
    credentials: Mapping[str, CredentialOptions] = field(default_factory=dict)
    """By the NAME of `auth:NAME`."""
    fetch: AssetFetchOptions = field(default_factory=AssetFetchOptions)
