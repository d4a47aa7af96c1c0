"""Checkers by the SHA-256 of their modules: attestations name the one that approved, and only that
one can say again what it said.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import wasmtime

from armitage.errors import ConfigError
from armitage.proofs.checker import Checker
from armitage.proofs.instance import fault_of


def load_checkers(own: Checker, others: Iterable[Path]) -> dict[str, Checker]:
    """The package's, and those in files. Raises ConfigError, naming the file."""
    found = {own.module_sha256: own}
    for path in others:
        try:
            checker = Checker(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise ConfigError(f"{path}: is no checker's module: {fault_of(error)}") from None
        found[checker.module_sha256] = checker
    return found
