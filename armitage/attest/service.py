"""Makes attestations durable, in this order:

1. the documents that the statements name (declaration, evidence, list of outputs), and the record,
   which is the signed envelopes;
2. the log's entry that names the record, under a checkpoint.

The first is durable before the second begins, so whatever a crash interrupts, what the log names is
there; a record that no entry names is no attestation. Only when `attest` has answered may a result
be kept or shared. Many callers at once share the store's and the log's syncs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from typing import Final

from armitage.attest import entries
from armitage.attest.dsse import sign
from armitage.attest.entries import Entry, Kind
from armitage.attest.errors import BadSignature
from armitage.attest.facts import ActionFacts, Denial
from armitage.attest.keys import Signer
from armitage.attest.statement import statements
from armitage.attest.together import one_by_one
from armitage.errors import ConfigError, Unavailable
from armitage.log.errors import LogError
from cas.digest import Digest, DigestFunction
from cas.errors import CasError
from cas.store import BatchPut, BatchStore

_log = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 1024

Append = Callable[[Sequence[bytes]], Awaitable[int]]
"""Adds entries to the log durably, side by side, and answers the index of the first
(armitage.log.service.Log.append_all).
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was logged, and where."""

    entry: Entry
    index: int


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to be kept and logged."""

    entry: Entry
    record: BatchPut
    documents: Sequence[BatchPut]


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
        self._threads = threads
        self._copies = copies
        self._stored: OrderedDict[Digest, None] = OrderedDict()

    async def attest(self, facts: ActionFacts) -> Kept:
        """Attests an execution. Cancelled, it may or may not be attested.

        Raises NotAttestable (armitage.attest.statement.statements says when) and Unavailable when
        it cannot be signed or kept: then the result must not be kept or shared.
        """
        return _only(await self.attest_all([facts]))

    async def attest_all(self, facts: Sequence[ActionFacts]) -> list[Kept | Exception]:
        """Attests executions, with one turn of a thread, of the store and of the log for all.
        Answers for each what `attest` answers or raises.
        """
        loop = asyncio.get_running_loop()
        return await self._keep_all(
            await loop.run_in_executor(self._threads, one_by_one(self._draft), facts)
        )

    async def deny(self, denial: Denial) -> Kept:
        """Keeps that a result was refused. Cancelled, it may or may not be kept. Raises
        Unavailable.
        """
        record = entries.denial_record(denial)
        entry = entries.entry_of(Kind.DENIED, denial.instance, denial.action, record)
        draft = _draft(entry, record, denial.declaration, denial.evidence)
        return _only(await self._keep_all([draft]))

    def _draft(self, facts: ActionFacts) -> _Draft:
        outputs = facts.outputs.document()
        try:
            made = [sign(self._signer, each) for each in statements(facts, outputs)]
        except (BadSignature, ConfigError) as error:
            raise Unavailable(f"the attestation cannot be signed: {error}") from error
        record = entries.attestation_record(made)
        entry = entries.entry_of(Kind.ATTESTATION, facts.instance, facts.action, record)
        return _draft(entry, record, facts.declaration, facts.evidence, outputs)

    async def _keep_all(self, drafts: Sequence[_Draft | Exception]) -> list[Kept | Exception]:
        """Answers for each draft; for an exception in place of one, that."""
        try:
            outcomes = await self._store_all(drafts)
            stored = [each for each in outcomes if isinstance(each, _Draft)]
            first = await self._append([each.entry.encode() for each in stored]) if stored else 0
        except (CasError, LogError, OSError) as error:
            fault = _cannot_be_kept(error)
            return [each if isinstance(each, Exception) else fault for each in drafts]
        if self._copies is not None:
            await self._copy(self._copies, stored)
        indexes = count(first)
        return [
            each if isinstance(each, Exception) else Kept(each.entry, next(indexes))
            for each in outcomes
        ]

    async def _store_all(self, drafts: Sequence[_Draft | Exception]) -> list[_Draft | Exception]:
        """Stores the records, and the documents that are not known to be there: those of many
        actions are alike, and from the record nothing goes. Answers an exception for what could
        not be stored.
        """
        puts = {
            each.candidates[0]: each
            for draft in drafts
            if isinstance(draft, _Draft)
            for each in (*draft.documents, draft.record)
            if each.candidates[0] not in self._stored
        }
        results = await self._store.put_many(list(puts.values())) if puts else []
        faults = {
            digest: result
            for digest, result in zip(puts, results, strict=True)
            if not isinstance(result, Digest)
        }
        return [
            each if isinstance(each, Exception) else self._stored_or_not(each, faults)
            for each in drafts
        ]

    def _stored_or_not(
        self, draft: _Draft, faults: Mapping[Digest, CasError]
    ) -> _Draft | Exception:
        *documents, record = (each.candidates[0] for each in (*draft.documents, draft.record))
        for digest in (*documents, record):
            if digest in faults:
                return _cannot_be_kept(faults[digest])
        for digest in documents:
            self._stored[digest] = None
            self._stored.move_to_end(digest)
        while len(self._stored) > _MAX_REMEMBERED:
            self._stored.popitem(last=False)
        return draft

    async def _copy(self, store: BatchStore, drafts: Sequence[_Draft]) -> None:
        """What cannot be copied is in the record all the same."""
        puts = {each.candidates[0]: each for draft in drafts for each in draft.documents}
        for outcome in await store.put_many(list(puts.values())):
            if isinstance(outcome, CasError):
                _log.warning("a document of an attestation is not copied: %s", outcome)


def _draft(entry: Entry, record: bytes, *documents: bytes) -> _Draft:
    puts = [BatchPut([DigestFunction.SHA256.digest(each)], each) for each in documents]
    return _Draft(entry, BatchPut([entry.record], record), puts)


def _only(outcomes: Sequence[Kept | Exception]) -> Kept:
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _cannot_be_kept(error: Exception) -> Unavailable:
    made = Unavailable(f"the attestation cannot be kept: {error}")
    made.__cause__ = error
    return made
