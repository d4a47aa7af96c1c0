"""Options of the namespace executor, for each launcher, and a bench over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.executing import Bench
from support.sandboxes import LAUNCHERS, open_bench, options_for

from executor.options import ExecutorOptions, LauncherKind


@pytest.fixture(params=LAUNCHERS, ids=lambda kind: kind.value)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> ExecutorOptions:
    """With our own launcher, and with bubblewrap."""
    return options_for(request.param, tmp_path / "scratch")


@pytest.fixture
def own(tmp_path: Path) -> ExecutorOptions:
    """With our own launcher alone."""
    return options_for(LauncherKind.ARMITAGE, tmp_path / "scratch")


@pytest.fixture
async def bench(options: ExecutorOptions) -> AsyncIterator[Bench]:
    """Whatever makes the sandboxes."""
    async with open_bench(options) as bench:
        yield bench
