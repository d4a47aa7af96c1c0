import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from support.tiers import until

from cas.digest import DigestFunction
from cas.errors import BlobNotFound, StoreUnavailable
from cas.pending import Entry
from cas.replication import Replicator


def blob(seed: int) -> Entry:
    return Entry(DigestFunction.SHA256.digest(b"%d" % seed))


def result(seed: int) -> Entry:
    return Entry(blob(seed).digest, "main")


class Recorded:
    """A Pending that says what it was told."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.kept = dict.fromkeys(entries)
        self.error: Exception | None = None

    def entries(self) -> list[Entry]:
        return list(self.kept)

    async def add(self, entries: Iterable[Entry]) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.kept.update(dict.fromkeys(entries))

    def remove(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.kept.pop(entry, None)

    async def close(self) -> None: ...


class Bench:
    """A replicator before a remote that a test opens, fails and looks into."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.pending = Recorded(entries)
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: dict[Entry, Exception] = {}
        self.begun: list[Entry] = []
        self.uploaded: list[Entry] = []
        self.held: Counter[Entry] = Counter()
        self.replicator = Replicator(
            self.pending,
            self._upload,
            keep=lambda entry: self.held.update([entry]),
            let_go=lambda entry: self.held.subtract([entry]),
            chance=lambda: 0.0,
        )

    async def _upload(self, entry: Entry) -> None:
        self.begun.append(entry)
        await self.gate.wait()
        if entry in self.errors:
            raise self.errors[entry]
        self.uploaded.append(entry)

    async def write(self, entry: Entry) -> asyncio.Future[None]:
        await self.replicator.note([entry])
        return self.replicator.start(entry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            workers = self.replicator.run(group, 4)
            yield
            for worker in workers:
                worker.cancel()

    def is_idle(self) -> bool:
        return self.replicator.stats().pending == 0


async def test_entry_is_kept_from_before_it_is_stored_until_it_is_copied() -> None:
    bench = Bench()
    bench.gate.clear()
    async with bench.running():
        await bench.replicator.note([blob(1)])
        assert list(bench.pending.kept) == [blob(1)]
        assert not bench.begun

        copied = bench.replicator.start(blob(1))
        await until(lambda: bool(bench.begun))
        assert bench.held[blob(1)] == 1
        assert list(bench.pending.kept) == [blob(1)]

        bench.gate.set()
        await copied
        assert not bench.pending.kept
        assert bench.held[blob(1)] == 0


async def test_forgotten_entry_is_not_copied() -> None:
    bench = Bench()
    async with bench.running():
        await bench.replicator.note([blob(1)])
        bench.replicator.forget([blob(1)])

    assert not bench.pending.kept
    assert not bench.begun


async def test_failed_writer_does_not_drop_what_another_one_wrote() -> None:
    bench = Bench()
    bench.gate.clear()
    async with bench.running():
        await bench.replicator.note([blob(1)])
        await bench.replicator.note([blob(1)])

        bench.replicator.forget([blob(1)])
        assert list(bench.pending.kept) == [blob(1)]
        copied = bench.replicator.start(blob(1))
        bench.gate.set()
        await copied

    assert bench.uploaded == [blob(1)]
    assert not bench.pending.kept


async def test_entry_noted_again_while_it_is_copied_stays_noted() -> None:
    bench = Bench()
    bench.gate.clear()
    async with bench.running():
        first = await bench.write(blob(1))
        await bench.replicator.note([blob(1)])
        bench.gate.set()
        await first

        assert list(bench.pending.kept) == [blob(1)]
        await bench.replicator.start(blob(1))
        assert not bench.pending.kept


async def test_list_that_cannot_be_written_notes_nothing() -> None:
    bench = Bench()
    bench.pending.error = StoreUnavailable("disk full")
    with pytest.raises(StoreUnavailable):
        await bench.replicator.note([blob(1)])

    bench.pending.error = None
    bench.replicator.forget([])
    assert bench.is_idle()


async def test_what_an_earlier_run_left_is_copied() -> None:
    bench = Bench([blob(2), result(1), blob(1)])
    assert bench.held.total() == 3
    async with bench.running():
        await until(bench.is_idle)

    assert set(bench.uploaded) == {blob(1), blob(2), result(1)}
    assert not bench.pending.kept


async def test_failed_entry_is_tried_until_it_works_and_who_waits_hears_of_it() -> None:
    bench = Bench()
    bench.errors[blob(1)] = StoreUnavailable("down")
    async with bench.running():
        with pytest.raises(StoreUnavailable, match="down"):
            await (await bench.write(blob(1)))
        assert list(bench.pending.kept) == [blob(1)]

        bench.errors.clear()
        await until(bench.is_idle)

    assert bench.uploaded == [blob(1)]
    assert bench.replicator.stats().failed >= 1


async def test_entry_that_is_gone_here_is_given_up() -> None:
    bench = Bench()
    bench.errors[blob(1)] = BlobNotFound(blob(1).digest)
    async with bench.running():
        with pytest.raises(BlobNotFound):
            await (await bench.write(blob(1)))

    assert bench.is_idle()
    assert not bench.pending.kept
    assert bench.held.total() == 0
    assert bench.replicator.stats().lost == 1


async def test_one_failing_entry_does_not_hold_up_others() -> None:
    bench = Bench()
    bench.errors[blob(1)] = StoreUnavailable("no")
    async with bench.running():
        await bench.write(blob(1))
        await (await bench.write(blob(2)))
        assert bench.uploaded == [blob(2)]
        bench.errors.clear()
        await until(bench.is_idle)


async def test_error_of_ours_loses_no_entry(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.errors[blob(1)] = ZeroDivisionError()
    async with bench.running():
        with pytest.raises(ZeroDivisionError):
            await (await bench.write(blob(1)))
        bench.errors.clear()
        await until(bench.is_idle)

    assert "ZeroDivisionError" in caplog.text


async def test_result_follows_the_blobs_that_were_stored_before_it() -> None:
    bench = Bench()
    bench.errors[blob(1)] = StoreUnavailable("not yet")
    async with bench.running():
        await bench.write(blob(1))
        copied = await bench.write(result(9))
        await bench.write(blob(2))
        await until(lambda: bench.uploaded == [blob(2)])
        for _ in range(50):
            await asyncio.sleep(0)
        assert result(9) not in bench.begun

        bench.errors.clear()
        await copied

    assert bench.uploaded == [blob(2), blob(1), result(9)]


async def test_result_does_not_wait_for_later_blobs() -> None:
    bench = Bench()
    bench.errors[blob(2)] = StoreUnavailable("not yet")
    async with bench.running():
        copied = await bench.write(result(1))
        await bench.write(blob(2))
        await copied
        bench.errors.clear()
        await until(bench.is_idle)


async def test_result_replaced_on_its_way_is_copied_again() -> None:
    bench = Bench()
    bench.gate.clear()
    async with bench.running():
        old = await bench.write(result(1))
        await until(lambda: bool(bench.begun))
        new = await bench.write(result(1))
        bench.gate.set()
        await old
        await new

    assert bench.uploaded == [result(1), result(1)]
    assert bench.is_idle()
    assert not bench.pending.kept


async def test_cancelled_entry_is_not_copied() -> None:
    bench = Bench()
    bench.errors[blob(1)] = StoreUnavailable("not yet")
    async with bench.running():
        await bench.write(blob(1))
        copied = await bench.write(result(1))
        await bench.replicator.cancel(result(1))
        await copied
        bench.errors.clear()
        await until(bench.is_idle)

    assert bench.uploaded == [blob(1)]
    assert not bench.pending.kept


async def test_cancelled_entry_is_not_on_its_way_any_more() -> None:
    bench = Bench()
    bench.gate.clear()
    async with bench.running():
        await bench.write(result(1))
        await until(lambda: bool(bench.begun))
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(bench.replicator.cancel(result(1)))
            await until(bench.is_idle)
            assert not cancelling.done()
            newer = await bench.write(result(1))
            bench.gate.set()
        assert bench.uploaded[:1] == [result(1)]
        await newer

    assert bench.uploaded == [result(1), result(1)]


async def test_many_entries_are_all_copied_once() -> None:
    bench = Bench()
    async with bench.running():
        async with asyncio.TaskGroup() as group:
            for seed in range(500):
                group.create_task(bench.write(blob(seed)))
                group.create_task(bench.write(result(seed)))
        await until(bench.is_idle)

    assert len(bench.uploaded) == len(set(bench.uploaded)) == 1000
    assert bench.replicator.stats().uploaded == 1000
