"""Platform matching: which worker may run which action (REAPI `Platform`, `platform.md`)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

Platform = frozenset[tuple[str, str]]
"""What an action asks of its worker, as (name, value) pairs without order."""

Properties = Mapping[str, Collection[str]]
"""What a worker offers: all values of each property that it has."""

_SHOWN_CHARS = 500

IGNORED = frozenset({"persistentWorkerKey"})
"""Properties that promise speed, not meaning: an action runs the same without them."""


EXECUTOR_OBEYS = frozenset(
    {
        "chroot-input-root",
        "coeffects",
        "gpu-arch",
        "gpu-driver",
        "gpu-tensorrt",
        "network-mode",
        "network-pins",
        "rootfs",
        "unixGID",
        "unixUID",
    }
)
"""Properties that say how to run an action, which every executor obeys or refuses by itself; they
choose no worker.
"""


@dataclass(frozen=True, slots=True)
class PlatformRules:
    """How the properties of an action are held against those of a worker.

    Each pair that an action asks for must be among the worker's values of that name. Asking twice
    for one name asks for both, which suits multi-valued names (`ISA`) and cannot be had of
    single-valued ones (`OSFamily`).
    """

    ignore: frozenset[str] = IGNORED
    """Names that never matter."""
    strict: bool = True
    """Whether a name that the worker does not know rules the worker out (REAPI `Platform`: SHOULD).

    Otherwise such names are ignored, and the client cannot tell that its wish was not heard.
    """

    def platform(self, pairs: Iterable[tuple[str, str]]) -> Platform:
        """Drops what chooses no worker, so that equal needs share a queue and an execution."""
        dropped = self.ignore | EXECUTOR_OBEYS
        return frozenset(pair for pair in pairs if pair[0] not in dropped)

    def matches(self, platform: Platform, offer: Properties) -> bool:
        """Tells whether a worker with this offer may run an action of this platform."""
        for name, value in platform:
            values = offer.get(name)
            if values is None:
                if self.strict:
                    return False
            elif value not in values:
                return False
        return True

    def unmet(self, platform: Platform, offers: Collection[Properties]) -> str:
        """Says what of a platform no worker has, of workers of which none matches it."""
        found = []
        for name, value in sorted(platform):
            values = {one for offer in offers for one in offer.get(name, ())}
            if values and value not in values:
                found.append(f"{name} is {', '.join(sorted(values))} here")
            elif not values and self.strict:
                known = {*EXECUTOR_OBEYS, *self.ignore, *(one for offer in offers for one in offer)}
                close = difflib.get_close_matches(name[:100], known, n=1)
                meant = f" (did you mean {close[0]}?)" if close else ""
                found.append(f"no worker has a property {name}{meant}")
        return _cut("; ".join(found)) or "no worker has all of it"


def describe(platform: Platform) -> str:
    """Shows a platform in one line, cut where it is long."""
    return _cut(
        ", ".join(f"{name}={value}" for name, value in sorted(platform)) or "(no properties)"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
