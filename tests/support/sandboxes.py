"""A bench over the namespace executor, with our own launcher and with bubblewrap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.executing import (
    Bench,
    Exe,
    JsonCodec,
    Link,
    Tree,
    bubblewrap_missing,
    launcher_missing,
)

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.paths import BUILD_ROOT
from executor.ports import Network

BUSYBOX = Path("/bin/busybox")
LAUNCHERS = (LauncherKind.ARMITAGE, LauncherKind.BUBBLEWRAP)


def options_for(kind: LauncherKind, scratch: Path) -> ExecutorOptions:
    """Options for one launcher; skips the test where it makes no sandbox."""
    missing = launcher_missing() if kind is LauncherKind.ARMITAGE else bubblewrap_missing()
    if missing:
        pytest.skip(missing)
    return ExecutorOptions(scratch=scratch, launcher=kind)


def image(**more: bytes | Exe | Link | Tree) -> Tree:
    """A root filesystem that has a shell and nothing else of use."""
    return {"bin": {"busybox": Exe(BUSYBOX.read_bytes()), "sh": Link("busybox")}, **more}


@asynccontextmanager
async def open_bench(
    options: ExecutorOptions,
    network: Network | None = None,
    kind: type[NamespaceExecutor] = NamespaceExecutor,
) -> AsyncIterator[Bench]:
    """An executor with a store of its own, until the context ends."""
    store = MemoryStore()
    executor = kind(store, JsonCodec(), options, SystemClock().wall, network)
    try:
        yield Bench(executor, store, options.scratch, BUILD_ROOT)
    finally:
        await executor.close()
