"""What the pack store promises beyond the contract of all stores."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from support import crashing
from support.clock import FakeClock
from support.packs import Place, open_storage, place_of

from cas.digest import Digest, DigestFunction, Hasher
from cas.errors import BlobNotFound, StoreFull, StoreUnavailable
from cas.keys import key_of
from cas.large_files import SMALL_BYTES
from cas.log import FOLDER, segment_of
from cas.pack_store import Durability, PackOptions, PackStore
from cas.store import FileExport
from cas.upkeep import Upkeep, UpkeepOptions
from cas.volume import DiskFile, DiskVolume

SHA256 = DigestFunction.SHA256
MIB = 1024 * 1024
LEASE_S = 12 * 3600.0
TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
"""The root comes first: tests/cas is no package but would pass for one."""

Open = Callable[..., Awaitable[PackStore]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def open_store(directory: Path, clock: FakeClock) -> AsyncIterator[Open]:
    opened: list[PackStore] = []

    async def open_one(at: Path = directory, **options: float | Durability) -> PackStore:
        for store in opened:
            await store.close()
        made = PackOptions(**options)  # type: ignore[arg-type]
        store = (await open_storage(at, clock, made)).store
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(seed).randbytes(size)
    return SHA256.digest(data), data


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def read(store: PackStore, digest: Digest) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(digest)])


async def stream(store: PackStore, digest: Digest, data: bytes) -> None:
    writer = await store.open_writer([digest])
    try:
        for start in range(0, len(data), MIB):
            await writer.write(data[start : start + MIB])
        await writer.commit()
    finally:
        await writer.abort()


# Starts and ends


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_blobs_survive_a_restart(open_store: Open, size: int) -> None:
    digest, data = blob(size)
    store = await open_store()
    await store.put([digest], data)

    store = await open_store()

    assert await store.find_missing([digest]) == []
    assert await store.get(digest) == data
    assert (store.stats().blobs, store.stats().bytes) == (1, size)


async def test_second_store_on_a_directory_is_refused_naming_the_process(
    open_store: Open, directory: Path
) -> None:
    await open_store()

    with pytest.raises(StoreUnavailable, match=rf"in use by process {os.getpid()};"):
        await open_storage(directory, FakeClock())


async def test_directory_of_something_else_is_refused_untouched(
    open_store: Open, directory: Path
) -> None:
    directory.mkdir()  # noqa: ASYNC240
    (directory / "thesis.tex").write_text("years of work")

    with pytest.raises(StoreUnavailable, match=r"thesis\.tex.*choose an empty directory"):
        await open_store()

    assert files_in(directory) == ["thesis.tex"]


async def test_path_that_is_no_directory_is_refused(open_store: Open, directory: Path) -> None:
    directory.write_text("")  # noqa: ASYNC240

    with pytest.raises(StoreUnavailable, match="cannot keep data in"):
        await open_store()


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts; to be named before the store, which must be closed first."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        where = tmp_path / f"tmpfs{len(mounted)}"
        where.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
        mounted.append(where)
        return where

    yield mount
    for where in mounted:
        subprocess.run(["umount", where], check=True)


async def test_read_only_directory_is_refused(
    tmpfs: Callable[[str], Path], open_store: Open
) -> None:
    where = tmpfs("ro")

    with pytest.raises(StoreUnavailable, match="Read-only file system; make it a directory"):
        await open_store(where / "store")


async def test_drafts_of_a_killed_process_are_cleared_away(
    open_store: Open, directory: Path
) -> None:
    await open_store()
    store = await open_store()
    await store.close()
    (directory / "drafts" / "left-over").write_bytes(bytes(1000))

    await open_store()

    assert files_in(directory / "drafts") == []


async def test_file_that_is_no_blob_is_left_alone(open_store: Open, directory: Path) -> None:
    digest, data = blob(3 * MIB)
    store = await open_store()
    await store.put([digest], data)
    await store.close()
    strange = place_of(directory, digest).path.parent / "README"
    strange.write_text("not a blob")

    store = await open_store()

    assert store.stats().blobs == 1
    assert strange.exists()


async def test_descriptors_and_drafts_are_not_leaked(open_store: Open, directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = await open_store(max_bytes=20 * MIB, min_lease_s=0)
    for seed in range(8):
        digest, data = blob(3 * MIB, seed)
        await store.put([digest], data)
        writer = await store.open_writer([blob(3 * MIB, 100 + seed)[0]])
        await writer.write(data[: 2 * MIB])
        await writer.abort()
        async for _ in store.read(digest):
            break
    await store.close()

    assert files_in(directory / "drafts") == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_close_waits_for_running_puts(open_store: Open) -> None:
    blobs = [blob(100, seed) for seed in range(50)]
    store = await open_store()

    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(store.put([digest], data)) for digest, data in blobs]
        await asyncio.sleep(0)
        await store.close()

    assert all(put.exception() is None for put in puts)
    store = await open_store()
    assert await store.find_missing([digest for digest, _ in blobs]) == []


# Damage


def replace_file(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Place], object]] = {
    "flipped bit": lambda at: overwrite(at, 5, b"\x00\xff\x00"),
    "truncated": lambda at: os.truncate(at.path, at.offset + 7),
    "emptied": lambda at: os.truncate(at.path, 0),
    "removed": lambda at: at.path.unlink(),
}
FILE_DAMAGE: dict[str, Callable[[Place], object]] = {
    "longer": lambda at: os.truncate(at.path, at.size_bytes + 1),
    "replaced": lambda at: replace_file(at.path, b"x" * 10),
}


def overwrite(place: Place, offset: int, data: bytes) -> None:
    with place.path.open("r+b") as file:
        file.seek(place.offset + offset)
        file.write(data)


@pytest.mark.parametrize("damage", DAMAGE | FILE_DAMAGE)
@pytest.mark.parametrize("restart", [True, False])
async def test_damaged_large_blob_reads_as_missing(
    open_store: Open, directory: Path, damage: str, restart: bool
) -> None:
    digest, data = blob(MIB + 1)
    store = await open_store()
    await store.put([digest], data)
    if restart:
        await store.close()
    (DAMAGE | FILE_DAMAGE)[damage](place_of(directory, digest))
    if restart:
        store = await open_store()

    with pytest.raises(BlobNotFound):
        await read(store, digest)

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().blobs == 0
    assert len(files_in(directory / "damaged")) == (0 if damage == "removed" else 1)
    await store.put([digest], data)
    assert await store.get(digest) == data


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("restart", [True, False])
async def test_damaged_small_blob_reads_as_missing(
    open_store: Open, directory: Path, damage: str, restart: bool
) -> None:
    digest, data = blob(1000)
    store = await open_store()
    await store.put([digest], data)
    if restart:
        await store.close()
    DAMAGE[damage](place_of(directory, digest))
    if restart:
        store = await open_store()

    with pytest.raises(BlobNotFound):
        await read(store, digest)

    assert await store.find_missing([digest]) == [digest]
    assert (store.stats().blobs, store.stats().bytes) == (0, 0)
    await store.put([digest], data)
    assert await store.get(digest) == data
    await store.close()
    store = await open_store()
    assert await store.get(digest) == data


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False])
async def test_no_flipped_byte_of_a_segment_is_served_or_loses_another_blob(
    open_store: Open, directory: Path, sealed: bool
) -> None:
    blobs = [blob(size, size) for size in (1, 20, 100)]
    store = await open_store()
    for digest, data in blobs:
        await store.put([digest], data)
    [path] = (directory / FOLDER).iterdir()
    unsealed = path.read_bytes()
    await store.close()
    intact = path.read_bytes() if sealed else unsealed

    for at in (*range(64), *range(64, len(intact), 13)):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        store = await open_store()
        served = 0
        for digest, data in blobs:
            with suppress(BlobNotFound):
                assert await store.get(digest) == data, at
                served += 1
        assert served >= len(blobs) - 1, at
        await store.close()
        for other in (directory / FOLDER).iterdir():
            other.unlink()


async def test_damage_is_counted(open_store: Open, directory: Path) -> None:
    digest, data = blob(10)
    store = await open_store()
    await store.put([digest], data)
    overwrite(place_of(directory, digest), 0, b"???")

    for _ in range(2):
        with pytest.raises(BlobNotFound):
            await store.get(digest)

    assert store.stats().damaged_blobs == 1


async def test_damaged_blob_is_not_exported(
    open_store: Open, directory: Path, tmp_path: Path
) -> None:
    (good, x), (bad, y) = blob(10, 1), blob(10, 2)
    store = await open_store()
    await store.put([good], x)
    await store.put([bad], y)
    overwrite(place_of(directory, bad), 0, b"???")

    wanted = [
        FileExport(bad, str(tmp_path / "bad"), 0o644),
        FileExport(good, str(tmp_path / "good"), 0o644),
    ]
    missing = await store.export_files(wanted)

    assert missing == [bad]
    assert not (tmp_path / "bad").exists()
    assert (tmp_path / "good").read_bytes() == x
    assert await store.find_missing([bad]) == [bad]


async def test_few_damaged_files_are_kept(open_store: Open, directory: Path) -> None:
    store = await open_store()
    for seed in range(20):
        digest, data = blob(10, seed)
        await store.put([digest], data)
        overwrite(place_of(directory, digest), 0, b"???")
        with pytest.raises(BlobNotFound):
            await store.get(digest)

    assert store.stats().damaged_blobs == 20
    await store.close()
    assert len(files_in(directory / "damaged")) == 16


async def test_first_readers_after_a_start_share_one_verification(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = blob(3 * MIB)
    store = await open_store()
    await store.put([digest], data)
    store = await open_store()
    hashed: list[DigestFunction] = []
    real = DigestFunction.hasher

    def hasher(function: DigestFunction) -> Hasher:
        hashed.append(function)
        return real(function)

    monkeypatch.setattr(DigestFunction, "hasher", hasher)

    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(read(store, digest)) for _ in range(4)]
    await store.get(digest)

    assert [task.result() for task in reads] == [data] * 4
    assert len(hashed) == 1


async def test_reader_that_comes_as_a_verification_ends_is_served(open_store: Open) -> None:
    digest, data = blob(3 * MIB)
    key = key_of(digest)
    store = await open_store()
    await store.put([digest], data)
    store = await open_store()
    await store.find_missing([digest])
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(store._verify_file(digest))
    store._verifying[key] = ended
    ended.add_done_callback(lambda done: store._end_verify(key, done))

    assert await store.get(digest) == data


async def test_verification_outlives_the_reader_that_began_it(open_store: Open) -> None:
    digest, data = blob(3 * MIB)
    store = await open_store()
    await store.put([digest], data)
    store = await open_store()

    async with asyncio.TaskGroup() as group:
        first = group.create_task(store.get(digest))
        second = group.create_task(store.get(digest))
        await asyncio.sleep(0)
        first.cancel()

    assert second.result() == data


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_cached_reads_need_no_thread(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    digest, data = blob(size)
    store = await open_store()
    await store.put([digest], data)
    await read(store, digest)
    if not DiskFile._can_tell:
        pytest.skip("this file system cannot tell what is cached")
    monkeypatch.setattr(store, "submit", lambda *_: pytest.fail("took a thread"))

    assert await read(store, digest) == data


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_file_system_that_cannot_tell_what_is_cached_is_read_in_a_thread(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(DiskFile, "_can_tell", True)
    digest, data = blob(size)
    store = await open_store()
    await store.put([digest], data)

    assert await read(store, digest) == data


def failing(code: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    return fail


async def test_read_error_is_unavailable_and_then_a_damaged_blob(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = blob(3 * MIB)
    store = await open_store()
    await store.put([digest], data)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(StoreUnavailable, match=r"cannot read the file of blob .*Input/output"):
            await read(store, digest)
        with pytest.raises(BlobNotFound):
            await read(store, digest)

    assert await store.find_missing([digest]) == [digest]


async def test_small_blob_on_a_bad_sector_reads_as_missing(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = blob(1000)
    store = await open_store()
    await store.put([digest], data)
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "read_cached", failing(errno.EIO))
        with pytest.raises(BlobNotFound):
            await store.get(digest)

    assert await store.find_missing([digest]) == [digest]


STEPS = {
    **dict.fromkeys(("write", "sync", "set_mtime"), DiskFile),
    **dict.fromkeys(("create", "rename", "sync_folder"), DiskVolume),
}


@pytest.mark.parametrize(
    ("size", "step"),
    [(3 * MIB, step) for step in STEPS]
    + [(10, step) for step in STEPS if step not in {"set_mtime", "rename"}],
)
@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreUnavailable)]
)
async def test_write_error_at_any_step_stores_nothing(
    open_store: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    code: int,
    error: type[Exception],
    size: int,
) -> None:
    digest, data = blob(size)
    store = await open_store()
    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, failing(code))
        with pytest.raises(error):
            await store.put([digest], data)
        with pytest.raises(error):
            await stream(store, digest, data)

    assert await store.find_missing([digest]) == [digest]
    assert store.stats().reserved_bytes == 0
    await stream(store, digest, data)
    assert await store.get(digest) == data
    store = await open_store()
    assert await store.get(digest) == data
    assert files_in(directory / "drafts") == []


@pytest.mark.parametrize("step", ["write", "sync"])
async def test_failed_write_harms_no_blob_of_the_segment(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    blobs = [blob(1000, seed) for seed in range(3)]
    store = await open_store()
    await store.put([blobs[0][0]], blobs[0][1])
    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, step, failing(errno.EIO))
        with pytest.raises(StoreUnavailable):
            await store.put([blobs[1][0]], blobs[1][1])
    await store.put([blobs[2][0]], blobs[2][1])

    for _ in range(2):
        assert await store.get(blobs[0][0]) == blobs[0][1]
        assert await store.get(blobs[2][0]) == blobs[2][1]
        store = await open_store()


# Everything at once


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_store_stays_whole_under_concurrent_use_eviction_and_damage(
    open_store: Open, directory: Path, tmp_path: Path, seed: int
) -> None:
    blobs = [blob(size, size) for size in (10, 5000, 70_000, MIB, MIB + 1, 2 * MIB, 100, 2000)]
    store = await open_store(max_bytes=4 * MIB, min_lease_s=0, durability=Durability.NONE)

    async def use(user: int) -> None:
        chance = random.Random(1000 * seed + user)
        for step in range(40):
            digest, data = chance.choice(blobs)
            action = chance.choice([put, put_streamed, get, export, damage, cancel])
            with suppress(BlobNotFound, StoreFull, StoreUnavailable):
                await action(digest, data, f"{tmp_path}/{user}-{step}")

    async def put(digest: Digest, data: bytes, _: str) -> None:
        await store.put([digest], data)

    async def put_streamed(digest: Digest, data: bytes, _: str) -> None:
        await stream(store, digest, data)

    async def get(digest: Digest, data: bytes, _: str) -> None:
        assert await read(store, digest) == data

    async def export(digest: Digest, data: bytes, path: str) -> None:
        if not await store.export_files([FileExport(digest, path, 0o644)]):
            assert Path(path).read_bytes() == data  # noqa: ASYNC240

    async def damage(digest: Digest, data: bytes, path: str) -> None:
        if key_of(digest) in store.index and digest.size_bytes < 100:
            location = store.locate(key_of(digest))
            if location is not None:
                segment = directory / FOLDER / f"{segment_of(location):08d}.pack"
                start = segment.read_bytes().find(key_of(digest)) + len(key_of(digest))
                overwrite(Place(segment, start, 0), 0, b"damaged")

    async def cancel(digest: Digest, data: bytes, path: str) -> None:
        task = asyncio.get_running_loop().create_task(put_streamed(digest, data, path))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async with asyncio.TaskGroup() as group:
        for user in range(6):
            group.create_task(use(user))
    assert store.stats().evicted_blobs > 0
    assert store.stats().reserved_bytes == 0
    await store.close()

    files = {path.name for path in (directory / "blobs").rglob("*-*")}
    assert files == {
        f"{d.hash}-{d.size_bytes}"
        for d, _ in blobs
        if key_of(d) in store.index and d.size_bytes > SMALL_BYTES
    }
    assert files_in(directory / "drafts") == []
    store = await open_store(max_bytes=4 * MIB, min_lease_s=0)
    for digest, data in blobs:
        with suppress(BlobNotFound):
            assert await store.get(digest) == data


# Cancelled calls


async def test_cancelled_put_stores_what_it_was_given_or_nothing(open_store: Open) -> None:
    store = await open_store()
    for seed in range(20):
        digest, data = blob(10_000, seed)
        buffer = bytearray(data)
        put = asyncio.get_running_loop().create_task(store.put([digest], buffer))
        for _ in range(seed % 5):
            await asyncio.sleep(0)
        put.cancel()
        await asyncio.wait([put])
        buffer[:] = bytes(len(buffer))

        await store.put([blob(1)[0]], blob(1)[1])  # Goes behind whatever is still under way.
        if not await store.find_missing([digest]):
            assert await store.get(digest) == data


async def test_abort_waits_for_a_commit_that_reads_the_blob_back(
    open_store: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_go_on, read_bytes = threading.Event(), threading.Event(), []

    def read(file: DiskFile, size_bytes: int, offset: int) -> bytes:
        began.set()
        assert may_go_on.wait(10)
        read_bytes.append(os.pread(file._fd, size_bytes, offset))
        return read_bytes[-1]

    monkeypatch.setattr(DiskFile, "read", read)
    store = await open_store()
    blake3 = DigestFunction.BLAKE3.digest(bytes(MIB))
    likeliest = Digest(DigestFunction.SHA256, blake3.hash, MIB)
    writer = await store.open_writer([likeliest, blake3])
    await writer.write(bytes(MIB))
    commit = asyncio.get_running_loop().create_task(writer.commit())
    await asyncio.to_thread(began.wait, 10)
    commit.cancel()
    await asyncio.wait([commit])
    abort = asyncio.get_running_loop().create_task(writer.abort())
    await asyncio.sleep(0.01)
    assert not abort.done()
    may_go_on.set()
    await abort

    assert read_bytes == [bytes(MIB)]
    assert files_in(directory / "drafts") == []
    assert await store.find_missing([blake3]) == [blake3]
    assert store.stats().reserved_bytes == 0


async def test_cancelled_export_makes_no_more_files(open_store: Open, tmp_path: Path) -> None:
    digest, data = blob(10)
    store = await open_store()
    await store.put([digest], data)
    target = tmp_path / "target"
    target.mkdir()
    wanted = [FileExport(digest, f"{target}/{index}", 0o644) for index in range(3000)]

    export = asyncio.get_running_loop().create_task(store.export_files(wanted))
    await asyncio.sleep(0)
    export.cancel()
    await asyncio.wait([export])
    made = len(os.listdir(target))
    await store.close()  # Which waits for all threads.

    assert export.cancelled()
    assert made == len(os.listdir(target)) < 3000


@pytest.mark.parametrize("yields", range(8))
async def test_cancelled_import_leaves_nothing_behind(
    open_store: Open, tmp_path: Path, directory: Path, yields: int
) -> None:
    (tmp_path / "large").write_bytes(bytes(8 * MIB))
    store = await open_store()
    before = len(os.listdir("/proc/self/fd"))

    importing = asyncio.get_running_loop().create_task(
        store.import_files(SHA256, [str(tmp_path / "large")])
    )
    for _ in range(yields):
        await asyncio.sleep(0)
    importing.cancel()
    await asyncio.wait([importing])

    assert store.stats().reserved_bytes == 0
    await store.close()
    assert files_in(directory / "drafts") == []
    assert len(os.listdir("/proc/self/fd")) <= before


# Kills


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What was left behind by a program that was killed at each of its steps, in order."""
    root = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, crashing.__file__, root], check=True, env=ENVIRONMENT)
    return sorted(root.iterdir(), key=lambda path: int(path.name))


