"""Carries new attestations from the log into the git repository, many in one commit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from armitage.attest.archived import bundle_at
from armitage.attest.bundle import Bundle
from armitage.attest.canonical import canonical, number_at, parse_canonical, text_at
from armitage.attest.entries import Kind, parse_entry
from armitage.attest.errors import AttestationError, MalformedAttestation
from armitage.attest.git import GitStore
from armitage.attest.sshsig import SshSigner
from armitage.clock import Clock
from armitage.private_file import replace_file
from armitage.witness.archive import Archive

_POSITION: Final = "exported"
_BATCH: Final = 256


class Exporter:
    """Remembers up to where the log is carried over; what is carried twice changes nothing."""

    def __init__(
        self, archive: Archive, store: GitStore, signer: SshSigner, directory: Path, clock: Clock
    ) -> None:
        """`directory` is the repository's."""
        self._archive = archive
        self._store = store
        self._signer = signer
        self._position = directory / _POSITION
        self._clock = clock

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
        for index in range(first, end):
            try:
                entry = parse_entry(self._archive.log.store.entry(index))
            except MalformedAttestation:
                continue  # A session's, which stays here.
            if entry.kind is Kind.ATTESTATION:
                bundle = await bundle_at(self._archive, index)
                by_instance.setdefault(entry.instance, []).append(bundle)
        now_s = self._clock.wall()
        for instance, bundles in by_instance.items():
            await asyncio.to_thread(self._store.add, instance, bundles, self._signer, now_s)
        return sum(map(len, by_instance.values()))

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
