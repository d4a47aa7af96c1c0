"""`armitage explain`, of what a server answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.command_line import Cli

from armitage.client import record

RUN = {
    "log": "log.example/r",
    "log_index": 1,
    "is_past": False,
    "time": "2026-11-28T17:00:00.000Z",
    "invocation": "one",
    "declared": "pure",
    "used": ["sandbox namespace"],
    "reasons": [],
    "sufficient": "",
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server tells, the newest first."""
    made: list[dict[str, Any]] = []

    class Record:
        async def explain(self, action: str, instance: str) -> Any:
            return {"action": action, "instance": instance, "runs": made, "cached": None}

    @asynccontextmanager
    async def open_record(*_: object) -> AsyncIterator[Record]:
        yield Record()

    monkeypatch.setattr(record, "open_http_record", open_record)
    return made


def test_the_exit_code_is_of_the_instance_that_is_asked_for(
    armitage: Cli, runs: list[dict[str, Any]]
) -> None:
    runs += [
        {**RUN, "index": 2, "log_index": 2, "verdict": "denied", "instance": "other"},
        {**RUN, "index": 1, "verdict": "approved", "instance": "main"},
    ]

    assert armitage("explain", "0" * 64, "--instance", "main").code == 0
    assert armitage("explain", "0" * 64, "--instance", "other").code == 1
    assert armitage("explain", "0" * 64, "--instance", "third").code == 0


def test_a_run_of_another_instance_says_so(armitage: Cli, runs: list[dict[str, Any]]) -> None:
    runs += [{**RUN, "index": 1, "verdict": "approved", "instance": "other"}]

    assert "instance    other" in armitage("explain", "0" * 64).out
    assert "instance " not in armitage("explain", "0" * 64, "--instance", "other").out


def test_a_run_of_another_log_than_the_first_says_so(
    armitage: Cli, runs: list[dict[str, Any]]
) -> None:
    run = {**RUN, "verdict": "approved", "instance": ""}
    runs += [{**run, "index": 4}, {**run, "index": 1, "log": "log.example/old", "is_past": True}]

    shown = armitage("explain", "0" * 64).out

    assert "entry 4     approved" in shown
    assert "log         log.example/r; entry 1 there" in shown
    assert "log         log.example/old, which has ended; entry 1 there" in shown
    runs[:] = [{**run, "index": 1}]
    assert "log  " not in armitage("explain", "0" * 64).out


def test_what_was_refused_is_told(armitage: Cli, runs: list[dict[str, Any]]) -> None:
    refused = ["https://x.example/ (undeclared)", "https://y.example/ (undeclared)"]
    runs += [{**RUN, "index": 1, "verdict": "approved", "instance": "", "refused": refused}]

    told = armitage("explain", "0" * 64)

    assert told.code == 0
    assert "refused     https://x.example/ (undeclared)" in told.out
    assert "\n            https://y.example/ (undeclared)" in told.out