@pytest.mark.slow
async def test_kill_at_any_step_loses_nothing_acknowledged(
    killed: list[Path], open_store: Open
) -> None:
    assert len(killed) > 50
    blobs = {digest.hash: (digest, data) for digest, data in crashing.BLOBS}
    acknowledged: list[list[str]] = []
    for root in killed:
        acknowledged = [line.split() for line in (root / "acknowledged").read_text().splitlines()]
        store = await open_store(root / "cas")

        for kind, name in acknowledged:
            if kind == "blob":
                assert await store.get(blobs[name][0]) == blobs[name][1], root
    assert len(acknowledged) == len(blobs) + 2


@pytest.mark.slow
async def test_kill_at_any_step_leaves_no_partial_blob(
    killed: list[Path], open_store: Open
) -> None:
    blobs = [*crashing.BLOBS, crashing.EVICTED]
    for root in killed:
        store = await open_store(root / "cas")

        there = {d for d, _ in blobs} - set(await store.find_missing([d for d, _ in blobs]))
        for digest, data in blobs:
            if digest in there:
                assert await store.get(digest) == data, root
        assert store.stats().damaged_blobs == 0
        assert store.stats().blobs == len(there)
        assert files_in(root / "cas" / "drafts") == []


@pytest.mark.slow
async def test_kill_at_any_step_keeps_the_last_acknowledged_result(
    killed: list[Path], clock: FakeClock
) -> None:
    digest = crashing.BLOBS[3][0]
    for root in killed:
        lines = (root / "acknowledged").read_text().splitlines()
        storage = await open_storage(root / "cas", clock)

        result = await storage.cache.get(crashing.INSTANCE, digest)
        await storage.close()

        if "result new" in lines:
            assert result == b"new"
        elif "result old" in lines:
            assert result in {b"old", b"new"}
        else:
            assert result in {None, b"old"}


