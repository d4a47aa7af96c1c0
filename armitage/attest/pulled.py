"""The attestations of an action that were fetched from others (`armitage attest pull`)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from threading import Lock
from typing import Final

from armitage.attest.bundle import SUFFIX, parse_bundle
from armitage.attest.errors import AttestationError
from armitage.attest.git import MAX_BUNDLE_BYTES, PULLED, GitStore
from armitage.attest.objects import Objects, tree_entries
from armitage.attest.verified import Verified
from armitage.attest.verify import Known, verify_bundle
from armitage.clock import Clock
from cas.digest import Digest

_log = logging.getLogger(__name__)

_REFS_S: Final = 5.0
"""How soon a pull is noticed."""
_MAX_OF_ACTION: Final = 64
_MAX_TREE_BYTES: Final = 1 << 20
_MAX_REMEMBERED: Final = 16_384


class PulledHoldings:
    """Takes whatever a git repository has of an action through every step. What others put there
    is neither believed nor counted on to be well formed. For one event loop.
    """

    def __init__(self, store: GitStore, known: Known, threads: Executor, clock: Clock) -> None:
        self._store = store
        self._objects = Objects(store)
        self._known = known
        self._threads = threads
        self._clock = clock
        self._commits: list[str] = []
        self._looked_s: float | None = None
        self._verified: OrderedDict[str, Verified | None] = OrderedDict()
        """By git's name for the bundle; None for those that do not hold. Guarded by _lock."""
        self._lock = Lock()

    async def of(self, action: Digest) -> Sequence[Verified]:
        """See armitage.attest.holdings.Attested."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._locked, action)
        except (AttestationError, OSError) as error:
            # One attestation less never lets more through, and our own may do.
            _log.warning("attestations of others cannot be read: %s", error)
            return ()

    def close(self) -> None:
        """Ends the process that reads. Blocks, shortly."""
        self._objects.close()

    def _locked(self, action: Digest) -> list[Verified]:
        with self._lock:
            return self._of(action)

    def _of(self, action: Digest) -> list[Verified]:
        now_s = self._clock.monotonic()
        if self._looked_s is None or now_s - self._looked_s > _REFS_S:
            refs = self._store.refs(PULLED) if self._store.exists() else {}
            self._commits, self._looked_s = sorted({*refs.values()}), now_s
        blobs: dict[str, None] = {}
        for commit in self._commits:
            folder = f"{commit}:by-action/{action.hash[:2]}/{action.hash}"
            tree = self._objects.read(folder, _MAX_TREE_BYTES) or b""
            named = [blob for name, blob in tree_entries(tree) if name.endswith(SUFFIX)]
            blobs |= dict.fromkeys(named[:_MAX_OF_ACTION])
        found = [self._verify(blob) for blob in blobs]
        return [each for each in found if each is not None]

    def _verify(self, blob: str) -> Verified | None:
        if blob not in self._verified:
            data = self._objects.read(blob, MAX_BUNDLE_BYTES)
            if data is None:
                return None  # Not remembered: a tree can name what another remote has yet to bring.
            self._verified[blob] = self._verify_anew(blob, data)
            if len(self._verified) > _MAX_REMEMBERED:
                self._verified.popitem(last=False)
        return self._verified[blob]

    def _verify_anew(self, blob: str, data: bytes) -> Verified | None:
        try:
            return verify_bundle(parse_bundle(data), self._known)
        except AttestationError as error:
            _log.warning("attestation %s of others does not count: %s", blob[:12], error)
            return None
