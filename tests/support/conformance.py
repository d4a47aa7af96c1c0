"""A hand inside our own daemon, for the conformance cases that no remote client can make alone."""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from support.daemon import DaemonProcess, daemon_process
from support.packs import place_of

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed, Channel
from armitage.conformance import NoControl, Server, Skipped, Variant
from armitage.reapi import rpcs
from cas.digest import Digest, DigestFunction
from executor.launcher.binary import BINARY

INSTANCE = "conformance/suite"
_FUNCTIONS = {
    64: DigestFunction.SHA256,
    40: DigestFunction.SHA1,
    96: DigestFunction.SHA384,
    128: DigestFunction.SHA512,
}


@dataclass(frozen=True)
class Settings:
    """What a variant changes, as TOML."""

    instance: str = ""
    disk: str = ""
    others: str = ""
    instances: tuple[str, ...] = (INSTANCE,)


_SETTINGS = {
    Variant.SMALL_STORE: Settings(disk='max_bytes = "8MiB"\nmin_lease_s = 0'),
    Variant.FULL_DISK: Settings(others="[worker]\nenabled = false"),
    Variant.READ_ONLY_CACHE: Settings(instance="action_cache_update_enabled = false"),
    Variant.SHORT_RESUME: Settings(others="[bytestream.uploads]\nmax_count = 0"),
    Variant.BLOB_LIMIT: Settings(instance='max_blob_size_bytes = "1MiB"'),
    Variant.INSTANCES: Settings(instances=("", "a/b/c")),
    Variant.ONE_SLOT: Settings(others="[worker]\nslots = 1\n[scheduler]\ndisconnect_grace_s = 0.5"),
    Variant.SHORT_TIMEOUT: Settings(others='[execute.actions]\nmax_timeout_s = "10min"'),
    Variant.STRICT_PLATFORM: Settings(others='[platform]\nignore = ["conformance-ignored"]'),
    Variant.DISPOSABLE: Settings(),
}


@contextmanager
def conformance_daemon(
    directory: Path,
    settings: Settings | None = None,
    wrapper: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Iterator[DaemonProcess]:
    """A daemon for the suite, without waiting for the disk and without an HTTP port."""
    settings = settings or Settings()
    text = "[web]\naddresses = []\n"
    text += f'[disk]\ndurability = "none"\n{settings.disk}\n{settings.others}\n'
    for name in settings.instances:
        text += f'[[instances]]\nname = "{name}"\n{settings.instance}\n'
    config = directory / "armitage.toml"
    directory.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    with daemon_process(directory, "--config", str(config), *flags, wrapper=wrapper) as daemon:
        yield daemon


class DaemonControl(NoControl):
    """Control over one daemon of this host, and the starting of others beside it."""

    def __init__(
        self,
        daemon: DaemonProcess,
        directory: Path,
        instance: str,
        flags: Sequence[str] = (),
    ) -> None:
        """`flags` are those that the daemon was started with, for others beside it."""
        self._flags = flags
        self._daemon = daemon
        self._directory = directory
        self._instance = instance

    async def evict(self, digest: reapi.Digest) -> None:
        """Damages the blob; the read that then fails makes the store notice."""
        await self.corrupt(digest)
        await self._fail_to_read(digest)

    async def corrupt(self, digest: reapi.Digest) -> None:
        cas = self._directory / "data" / "cas"
        plain = Digest(_FUNCTIONS[len(digest.hash)], digest.hash, digest.size_bytes)
        path, offset, _ = place_of(cas, plain)
        with path.open("r+b") as file:
            file.seek(offset + digest.size_bytes // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0xFF]))

    async def temporary_bytes(self) -> int:
        cas = self._directory / "data" / "cas"
        files = [path for path in cas.rglob("*") if path.is_file()]
        stored = {"blobs", "packs"}
        outside = [path for path in files if path.relative_to(cas).parts[0] not in stored]
        return sum(_size(path) for path in outside)

    async def memory_bytes(self) -> int:
        return _resident_bytes(self._daemon.process.pid)

    async def is_running(self, text: str) -> bool:
        for _ in range(20):
            if not _processes_with(text):
                return False
            await asyncio.sleep(0.05)
        return True

    async def kill_worker(self) -> None:
        """The embedded worker is the daemon's own; what can be lost is an action's sandbox."""
        for _ in range(100):
            sandboxes = _sandboxes_below(self._daemon.process.pid)
            if sandboxes:
                break
            await asyncio.sleep(0.02)
        else:
            raise Skipped("no sandbox runs below the daemon")
        for pid in sandboxes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def drain(self) -> None:
        self._daemon.process.send_signal(signal.SIGTERM)

    @asynccontextmanager
    async def variant(self, variant: Variant) -> AsyncIterator[Server]:
        if variant not in _SETTINGS:
            raise Skipped(f"the daemon has no setting for {variant}")
        settings = _SETTINGS[variant]
        directory = Path(tempfile.mkdtemp(prefix=f"{variant}-", dir=self._directory.parent))
        wrapper: Sequence[str] = ()
        if variant == Variant.FULL_DISK:
            wrapper, settings = _on_a_small_disk(directory / "data", settings)
        starting = conformance_daemon(directory, settings, wrapper, self._flags)
        daemon = await asyncio.to_thread(starting.__enter__)
        try:
            instance = settings.instances[0]
            yield Server(
                daemon.target, instance, DaemonControl(daemon, directory, instance, self._flags)
            )
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)

    async def _fail_to_read(self, digest: reapi.Digest) -> None:
        prefix = f"{self._instance}/" if self._instance else ""
        name = f"{prefix}blobs/{digest.hash}/{digest.size_bytes}"
        request = bytestream.ReadRequest(resource_name=name)
        async with Channel(self._daemon.target) as channel:
            with suppress(CallFailed):
                async for _ in channel.stream(rpcs.READ, request):
                    pass


def _on_a_small_disk(data: Path, settings: Settings) -> tuple[Sequence[str], Settings]:
    """A real small disk where this host lets us mount one, else a store that may grow no more."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        return (), replace(settings, disk='max_bytes = "9MiB"')
    data.mkdir()
    script = 'mount -t tmpfs -o size=9m,mode=700 none "$0" && exec "$@"'
    return [*unshare, "sh", "-c", script, str(data)], settings


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _processes_with(text: str) -> list[int]:
    """Processes with this text among their arguments, the dead ones apart."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def _sandboxes_below(daemon: int) -> list[int]:
    """What makes a sandbox of one action: of our launcher, a child of the one that stays."""
    ours = [pid for pid in _processes_with(BINARY.name) if daemon in _ancestors(pid)[1:]]
    return ours + [pid for pid in _processes_with("bwrap") if daemon in _ancestors(pid)]


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found
