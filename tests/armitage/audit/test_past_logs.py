"""A record whose log was rotated is searched and verified as a whole."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest
from support.audited import serving
from support.records import ORIGIN, Fetch, Record, record

from armitage.audit.auditor import INDEX_NAME
from armitage.audit.differences import compare
from armitage.audit.query import Query
from armitage.audit.rows import Row
from armitage.audit.verifier import Verifier
from armitage.audit.verify import EntryAudit
from armitage.audit.why import why
from armitage.clock import SystemClock
from armitage.errors import NotFound
from armitage.log.errors import LogError
from armitage.log.merkle import leaf_hash
from armitage.log.note import PublicKey
from armitage.witness.rotation import rotate_log

SECOND, THIRD = "log.example/second", "log.example/third"
LOGS = (ORIGIN, SECOND, THIRD)
ACTION = "ab" * 32
HASHED = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
"""Of `content`."""


async def grow(directory: Path, origin: str, *hosts: str) -> None:
    async with record(directory, origin) as kept:
        for host in hosts:
            await kept.session(Fetch(f"https://{host}/"), action=ACTION)


async def rotate(directory: Path, origin: str) -> None:
    await asyncio.to_thread(rotate_log, directory, origin)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `directory`."""
    path = tmp_path_factory.mktemp("record")
    asyncio.run(_make(path))
    return path


async def _make(path: Path) -> None:
    await grow(path, ORIGIN, "one.example")
    await rotate(path, SECOND)
    await grow(path, SECOND, "two.example")
    await rotate(path, THIRD)
    await grow(path, THIRD, "three.example")


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """Three logs of one session each: entries 0 to 3, 4 to 8 and 9 to 12. The first two end with an
    entry that says so, the last two begin with one.
    """
    return Path(shutil.copytree(made, tmp_path / "record"))


def told(rows: list[Row]) -> list[tuple[int, str, int, bool]]:
    return [(row.index, row.log, row.log_index, row.is_past) for row in rows]


async def hosts(kept: Record, **filters: object) -> list[str]:
    found = await kept.auditor.page(Query(kind="exchange", **filters))  # type: ignore[arg-type]
    return [row.host for row in found.rows]


async def test_entries_of_all_logs_are_found_newest_first(directory: Path) -> None:
    async with record(directory, THIRD) as kept:
        page = await kept.auditor.page(Query(kind="exchange"))

        assert told(page.rows) == [
            (11, THIRD, 2, False),
            (6, SECOND, 2, True),
            (1, ORIGIN, 1, True),
        ]
        assert (page.size, page.indexed, page.total) == (13, 13, 3)


@pytest.mark.parametrize(("log", "host"), [*zip(LOGS, ("one", "two", "three"), strict=True)])
async def test_a_log_is_searched_by_its_name(directory: Path, log: str, host: str) -> None:
    async with record(directory, THIRD) as kept:
        assert await hosts(kept, log=log) == [f"{host}.example"]
        assert await hosts(kept, log=log, host="one.example") == (
            ["one.example"] if host == "one" else []
        )
        assert await hosts(kept, log="log.example/other") == []


async def test_an_entry_has_the_receipt_of_its_own_log(directory: Path) -> None:
    async with record(directory, THIRD) as kept:
        stores = kept.archive.logs
        for number in range(kept.auditor.logs.size):
            store, index = kept.auditor.logs.at(number)
            receipt = store.receipt(index)
            signed = receipt.verify(leaf_hash(store.entry(index)), store.key)

            view = await kept.auditor.entry(number)

            assert view.receipt == receipt.encode().decode()
            assert (view.row.log, view.row.log_index) == (signed.checkpoint.origin, index)
            assert view.row.is_past is (store is not stores[-1])
            for other in stores:
                if other is not store:
                    with pytest.raises(LogError):
                        receipt.verify(leaf_hash(store.entry(index)), other.key)
        with pytest.raises(NotFound, match="13 entries"):
            await kept.auditor.entry(13)


async def test_the_way_back_and_differences_cross_the_logs(directory: Path) -> None:
    async with record(directory, THIRD) as kept:
        graph = await why(kept.auditor, HASHED)
        found = await compare(kept.auditor, "session:session-0-0", "session:session-5-0")

        assert {node.index for node in graph.nodes if node.kind == "fetch"} == {1, 6, 11}
        assert [each.request for each in found.only_a] == ["GET https://one.example/"]
        assert [each.request for each in found.only_b] == ["GET https://two.example/"]