@pytest.mark.slow
async def test_kill_at_random_moments_loses_nothing_acknowledged(
    tmp_path: Path, open_store: Open
) -> None:
    program = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from support.crashing import blob\n"
        "from cas.pack_storage import Clocks, PackStorage, StorageOptions\n"
        "async def put(store, seed):\n"
        "    digest, data = blob(seed, 1 + seed * 7919 % 200_000)\n"
        "    await store.put([digest], data)\n"
        "    print(seed, flush=True)\n"
        "async def main():\n"
        "    storage = await PackStorage.open(Path(sys.argv[1]), StorageOptions(),\n"
        "        Clocks(time.monotonic, lambda: 1.7e9))\n"
        "    store = storage.store\n"
        "    for start in range(int(sys.argv[2]), 10**6, 10):\n"
        "        async with asyncio.TaskGroup() as group:\n"
        "            for seed in range(start, start + 10):\n"
        "                group.create_task(put(store, seed))\n"
        "asyncio.run(main())\n"
    )
    acknowledged: list[int] = []
    for attempt in range(4):
        child = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", program, tmp_path / "store", str(1000 * attempt)],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert child.stdout is not None
        acknowledged += [int(child.stdout.readline()) for _ in range(5 + 9 * attempt)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.readlines() if line.endswith(b"\n")]
        child.stdout.close()
        child.wait()

    store = await open_store(tmp_path / "store")
    for seed in acknowledged:
        digest, data = crashing.blob(seed, 1 + seed * 7919 % 200_000)
        assert await store.get(digest) == data


