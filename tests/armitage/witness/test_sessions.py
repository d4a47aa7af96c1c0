"""armitage.witness.evidence and .sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count

import pytest
from support.clock import FakeClock

from armitage.errors import Unavailable
from armitage.witness.evidence import (
    Body,
    Entry,
    Exchange,
    Kind,
    MalformedEvidence,
    Peer,
    Subject,
    exchange_record,
    parse_entry,
    parse_record,
)
from armitage.witness.sessions import SessionAudit, Sessions
from cas.digest import DigestFunction
from cas.memory import MemoryOptions, MemoryStore

EXCHANGE = Exchange(
    started_s=1.25,
    ended_s=2,
    method="GET",
    url="https://h.example/ü?q=~1",
    url_tag="ab",
    peer=Peer("h.example", 443, connect="h.example:443", sni="h.example", address="1.1.1.1"),
    allowed=True,
    rule="declared",
    request_headers=[("host", "h.example")],
    status=200,
    response_headers=[["etag", '"x"']],
    response_body=Body("sha256:00", 7),
    credentials=["npm"],
)


class Log:
    """A log in memory that may be out of order."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.failure: OSError | None = None

    async def append(self, entry: bytes) -> int:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.entries.append(entry)
        return len(self.entries) - 1

    def faults(self) -> list[str]:
        audit = SessionAudit()
        for index, entry in enumerate(self.entries):
            audit.add(index, parse_entry(entry))
        return list(audit.faults())


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore(MemoryOptions(), FakeClock().monotonic)
    yield made
    await made.close()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def sessions(store: MemoryStore, log: Log) -> Sessions:
    numbers = count(1)
    return Sessions(store, log.append, FakeClock(), lambda: f"s{next(numbers)}")


def test_a_record_is_canonical_and_reads_back() -> None:
    record = exchange_record("s1", 3, EXCHANGE)

    found = parse_record(record)
    assert found["decision"] == {"rule": "declared", "verdict": "allow"}
    assert found["response"]["body"]["size_bytes"] == 7
    assert (found["started"], found["ended"]) == ("1.250", "2.000")
    assert (
        record
        == json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"v":2}', b'{"v": 1}', b'{"v":1,"v":1}', b"\xff", b'{"v":1.0}'],
)
def test_what_is_no_record_in_canonical_form_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        parse_record(data)


ENTRY = Entry("s1", 0, Kind.OPEN, "sha256:00", 7)


@pytest.mark.parametrize(
    "data",
    [
        ENTRY.encode() + b" ",
        ENTRY.encode().replace(b'"v":1', b'"v":2'),
        ENTRY.encode().replace(b"open", b"odd"),
        ENTRY.encode().replace(b'"s1"', b"1"),
        ENTRY.encode().replace(b'"number":0', b'"number":false'),
        ENTRY.encode().replace(b'"number":0', b'"number":-1'),
        ENTRY.encode().replace(b'"sha256:00"', b"null"),
        ENTRY.encode().replace(b'"size_bytes":7', b'"size_bytes":true'),
        ENTRY.encode().replace(b"}", b',"x":1}'),
        b'{"v":1}',
    ],
)
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    assert parse_entry(ENTRY.encode()) == ENTRY
    with pytest.raises(MalformedEvidence):
        parse_entry(data)


async def test_a_session_is_kept_from_open_to_close(sessions: Sessions, log: Log) -> None:
    session = await sessions.open(Subject(action="sha256:aa/1"), "network:h.example")
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(session.record(EXCHANGE))
    kept = await session.close()

    assert log.faults() == []
    entries = [parse_entry(entry) for entry in log.entries]
    assert [entry.number for entry in entries] == list(range(7))
    assert (entries[kept.index].kind, entries[kept.index].record) == (Kind.CLOSE, kept.record)


async def test_every_record_is_in_the_store(
    sessions: Sessions, store: MemoryStore, log: Log
) -> None:
    session = await sessions.open(Subject(identity="ci"), "network")
    await session.record(EXCHANGE)
    await session.close()

    records = [exchange_record(session.id, 1, EXCHANGE)]
    digests = [DigestFunction.SHA256.digest(record) for record in records]
    assert await store.find_missing(digests) == []
    assert parse_entry(log.entries[1]).record == f"sha256:{digests[0].hash}"


async def test_what_cannot_be_kept_is_an_error_and_shows(sessions: Sessions, log: Log) -> None:
    session = await sessions.open(Subject(), "network")
    log.failure = OSError(28, "No space left on device")
    with pytest.raises(Unavailable, match="evidence of session s1 cannot be kept"):
        await session.record(EXCHANGE)
    log.failure = None
    await session.close()

    assert log.faults() == ["s1 lacks record 1 of 2"]


async def test_nothing_is_opened_that_cannot_be_kept(sessions: Sessions, log: Log) -> None:
    log.failure = OSError(5, "Input/output error")

    with pytest.raises(Unavailable):
        await sessions.open(Subject(), "network")


async def test_a_closed_session_takes_no_more(sessions: Sessions) -> None:
    session = await sessions.open(Subject(), "network")
    await session.close()

    with pytest.raises(Unavailable, match="s1 is closed"):
        await session.record(EXCHANGE)


async def test_a_session_that_was_cut_off_shows(sessions: Sessions, log: Log) -> None:
    session = await sessions.open(Subject(), "network")
    await session.record(EXCHANGE)

    assert log.faults() == ["s1 was not closed: it runs still, or was cut off"]


def audited(*entries: Entry) -> list[str]:
    audit = SessionAudit()
    for index, entry in enumerate(entries):
        audit.add(index, entry)
    return list(audit.faults())


def test_what_does_not_belong_into_a_session_shows() -> None:
    first = ENTRY._replace(number=1, kind=Kind.EXCHANGE)
    close = ENTRY._replace(number=2, kind=Kind.CLOSE)

    assert audited(ENTRY, first, close) == []
    assert audited(first, ENTRY, close) == []
    assert audited(ENTRY, close) == ["s1 lacks record 1 of 2"]
    assert audited(ENTRY, first, first, close) == ["entry 2: s1 has a second record 1"]
    assert audited(ENTRY, close, first) == ["entry 2: s1 goes on after its close"]
    assert audited(first, close) == ["s1 lacks record 0 of 2"]
    assert "entry 1: s1 is not opened by record 0" in audited(
        ENTRY, first._replace(kind=Kind.OPEN), close
    )
    assert "s1 has a record beyond its close" in audited(
        ENTRY, first, first._replace(number=3), close
    )


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":9007199254740992,"v":1}',
        b'{"a":1.0,"v":1}',
        b'{"a":1E5,"v":1}',
        b'{"a":"\\u0041","v":1}',
        b'{"a":"\\u00fc","v":1}',
        b'{"a":NaN,"v":1}',
        b'{"a":1,"a":1,"v":1}',
        b'{"v":1,"a":1}',
        b'{"a":-0,"v":1}',
    ],
)
def test_other_ways_to_write_the_same_are_no_records(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        parse_record(data)


def test_an_entry_of_version_true_is_none() -> None:
    data = Entry("s", 1, Kind.EXCHANGE, "sha256:00", 1).encode()
    assert parse_entry(data).number == 1
    with pytest.raises(MalformedEvidence):
        parse_entry(data.replace(b'"v":1', b'"v":true'))
