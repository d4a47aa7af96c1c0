"""What surrounds the record in a daemon: its witnesses, being one, and the figures of the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp

from armitage.audit.auditor import Auditor
from armitage.clock import Clock
from armitage.errors import ConfigError
from armitage.log import cosigning
from armitage.log.cosigning import Cosigner
from armitage.log.errors import LogError
from armitage.log.keys import read_key
from armitage.log.note import KeyType, parse_public_key
from armitage.log.witnessed import COSIGNED, Reply, Send, Witnessed
from armitage.observability.calls import CallObserver
from armitage.reapi import rpcs
from armitage.transport.port import Code
from armitage.witness.archive import Archive, RecordOptions
from cas.errors import StoreUnavailable
from cas.volume import DiskVolume

_MAX_REPLY_BYTES = 100_000
_TIMEOUT = aiohttp.ClientTimeout(total=15)


def open_witnessed(
    archive: Archive, options: RecordOptions, http: aiohttp.ClientSession
) -> Witnessed:
    """The record's log and the witnesses that are configured. Blocks. Raises StoreUnavailable."""
    path, store = archive.directory / COSIGNED, archive.log.store
    try:
        return Witnessed(store, options.witnesses, options.quorum, path, _sender(http))
    except (LogError, OSError) as error:
        raise StoreUnavailable(f"{path}: {error}") from error


def _sender(http: aiohttp.ClientSession) -> Send:
    async def send(url: str, body: bytes) -> Reply:
        try:
            async with http.post(url, data=body, timeout=_TIMEOUT, allow_redirects=False) as answer:
                found = await answer.content.read(_MAX_REPLY_BYTES)
                return Reply(answer.status, found)
        except aiohttp.ClientError as error:
            raise OSError(f"no answer from {url}: {error}") from error

    return send


def open_cosigner(directory: Path, options: RecordOptions, clock: Clock) -> Cosigner | None:
    """A witness of the logs that are configured; None where there are none. Blocks.

    Raises ConfigError and StoreUnavailable.
    """
    if options.cosigner is None:
        return None
    signer = read_key(options.cosigner.key)
    if signer.public.type is not KeyType.COSIGNATURE:
        raise ConfigError(
            f"record.cosigner.key: {options.cosigner.key} is a log's key, and one key never does"
            " both; make one with armitage key new --witness"
        )
    logs = {key.name: key for key in map(parse_public_key, options.cosigner.logs)}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    volume = DiskVolume(directory, cosigning.NAMES)
    try:
        return Cosigner(volume, signer, logs, clock.wall)
    except (LogError, OSError) as error:
        volume.close()
        raise StoreUnavailable(f"{directory}: {error}") from error


class CacheFigures:
    """Notes how often the action cache had an answer, for the overview of the pages."""

    def __init__(self, auditor: Auditor, count: Callable[[], tuple[int, int]]) -> None:
        """`count` answers hits and misses so far."""
        self._auditor = auditor
        self._count = count
        self._told = (0, 0)

    async def note(self) -> None:
        """Notes what came since. Does not raise."""
        now, before = self._count(), self._told
        self._told = now
        if now != before:
            await self._auditor.add_cache(now[0] - before[0], now[1] - before[1])


def cache_lookups(observer: CallObserver) -> tuple[int, int]:
    """How many GetActionResult calls had an answer so far, and how many had none."""
    codes = observer.codes_of(rpcs.GET_ACTION_RESULT.path)
    return codes[Code.OK], codes[Code.NOT_FOUND]


async def ask_witnesses(witnessed: Witnessed) -> None:
    """One round. A disk that refuses is tried again with the next one."""
    try:
        await witnessed.ask()
    except OSError as error:
        for each in witnessed.standing:
            each.problem = f"what it cosigned cannot be kept: {error.strerror}"