# A full disk


async def test_full_disk_fails_writes_and_serves_reads(
    tmpfs: Callable[[str], Path], open_store: Open
) -> None:
    store = await open_store(tmpfs("size=6m"))
    (kept, x), (large, y), (small, z) = blob(MIB, 1), blob(8 * MIB, 2), blob(100_000, 3)
    await store.put([kept], x)

    with pytest.raises(StoreFull, match="the disk is full"):
        await store.put([large], y)
    with pytest.raises(StoreFull, match="the disk is full"):
        await stream(store, large, y)

    assert await store.get(kept) == x
    assert await store.find_missing([large]) == [large]
    await store.put([small], z)
    assert await store.get(small) == z
    assert store.stats().reserved_bytes == 0


async def test_full_disk_fails_imports_without_a_trace(
    tmpfs: Callable[[str], Path], open_store: Open, tmp_path: Path
) -> None:
    where = tmpfs("size=2m")
    store = await open_store(where)
    (tmp_path / "large").write_bytes(bytes(4 * MIB))

    with pytest.raises(StoreFull):
        await store.import_files(SHA256, [str(tmp_path / "large")])

    assert files_in(where / "drafts") == []
    assert store.stats().reserved_bytes == 0


async def test_bytes_that_are_to_stay_free_are_left_to_others(
    tmpfs: Callable[[str], Path], open_store: Open, clock: FakeClock
) -> None:
    store = await open_store(tmpfs("size=8m"), min_free_bytes=5 * MIB, min_lease_s=LEASE_S)
    (a, x), (b, y) = blob(2 * MIB, 1), blob(2 * MIB, 2)
    await store.put([a], x)

    with pytest.raises(StoreFull, match="are to stay free"):
        await store.put([b], y)
    clock.advance(2 * LEASE_S)
    await store.put([b], y)

    assert await store.find_missing([a, b]) == [a]


