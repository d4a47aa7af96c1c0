"""Every case there is."""

from __future__ import annotations

from armitage.conformance.cases import (
    action_cache,
    asset,
    batch,
    capabilities,
    chunks,
    execute,
    logstream,
    operations,
    outputs,
    read,
    trees,
    write,
)
from armitage.conformance.model import registered

_MODULES = (
    capabilities,
    batch,
    write,
    read,
    trees,
    chunks,
    action_cache,
    execute,
    outputs,
    operations,
    asset,
    logstream,
)
"""Importing these is what registers their cases."""

CASES = tuple(registered())
"""By number."""
