from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.attested import SIGNER, facts
from support.clock import FakeClock

from armitage.attest.entries import parse_attestation_record, parse_denial_record, parse_entry
from armitage.attest.errors import BadSignature, NotAttestable
from armitage.attest.facts import Denial
from armitage.attest.keys import PublicKey
from armitage.attest.service import Attestations, Kept
from armitage.errors import Unavailable
from cas.digest import Digest, DigestFunction
from cas.errors import CasError, StoreUnavailable
from cas.memory import MemoryOptions, MemoryStore
from cas.store import BatchPut


class World:
    """A store and a log that say in which order they were written to, and may fail."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.entries: list[bytes] = []
        self.written: list[str] = []
        self.failing = ""

    async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
        self.written.append("store")
        if self.failing == "store":
            return [StoreUnavailable("disk on fire") for _ in blobs]
        return await self.store.put_many(blobs)

    async def append(self, entries: Sequence[bytes]) -> int:
        self.written.append("log")
        if self.failing == "log":
            raise OSError("disk on fire")
        self.entries += entries
        return len(self.entries) - len(entries)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = MemoryStore(MemoryOptions(), FakeClock().monotonic)
    yield World(store)
    await store.close()


def service(world: World) -> Attestations:
    return Attestations(world, world.append, SIGNER, ThreadPoolExecutor(1))


async def test_what_the_log_names_is_stored_before(world: World) -> None:
    kept = await service(world).attest(facts())

    assert world.written == ["store", "log"]
    assert parse_entry(world.entries[kept.index]) == kept.entry
    for envelope in parse_attestation_record(await world.store.get(kept.entry.record)):
        envelope.verified(SIGNER.public)


async def test_all_documents_are_kept(world: World) -> None:
    told = facts()

    await service(world).attest(told)

    documents = [told.declaration, told.evidence, told.outputs.document()]
    assert not await world.store.find_missing(map(DigestFunction.SHA256.digest, documents))


async def test_documents_that_are_there_are_not_stored_again(world: World) -> None:
    put: list[int] = []

    class Counting:
        async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
            put.append(len(blobs))
            return await world.put_many(blobs)

    made = Attestations(Counting(), world.append, SIGNER, ThreadPoolExecutor(1))

    for _ in range(2):
        await made.attest(facts())
    world.failing = "store"
    for _ in range(2):
        with pytest.raises(Unavailable):
            await made.attest(facts("network"))

    assert put == [4, 1, 3, 3]


async def test_a_denial_is_kept_with_its_reasons(world: World) -> None:
    told = facts()
    denial = Denial("main", told.action, "o", told.declaration, told.evidence, told.verdict, 1.0)

    kept = await service(world).deny(denial)

    assert world.written == ["store", "log"]
    record = await world.store.get(kept.entry.record)
    assert parse_denial_record(record)["action"] == str(told.action)


@pytest.mark.parametrize("part", ["store", "log"])
async def test_what_cannot_be_kept_is_not_attested(world: World, part: str) -> None:
    world.failing = part

    with pytest.raises(Unavailable, match="disk on fire"):
        await service(world).attest(facts())

    assert not world.entries


async def test_without_a_signature_nothing_is_written(world: World) -> None:
    class Broken:
        public = PublicKey(bytes(32))

        def sign(self, data: bytes) -> bytes:
            raise BadSignature("the token is gone")

    made = Attestations(world, world.append, Broken(), ThreadPoolExecutor(1))

    with pytest.raises(Unavailable, match="the token is gone"):
        await made.attest(facts())
    assert not world.written


async def test_what_was_not_approved_is_not_written(world: World) -> None:
    with pytest.raises(NotAttestable):
        await service(world).attest(facts(evidence=b""))

    assert not world.written


async def test_what_is_not_attested_takes_no_other_along(world: World) -> None:
    first, second = facts(invocation="1"), facts(invocation="2")

    outcomes = await service(world).attest_all([first, facts(evidence=b""), second])

    one, none, two = outcomes
    assert isinstance(none, NotAttestable)
    assert isinstance(one, Kept)
    assert isinstance(two, Kept)
    assert [one.index, two.index] == [0, 1]
    assert world.entries == [one.entry.encode(), two.entry.encode()]
    assert world.written == ["store", "log"]


async def test_a_record_that_cannot_be_stored_is_not_logged(world: World) -> None:
    told = facts(invocation="1")

    class FullAtLast:
        async def put_many(self, blobs: Sequence[BatchPut]) -> list[Digest | CasError]:
            return [*await world.put_many(blobs[:-1]), StoreUnavailable("disk on fire")]

    made = Attestations(FullAtLast(), world.append, SIGNER, ThreadPoolExecutor(1))

    one, two = await made.attest_all([told, facts(invocation="2")])

    assert isinstance(one, Kept)
    assert isinstance(two, Unavailable)
    assert world.entries == [one.entry.encode()]
