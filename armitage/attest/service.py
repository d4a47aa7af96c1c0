"""Makes attestations durable, in this order:

1. the documents that the statements name (declaration, evidence, list of outputs), and the record,
   which is the signed envelopes;
2. the log's entry that names the record, under a checkpoint.

The first is durable before the second begins, so whatever a crash interrupts, what the log names is
there; a record that no entry names is no attestation. Only when `attest` has answered may a result
be kept or shared. Many callers at once share the store's and the log's syncs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from armitage.attest import entries
from armitage.attest.dsse import sign
from armitage.attest.entries import Entry, Kind
from armitage.attest.errors import BadSignature
from armitage.attest.facts import ActionFacts, Denial
from armitage.attest.keys import Signer
from armitage.attest.statement import statements
from armitage.attest.together import Together, one_by_one
from armitage.errors import ConfigError, Unavailable
from armitage.log.errors import LogError
from cas.digest import Digest, DigestFunction
from cas.errors import CasError
from cas.store import BatchPut, BatchStore

_log = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 1024

Append = Callable[[bytes], Awaitable[int]]
"""Adds an entry to the log durably and answers its index (armitage.log.service.Log.append)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was logged, and where."""

    entry: Entry
    index: int


class Attestations:
    """Signs, keeps and logs."""

    def __init__(
        self,
        store: BatchStore,
        append: Append,
        signer: Signer,
        threads: Executor,
        *,
        copies: BatchStore | None = None,
    ) -> None:
        """`store` keeps for ever; signing, which may block, is done in `threads`; `copies` gets the
        documents too, for clients.
        """
        self._store = store
        self._append = append
        self._signer = signer
        self._copies = copies
        self._stored: OrderedDict[Digest, None] = OrderedDict()
        self._signing = Together(one_by_one(self._sign), threads)

    async def attest(self, facts: ActionFacts) -> Kept:
        """Attests an execution. Cancelled, it may or may not be attested.

        Raises NotAttestable (armitage.attest.statement.statements says when) and Unavailable when
        it cannot be signed or kept: then the result must not be kept or shared.
        """
        try:
            record, outputs = await self._signing(facts)
        except (BadSignature, ConfigError) as error:
            raise Unavailable(f"the attestation cannot be signed: {error}") from error
        entry = entries.entry_of(Kind.ATTESTATION, facts.instance, facts.action, record)
        return await self._keep(entry, record, [facts.declaration, facts.evidence, outputs])

    async def deny(self, denial: Denial) -> Kept:
        """Keeps that a result was refused. Cancelled, it may or may not be kept. Raises
        Unavailable.
        """
        record = entries.denial_record(denial)
        entry = entries.entry_of(Kind.DENIED, denial.instance, denial.action, record)
        return await self._keep(entry, record, [denial.declaration, denial.evidence])

    def _sign(self, facts: ActionFacts) -> tuple[bytes, bytes]:
        """Answers the record and the list of outputs."""
        made = [sign(self._signer, statement) for statement in statements(facts)]
        return entries.attestation_record(made), facts.outputs.document()

    async def _keep(self, entry: Entry, record: bytes, documents: Sequence[bytes]) -> Kept:
        *puts, last = [
            BatchPut([DigestFunction.SHA256.digest(blob)], blob) for blob in (*documents, record)
        ]
        try:
            await self._store_all(puts, last)
            kept = Kept(entry, await self._append(entry.encode()))
        except (CasError, LogError, OSError) as error:
            raise Unavailable(f"the attestation cannot be kept: {error}") from error
        if self._copies is not None:
            await self._copy(self._copies, entry, puts)
        return kept

    async def _store_all(self, documents: Sequence[BatchPut], record: BatchPut) -> None:
        """Stores the record, and the documents that are not known to be there: those of many
        actions are alike, and from the record nothing goes.
        """
        new = [each for each in documents if each.candidates[0] not in self._stored]
        for outcome in await self._store.put_many([*new, record]):
            if not isinstance(outcome, Digest):
                raise outcome
        for each in documents:
            self._stored[each.candidates[0]] = None
            self._stored.move_to_end(each.candidates[0])
        while len(self._stored) > _MAX_REMEMBERED:
            self._stored.popitem(last=False)

    async def _copy(self, store: BatchStore, entry: Entry, documents: Sequence[BatchPut]) -> None:
        """What cannot be copied is in the record all the same."""
        for outcome in await store.put_many(documents):
            if isinstance(outcome, CasError):
                _log.warning("a document about %s is not copied: %s", entry.action, outcome)
