"""The log: one sync for many, and no record lost or made up whatever fails."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.fragile_volume import After, FragileFile, FragileVolume

from cas.errors import CasError, StoreFull, StoreUnavailable
from cas.log import Draft, Job, Log
from cas.records import Damaged, Kind, Record

RECORDS = [Record(Kind.RESULT, b"R%d" % number, bytes([number]) * 3000) for number in range(50)]


@pytest.fixture
def volume() -> FragileVolume:
    return FragileVolume()


@pytest.fixture
async def log(volume: FragileVolume) -> AsyncIterator[Log]:
    log = open_log(volume)
    log.start()
    yield log
    await log.close()


def open_log(volume: FragileVolume, *, sync: bool = True, segment_bytes: int = 1 << 15) -> Log:
    return Log(volume, os.urandom, sync=sync, segment_bytes=segment_bytes)


def submit(log: Log, *records: Record, **options: Any) -> asyncio.Future[list[int]]:
    future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    def done(job: Job) -> None:
        if job.error is None:
            future.set_result(job.locations)
        else:
            future.set_exception(job.error)

    log.submit(Job(done, records, **options))
    return future


def replayed(volume: FragileVolume, **options: Any) -> list[bytes]:
    log = open_log(volume, **options)
    return [key for _, table in log.replay() for key in table.keys]


def counted(monkeypatch: pytest.MonkeyPatch, kind: type, step: str) -> list[str]:
    """Counts calls."""
    calls: list[str] = []
    real = getattr(kind, step)

    def counting(*args: object) -> object:
        calls.append(step)
        return real(*args)

    monkeypatch.setattr(kind, step, counting)
    return calls


def failing_once(code: int, real: Callable[..., object], at: int = 0) -> Callable[..., object]:
    calls = 0

    def fail(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise OSError(code, os.strerror(code))
        return real(*args)

    return fail


async def test_records_are_read_where_they_were_put(log: Log) -> None:
    [location] = await submit(log, RECORDS[0])
    more = await submit(log, *RECORDS[1:3])

    for where, record in zip([location, *more], RECORDS, strict=False):
        assert log.read(where, None) == record
        assert log.read(where, record.size_bytes) == record
        assert log.read_cached(where, record.size_bytes) == record


async def test_jobs_that_gather_share_a_sync(
    log: Log, volume: FragileVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(log, RECORDS[0])
    syncs = counted(monkeypatch, FragileFile, "sync")

    with volume.lock:  # The thread cannot end its first job before all are submitted.
        jobs = [submit(log, record) for record in RECORDS[1:9]]
    await asyncio.gather(*jobs)

    assert len(syncs) <= 2


async def test_notes_need_no_sync(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await submit(log, RECORDS[0])
    syncs = counted(monkeypatch, FragileFile, "sync")

    await submit(log, RECORDS[1], is_durable=False)

    assert syncs == []


async def test_full_segments_are_sealed_and_others_begun(log: Log, volume: FragileVolume) -> None:
    for record in RECORDS:
        await submit(log, record)

    segments = log.segments()
    assert len(segments) == 5
    assert [segment.is_active for segment in segments] == [False] * 4 + [True]
    assert all(segment.size_bytes <= 1 << 15 for segment in segments)
    assert [k for s in segments[:-1] for k in log.table(s.number).keys] == [
        record.key for record in RECORDS[:40]
    ]
    await log.close()
    assert replayed(volume) == [record.key for record in RECORDS]


async def test_record_larger_than_a_segment_has_one_for_itself(log: Log) -> None:
    large = Record(Kind.RESULT, b"R", bytes(1 << 17))

    [location] = await submit(log, large)
    await submit(log, RECORDS[0])

    assert log.read(location, None) == large
    assert len(log.segments()) == 2


async def test_segment_without_table_is_made_whole(log: Log, volume: FragileVolume) -> None:
    for record in RECORDS[:5]:
        await submit(log, record)

    killed = volume.after(After.EVERYTHING)
    [name] = [name for name in killed.names if name.startswith("packs/")]
    killed.names[name].data += b"torn"

    assert replayed(killed) == [record.key for record in RECORDS[:5]]
    operations = killed.operations
    assert replayed(killed) == [record.key for record in RECORDS[:5]]
    assert killed.operations - operations <= 2  # Nothing but its folder was made.


async def test_damage_in_mid_segment_loses_the_damaged_record_only(
    log: Log, volume: FragileVolume
) -> None:
    for record in RECORDS[:5]:
        await submit(log, record)

    killed = volume.after(After.EVERYTHING)
    [name] = [name for name in killed.names if name.startswith("packs/")]
    killed.names[name].data[7000] ^= 1

    recovered = open_log(killed)
    keys = [key for _, table in recovered.replay() for key in table.keys]
    assert keys == [b"R0", b"R1", b"R3", b"R4"]
    assert recovered.lost_bytes == RECORDS[2].size_bytes


async def test_body_with_a_record_in_it_gives_no_record(log: Log, volume: FragileVolume) -> None:
    await submit(log, RECORDS[0])
    [file] = [inode for name, inode in volume.names.items() if name.startswith("packs/")]
    inner = bytes(file.data[32:])
    await log.close()
    forger = open_log(volume)
    for _ in forger.replay():
        pass
    forger.start()

    await submit(forger, Record(Kind.RESULT, b"Router", bytes(8) + inner))
    killed = volume.after(After.EVERYTHING)
    name = max(killed.names)
    killed.names[name].data[40] ^= 1  # So that the outer one does not hide the inner one.
    await forger.close()

    assert b"R0" not in replayed(killed)[1:]


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreUnavailable)]
)
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (FragileFile, "write"),
        (FragileFile, "sync"),
        (FragileVolume, "create"),
        (FragileVolume, "sync_folder"),
    ],
)
async def test_failed_step_fails_the_job_and_no_other(
    volume: FragileVolume,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    step: str,
    code: int,
    error: type[CasError],
) -> None:
    log = open_log(volume)
    log.start()
    with monkeypatch.context() as patch:
        patch.setattr(kind, step, failing_once(code, getattr(kind, step)))
        with pytest.raises(error):
            await submit(log, RECORDS[0])
        await submit(log, RECORDS[1])
    await submit(log, RECORDS[2])
    await log.close()

    assert replayed(volume)[-2:] == [b"R1", b"R2"]


async def test_job_that_does_not_fit_takes_none_with_it(
    log: Log, volume: FragileVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(log, RECORDS[0])
    real = FragileFile.write

    def write(file: FragileFile, buffers: list[bytes], offset: int) -> None:
        if sum(map(len, buffers)) > 4000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(FragileFile, "write", write)
        with volume.lock:
            jobs = [submit(log, RECORDS[1]), submit(log, *RECORDS[2:4]), submit(log, RECORDS[4])]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)

    assert [isinstance(outcome, StoreFull) for outcome in outcomes] == [False, True, False]
    await log.close()
    assert replayed(volume) == [b"R0", b"R1", b"R4"]


async def test_nothing_follows_a_sync_that_failed(
    log: Log, volume: FragileVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(log, RECORDS[0])
    with monkeypatch.context() as patch:
        patch.setattr(FragileFile, "sync", failing_once(errno.EIO, FragileFile.sync))
        with pytest.raises(StoreUnavailable):
            await submit(log, RECORDS[1])

    [location] = await submit(log, RECORDS[2])

    assert len(log.segments()) == 2
    assert log.read(location, None) == RECORDS[2]
    left = volume.after(After.NOTHING)
    assert replayed(left) == [b"R0", b"R2"]


async def test_file_that_goes_and_comes_back_in_one_group_is_there(
    log: Log, volume: FragileVolume
) -> None:
    volume.make_folder("blobs")
    volume.create("blobs/a").write([b"old"], 0)
    file = volume.create("draft")
    file.write([b"new"], 0)

    with volume.lock:  # So that both are in one group, behind the first job.
        jobs = [
            submit(log, RECORDS[0]),
            submit(log, remove=["blobs/a"]),
            submit(log, publish=Draft(file, "draft", "blobs/a")),
        ]
    await asyncio.gather(*jobs)

    assert volume.open("blobs/a").read(10, 0) == b"new"


async def test_owner_that_fails_to_listen_keeps_nobody_waiting(
    log: Log, volume: FragileVolume, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Job) -> None:
        raise ZeroDivisionError

    with volume.lock:
        first = submit(log, RECORDS[0])
        log.submit(Job(fail, RECORDS[1:2]))
        last = submit(log, RECORDS[2])
    await asyncio.gather(first, last)

    assert "ZeroDivisionError" in caplog.text


async def test_dropped_segment_is_gone(log: Log, volume: FragileVolume) -> None:
    places = [(await submit(log, record))[0] for record in RECORDS[:20]]
    first = log.segments()[0].number

    log.drop(first)
    log.dropped(first)

    assert not log.has(first)
    with pytest.raises(FileNotFoundError):
        log.read(places[0], None)
    assert log.read(places[-1], None) == RECORDS[19]
    assert replayed(volume.after(After.NOTHING))[0] == b"R10"


async def test_record_that_is_another_is_damaged(log: Log, volume: FragileVolume) -> None:
    [location] = await submit(log, RECORDS[0])
    [file] = [inode for name, inode in volume.names.items() if name.startswith("packs/")]

    file.data[100] ^= 1

    with pytest.raises(Damaged):
        log.read(location, None)


async def test_closed_log_refuses_and_what_came_before_is_done(volume: FragileVolume) -> None:
    log = open_log(volume)
    log.start()
    before = [submit(log, record) for record in RECORDS[:5]]

    await log.close()
    await log.close()

    with pytest.raises(StoreUnavailable):
        await submit(log, RECORDS[5])
    assert all(job.done() for job in before)
    assert replayed(volume) == [record.key for record in RECORDS[:5]]


async def test_log_without_a_record_leaves_no_file(volume: FragileVolume) -> None:
    for _ in range(3):
        log = open_log(volume)
        assert list(log.replay()) == []
        log.start()
        await log.close()

    assert volume.names == {}
