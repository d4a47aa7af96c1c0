"""Carries new attestations from the log into the git repository, many in one commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from armitage.attest.archived import bundle_for
from armitage.attest.bundle import Bundle
from armitage.attest.canonical import canonical, number_at, parse_canonical
from armitage.attest.entries import Kind, parse_entry
from armitage.attest.errors import AttestationError, MalformedAttestation
from armitage.attest.git import GitStore
from armitage.attest.sshsig import open_ssh_key
from armitage.clock import Clock
from armitage.errors import ConfigError
from armitage.log.errors import LogError
from armitage.log.store import LogStore
from armitage.private_file import replace_file
from armitage.witness.archive import Archive
from cas.errors import CasError
from executor.concurrency import settle

_log = logging.getLogger(__name__)

KEY: Final = "git.key"
REPOSITORY: Final = "git"
"""Both in the record's directory."""
_POSITIONS: Final = "git.exported"
_BATCH: Final = 256


class Exporter:
    """Remembers up to where each log is carried over; what is carried twice is there once."""

    def __init__(self, archive: Archive, store: GitStore, clock: Clock) -> None:
        """The key for commits, in the archive's directory, is made with the first of them."""
        self._archive = archive
        self._store = store
        self._key = archive.directory / KEY
        self._positions = archive.directory / _POSITIONS
        self._clock = clock

    async def carry(self, within_s: float | None = None) -> None:
        """The same as a chore: what goes wrong is logged, and tried again the next time; so is what
        takes longer.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.run()
        except TimeoutError:
            _log.warning("the last attestations are carried into git after the next start")
        except (AttestationError, ConfigError, LogError, CasError, OSError) as error:
            _log.warning("attestations are not carried into git: %s", error)

    async def run(self) -> int:
        """Carries over what is new, and answers how many attestations that is. Cancelled, ends with
        the commits that it is at. Raises GitFailed, LogError, BlobNotFound, OSError.
        """
        positions, done = await asyncio.to_thread(self._read), 0
        # The newest first: one that has ended and is damaged keeps back those before it alone.
        for log in reversed(self._archive.logs):
            first = positions.get(str(log.key), 0)
            while first < log.checkpoint.size:
                end = min(first + _BATCH, log.checkpoint.size)
                bundles = await self._bundles(log, first, end)
                positions[str(log.key)] = first = end
                loop = asyncio.get_running_loop()
                adding = loop.run_in_executor(None, self._add, bundles, positions)
                await settle(adding)  # Whoever comes next would be in its way.
                adding.result()
                done += sum(map(len, bundles.values()))
        return done

    async def _bundles(self, log: LogStore, first: int, end: int) -> dict[str, list[Bundle]]:
        """By instance."""
        found: dict[str, list[Bundle]] = {}
        entries = await asyncio.to_thread(log.entries, first, end)
        for index, data in enumerate(entries, first):
            try:
                entry = parse_entry(data)
            except MalformedAttestation:
                continue  # A session's, which stays here.
            if entry.kind is Kind.ATTESTATION:
                bundle = await bundle_for(self._archive, index, data, log)
                found.setdefault(entry.instance, []).append(bundle)
                await asyncio.sleep(0)  # None of it waits, and the daemon has others to serve.
        return found

    def _add(self, bundles: Mapping[str, Sequence[Bundle]], positions: Mapping[str, int]) -> None:
        for instance, each in bundles.items():
            self._store.make()
            self._store.add(instance, each, open_ssh_key(self._key), self._clock.wall())
        replace_file(self._positions, canonical(positions))

    def _read(self) -> dict[str, int]:
        """By the key of each log."""
        try:
            found = parse_canonical(self._positions.read_bytes())
            return {log: number_at(found, log) for log in found}
        except (FileNotFoundError, AttestationError):
            return {}
