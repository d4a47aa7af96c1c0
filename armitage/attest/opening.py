"""Opens all that attesting takes, beside the daemon's record."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import quote

from armitage.attest.facts import Builder
from armitage.attest.judge import Judge
from armitage.attest.keyring import AttestOptions, Own, open_own
from armitage.attest.ledger import Ledger
from armitage.attest.notary import Desk, Fetches, Notary, no_fetches
from armitage.attest.service import Attestations
from armitage.clock import Clock
from armitage.log.errors import LogError
from armitage.log.store import LogStore
from armitage.proofs import Checker
from armitage.version import version
from armitage.witness.archive import Archive
from cas.store import BatchStore
from executor.evidence import Evidence

_log = logging.getLogger(__name__)

_LEDGER: Final = "attestations.sqlite"
_PAST_LEDGER: Final = "attestations.{}.sqlite"
"""By the id of the log's key."""
_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Office:
    """What is open."""

    notary: Notary
    ledger: Ledger
    past: tuple[tuple[LogStore, Ledger], ...]
    """The logs that have ended, and what is attested in each."""
    judge: Judge
    own: Own
    threads: Executor


@asynccontextmanager
async def open_office(
    archive: Archive,
    store: BatchStore,
    builders: Builders,
    clock: Clock,
    *,
    fetches: Fetches = no_fetches,
) -> AsyncIterator[Office]:
    """Opens the keys, the checker and the index in the archive's directory. `store` is the daemon's
    own.

    Raises ConfigError (keys that others can read), LogError and OSError.
    """
    directory = archive.directory
    own = await asyncio.to_thread(open_own, directory, builders.options, clock.wall)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="attest") as threads, ExitStack() as stack:
        judge = Judge(await asyncio.to_thread(shared_checker), threads)
        ledger = await asyncio.to_thread(Ledger, directory / _LEDGER, archive.log.store)
        stack.callback(ledger.close)
        past = await asyncio.to_thread(_past_ledgers, archive, stack)
        attestations = Attestations(
            archive.store, archive.log.append_all, own.signer, threads, copies=store
        )
        desk = Desk(judge, attestations, ledger, clock, threads, builders, fetches)
        async with Notary(desk) as notary:
            yield Office(notary, ledger, past, judge, own, threads)


def _past_ledgers(archive: Archive, stack: ExitStack) -> tuple[tuple[LogStore, Ledger], ...]:
    """The indexes of the logs that have ended. One that cannot be read does not count, and keeps
    nobody from the one that goes on.
    """
    found = []
    for log in archive.past.logs:
        path = archive.directory / _PAST_LEDGER.format(log.key.key_id.hex())
        try:
            ledger = Ledger(path, log)
        except (LogError, OSError, sqlite3.Error) as error:
            _log.error("attestations in %s, which has ended, do not count: %s", log.key.name, error)
            continue
        stack.callback(ledger.close)
        found.append((log, ledger))
    return tuple(found)


class Builders:
    """Names who executed. Other kinds of sandbox give other guarantees: each has a name of its
    own.
    """

    def __init__(self, options: AttestOptions, host: str) -> None:
        self.options = options
        self._base = options.builder or f"urn:armitage:builder:{quote(host, safe='')}"
        self._host = f"urn:armitage:host:{quote(host, safe='')}"
        self._version = (("armitage", version()),)

    def __call__(self, used: Evidence) -> Builder:
        """Answers who executed what used this."""
        kind = "none" if used.sandbox is None else used.sandbox.value
        return Builder(f"{self._base}/{kind}", self._host, self._version)


@cache
def shared_checker() -> Checker:
    """Compiled once for all daemons of a process; it never changes."""
    return Checker()