async def test_an_index_goes_on_after_a_rotation(tmp_path: Path) -> None:
    await grow(tmp_path, ORIGIN, "one.example")
    await rotate(tmp_path, SECOND)
    with sqlite3.connect(tmp_path / INDEX_NAME) as db:  # What a new index would not have.
        db.execute("INSERT INTO cache_hours VALUES (1, 2, 3)")

    async with record(tmp_path, SECOND) as kept:
        assert await hosts(kept) == ["one.example"]
        assert kept.auditor.indexed == 5
        with sqlite3.connect(tmp_path / INDEX_NAME) as db:
            assert db.execute("SELECT * FROM cache_hours").fetchall() == [(1, 2, 3)]


async def test_an_index_of_other_logs_is_made_anew(directory: Path) -> None:
    async with record(directory, THIRD):
        pass
    shutil.rmtree(directory / "past" / "0001")

    async with record(directory, THIRD) as kept:
        assert await hosts(kept) == ["three.example", "two.example"]
        assert (await kept.auditor.entry(0)).row.log == SECOND


async def test_a_verification_covers_each_log_by_its_own_key(directory: Path) -> None:
    async with record(directory, THIRD) as kept:
        asked: list[str] = []

        def noting(key: PublicKey) -> list[EntryAudit]:
            asked.append(key.name)
            return []

        verifier = Verifier(kept.archive, noting, SystemClock())
        progress = [each async for each in verifier.run()]

        assert progress[-1].entries == progress[-1].size == 13
        assert [each.entries for each in progress] == sorted(each.entries for each in progress)
        assert verifier.last is not None
        assert verifier.last.faults == 0
        assert [each.checkpoint.origin for each in verifier.last.findings] == asked
        assert asked == [THIRD, SECOND, ORIGIN]


async def spoil_tile(directory: Path) -> None:
    [bundle] = (directory / "past" / "0001" / "log" / "partial").glob("entries-*")
    bundle.write_bytes(bundle.read_bytes().replace(b"exchange", b"exchangf"))


async def replace_log(directory: Path) -> None:
    """One that was signed by its own key, and that the next one does not follow."""
    other = directory / "other"
    await grow(other, ORIGIN, "forged.example")
    await rotate(other, SECOND)
    shutil.rmtree(directory / "past" / "0001")
    shutil.move(other / "past" / "0001", directory / "past" / "0001")
    shutil.rmtree(other)


@pytest.mark.parametrize("spoil", [spoil_tile, replace_log])
async def test_a_log_that_is_not_what_the_next_one_follows_is_not_shown(
    directory: Path, spoil: object
) -> None:
    await spoil(directory)  # type: ignore[operator]

    async with record(directory, THIRD) as kept:
        assert await hosts(kept) == ["three.example", "two.example"]
        state = await kept.auditor.state()
        assert [each.origin for each in state.past] == [SECOND]
        assert "past/0001" in state.past_problem
        verifier = Verifier(kept.archive, lambda _: [], SystemClock())
        async for _ in verifier.run():
            pass
        assert verifier.last is not None
        assert "past/0001" in verifier.last.findings[0].faults[0]


async def test_pages_and_api_mark_what_is_in_a_log_that_ended(directory: Path) -> None:
    async with record(directory, THIRD) as kept, serving(kept) as served:
        page = (await served.read("/audit/log?kind=exchange")).decode()
        entry = (await served.read("/audit/entry/6")).decode()
        state = (await served.read("/audit/checkpoint")).decode()
        found = await served.get(f"/api/audit/entries?log={SECOND}&kind=exchange")
        records = await served.read("/api/audit/records?first=2&count=1")

    assert page.count("which has ended") == 2
    assert f'<option value="{SECOND}">' in page
    assert "entry 2 " in entry
    assert ">ended</span>" in entry
    assert "Logs that ended" in state
    assert "4 to 8" in state
    [row] = found["rows"]
    assert (row["index"], row["log_index"], row["is_past"]) == (6, 2, True)
    assert b"three.example" in records


async def test_a_record_with_one_log_speaks_of_no_other(tmp_path: Path) -> None:
    await grow(tmp_path, ORIGIN, "one.example")
    async with record(tmp_path) as kept, serving(kept) as served:
        page = (await served.read("/audit/log")).decode()
        state = (await served.read("/audit/checkpoint")).decode()

    assert "ended" not in page
    assert 'name="log"' not in page
    assert "Logs that ended" not in state
