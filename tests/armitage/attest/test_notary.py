"""What becomes of a run: judged, attested, kept; and what a crash leaves at any step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from support.attested import SIGNER, checker
from support.clock import FakeClock
from support.notaries import BUILDER, SANDBOXED, open_log, registry, run_of

from armitage.attest.entries import (
    Kind,
    parse_attestation_record,
    parse_denial_record,
)
from armitage.attest.facts import Exchanges, Fetch
from armitage.attest.judge import Judge
from armitage.attest.ledger import Ledger
from armitage.attest.notary import Desk, Notary
from armitage.attest.service import Attestations
from armitage.errors import PreconditionFailed
from armitage.log.service import Log
from armitage.proofs import Checker
from armitage.proofs.verdict import Verdict
from cas.digest import Digest, DigestFunction
from cas.errors import CasError, StoreFull
from cas.memory import MemoryOptions, MemoryStore
from cas.store import BatchPut
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Reached

KEY = ("", "a")


async def nothing() -> None:
    """Keeps nothing."""


async def test_result_is_kept_once_its_attestation_is_durable(tmp_path: Path) -> None:
    run = run_of()
    async with registry(tmp_path) as made:
        found = []

        async def keep() -> None:
            found.extend(made.ledger.find(run.action, Kind.ATTESTATION))

        await made.notary.attest(run, await made.notary.judge(run), KEY, keep)
        await made.notary.settle(KEY)

        ((kept),) = found
        record = await made.record.get(kept.entry.record)
        for envelope in parse_attestation_record(record):
            envelope.verified(SIGNER.public)
        assert made.log.entry(kept.index) == kept.entry.encode()
        judgement = await made.judge.decide("", SANDBOXED)
        documents = [judgement.declaration, judgement.evidence, run.outputs.document()]
        digests = list(map(DigestFunction.SHA256.digest, documents))
        assert not await made.record.find_missing(digests)
        assert not await made.store.find_missing(digests)
        stats = made.notary.stats()
    assert (stats.approved, stats.attested, stats.under_way) == (1, 1, 0)


async def test_undeclared_use_is_denied_in_the_log_and_in_words(tmp_path: Path) -> None:
    run = run_of("pure", Evidence(SandboxKind.NAMESPACE, reached=(Reached("x.org", 443),)))
    async with registry(tmp_path) as made:
        with pytest.raises(PreconditionFailed) as refused:
            await made.notary.judge(run)

        (kept,) = made.ledger.find(run.action, Kind.DENIED)
        record = parse_denial_record(await made.record.get(kept.entry.record))
        assert made.log.checkpoint.size == 1
        assert made.notary.stats().denied == 1
    assert "it connected to x.org port 443" in str(refused.value)
    assert "add `network:x.org:443`" in str(refused.value)
    assert "entry 0 of the log" in str(refused.value)
    assert record["reasons"] == ["uncovered network x.org 443 needs network:x.org:443"]


async def _one_fetch(_: Sequence[str]) -> Sequence[Exchanges]:
    fetch = Fetch("https://x.org/a?b=1", "GET", 200, "x.org", 443, "ab" * 32, 5, log_index=7)
    return [[fetch]]


async def _lost_fetches(_: Sequence[str]) -> Sequence[Exchanges]:
    raise OSError("disk on fire")


FETCHED = Evidence(
    SandboxKind.NAMESPACE, network_session="s", reached=(Reached("x.org", 443), Reached("y.org", 1))
)


async def test_denial_names_what_was_fetched(tmp_path: Path) -> None:
    async with registry(tmp_path, fetches=_one_fetch) as made:
        with pytest.raises(PreconditionFailed) as refused:
            await made.notary.judge(run_of("pure", FETCHED))

    assert "it fetched https://x.org/a?b=1, which the action does not declare" in str(refused.value)
    assert "it connected to y.org port 1, which" in str(refused.value)
    assert "the action declares `pure`; add `network:x.org:443+network:y.org:1`" in str(
        refused.value
    )


async def test_denial_goes_without_words_that_are_lost(tmp_path: Path) -> None:
    async with registry(tmp_path, fetches=_lost_fetches) as made:
        with pytest.raises(PreconditionFailed, match=r"it connected to x\.org port 443"):
            await made.notary.judge(run_of("pure", FETCHED))


async def test_what_was_fetched_is_attested(tmp_path: Path) -> None:
    run = run_of("network", FETCHED)
    async with registry(tmp_path, fetches=_one_fetch) as made:
        await made.notary.attest(run, await made.notary.judge(run), KEY, nothing)
        await made.notary.settle(KEY)
        (kept,) = made.ledger.find(run.action, Kind.ATTESTATION)
        provenance, *_ = parse_attestation_record(await made.record.get(kept.entry.record))

    assert b'"uri":"https://x.org/a?b=1"' in provenance.payload
    assert b'"logIndex":7' in provenance.payload


async def test_without_the_fetches_nothing_is_attested(tmp_path: Path) -> None:
    run = run_of("network", FETCHED)
    async with registry(tmp_path, fetches=_lost_fetches) as made:
        await made.notary.attest(run, await made.notary.judge(run), KEY, nothing)
        await made.notary.settle(KEY)

        assert made.notary.stats().unattested == 1
        assert made.log.checkpoint.size == 0


async def test_of_a_batch_only_what_lacks_its_fetches_is_not_attested(tmp_path: Path) -> None:
    asked, kept = list[Sequence[str]](), list[str]()

    async def fetches(sessions: Sequence[str]) -> Sequence[Exchanges]:
        asked.append(sessions)
        return [OSError("gone") if session == "s1" else () for session in sessions]

    async with registry(tmp_path, fetches=fetches) as made:
        runs = [
            run_of("", replace(SANDBOXED, network_session=session), name)
            for name, session in (("a", "s1"), ("b", ""), ("c", "s2"))
        ]
        judged = [await made.notary.judge(run) for run in runs]
        for run, judgement in zip(runs, judged, strict=True):

            async def keep(name: str = run.invocation) -> None:
                kept.append(name)

            await made.notary.attest(run, judgement, run.invocation, keep)
        await made.notary.settle_all()

    assert asked == [["s1", "s2"]]
    assert sorted(kept) == ["run-b", "run-c"]


async def test_denial_that_cannot_be_logged_is_a_denial_all_the_same(tmp_path: Path) -> None:
    run = run_of("pure", Evidence(None))
    async with registry(tmp_path) as made:
        await made.record.close()

        with pytest.raises(PreconditionFailed, match="which could not be logged"):
            await made.notary.judge(run)


async def test_whoever_asks_meanwhile_waits(tmp_path: Path) -> None:
    run, going = run_of(), asyncio.Event()
    async with registry(tmp_path) as made:
        await made.notary.attest(run, await made.notary.judge(run), KEY, _waiting(going))
        asking = asyncio.ensure_future(made.notary.settle(KEY))  # noqa: TID251 (a task to watch)
        await made.notary.settle(("", "other"))
        await asyncio.sleep(0)

        assert not asking.done()
        going.set()
        await asking
        await made.notary.settle(KEY)


async def test_of_two_runs_of_an_action_the_later_is_kept_last(tmp_path: Path) -> None:
    run, kept = run_of(), list[str]()
    async with registry(tmp_path) as made:
        going = asyncio.Event()

        async def first() -> None:
            await going.wait()
            kept.append("first")

        async def second() -> None:
            kept.append("second")

        await made.notary.attest(run, await made.notary.judge(run), KEY, first)
        await made.notary.attest(run, await made.notary.judge(run), KEY, second)
        while made.notary.stats().attested < 2:  # noqa: ASYNC110 (it tells no event)
            await asyncio.sleep(0)
        assert made.notary.is_under_way(KEY)
        going.set()
        await made.notary.settle(KEY)

    assert kept == ["first", "second"]


def _waiting(going: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def keep() -> None:
        await going.wait()

    return keep


async def test_result_that_cannot_be_attested_is_not_kept(tmp_path: Path) -> None:
    run, kept = run_of(), []

    async def keep() -> None:
        kept.append(1)

    async with registry(tmp_path) as made:
        judgement = await made.notary.judge(run)
        await made.record.close()
        await made.notary.attest(run, judgement, KEY, keep)
        await made.notary.settle(KEY)

        assert made.notary.stats().unattested == 1
        assert made.log.checkpoint.size == 0
    assert kept == []


async def test_what_is_begun_meanwhile_is_one_batch_and_waits_until_it_is_full(
    tmp_path: Path,
) -> None:
    going = asyncio.Event()

    async def fetches(sessions: Sequence[str]) -> Sequence[Exchanges]:
        await going.wait()
        return [() for _ in sessions]

    async with registry(tmp_path, fetches=fetches) as made:
        first = run_of("", replace(SANDBOXED, network_session="s1"), "first")
        await made.notary.attest(first, await made.notary.judge(first), "first", nothing)
        for name in map(str, range(64)):
            await asyncio.sleep(0)  # Whoever may begin does.
            run = run_of(name=name)
            await made.notary.attest(run, await made.notary.judge(run), name, nothing)
        for name in map(str, range(64)):
            await made.notary.settle(name)

        is_waiting = made.notary.is_under_way("first")
        checkpoints = made.archive.log.stats().checkpoints
        going.set()
    assert (is_waiting, checkpoints) == (True, 1)


async def test_what_is_being_judged_is_in_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, check = Event(), Checker.check

    def waiting(of: Checker, *documents: bytes) -> Verdict:
        assert going.wait(60)
        return check(of, *documents)

    async with registry(tmp_path) as made:
        early, late = run_of(name="early"), run_of("", replace(SANDBOXED, network_session="s1"))
        judged = await made.notary.judge(early)
        monkeypatch.setattr(Checker, "check", waiting)

        async def judge_late() -> None:
            await made.notary.attest(late, await made.notary.judge(late), "late", nothing)

        judging = asyncio.ensure_future(judge_late())  # noqa: TID251 (a task to watch)
        await asyncio.sleep(0)
        await made.notary.attest(early, judged, "early", nothing)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.notary.settle("early"), 0.05)
        going.set()
        await judging
        await made.notary.settle_all()

        assert made.notary.stats().attested == 2
        assert made.archive.log.stats().checkpoints == 1


async def test_leaving_waits_for_what_was_begun(tmp_path: Path) -> None:
    kept = []
    async with registry(tmp_path) as made:
        for name in "abc":
            run = run_of(name=name)

            async def keep(name: str = name) -> None:
                kept.append(name)

            await made.notary.attest(run, await made.notary.judge(run), name, keep)

    assert sorted(kept) == ["a", "b", "c"]


async def test_full_store_of_the_daemon_is_no_reason_to_lose_an_attestation(tmp_path: Path) -> None:
    class Full(MemoryStore):
        async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
            return [StoreFull("full") for _ in blobs]

    run, kept = run_of(), []

    async def keep() -> None:
        kept.append(1)

    full = Full(MemoryOptions(), FakeClock().monotonic)
    async with registry(tmp_path, full) as made:
        await made.notary.attest(run, await made.notary.judge(run), KEY, keep)
        await made.notary.settle(KEY)

        assert made.ledger.find(run.action, Kind.ATTESTATION)
    assert kept == [1]


class Crash:
    """Ends the world before or after one step: from then on nothing answers."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.steps: list[str] = []
        self.is_over = asyncio.Event()

    async def point(self, name: str) -> None:
        """A place where the process may be killed."""
        if len(self.steps) == self._at or self.is_over.is_set():
            self.is_over.set()
            await asyncio.Event().wait()
        self.steps.append(name)


