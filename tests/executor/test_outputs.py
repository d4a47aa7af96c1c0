"""How outputs are taken in when there are many, or large ones."""

import asyncio
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.executing import SHA256, JsonCodec, PlainStore
from support.packs import open_storage

from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull
from cas.memory import MemoryOptions, MemoryStore
from cas.pack_store import Durability, PackOptions
from cas.store import BlobStore
from executor.concurrency import Threads
from executor.errors import InvalidOutput
from executor.outputs import OutputCollector, Outputs
from executor.spec import OutputKind, OutputRequest
from executor.staging import TreeLimits

NOBODY = 65534


class Counting(MemoryStore):
    """Imports wait until `expected` of them run, or a moment has passed."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected
        self._all = asyncio.Event()
        self.running = self.most = 0

    async def import_files(self, function: DigestFunction, paths: Sequence[str]) -> list[Digest]:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == self._expected:
            self._all.set()
        try:
            async with asyncio.timeout(5):
                await self._all.wait()
            return await super().import_files(function, paths)
        finally:
            self.running -= 1


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Lets this process open so many more files at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def store_of(kind: str, place: Path) -> AsyncIterator[BlobStore]:
    if kind == "plain":
        yield PlainStore(MemoryStore())
        return
    storage = await open_storage(place, FakeClock(), PackOptions(durability=Durability.NONE))
    try:
        yield storage.store
    finally:
        await storage.close()


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory of a user without privileges, who we are meanwhile."""
    with tempfile.TemporaryDirectory() as made:  # Unlike tmp_path, below what others may enter.
        os.chmod(made, 0o755)
        root = Path(made) / "root"
        root.mkdir()
        if os.geteuid() != 0:
            yield root
            return
        os.chown(root, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield root
        finally:
            os.seteuid(0)
            os.setegid(0)


async def collect(
    store: BlobStore, root: Path, *paths: str, limit_bytes: int | None = None
) -> Outputs:
    """Takes in what is at the paths, without any what is in the root."""
    threads = Threads(4)
    collector = OutputCollector(store, JsonCodec(), TreeLimits(), threads, limit_bytes=limit_bytes)
    requests = [
        (tuple(path.split("/")) if path else (), OutputRequest(path))
        for path in paths or sorted(os.listdir(root))
    ]
    try:
        return await collector.collect(str(root), requests, "/build", SHA256)
    finally:
        threads.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "folders"), [("disk", 50), ("plain", 5)])
async def test_fifty_thousand_outputs_take_few_descriptors(
    tmp_path: Path, kind: str, folders: int
) -> None:
    first = tmp_path / "out" / "0"
    first.mkdir(parents=True)
    for number in range(1000):
        (first / str(number)).write_text(str(number))
    for folder in range(1, folders):
        (tmp_path / "out" / str(folder)).mkdir()
        for number in range(1000):  # A link takes less time to make than a file.
            os.link(first / str(number), tmp_path / "out" / str(folder) / str(number))

    async with store_of(kind, tmp_path / "store") as store:
        with few_descriptors(24):
            outputs = await collect(store, tmp_path / "out")

        assert len(outputs.directories) == folders
        ends = [SHA256.digest(b"%d" % number) for number in range(1000)]
        assert await store.find_missing(ends) == []


async def test_large_files_are_taken_in_at_the_same_time_but_not_all(tmp_path: Path) -> None:
    for number in range(9):
        with (tmp_path / str(number)).open("wb") as file:
            file.write(b"%d" % number)
            file.truncate(3 << 20)
    store = Counting(4)

    outputs = await collect(store, tmp_path)

    assert store.most == 4
    expected = [SHA256.digest((b"%d" % number).ljust(3 << 20, b"\0")) for number in range(9)]
    assert [file.digest for file in outputs.files] == expected


async def test_a_few_small_files_are_one_call(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).write_text(str(number))
    store = Counting(1)

    outputs = await collect(store, tmp_path)

    assert (store.most, len(outputs.files)) == (1, 20)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("closed", ["", "a", "a/b"])
@pytest.mark.parametrize("path", ["a/b/f", "a/b", "link", ""])
async def test_closed_directories_hide_no_output(
    root: Path, path: str, closed: str, mode: int
) -> None:
    """Root reads in whatever a command has closed; others have to open it first."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("x")
    (root / "link").symlink_to("a/b/f")
    os.chmod(root / closed, mode)
    store = MemoryStore()

    outputs = await collect(store, root, path)

    found = [file.path for file in outputs.files]
    found += [directory.path for directory in outputs.directories]
    found += [symlink.path for symlink in outputs.symlinks]
    assert found == [path]
    assert [link.leads_to for link in outputs.symlinks] == [OutputKind.FILE] * (path == "link")
    if path != "link":
        assert await store.find_missing([SHA256.digest(b"x")]) == []


def sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


class TestSizes:
    async def test_outputs_over_their_limit_are_refused_unread(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        sparse(tmp_path / "out" / "small", 5)
        sparse(tmp_path / "out" / "large", 1 << 42)

        with pytest.raises(InvalidOutput, match=f"'out/large' has {1 << 42}"):
            await collect(MemoryStore(), tmp_path, limit_bytes=1 << 40)

    async def test_outputs_at_their_limit_are_taken(self, tmp_path: Path) -> None:
        sparse(tmp_path / "a", 3)
        sparse(tmp_path / "b", 2)

        assert len((await collect(MemoryStore(), tmp_path, limit_bytes=5)).files) == 2
        with pytest.raises(InvalidOutput, match=r"limit of 4 bytes \(executor.outputs_bytes\): 5 "):
            await collect(MemoryStore(), tmp_path, limit_bytes=4)

    async def test_a_file_larger_than_the_store_is_refused_unread(self, tmp_path: Path) -> None:
        sparse(tmp_path / "hole", 1 << 42)

        with pytest.raises(InvalidOutput, match="which has room for 1000 bytes at most"):
            await collect(MemoryStore(MemoryOptions(max_bytes=1000)), tmp_path)

    async def test_files_that_fill_the_store_together_are_refused(self, tmp_path: Path) -> None:
        for number in range(3):
            (tmp_path / str(number)).write_bytes(b"%d" % number * 400)

        with pytest.raises(InvalidOutput, match="1200 bytes in all"):
            await collect(MemoryStore(MemoryOptions(max_bytes=1000)), tmp_path)

    async def test_a_store_that_is_full_of_others_may_have_room_later(self, tmp_path: Path) -> None:
        store = MemoryStore(MemoryOptions(max_bytes=1000))
        await store.put([SHA256.digest(b"x" * 900)], b"x" * 900)
        (tmp_path / "f").write_bytes(b"y" * 400)

        with pytest.raises(StoreFull):
            await collect(store, tmp_path)

    async def test_a_file_over_the_limit_of_one_blob_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"y" * 400)

        with pytest.raises(InvalidOutput, match="over the limit of 300 bytes for one blob"):
            await collect(MemoryStore(MemoryOptions(max_blob_bytes=300)), tmp_path)
