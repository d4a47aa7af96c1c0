"""Settings for all tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from support.s3 import S3Server

# A deadline for one example measures the machine's other load, not the code.
settings.register_profile("armitage", deadline=None)
# `pytest --hypothesis-profile=fuzz FILE`: the same, for longer than anybody waits for.
settings.register_profile("fuzz", deadline=None, max_examples=50_000)
settings.load_profile("armitage")

_REMEDIES = ("apt-get install", "pip install", "run tests/e2e/prepare")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all-installed`, which scripts/test gives once it has set everything up."""
    parser.addoption(
        "--all-installed",
        action="store_true",
        help="fail a test that would skip for want of something that scripts/test installs",
    )
    parser.addoption(
        "--sandboxed",
        action="store_true",
        help="do not begin unless both launchers make sandboxes, without which tests would skip",
    )
    parser.addoption(
        "--transport",
        metavar="NAME",
        help="run every daemon on this one, and the suites that all of them must pass on it alone",
    )
    parser.addoption(
        "--accel",
        choices=("kvm", "tcg"),
        help="run the guests of microVMs on this (tests/nested/host has a KVM that works)",
    )
    parser.addoption(
        "--pure",
        action="store_true",
        help="import the modules that are compiled as Python (in the tests' process alone)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sees that what is tested is what can be read; makes `--transport` that of every daemon,
    and `--accel` that of every guest.
    """
    if config.getoption("--pure"):
        from support import pure

        pure.install()
    else:
        from armitage import compiled
        from armitage.errors import ConfigError

        try:
            compiled.inspect().check()
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from error
    if config.getoption("--sandboxed"):
        from support.executing import bubblewrap_missing, launcher_missing

        if missing := launcher_missing() or bubblewrap_missing():
            raise pytest.UsageError(missing)
    if name := config.getoption("--transport"):
        from support import daemon

        daemon.chosen["transport"] = name
    if name := config.getoption("--accel"):
        from support import microvm

        from executor.microvm.machine import Accel

        microvm.chosen["accel"] = Accel(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that takes a `transport` each of them in turn."""
    if "transport" in metafunc.fixturenames:
        from support.transports import TRANSPORTS

        only = metafunc.config.getoption("--transport")
        chosen = [TRANSPORTS[only]] if only else list(TRANSPORTS.values())
        names = [transport.name for transport in chosen]
        metafunc.parametrize("transport", chosen, ids=names, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Has workers that share the tests begin with the files that are given the most time: begun
    last, one of them would leave the other workers without work.
    """
    if not hasattr(config, "workerinput"):
        return
    given: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        given[item.path] = max(given.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -given[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip whose reason names a remedy into a failure: after set-up it hides a hole."""
    report = yield
    if report.skipped and item.config.getoption("--all-installed"):
        reason: Any = report.longrepr
        text = reason[2] if isinstance(reason, tuple) else str(reason)
        if any(remedy in text for remedy in _REMEDIES):
            report.outcome = "failed"
            report.longrepr = f"set-up should have made this test possible. {text}"
    return report


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests; whoever writes keeps to a prefix of his own."""
    from support.s3 import s3_server

    with s3_server() as server:
        yield server
