"""Compiled programs on disk: only what this installation wrote is ever loaded."""

import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas.digest import DigestFunction
from executor.concurrency import Threads
from executor.errors import InvalidInput, SandboxUnavailable
from executor.wasm import modules
from executor.wasm.engine import Kind
from executor.wasm.modules import Compiled, CompiledModules

PROGRAM = DigestFunction.SHA256.digest(b"program")
CODE = b"machine code" * 1000


class Bench:
    def __init__(self, directory: Path, threads: Threads) -> None:
        self.directory = directory
        self.threads = threads
        self.compiled = 0
        self.modules = self.open()

    def open(self, limit_bytes: int = 1 << 20) -> CompiledModules:
        return CompiledModules(self.directory, limit_bytes, self.threads)

    async def source(self) -> int:
        return os.memfd_create("program")

    async def compile(self, source: int, target: int) -> Kind:
        self.compiled += 1
        os.write(target, CODE)
        return Kind.MODULE

    async def get(self, cache: CompiledModules | None = None, text: bytes = b"program") -> Compiled:
        digest = DigestFunction.SHA256.digest(text)
        return await (cache or self.modules).get(digest, self.source, self.compile)

    def file(self) -> Path:
        [path] = self.directory.glob("*.compiled")
        return path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    threads = Threads(1)
    yield Bench(tmp_path / "cache", threads)
    threads.close()


async def test_program_is_compiled_once_for_good(bench: Bench) -> None:
    first = await bench.get()
    again = await bench.get()
    later = await bench.get(bench.open())

    assert bench.compiled == 1
    assert again is first
    assert (later.kind, os.pread(later.fd, 1 << 20, 0)) == (Kind.MODULE, CODE)


async def test_program_in_memory_cannot_be_changed(bench: Bench) -> None:
    for program in (await bench.get(), await bench.get(bench.open())):
        with pytest.raises(PermissionError):
            os.pwrite(program.fd, b"x", 0)
        assert fcntl.fcntl(program.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE


async def test_changed_file_is_compiled_anew(bench: Bench) -> None:
    await bench.get()
    good = bench.file().read_bytes()
    header = len(good) - len(CODE)

    for place in (*range(header), header, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        bench.file().write_bytes(bad)
        before = bench.compiled
        program = await bench.get(bench.open())
        assert bench.compiled == before + 1, place
        assert os.pread(program.fd, 1 << 20, 0) == CODE


async def test_truncated_and_longer_files_are_compiled_anew(bench: Bench) -> None:
    await bench.get()
    good = bench.file().read_bytes()

    for bad in (b"", good[:20], good[: len(good) - len(CODE)], good[:-1], good + b"x"):
        bench.file().write_bytes(bad)
        before = bench.compiled
        await bench.get(bench.open())
        assert bench.compiled == before + 1, len(bad)


async def test_program_of_another_name_is_not_taken_for_it(bench: Bench) -> None:
    await bench.get()
    theirs = bench.file().read_bytes()
    bench.file().unlink()
    await bench.get(text=b"another")
    bench.file().write_bytes(theirs)

    await bench.get(bench.open(), text=b"another")

    assert bench.compiled == 3


async def test_file_of_another_installation_is_compiled_anew(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", bench.threads)
    await other.get()
    await bench.get()
    bench.file().write_bytes(other.file().read_bytes())

    await bench.get(bench.open())

    assert bench.compiled == 2


async def test_link_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    await bench.get()
    bench.file().rename(tmp_path / "elsewhere")
    (bench.directory / f"{(await bench.get()).name}.compiled").symlink_to(tmp_path / "elsewhere")

    await bench.get(bench.open())

    assert bench.compiled == 2


async def test_another_engine_compiles_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.get()
    monkeypatch.setattr(modules, "engine_name", lambda: "wasmtime 1")

    await bench.get(bench.open())

    assert bench.compiled == 2


async def test_key_is_the_owners_alone(bench: Bench) -> None:
    key = bench.directory / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32

    key.chmod(0o640)

    with pytest.raises(SandboxUnavailable, match="alone can read"):
        bench.open()


@pytest.mark.parametrize("bad", [b"", b"short", bytes(33)])
async def test_key_of_another_length_is_refused(bench: Bench, bad: bytes) -> None:
    (bench.directory / "key").write_bytes(bad)

    with pytest.raises(SandboxUnavailable, match="32 bytes"):
        bench.open()


async def test_least_recently_used_go_first(bench: Bench) -> None:
    cache = bench.open(limit_bytes=3 * len(CODE))
    names = [(await bench.get(cache, text)).name for text in (b"a", b"b")]
    for age, name in enumerate(names):
        os.utime(bench.directory / f"{name}.compiled", (age, age))
    await bench.get(bench.open(), text=b"a")

    last = (await bench.get(cache, b"c")).name

    kept = {path.stem for path in bench.directory.glob("*.compiled")}
    assert kept == {names[0], last}


async def test_forgotten_program_is_compiled_anew(bench: Bench) -> None:
    bench.modules.forget(await bench.get())

    await bench.get()

    assert bench.compiled == 2


async def test_failure_to_compile_leaves_nothing(bench: Bench) -> None:
    async def failing(source: int, target: int) -> Kind:
        raise InvalidInput("no program")

    descriptors = os.listdir("/proc/self/fd")
    for _ in range(2):
        with pytest.raises(InvalidInput):
            await bench.modules.get(PROGRAM, bench.source, failing)

    assert os.listdir("/proc/self/fd") == descriptors
    assert list(bench.directory.glob("*.compiled")) == []
    await bench.get()
    assert bench.compiled == 1
