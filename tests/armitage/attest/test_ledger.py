from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.notaries import LOG_KEY, SHA256

from armitage.attest import ledger as ledgers
from armitage.attest.entries import Entry, Kind
from armitage.attest.ledger import Ledger
from armitage.attest.service import Kept
from armitage.errors import Unavailable
from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore
from armitage.log.tiles import Tile
from cas.digest import Digest
from cas.volume import DiskVolume

OTHER_KEY = Signer("test.example/other", KeyType.ED25519, bytes(range(1, 33)))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(DiskVolume(tmp_path / "log", NAMES), LOG_KEY)
    yield store
    store.close()


def action(name: str) -> Digest:
    return SHA256.digest(name.encode())


def entry(name: str, record: str = "r", kind: Kind = Kind.ATTESTATION) -> Entry:
    return Entry(kind, "main", action(name), SHA256.digest(record.encode()))


def append(log: LogStore, *entries: Entry) -> list[Kept]:
    first = log.append([each.encode() for each in entries])
    return [Kept(each, index) for index, each in enumerate(entries, first)]


def test_newest_attestation_of_an_action_comes_first(log: LogStore, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "index", log)
    kept = append(log, entry("a", "1"), entry("b"), entry("a", "2"), entry("a", "3", Kind.DENIED))

    ledger.add(kept)

    assert ledger.find(action("a"), Kind.ATTESTATION) == [kept[2], kept[0]]
    assert ledger.find(action("a"), Kind.DENIED) == [kept[3]]
    assert ledger.find(action("c"), Kind.ATTESTATION) == []
    ledger.close()


def test_what_the_log_has_more_is_read_when_opened(log: LogStore, tmp_path: Path) -> None:
    Ledger(tmp_path / "index", log).close()
    log.append([b'{"kind":"open"}', b"no JSON at all", b'{"kind":"attestation","v":99}'])
    kept = [append(log, entry("a", str(number)))[0] for number in range(3)]
    log.append([b"filler"] * 600)
    kept += append(log, entry("a", "last"))

    ledger = Ledger(tmp_path / "index", log)

    assert ledger.find(action("a"), Kind.ATTESTATION) == kept[::-1]
    ledger.close()


@pytest.mark.parametrize("damage", ["garbage", "missing", "other log", "ahead", "layout"])
def test_index_that_is_of_no_use_is_made_anew(log: LogStore, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "index"
    kept = append(log, entry("a"))
    Ledger(path, log).close()
    match damage:
        case "garbage":
            path.write_bytes(b"x" * 10_000)
        case "missing":
            path.unlink()
        case "other log":
            other = LogStore(DiskVolume(tmp_path / "other", NAMES), OTHER_KEY)
            append(other, entry("b"), entry("b", "2"))
            path.unlink()
            Ledger(path, other).close()
            other.close()
        case "ahead":
            _change(path, "UPDATE log SET size = 5")
        case "layout":
            _change(path, "PRAGMA user_version = 99")

    ledger = Ledger(path, log)

    assert ledger.find(action("a"), Kind.ATTESTATION) == kept
    assert ledger.find(action("b"), Kind.ATTESTATION) == []
    ledger.close()


def _change(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


def test_start_reads_only_the_end_of_a_long_log(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_LAG_ENTRIES", 100)
    ledger = Ledger(tmp_path / "index", log)
    log.append([b"filler"] * 700)
    ledger.add(append(log, entry("a")))
    ledger.close()
    read: list[int] = []

    def reading(tile: Tile) -> bytes:
        read.append(tile.number)
        return LogStore.read(log, tile)

    monkeypatch.setattr(log, "read", reading)

    Ledger(tmp_path / "index", log).close()

    assert read == [2]


def test_actions_are_found_by_the_start_of_their_hash(log: LogStore, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "index", log)
    ledger.add(append(log, entry("a"), entry("a", "2"), entry("b")))

    assert ledger.actions(action("a").hash[:8]) == [action("a")]
    assert ledger.actions("") == sorted([action("a"), action("b")], key=str)
    assert ledger.actions("%") == []
    ledger.close()


def test_index_that_fails_is_told(log: LogStore, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "index", log)
    ledger.close()

    with pytest.raises(Unavailable, match="the index of attestations fails"):
        ledger.find(action("a"), Kind.ATTESTATION)
