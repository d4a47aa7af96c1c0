"""Our own daemon, listening on a real socket, under the conformance suite (docs/conformance.md).

All selected cases of all transports run together, since many of them wait more than they work; each
test then looks at the result of its own.
"""

import asyncio
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.conformance import INSTANCE, DaemonControl, conformance_daemon
from support.executing import sandbox_missing
from support.transports import Transport

from armitage.conformance import CASES, Case, Outcome, Result, run
from armitage.conformance.model import Need

CONCURRENCY = 6
PARAMETER = "case"
MISSING_SANDBOX = sandbox_missing()


Results = Mapping[tuple[Transport, int], Result]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    selected: dict[Transport, set[int]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            chosen: Mapping[str, Any] = item.callspec.params
            selected.setdefault(chosen["transport"], set()).add(chosen[PARAMETER].number)

    async def all_of_them() -> list[Results]:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(_run(transport, numbers, tmp_path_factory.mktemp("conformance")))
                for transport, numbers in selected.items()
            ]
        return [each.result() for each in running]

    return dict(ChainMap(*map(dict, asyncio.run(all_of_them()))))


async def _run(transport: Transport, numbers: set[int], directory: Path) -> Results:
    starting = conformance_daemon(directory / "shared", flags=transport.flags)
    daemon = await asyncio.to_thread(starting.__enter__)
    try:
        control = DaemonControl(daemon, directory / "shared", INSTANCE, transport.flags)
        found = await run(
            daemon.target, INSTANCE, numbers, control=control, concurrency=CONCURRENCY
        )
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)
    return {(transport, result.case.number): result for result in found}


@pytest.mark.slow
@pytest.mark.timeout(300)  # The first of them waits for all.
@pytest.mark.parametrize(PARAMETER, CASES, ids=[case.name for case in CASES])
def test_case(case: Case, transport: Transport, results: Results) -> None:
    if MISSING_SANDBOX and {Need.EXECUTION, Need.SHELL} & set(case.needs):
        pytest.skip(MISSING_SANDBOX)

    result = results[transport, case.number]

    assert result.outcome == Outcome.PASS, result.seen
