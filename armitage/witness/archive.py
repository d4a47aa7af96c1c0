"""Where a witness keeps what it saw: bodies and records, the log that names them, and the key that
signs it, in one directory.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from armitage.clock import Clock
from armitage.log import store as log_store
from armitage.log.errors import LogError
from armitage.log.keys import SEED_BYTES, read_key, write_key
from armitage.log.note import KeyType, Signer, parse_public_key
from armitage.log.service import Log
from armitage.log.store import LogStore
from armitage.log.witnessed import WitnessOptions
from armitage.witness.evidence import Entry
from armitage.witness.past import Past, open_past
from armitage.witness.rotation import finish_rotation, tags_of
from cas.digest import Digest, DigestFunction
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackOptions, PackStore
from cas.volume import DiskVolume

_log = logging.getLogger(__name__)

# Evidence goes only when somebody removes it: a full disk ends fetching, not the evidence.
_UNLIMITED = 1 << 60
_FOR_EVER_S = 1e10
ADDRESS = "http"
"""A file in the directory, in which a daemon that has it open says where it can be asked."""


@dataclass(frozen=True, slots=True)
class CosignerOptions:
    """Being a witness of others' logs (C2SP tlog-witness), at /witness/add-checkpoint."""

    key: Path
    """A private key that `armitage key new --witness` made."""
    logs: tuple[str, ...]
    """The public keys (vkeys) of the logs; no other is cosigned."""

    def __post_init__(self) -> None:
        for vkey in self.logs:
            try:
                kind = parse_public_key(vkey).type
            except LogError as error:
                raise ValueError(f"logs: {error}") from None
            if kind is not KeyType.ED25519:
                raise ValueError(f"logs: {vkey} is a witness's key, not a log's")


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """The daemon's own record of what its actions fetched and what was attested."""

    origin: str = ""
    """The name of its log, when that is made; empty: `armitage.record/` and the host's name."""
    public: bool = False
    """Whether everybody who reaches the HTTP port may read the log, and not auditors alone."""
    witnesses: tuple[WitnessOptions, ...] = ()
    """Who is asked to cosign its checkpoints."""
    quorum: int = 0
    """How many of them must have cosigned a checkpoint before it is published; 0: none need to."""
    cosign_s: float = 10.0
    """How often they are asked, while the log grows."""
    cosigner: CosignerOptions | None = None
    """Whose logs this daemon cosigns."""

    def __post_init__(self) -> None:
        if not 0 <= self.quorum <= len(self.witnesses):
            raise ValueError(f"quorum: {self.quorum} of {len(self.witnesses)} witnesses cannot be")


@dataclass(frozen=True, slots=True)
class Archive:
    """An open archive."""

    directory: Path
    store: PackStore
    log: Log
    spool: Path
    threads: ThreadPoolExecutor
    key: bytes
    """For keyed hashes of what is not written down."""
    past: Past = field(default_factory=Past)
    """The logs that ended before `log` began."""

    @property
    def logs(self) -> tuple[LogStore, ...]:
        """Those that ended, the oldest first, and then the one that goes on."""
        return *self.past.logs, self.log.store

    async def record(self, entry: Entry) -> bytes:
        """Answers the record that an entry of the log names. Raises BlobNotFound."""
        hashed = entry.record.removeprefix("sha256:")
        return await self.store.get(Digest(DigestFunction.SHA256, hashed, entry.size_bytes))


@asynccontextmanager
async def open_archive(directory: Path, origin: str, clock: Clock) -> AsyncIterator[Archive]:
    """Opens an archive, making it, with keys of its own, where there is none.

    `origin` names a new log. Raises StoreUnavailable (another process uses it), LogDamaged,
    ConfigError (keys that others can read).
    """
    await asyncio.to_thread(finish_rotation, directory)
    signer = await asyncio.to_thread(_signer, directory, origin)
    options = StorageOptions(store=PackOptions(max_bytes=_UNLIMITED, min_lease_s=_FOR_EVER_S))
    clocks = Clocks(clock.monotonic, clock.wall)
    with ThreadPoolExecutor(4, thread_name_prefix="witness") as threads:
        storage = await PackStorage.open(directory / "cas", options, clocks)
        try:
            log = LogStore(DiskVolume(directory / "log", log_store.NAMES), signer)
            try:
                # Only whoever has the archive gets here, so what lies there is a dead one's.
                spool = await asyncio.to_thread(_emptied, directory / "spool")
                tags = await asyncio.to_thread(tags_of, directory, signer)
                with open_past(directory, log) as past:
                    if past.problem:
                        _log.error("of the logs that ended, some are not at hand: %s", past.problem)
                    service = Log(log, threads)
                    yield Archive(directory, storage.store, service, spool, threads, tags, past)
            finally:
                log.close()
        finally:
            await storage.close()


def _signer(directory: Path, name: str) -> Signer:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "log.key"
    if not path.exists():
        return write_key(path, name, KeyType.ED25519, secrets.token_bytes(SEED_BYTES))
    return read_key(path)


def _emptied(spool: Path) -> Path:
    spool.mkdir(mode=0o700, exist_ok=True)
    for leftover in spool.iterdir():
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    return spool
