"""Our own daemon, listening on a real socket, under the conformance suite (docs/conformance.md).

All selected cases run together, once, since many of them wait more than they work; each test then
looks at the result of its own.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.conformance import INSTANCE, DaemonControl, conformance_daemon
from support.executing import sandbox_missing

from armitage.conformance import CASES, Case, Outcome, Result, run
from armitage.conformance.model import Need

CONCURRENCY = 6
PARAMETER = "case"
MISSING_SANDBOX = sandbox_missing()


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[int, Result]]:
    parameters: list[Mapping[str, Any]] = [
        getattr(getattr(item, "callspec", None), "params", {})
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    numbers = {found[PARAMETER].number for found in parameters if PARAMETER in found}
    directory = tmp_path_factory.mktemp("conformance") / "shared"
    with conformance_daemon(directory) as daemon:
        control = DaemonControl(daemon, directory, INSTANCE)
        work = run(daemon.target, INSTANCE, numbers, control=control, concurrency=CONCURRENCY)
        yield {result.case.number: result for result in asyncio.run(work)}


@pytest.mark.slow
@pytest.mark.parametrize(PARAMETER, CASES, ids=[case.name for case in CASES])
def test_case(case: Case, results: Mapping[int, Result]) -> None:
    if MISSING_SANDBOX and {Need.EXECUTION, Need.SHELL} & set(case.needs):
        pytest.skip(MISSING_SANDBOX)

    result = results[case.number]

    assert result.outcome == Outcome.PASS, result.seen
