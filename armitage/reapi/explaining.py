"""What became of an action, for the one who wrote it: from its declaration to the cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from armitage.attest.archived import bundle_at
from armitage.attest.claim import parse_statements
from armitage.attest.entries import (
    Kind,
    parse_attestation_record,
    parse_denial_record,
    parse_digest,
    parse_entry,
)
from armitage.attest.errors import MalformedAttestation
from armitage.attest.ledger import Ledger
from armitage.attest.opening import Office
from armitage.attest.service import Kept
from armitage.attest.statement import time_text
from armitage.errors import ArmitageError, InvalidRequest, NotFound
from armitage.log.errors import LogError
from armitage.log.store import LogStore
from armitage.reapi.instances import Instances
from armitage.reapi.trusting import TrustGate
from armitage.witness.archive import Archive
from armitage.witness.logs import Logs
from armitage.witness.past import proven_entries
from cas.action_cache import ActionCache
from cas.digest import Digest, DigestFunction
from cas.errors import CasError, InvalidDigest

_log = logging.getLogger(__name__)

_MOST_RUNS: Final = 16
_SHORTEST_PREFIX: Final = 8


@dataclass(frozen=True, slots=True)
class Run:
    """One execution that was judged."""

    index: int
    """Of its entry in the record."""
    log: str
    """The name of the log that has the entry."""
    log_index: int
    """Of the entry there."""
    is_past: bool
    """Whether that log has ended."""
    verdict: str
    """`approved` or `denied`."""
    time: str
    invocation: str
    instance: str
    declared: str
    """The property `coeffects`; `pure` where there was none."""
    used: tuple[str, ...]
    """Records of the evidence."""
    reasons: tuple[str, ...]
    """Why not, in sentences; the last is the remedy."""
    sufficient: str
    """The least property that would cover all that was used; empty where there is none."""
    refused: tuple[str, ...] = ()
    """What the witness refused an execution that ended well all the same."""


@dataclass(frozen=True, slots=True)
class Cached:
    """The result in the cache, and what the trust policy says of it."""

    is_served: bool
    policy: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All about one action."""

    action: str
    instance: str
    runs: tuple[Run, ...]
    """The newest first, 16 at most, of all instances and all logs of the record."""
    cached: Cached | None
    """None where no result is cached."""


@dataclass(frozen=True, slots=True)
class _Book:
    """A log, and what was judged in it."""

    log: LogStore
    ledger: Ledger
    first: int
    """The number of its first entry in the record."""
    is_past: bool

    def has(self, kept: Kept) -> bool:
        """Whether a log that has ended has what the index has of it."""
        try:
            [data] = proven_entries(self.log, kept.index, kept.index + 1)
            return parse_entry(data) == kept.entry
        except (LogError, MalformedAttestation, OSError) as error:
            _log.error("entry %d of %s is not shown: %s", kept.index, self.log.key.name, error)
            return False


class _Judged(NamedTuple):
    """One that is to be told."""

    book: _Book
    kept: Kept