async def test_store_on_a_full_disk_starts_and_serves(
    tmpfs: Callable[[str], Path], open_store: Open
) -> None:
    where = tmpfs("size=2m")
    store = await open_store(where)
    blobs = [blob(20_000, 1), blob(100_000, 2)]
    for digest, data in blobs:
        await store.put([digest], data)
    with suppress(OSError):
        (where / "others").write_bytes(bytes(4 * MIB))
    os.rename(where / "others", where / "lost+found")

    store = await open_store(where)

    for digest, data in blobs:
        assert await store.get(digest) == data
    with pytest.raises(StoreFull):
        await store.put([blob(30_000, 3)[0]], blob(30_000, 3)[1])
    (where / "lost+found").unlink()
    await store.put([blob(30_000, 3)[0]], blob(30_000, 3)[1])


async def test_disk_full_of_small_blobs_recovers_by_itself_when_leases_end(
    tmpfs: Callable[[str], Path], clock: FakeClock
) -> None:
    async with AsyncExitStack() as stack:
        storage = await open_storage(tmpfs("size=4m"), clock)
        stack.push_async_callback(storage.close)
        upkeep = Upkeep(storage, UpkeepOptions())
        stored: list[tuple[Digest, bytes]] = []

        async def fill(seeds: range) -> None:
            for seed in seeds:
                digest, data = blob(20_000, seed)
                await storage.store.put([digest], data)
                stored.append((digest, data))

        with pytest.raises(StoreFull, match="the disk is full"):
            await fill(range(1000))
        await upkeep.run()
        for digest, data in stored:
            assert await storage.store.get(digest) == data
        with pytest.raises(StoreFull, match="the disk is full"):
            await fill(range(1000, 2000))

        clock.advance(2 * LEASE_S)
        await upkeep.run()
        await fill(range(2000, 2010))


