"""Carries new attestations from the log into the git repository, many in one commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from armitage.attest.archived import bundle_for
from armitage.attest.bundle import Bundle
from armitage.attest.canonical import canonical, number_at, parse_canonical, text_at
from armitage.attest.entries import Kind, parse_entry
from armitage.attest.errors import AttestationError, MalformedAttestation
from armitage.attest.git import GitStore
from armitage.attest.sshsig import open_ssh_key
from armitage.clock import Clock
from armitage.errors import ConfigError
from armitage.log.errors import LogError
from armitage.private_file import replace_file
from armitage.witness.archive import Archive
from cas.errors import CasError

_log = logging.getLogger(__name__)

KEY: Final = "git.key"
REPOSITORY: Final = "git"
"""Both in the record's directory."""
_POSITION: Final = "git.exported"
_BATCH: Final = 256


class Exporter:
    """Remembers up to where the log is carried over; what is carried twice changes nothing."""

    def __init__(self, archive: Archive, store: GitStore, clock: Clock) -> None:
        """The key for commits, in the archive's directory, is made with the first of them."""
        self._archive = archive
        self._store = store
        self._key = archive.directory / KEY
        self._position = archive.directory / _POSITION
        self._clock = clock

    async def carry(self) -> None:
        """The same as a chore: what goes wrong is logged, and tried again the next time."""
        try:
            await self.run()
        except (AttestationError, ConfigError, LogError, CasError, OSError) as error:
            _log.warning("attestations are not carried into git: %s", error)

    async def run(self) -> int:
        """Carries over what is new, and answers how many attestations that is. Cancelled, some of
        it may be. Raises GitFailed, LogError, BlobNotFound, OSError.
        """
        log, done = self._archive.log.store, 0
        first = await asyncio.to_thread(self._read)
        while first < log.checkpoint.size:
            end = min(first + _BATCH, log.checkpoint.size)
            done += await self._carry(first, end)
            await asyncio.to_thread(self._write, end)
            first = end
        return done

    async def _carry(self, first: int, end: int) -> int:
        by_instance: dict[str, list[Bundle]] = {}
        entries = await asyncio.to_thread(self._archive.log.store.entries, first, end)
        for index, data in enumerate(entries, first):
            try:
                entry = parse_entry(data)
            except MalformedAttestation:
                continue  # A session's, which stays here.
            if entry.kind is Kind.ATTESTATION:
                bundle = await bundle_for(self._archive, index, data)
                by_instance.setdefault(entry.instance, []).append(bundle)
                await asyncio.sleep(0)  # None of it waits, and the daemon has others to serve.
        for instance, bundles in by_instance.items():
            await asyncio.to_thread(self._add, instance, bundles)
        return sum(map(len, by_instance.values()))

    def _add(self, instance: str, bundles: Sequence[Bundle]) -> None:
        self._store.make()
        self._store.add(instance, bundles, open_ssh_key(self._key), self._clock.wall())

    def _read(self) -> int:
        try:
            found = parse_canonical(self._position.read_bytes())
            if text_at(found, "log") == str(self._archive.log.store.key):
                return number_at(found, "size")
        except (FileNotFoundError, AttestationError):
            pass
        return 0

    def _write(self, size: int) -> None:
        told = {"log": str(self._archive.log.store.key), "size": size}
        replace_file(self._position, canonical(told))
