"""Which modules run compiled, and whether of the sources that lie beside them (decision 19)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from armitage.errors import ConfigError

REMEDY = "python hatch_modules.py compiles them anew, with ARMITAGE_PURE=1 it leaves them as Python"

_ROOT = Path(__file__).parents[1]
_RECORD = "armitage/compiled.json"
_PACKAGES = ("armitage", "cas", "executor")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was compiled below one directory, for this interpreter."""

    modules: tuple[str, ...]
    """Their sources, relative to it; none when all of Python runs as it is."""
    stale: tuple[str, ...]
    """Files that are not those of the last compilation: what runs is not what can be read."""

    def check(self) -> None:
        """Raises ConfigError for modules compiled of other sources than lie there."""
        if self.stale:
            raise ConfigError(f"compiled of other sources: {', '.join(self.stale)}; {REMEDY}")


def inspect(root: Path = _ROOT) -> Compiled:
    """Compares, by SHA-256, sources with those that were compiled. Reads some files."""
    found = {
        str(path.relative_to(root))
        for package in _PACKAGES
        for path in (root / package).rglob(f"*{EXTENSION_SUFFIXES[0]}")
    }
    if not found:
        return Compiled((), ())
    try:
        record = json.loads((root / _RECORD).read_text())
        modules, sources, made = record["modules"], record["sources"], set(record["made"])
    except (OSError, ValueError, KeyError):
        return Compiled((), tuple(sorted(found)))
    changed = {name for name, digest in sources.items() if _digest(root / name) != digest}
    return Compiled(tuple(modules), tuple(sorted(changed | (found ^ made))))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