# Leases over restarts


async def assert_leased(store: PackStore, digest: Digest) -> None:
    with pytest.raises(StoreFull):
        await store.open_writer([blob(10, 77)[0]])
    assert key_of(digest) in store.index


async def assert_not_leased(store: PackStore, digest: Digest) -> None:
    writer = await store.open_writer([blob(10, 77)[0]])
    await writer.abort()
    assert key_of(digest) not in store.index


@pytest.mark.parametrize("ending", ["closed", "killed"])
async def test_lease_goes_on_over_a_restart(
    open_store: Open, clock: FakeClock, directory: Path, ending: str
) -> None:
    digest, data = blob(10)
    store = await open_store(max_bytes=10)
    await store.put([digest], data)
    clock.advance(LEASE_S - 100)
    at_kill = (directory / "clock").read_bytes()
    await store.find_missing([digest])
    await store.close()
    if ending == "killed":
        (directory / "clock").write_bytes(at_kill)

    clock.advance(LEASE_S - 100)
    store = await open_store(max_bytes=10)
    await assert_leased(store, digest)

    clock.advance(LEASE_S)
    await assert_not_leased(store, digest)


@pytest.mark.parametrize("step_s", [-3600.0, -100 * LEASE_S])
async def test_wall_clock_stepping_back_shortens_no_lease(
    open_store: Open, clock: FakeClock, step_s: float
) -> None:
    digest, data = blob(10)
    store = await open_store(max_bytes=10)
    await store.put([digest], data)

    clock.step_wall(step_s)
    clock.advance(LEASE_S - 1)
    await assert_leased(store, digest)
    store = await open_store(max_bytes=10)
    await assert_leased(store, digest)
    await store.close()
    clock.step_wall(step_s)
    store = await open_store(max_bytes=10)
    await assert_leased(store, digest)

    clock.advance(2 * LEASE_S)
    await assert_not_leased(store, digest)