class CrashingStore:
    def __init__(self, store: MemoryStore, crash: Crash, name: str) -> None:
        self._store, self._crash, self._name = store, crash, name

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        """The blobs come one by one: a crash may leave some of them."""
        done: list[Digest | CasError] = []
        for number, blob in enumerate(blobs):
            await self._crash.point(f"before {self._name} {number}")
            done += await self._store.put_many([blob])
        await self._crash.point(f"after {self._name}")
        return done


async def crash_at(step: int, path: Path) -> tuple[list[str], bool]:
    """Attests a run and has the process killed at a step. Answers the steps that were reached, and
    whether that was all; checks that what is left is whole or nothing.
    """
    run, crash, clock = run_of(), Crash(step), FakeClock()
    record = MemoryStore(MemoryOptions(), clock.monotonic)
    store = MemoryStore(MemoryOptions(), clock.monotonic)
    cache: dict[str, bool] = {}
    with ThreadPoolExecutor(2) as threads:
        async with open_log(path) as log:
            appending = Log(log, threads)
            ledger = Ledger(path / "index", log)

            async def append(entries: Sequence[bytes]) -> int:
                await crash.point("before log")
                index = await appending.append_all(entries)
                await crash.point("after log")
                return index

            async def keep() -> None:
                await crash.point("before cache")
                cache["a"] = True
                await crash.point("after cache")

            attestations = Attestations(
                CrashingStore(record, crash, "record"),
                append,
                SIGNER,
                threads,
                copies=CrashingStore(store, crash, "copy"),
            )
            desk = Desk(
                Judge(checker(), threads),
                attestations,
                ledger,
                clock,
                threads,
                lambda _: BUILDER,
            )

            async def live() -> None:
                async with Notary(desk) as notary:
                    await notary.attest(run, await notary.judge(run), KEY, keep)

            living = asyncio.ensure_future(live())  # noqa: TID251 (a process that is killed)
            over = asyncio.ensure_future(crash.is_over.wait())  # noqa: TID251
            await asyncio.wait([living, over], return_when=asyncio.FIRST_COMPLETED)
            is_whole = living.done()
            living.cancel()
            over.cancel()
            await asyncio.gather(living, over, return_exceptions=True)
            ledger.close()

        async with open_log(path) as log:
            # Another index: whatever stood in the old one, the log says what there is.
            reopened = Ledger(path / "other index", log)
            kept = reopened.find(run.action, Kind.ATTESTATION)
            reopened.close()
        for each in kept:
            envelopes = parse_attestation_record(await record.get(each.entry.record))
            assert all(envelope.verified(SIGNER.public) for envelope in envelopes)
            judgement = await Judge(checker(), threads).decide("", SANDBOXED)
            documents = [judgement.declaration, judgement.evidence, run.outputs.document()]
            assert not await record.find_missing(map(DigestFunction.SHA256.digest, documents))
        assert kept or not cache, f"cached without an attestation after {crash.steps}"
        assert kept or not is_whole
    return crash.steps, is_whole


async def test_a_crash_at_any_step_leaves_an_attested_result_or_none(tmp_path: Path) -> None:
    seen: set[str] = set()
    is_whole = False
    for step in range(40):
        path = tmp_path / str(step)
        path.mkdir()
        steps, is_whole = await crash_at(step, path)
        seen.update(steps)
        if is_whole:
            break

    assert is_whole
    assert {"before record 0", "after record", "before log", "after log", "after copy"} <= seen
    assert {"before cache", "after cache"} <= seen
