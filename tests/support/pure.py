"""Our modules as Python, also where they are compiled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGES = ("armitage", "cas", "executor")


class Sources(MetaPathFinder):
    """Finds a module's source before anything that was compiled of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, _ = fullname.partition(".")
        if top in PACKAGES:
            for folder in path or ():
                source = Path(folder, fullname.rpartition(".")[2] + ".py")
                if source.is_file():
                    return spec_from_file_location(fullname, source)
        return None


def install() -> None:
    """For what this process imports from now on."""
    compiled = ("armitage.canonical", "armitage.transport.")
    early = [name for name in sys.modules if name.startswith(compiled)]
    assert not early, f"imported before the tests chose Python: {early}"
    sys.meta_path.insert(0, Sources())