async def test_wall_clock_set_right_during_a_run_ends_no_lease(
    open_store: Open, clock: FakeClock
) -> None:
    clock.step_wall(-1_600_000_000.0)
    digest, data = blob(10)
    store = await open_store(max_bytes=10)
    await store.put([digest], data)

    clock.step_wall(+1_600_000_000.0)
    store = await open_store(max_bytes=10)

    await assert_leased(store, digest)


async def test_lost_note_of_the_time_ends_no_lease(
    open_store: Open, clock: FakeClock, directory: Path
) -> None:
    digest, data = blob(10)
    store = await open_store(max_bytes=10)
    await store.put([digest], data)
    await store.close()
    (directory / "clock").write_bytes(b"")

    store = await open_store(max_bytes=10)

    await assert_leased(store, digest)


async def test_saving_a_touch_does_not_make_a_blob_unverified(
    open_store: Open, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [blob(10, seed) for seed in range(10)]
    store = await open_store()
    for digest, data in blobs:
        await store.put([digest], data)
    clock.advance(LEASE_S / 2)
    await store.find_missing([blobs[0][0]])
    await store.find_missing([digest for digest, _ in blobs])
    monkeypatch.setattr(store, "_verify", lambda *_: pytest.fail("hashed again"))

    assert [await store.get(digest) for digest, _ in blobs] == [data for _, data in blobs]


async def test_store_over_a_lowered_limit_shrinks_with_the_next_write(
    open_store: Open, clock: FakeClock
) -> None:
    store = await open_store(max_bytes=100)
    for seed in range(10):
        digest, data = blob(10, seed)
        await store.put([digest], data)
    clock.advance(2 * LEASE_S)

    store = await open_store(max_bytes=30)
    digest, data = blob(10, 10)
    await store.put([digest], data)

    assert store.stats().bytes == 30


# Memory


@pytest.mark.slow
async def test_large_blob_streams_in_little_memory(tmp_path: Path) -> None:
    program = (
        "import asyncio, hashlib, resource, sys, time\n"
        "from pathlib import Path\n"
        "from cas.digest import Digest, DigestFunction\n"
        "from cas.pack_storage import Clocks, PackStorage, StorageOptions\n"
        "from cas.pack_store import Durability, PackOptions\n"
        "MIB, COUNT = 1024 * 1024, 256\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "async def open_store():\n"
        "    options = StorageOptions(store=PackOptions(durability=Durability.NONE))\n"
        "    clocks = Clocks(time.monotonic, lambda: 1.7e9)\n"
        "    return (await PackStorage.open(Path(sys.argv[1]), options, clocks)).store\n"
        "async def main():\n"
        "    piece = bytes(range(256)) * 4096\n"
        "    hasher = hashlib.sha256()\n"
        "    for _ in range(COUNT): hasher.update(piece)\n"
        "    digest = Digest(DigestFunction.SHA256, hasher.hexdigest(), COUNT * MIB)\n"
        "    store = await open_store()\n"
        "    before = peak()\n"
        "    writer = await store.open_writer([digest])\n"
        "    for _ in range(COUNT): await writer.write(bytearray(piece))\n"
        "    await writer.commit()\n"
        "    await store.close()\n"
        "    store = await open_store()\n"
        "    async for chunk in store.read(digest): assert chunk == piece\n"
        "    await store.close()\n"
        "    print(peak() - before)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", program, tmp_path / "store"],
        check=True,
        capture_output=True,
        env=ENVIRONMENT,
    )

    assert int(done.stdout) < 32 * 1024  # KiB
