"""The attestations of an action, as far as they can be verified."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final, Protocol

from armitage.attest.archived import bundle_at
from armitage.attest.entries import Kind
from armitage.attest.errors import AttestationError
from armitage.attest.ledger import Ledger
from armitage.attest.service import Kept
from armitage.attest.verified import Verified
from armitage.attest.verify import Known, verify_bundle
from armitage.log.errors import LogError
from armitage.log.store import LogStore
from armitage.witness.archive import Archive
from cas.digest import Digest
from cas.errors import CasError

_logger = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 16_384


class Attested(Protocol):
    """Knows attestations."""

    async def of(self, action: Digest) -> Sequence[Verified]:
        """Answers those of an action, verified from the signature to the checkpoint. Raises
        Unavailable.
        """


class OwnHoldings:
    """Those that one of the daemon's logs holds. What was verified once is remembered: neither the
    log nor a record ever changes. For one event loop.
    """

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        known: Known,
        threads: Executor,
        log: LogStore | None = None,
    ) -> None:
        """`ledger` and `known` are of `log`, one of the archive's that has ended; without it, of
        the one that goes on.
        """
        self._log = log or archive.log.store
        self._archive = archive
        self._ledger = ledger
        self._known = known
        self._threads = threads
        self._verified: OrderedDict[int, Verified] = OrderedDict()

    async def of(self, action: Digest) -> Sequence[Verified]:
        """See Attested."""
        loop = asyncio.get_running_loop()
        logged = await loop.run_in_executor(
            self._threads, self._ledger.find, action, Kind.ATTESTATION
        )
        found = [await self._verify(kept) for kept in logged]
        return [each for each in found if each is not None]

    async def _verify(self, kept: Kept) -> Verified | None:
        verified = self._verified.get(kept.index)
        if verified is not None:
            self._verified.move_to_end(kept.index)
            return verified
        loop = asyncio.get_running_loop()
        try:
            bundle = await bundle_at(self._archive, kept.index, self._log)
            verified = await loop.run_in_executor(self._threads, verify_bundle, bundle, self._known)
        except (AttestationError, LogError, CasError) as error:
            _logger.warning(
                "attestation %d of %s does not count: %s", kept.index, self._log.key.name, error
            )
            return None
        self._verified[kept.index] = verified
        if len(self._verified) > _MAX_REMEMBERED:
            self._verified.popitem(last=False)
        return verified
