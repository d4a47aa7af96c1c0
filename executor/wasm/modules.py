"""Compiled programs, kept on disk for the next time.

Loading one executes machine code, so a file counts only when this installation wrote it: each
carries an HMAC under a key that lies beside them, readable by the owner alone. What is wrong in any
way is as if it were not there, and is compiled again. Programs are handed to workers as sealed
files in memory, which nobody can change any more, whatever happens to the file on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from cas.digest import Digest
from executor.concurrency import Threads
from executor.errors import SandboxUnavailable
from executor.wasm.engine import Kind, engine_name

_SUFFIX = ".compiled"
_MAGIC = b"armitage wasm 1\n"
_KINDS = {Kind.MODULE: b"m", Kind.COMPONENT: b"c"}
_KEY_BYTES = 32
_MAC_BYTES = 32
_HEADER_BYTES = len(_MAGIC) + 1 + _MAC_BYTES
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_IN_MEMORY = 64

Source = Callable[[], Awaitable[int]]
"""Opens a program."""
Compile = Callable[[int, int], Awaitable[Kind]]
"""Compiles the program in one open file into another."""


class Compiled:
    """One compiled program in memory, sealed."""

    def __init__(self, name: str, kind: Kind, fd: int) -> None:
        """Takes the descriptor over; whoever still has a program may use it, until close."""
        self.name = name
        self.kind = kind
        self.fd = fd

    def close(self) -> None:
        """Frees the descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class CompiledModules:
    """A directory of compiled programs. Owned by the event loop."""

    def __init__(self, directory: Path, limit_bytes: int, in_thread: Threads) -> None:
        """Makes the directory and its key where missing.

        Raises SandboxUnavailable when the key is not safe or the directory cannot be used.
        """
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._in_thread = in_thread
        self._engine = engine_name()
        self._known: OrderedDict[str, Compiled] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = _load_key(directory / "key")
        except OSError as error:
            raise SandboxUnavailable(
                f"compiled wasm programs, {directory}: {error.strerror}; make it writable or"
                " configure another"
            ) from error

    async def get(self, digest: Digest, source: Source, compiling: Compile) -> Compiled:
        """Answers a program, compiled now unless it ever was.

        `source` opens the program itself. Raises what compiling raises, and OSError. A program
        that several ask for is compiled once.
        """
        name = hashlib.sha256(
            f"{digest.function.name} {digest} {self._engine}".encode()
        ).hexdigest()
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                return (
                    self._known.get(name)
                    or await self._load(name)
                    or await self._compile(name, source, compiling)
                )
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    def forget(self, compiled: Compiled) -> None:
        """Drops a program that turned out not to be loadable here."""
        self._known.pop(compiled.name, None)
        with contextlib.suppress(OSError):
            self._path(compiled.name).unlink()

    def close(self) -> None:
        """Frees all in memory. No program may be about to run."""
        while self._known:
            self._known.popitem()[1].close()

    def _remember(self, compiled: Compiled) -> None:
        self._known[compiled.name] = compiled
        while len(self._known) > _IN_MEMORY:
            self._known.popitem(last=False)

    def _path(self, name: str) -> Path:
        return self._directory / (name + _SUFFIX)

    async def _load(self, name: str) -> Compiled | None:
        """Takes a program from disk, if it is there and ours.

        What was read is remembered even when this is cancelled, so that nothing stays open.
        """
        found: list[Compiled | None] = []
        try:
            await self._in_thread(lambda: found.append(self._read(name)))
        finally:
            for compiled in filter(None, found):
                self._remember(compiled)
        return found[0]

    async def _compile(self, name: str, source: Source, compiling: Compile) -> Compiled:
        target = os.memfd_create("compiled", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            program = await source()
            try:
                kind = await compiling(program, target)
            finally:
                os.close(program)
            fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(target)
            raise
        compiled = Compiled(name, kind, target)
        self._remember(compiled)
        with contextlib.suppress(OSError):  # Nothing is lost but time, the next time.
            await self._in_thread(self._write, compiled)
        return compiled

    def _mac(self, name: str, kind: bytes, fd: int) -> bytes:
        mac = hmac.new(self._key, b"%b%b%b\n" % (_MAGIC, kind, name.encode()), hashlib.sha256)
        at = 0
        while chunk := os.pread(fd, 1 << 20, at):
            mac.update(chunk)
            at += len(chunk)
        return mac.digest()

    def _read(self, name: str) -> Compiled | None:
        """Answers what is on disk, if it is ours."""
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            header = os.read(fd, _HEADER_BYTES)
            kind = next(
                (k for k, byte in _KINDS.items() if header[len(_MAGIC) : -_MAC_BYTES] == byte), None
            )
            if len(header) != _HEADER_BYTES or not header.startswith(_MAGIC) or kind is None:
                return None
            memory = os.memfd_create("compiled", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            compiled = Compiled(name, kind, memory)
            while os.sendfile(memory, fd, None, 1 << 30):
                pass
            # Checked only once nobody can change it any more.
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            if not hmac.compare_digest(self._mac(name, _KINDS[kind], memory), header[-_MAC_BYTES:]):
                return None
            os.utime(fd)
            return compiled
        finally:
            os.close(fd)

    def _write(self, compiled: Compiled) -> None:
        kind = _KINDS[compiled.kind]
        mac = self._mac(compiled.name, kind, compiled.fd)
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
            try:
                file.write(_MAGIC + kind + mac)
                file.flush()
                at = 0
                while sent := os.sendfile(file.fileno(), compiled.fd, at, 1 << 30):
                    at += sent
                os.replace(file.name, self._path(compiled.name))
            except BaseException:
                os.unlink(file.name)
                raise
        self._shrink()

    def _shrink(self) -> None:
        """Removes what was not used for the longest, down to the limit."""
        files = []
        for path in self._directory.glob("*" + _SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        left = sum(size for _, size, _ in files) - self._limit_bytes
        for _, size, path in sorted(files):
            if left <= 0:
                break
            path.unlink(missing_ok=True)
            left -= size


def _load_key(path: Path) -> bytes:
    """Reads the key, or makes it. Raises SandboxUnavailable, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make_key(path)
    try:
        status = os.fstat(fd)
        key = os.read(fd, _KEY_BYTES + 1)
    finally:
        os.close(fd)
    is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    if not is_private or len(key) != _KEY_BYTES:
        raise SandboxUnavailable(
            f"{path} must be a key of {_KEY_BYTES} bytes that this user alone can read, as it"
            " decides which machine code is run; remove the whole directory to begin anew"
        )
    return key


def _make_key(path: Path) -> bytes:
    key = secrets.token_bytes(_KEY_BYTES)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # Of mode 0600.
        file.write(key)
    try:
        os.link(file.name, path)
    except FileExistsError:
        return _load_key(path)
    finally:
        os.unlink(file.name)
    return key
