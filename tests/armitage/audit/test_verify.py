"""armitage.audit.verify: every way in which a record can be other than it was signed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.records import Fetch, Record, hash_of, record

from armitage.audit.source import ArchiveSource
from armitage.audit.verify import Findings, verify
from armitage.log.errors import InvalidSignature
from armitage.log.note import KeyType, Signer
from armitage.log.tiles import Tile
from armitage.witness.evidence import Entry, Kind, parse_entry
from cas.digest import Buffer, Digest, DigestFunction
from cas.store import BatchPut


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Record]:
    async with record(tmp_path) as made:
        await made.session(
            Fetch("https://a.example/1", b"one"),
            Fetch("https://a.example/1", b"one"),
            Fetch("https://b.example/2", None, None, allowed=False),
        )
        yield made


class Spoiled(ArchiveSource):
    """Answers something else than what is there, in one place."""

    def __init__(
        self,
        kept: Record,
        *,
        tile: Callable[[Tile, bytes], bytes] = lambda _, data: data,
        records: Callable[[int, bytes | None], bytes | None] = lambda _, data: data,
        body: Callable[[Buffer], Buffer] = lambda data: data,
    ) -> None:
        super().__init__(kept.archive)
        self._tile = tile
        self._records = records
        self._body = body

    def tile(self, tile: Tile) -> bytes:
        return self._tile(tile, super().tile(tile))

    async def records(self, first: int, named: object) -> list[bytes | None]:
        found = await super().records(first, named)  # type: ignore[arg-type]
        return [self._records(index, each) for index, each in enumerate(found, first)]

    async def read(self, named: object) -> AsyncIterator[Buffer]:
        async for piece in super().read(named):  # type: ignore[arg-type]
            yield self._body(piece)


async def findings(source: ArchiveSource, **how: object) -> Findings:
    return [each async for each in verify(source, **how)][-1]  # type: ignore[arg-type]


async def test_what_is_as_it_was_signed_has_no_faults(kept: Record) -> None:
    found = await findings(ArchiveSource(kept.archive))

    assert found.faults == []
    assert (found.entries, found.exchanges, found.bodies, found.body_bytes) == (5, 3, 1, 3)


async def test_an_entry_that_was_changed_shows(kept: Record) -> None:
    def change(tile: Tile, data: bytes) -> bytes:
        return data.replace(b'"number":2', b'"number":3') if tile.level is None else data

    found = await findings(Spoiled(kept, tile=change))

    assert "log: tile/0/000.p/5: is not the hash of what lies below it" in found.faults


async def test_a_record_that_is_gone_shows(kept: Record) -> None:
    found = await findings(Spoiled(kept, records=lambda index, data: None if index == 2 else data))

    [fault] = found.faults
    assert fault.startswith("entry 2: its record sha256:")
    assert fault.endswith("is gone or damaged")


async def test_a_record_in_place_of_another_shows(kept: Record) -> None:
    def change(index: int, data: bytes | None) -> bytes | None:
        assert data is not None
        return data.replace(b"a.example/1", b"a.example/2") if index == 1 else data

    [fault] = (await findings(Spoiled(kept, records=change))).faults

    assert fault.startswith("entry 1: its record is not the one with the hash sha256:")


async def test_a_body_that_was_changed_shows(kept: Record) -> None:
    source = Spoiled(kept, body=lambda data: bytes(data)[::-1])

    # Twice, since what was not verified is looked at again.
    assert (await findings(source)).faults == [
        f"entry {index}: the body of https://a.example/1 is not the one on record"
        for index in (1, 2)
    ]


async def test_bodies_are_left_alone_when_asked(kept: Record) -> None:
    source = Spoiled(kept, body=lambda data: bytes(data)[::-1])

    found = await findings(source, bodies=False)

    assert (found.faults, found.bodies) == ([], 0)


async def test_another_key_than_the_auditors_verifies_nothing(kept: Record) -> None:
    other = Signer(kept.archive.log.store.key.name, KeyType.ED25519, bytes(32)).public

    with pytest.raises(InvalidSignature):
        await findings(ArchiveSource(kept.archive), key=other)


async def test_a_session_that_was_not_closed_shows(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        session = await kept.session(Fetch("https://a.example/"), close=False)

        [fault] = (await findings(ArchiveSource(kept.archive))).faults

    assert fault == f"{session} was not closed: it runs still, or was cut off"


async def test_what_is_no_evidence_shows(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        for entry in (b"nothing", b'{"kind":"gossip"}'):
            await kept.archive.log.append(entry)

        faults = (await findings(ArchiveSource(kept.archive))).faults

    assert len(faults) == 2
    assert all(fault.startswith(f"entry {n}: ") for n, fault in enumerate(faults))


async def test_a_record_of_another_exchange_shows(kept: Record) -> None:
    store = kept.archive.log.store
    first = await kept.archive.record(parse_entry(store.entry(1)))
    name, size = hash_of(first), len(first)
    await kept.archive.log.append(Entry("other", 0, Kind.OPEN, f"sha256:{name}", size).encode())

    faults = (await findings(ArchiveSource(kept.archive))).faults

    assert faults[0] == "entry 5: its record is of another exchange"


async def test_records_that_lack_what_they_should_have_show(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        data = b'{"kind":"exchange","number":1,"session":"s","v":1}'
        digest = Digest(DigestFunction.SHA256, hash_of(data), len(data))
        await kept.archive.store.put_many([BatchPut([digest], data)])
        entry = Entry("s", 1, Kind.EXCHANGE, f"sha256:{hash_of(data)}", len(data))
        await kept.archive.log.append(entry.encode())

        faults = (await findings(ArchiveSource(kept.archive))).faults

    assert faults[0] == "entry 0: its record lacks what a record of an exchange has"


async def test_faults_are_counted_beyond_the_first_thousand(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        kept.archive.log.store.append([b"x"] * 1003)

        found = await findings(ArchiveSource(kept.archive))

    assert (len(found.faults), found.more_faults) == (1000, 3)
