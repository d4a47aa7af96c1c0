"""A daemon whose log is cosigned by another daemon, over real sockets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from support.daemon import disk_config, running_daemon

from armitage.audit.auditor import Auditor
from armitage.audit.source import ArchiveSource
from armitage.audit.verify import verify
from armitage.clock import SystemClock
from armitage.errors import ConfigError
from armitage.log.checkpoint import open_checkpoint
from armitage.log.keys import write_key
from armitage.log.note import KeyType
from armitage.log.witnessed import WitnessOptions
from armitage.recording import CacheFigures
from armitage.witness.archive import CosignerOptions, open_archive


async def test_one_daemon_cosigns_the_log_of_another(tmp_path: Path) -> None:
    witness = write_key(tmp_path / "w.key", "w.example", KeyType.COSIGNATURE, bytes([7] * 32))
    (tmp_path / "a" / "record").mkdir(parents=True)
    log = write_key(tmp_path / "a/record/log.key", "log.example", KeyType.ED25519, bytes([8] * 32))
    watching = disk_config(tmp_path / "w")
    cosigner = CosignerOptions(tmp_path / "w.key", (str(log.public),))
    watching = replace(watching, record=replace(watching.record, cosigner=cosigner))
    async with running_daemon(watching) as other:
        url = f"http://{other.addresses.http[0]}/witness"
        watched = disk_config(tmp_path / "a")
        record = replace(
            watched.record,
            witnesses=(WitnessOptions(url, str(witness.public)),),
            quorum=1,
            cosign_s=0.02,
        )
        async with running_daemon(replace(watched, record=record)) as daemon:
            assert daemon._archive is not None
            await daemon._archive.log.append(b"an entry")
            note = await _published(f"http://{daemon.addresses.http[0]}/log/checkpoint")

    signed = open_checkpoint(note, log.public, (witness.public,), quorum=1)
    assert signed.checkpoint.size == 1
    async with open_archive(tmp_path / "a/record", "", SystemClock()) as archive:
        found = [
            each
            async for each in verify(
                ArchiveSource(archive), log.public, witnesses=(witness.public,)
            )
        ]
    assert found[-1].entries == 1


async def _published(url: str) -> bytes:
    async with aiohttp.ClientSession() as http:
        for _ in range(500):
            answer = await http.get(url)
            if answer.status == 200:
                return await answer.read()
            assert answer.status == 404
    raise AssertionError("nothing was cosigned")


async def test_a_log_key_is_never_a_witness_too(tmp_path: Path) -> None:
    write_key(tmp_path / "l.key", "log.example", KeyType.ED25519, bytes(32))
    config = disk_config(tmp_path / "data")
    record = replace(config.record, cosigner=CosignerOptions(tmp_path / "l.key", ()))

    with pytest.raises(ConfigError, match=r"record.cosigner.key: .* is a log's key"):
        async with running_daemon(replace(config, record=record)):
            pass


async def test_cache_look_ups_are_noted_as_they_come() -> None:
    noted: list[tuple[int, int]] = []

    class Noting(Auditor):
        def __init__(self) -> None:
            pass

        async def add_cache(self, hits: int, misses: int) -> None:
            noted.append((hits, misses))

    counts = iter([(3, 1), (3, 1), (4, 4)])
    figures = CacheFigures(Noting(), lambda: next(counts))
    for _ in range(3):
        await figures.note()

    assert noted == [(3, 1), (1, 3)]