class Explainer:
    """Explains, from the record and the cache."""

    def __init__(
        self,
        office: Office,
        archive: Archive,
        cache: ActionCache,
        instances: Instances,
        gate: TrustGate,
    ) -> None:
        self._office = office
        self._archive = archive
        self._cache = cache
        self._instances = instances
        self._gate = gate
        firsts = dict(zip(archive.logs, Logs(archive).firsts, strict=True))
        current = archive.log.store
        self._books = [
            _Book(current, office.ledger, firsts[current], is_past=False),
            *(
                _Book(log, ledger, firsts[log], is_past=True)
                for log, ledger in reversed(office.past)
            ),
        ]
        """The newest first."""

    async def explain(self, text: str, instance: str) -> Explanation:
        """Explains an action, given by its digest or the start of its hash (8 characters or more).

        Raises NotFound, also for an instance; InvalidRequest; Unavailable.
        """
        key = self._instances.get(instance).action_cache_key
        await self._office.notary.settle_all()
        action = await self._find(text, key)
        runs = await self._runs(action)
        cached = await self._cached(instance, key, action)
        return Explanation(str(action), instance, tuple(runs), cached)

    async def _find(self, text: str, key: str) -> Digest:
        function, _, rest = text.rpartition(":")
        hashed, _, size = rest.partition("/")
        found = await self._in_thread(hashed)
        if function:
            found = [each for each in found if each.function.value == function]
        if size:
            found = [each for each in found if str(each.size_bytes) == size]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(each.hash[:16] for each in found[:4])
            raise InvalidRequest(f"{text[:200]!r} may be any of {shown}, ...; write more of it")
        for digest in _digests(function, hashed, size):
            if await self._cache.get(key, digest) is not None:
                return digest
        raise NotFound(
            f"nothing is known of an action {text[:200]!r}: none was judged here, and of none is a"
            " result cached (to have the cache looked into, write HASH/SIZE)"
        )

    async def _in_thread(self, prefix: str) -> list[Digest]:
        if len(prefix) < _SHORTEST_PREFIX:
            raise InvalidRequest(f"write {_SHORTEST_PREFIX} characters of the hash or more")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._office.threads, self._actions, prefix)

    def _actions(self, prefix: str) -> list[Digest]:
        found = {action for book in self._books for action in book.ledger.actions(prefix)}
        return sorted(found, key=str)

    async def _runs(self, action: Digest) -> list[Run]:
        loop = asyncio.get_running_loop()
        judged = await loop.run_in_executor(self._office.threads, self._judged, action)
        return [await self._run(each) for each in judged]

    def _judged(self, action: Digest) -> list[_Judged]:
        """The newest first, 16 at most."""
        judged: list[_Judged] = []
        for book in self._books:
            kept = [each for kind in Kind for each in book.ledger.find(action, kind)]
            kept.sort(key=lambda each: each.index, reverse=True)
            judged += [
                _Judged(book, each)
                for each in kept[: _MOST_RUNS - len(judged)]
                if not book.is_past or book.has(each)
            ]
        return judged

    async def _run(self, judged: _Judged) -> Run:
        book, kept = judged
        if kept.entry.kind is Kind.DENIED:
            return await self._denied(judged)
        bundle = await bundle_at(self._archive, kept.index, book.log)
        payloads = [each.payload for each in parse_attestation_record(bundle.record)]
        claim = parse_statements(payloads)
        declaration = bundle.document(claim.declaration.hash) or b""
        evidence = bundle.document(claim.evidence.hash) or b""
        at = time_text(claim.finished_s)
        told = await self._told(judged, at, claim.invocation, (declaration, evidence), ())
        refused = tuple(f"{each.url} ({each.reason})" for each in claim.refused or ())
        return replace(told, refused=refused)

    async def _denied(self, judged: _Judged) -> Run:
        record = await self._archive.store.get(judged.kept.entry.record)
        told = parse_denial_record(record)
        declaration, evidence = [
            await self._archive.store.get(parse_digest(told[name]))
            for name in ("declaration", "evidence")
        ]
        reasons = tuple(told["explanation"])
        documents = (declaration, evidence)
        return await self._told(judged, told["time"], told["invocation"], documents, reasons)

    async def _told(
        self,
        judged: _Judged,
        time: str,
        invocation: str,
        documents: tuple[bytes, bytes],
        reasons: Sequence[str],
    ) -> Run:
        book, kept = judged
        declaration, evidence = documents
        records = evidence.decode("ascii", "replace").splitlines()[2:-1]
        return Run(
            index=book.first + kept.index,
            log=book.log.key.name,
            log_index=kept.index,
            is_past=book.is_past,
            verdict="denied" if kept.entry.kind is Kind.DENIED else "approved",
            time=time,
            invocation=invocation,
            instance=kept.entry.instance,
            declared=declaration.decode("ascii", "replace").splitlines()[1],
            used=tuple(record.partition(" ")[2] for record in records),
            reasons=tuple(reasons),
            sufficient=await self._office.judge.infer(evidence) or "",
        )

    async def _cached(self, instance: str, key: str, action: Digest) -> Cached | None:
        result = await self._cache.get(key, action)
        if result is None:
            return None
        try:
            decision = await self._gate.decide(instance, action, result)
        except (ArmitageError, LogError, CasError, DecodeError) as error:
            return Cached(self._gate.is_open(instance), "", (str(error),))
        is_served = decision.holds or self._gate.is_open(instance)
        return Cached(is_served, decision.policy, decision.reasons)


def _digests(function: str, hashed: str, size: str) -> Iterator[Digest]:
    """Everything that the words may mean."""
    for each in DigestFunction:
        if function in {"", each.value} and size.isdecimal():
            with suppress(InvalidDigest):
                yield Digest(each, hashed, int(size))
