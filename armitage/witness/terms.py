"""What sessions have to work with: what an installation's share, and what each may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from armitage.clock import Clock
from armitage.witness.bodies import BodyStore
from armitage.witness.counts import WitnessCounts
from armitage.witness.heads import RawHeaders, Target
from armitage.witness.origins import Origins
from armitage.witness.policy import Grant, Rule
from armitage.witness.recall import Recall
from armitage.witness.redaction import Redaction

Inject = Callable[[Target], tuple[RawHeaders, Sequence[str]]]
"""Answers the headers that are added for a target, and the names of the credentials in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """What one exchange may cost."""

    connect_s: float = 15.0
    """How long looking up a name, and again connecting, may take."""
    idle_s: float = 60.0
    """How long either side may be silent."""
    exchange_s: float = 3600.0
    request_body_bytes: int = 64 << 20
    response_body_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every session of one installation shares."""

    origins: Origins
    store: BodyStore
    clock: Clock
    redaction: Redaction
    rules: Sequence[Rule] = ()
    limits: ProxyLimits = field(default_factory=ProxyLimits)
    recall: Recall | None = None
    """None where nothing that is on record is ever used again."""
    offline: bool = False
    """Whether no origin is ever asked."""
    counts: WitnessCounts = field(default_factory=WitnessCounts)


def no_credentials(_: Target) -> tuple[RawHeaders, Sequence[str]]:
    """Adds nothing."""
    return [], []


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one session may do."""

    grants: Sequence[Grant]
    inject: Inject = no_credentials
    credentials: frozenset[str] = frozenset()
    """Names of those that it was granted."""
    pins: Mapping[str, str] | None = None
    """SHA-256 by URL, where nothing else may be fetched."""
    instance: str = ""
